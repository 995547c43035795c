//! Must catch: bad input that is passed over, told without its place, or takes long; large input that is sound and refused.
#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use overlane_api::policy::{Converted, cluster_policy, network_policy};
use serde_json::{Value, json};

fn allow(ingress: &Value) -> Converted {
    let object = json!({
        "metadata": { "name": "p", "namespace": "shop" },
        "spec": { "podSelector": {}, "ingress": [ingress] },
    });
    network_policy(&serde_json::from_value(object).unwrap())
}

fn deny(egress: &Value) -> Converted {
    let mut rule = json!({ "action": "Deny", "to": [{ "namespaces": {} }] });
    rule.as_object_mut().unwrap().extend(egress.as_object().unwrap().clone());
    let object = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": "c" },
        "spec": { "tier": "Admin", "priority": 1, "subject": { "namespaces": {} }, "egress": [rule] },
    });
    cluster_policy(&serde_json::from_value(object).unwrap())
}

fn faults(converted: &Converted) -> Vec<String> {
    converted.faults.iter().map(ToString::to_string).collect()
}

#[test]
fn each_fault_has_its_place() {
    for (ingress, told) in [
        (json!({ "ports": [{ "port": 80 }, { "port": 70_000 }] }), "spec.ingress[0].ports[1]: `70000`"),
        (json!({ "ports": [{ "port": "Web_Port" }] }), "spec.ingress[0].ports[0].port: `Web_Port`"),
        (json!({ "ports": [{ "port": "a-name-of-16-byte" }] }), "spec.ingress[0].ports[0].port: `a-name"),
        (json!({ "ports": [{ "port": "8080" }] }), "spec.ingress[0].ports[0].port: `8080`"),
        (json!({ "ports": [{ "port": "web", "endPort": 90 }] }), "spec.ingress[0].ports[0].endPort: `90`"),
        (json!({ "ports": [{ "protocol": "QUIC" }] }), "spec.ingress[0].ports[0].protocol: `QUIC`"),
        (json!({ "from": [{ "ipBlock": { "cidr": "10.0.0.0/33" } }] }), "spec.ingress[0].peers[0].ipBlock.cidr"),
        (json!({ "from": [{}] }), "spec.ingress[0].peers[0]: it has to say who is meant"),
    ] {
        let told_so = faults(&allow(&ingress));
        assert!(told_so.len() == 1 && told_so[0].starts_with(told), "{ingress}: {told_so:?}");
        assert!(allow(&ingress).policy.rules.values().all(Vec::is_empty), "closed: {ingress}");
    }
    for (egress, told) in [
        (
            json!({ "protocols": [{ "destinationNamedPort": "HTTP" }] }),
            "spec.egress[0].protocols[0].destinationNamedPort: `HTTP`",
        ),
        (json!({ "to": [{ "networks": ["x"] }] }), "spec.egress[0].peers[0].networks[0]"),
        (json!({ "to": [{ "domainNames": ["example.org"] }] }), "spec.egress[0].peers[0]"),
    ] {
        let converted = deny(&egress);
        let told_so = faults(&converted);
        assert!(told_so.len() == 1 && told_so[0].starts_with(told), "{egress}: {told_so:?}");
        let rule = &converted.policy.rules.values().next().unwrap()[0];
        assert_eq!((&rule.peers, &rule.ports), (&None, &None), "closed: it denies everything");
    }
    for sound in ["web", "a", "http-2", "0-a"] {
        assert_eq!(faults(&allow(&json!({ "ports": [{ "port": sound }] }))), [""; 0], "{sound}");
    }
}

/// As much as one object has room for: half a second for the largest, by a debug build. On a busy machine it takes longer, but
/// not as long as what grows with the square.
#[test]
fn large_input_takes_no_time() {
    let ports: Vec<_> = (1..=10_000).map(|port| json!({ "port": port })).collect();
    let mut bad_ports = ports.clone();
    bad_ports.push(json!({ "port": 0 }));
    let block = |n: u32| json!({ "ipBlock": { "cidr": format!("10.{}.{}.0/24", n / 256, n % 256) } });
    let blocks: Vec<_> = (0..50_000).map(block).collect();
    let except: Vec<_> = (0..50_000_u32).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    let values = |key: usize| json!({ "key": format!("k{key}"), "operator": "NotIn", "values": ["a", "b"] });
    let not_in: Vec<_> = (0..19).map(values).collect();
    for (what, ingress, found) in [
        ("ports", json!({ "ports": ports }), 0),
        ("ports, the last one bad", json!({ "ports": bad_ports }), 1),
        ("blocks", json!({ "from": blocks }), 0),
        ("exceptions", json!({ "from": [{ "ipBlock": { "cidr": "10.0.0.0/8", "except": except } }] }), 0),
        ("2^19 combinations", json!({ "from": [{ "podSelector": { "matchExpressions": not_in } }] }), 0),
    ] {
        let begun = Instant::now();
        let converted = allow(&ingress);
        let took = begun.elapsed();
        println!("{what}: {took:?}");
        assert_eq!(converted.faults.len(), found, "{what}");
        assert!(took < Duration::from_secs(60), "{what}: {took:?}");
    }
}
