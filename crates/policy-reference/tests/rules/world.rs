//! A cluster to judge in, and packets as words. Must catch: nothing of its own.

use std::net::IpAddr;

use overlane_policy_reference::{Cluster, Judgement, Packet, Protocol, judge};
use serde_json::{Value, json};

/// Addresses by name; with a 6 behind it, the one of IPv6.
const ADDRESSES: [(&str, &str); 25] = [
    ("web", "10.1.0.1"),
    ("web6", "fd01::1"),
    ("db", "10.1.0.2"),
    ("db6", "fd01::2"),
    ("till", "10.1.0.3"),
    ("till6", "fd01::3"),
    ("plain", "10.1.0.4"),
    ("lost", "10.1.0.5"),
    ("leaving", "10.1.0.6"),
    ("other", "10.1.0.7"),
    ("other6", "fd01::7"),
    ("failed", "10.1.0.9"),
    ("node1", "10.0.0.1"),
    ("node1-6", "fd00::1"),
    ("node1-out", "192.0.2.1"),
    ("node2", "10.0.0.2"),
    ("node2-6", "fd00::2"),
    ("out", "203.0.113.5"),
    ("out-77", "203.0.113.77"),
    ("out-200", "203.0.113.200"),
    ("far", "198.51.100.9"),
    ("out6", "2001:db8::5"),
    ("far6", "2001:db8:1::9"),
    ("first", "0.0.0.1"),
    ("odd", "10.9.9.9"),
];

/// Two nodes; `web`, `db`, `leaving` and `other` in `shop` (team red), `till` and `plain` in `bank` (team blue), `lost`
/// in a namespace without object. `web` runs on node1, `db` and `till` on node2.
pub fn cluster() -> Cluster {
    let node = |name: &str, zone: &str, addresses: &[&str]| {
        let addresses: Vec<Value> =
            addresses.iter().map(|text| json!({"type": "InternalIP", "address": text})).collect();
        json!({"metadata": {"name": name, "labels": {"zone": zone}}, "status": {"addresses": addresses}})
    };
    let cluster = json!({
        "namespaces": [
            {"metadata": {"name": "shop", "labels": {"team": "red", "env": "prod"}}},
            {"metadata": {"name": "bank", "labels": {"team": "blue"}}},
        ],
        "nodes": [
            node("node1", "a", &["node1", "10.0.0.1", "fd00::1", "192.0.2.1"]),
            node("node2", "b", &["10.0.0.2", "fd00::2"]),
        ],
        "pods": [
            // Completed: its address is till's now.
            pod("shop/done", json!({"app": "db"}), "node1", "Succeeded", &["10.1.0.3", "fd01::3"]),
            pod("shop/failed", json!({"app": "web"}), "node1", "Failed", &["10.1.0.9"]),
            with_ports(pod("shop/web", json!({"app": "web"}), "node1", "Running", &["10.1.0.1", "fd01::1"])),
            db(),
            pod("bank/till", json!({"app": "web"}), "node2", "Running", &["10.1.0.3", "fd01::3"]),
            pod("bank/plain", Value::Null, "node1", "Running", &["10.1.0.4"]),
            pod("absent/lost", json!({"app": "web"}), "node1", "Running", &["10.1.0.5"]),
            leaving(),
            pod("shop/other", json!({"app": "other"}), "node2", "Unknown", &["10.1.0.7", "fd01::7"]),
            pod("shop/waiting", json!({"app": "web"}), "node1", "Pending", &[]),
            host(),
        ],
    });
    serde_json::from_value(cluster).unwrap()
}

fn pod(path: &str, labels: Value, node: &str, phase: &str, addresses: &[&str]) -> Value {
    let (namespace, name) = path.split_once('/').unwrap();
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": phase, "podIPs": addresses},
    })
}

/// A name without protocol, one of two protocols, one of a sidecar, one of an init container that ends.
fn with_ports(mut pod: Value) -> Value {
    pod["spec"]["containers"] = json!([
        {"name": "one", "ports": [
            {"name": "http", "containerPort": 80},
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        ]},
        {"name": "two", "ports": [
            {"name": "dns", "containerPort": 5353, "protocol": "TCP"},
            {"name": "http", "containerPort": 81},
            {"containerPort": 7000},
        ]},
    ]);
    pod["spec"]["initContainers"] = json!([
        {"name": "sidecar", "restartPolicy": "Always", "ports": [{"name": "metrics", "containerPort": 9090}]},
        {"name": "once", "ports": [{"name": "once", "containerPort": 7070}]},
    ]);
    pod
}

fn db() -> Value {
    let mut pod = pod("shop/db", json!({"app": "db", "tier": "back"}), "node2", "Running", &["10.1.0.2", "fd01::2"]);
    pod["spec"]["containers"] = json!([{"name": "one", "ports": [
        {"name": "http", "containerPort": 8080, "protocol": "TCP"},
        {"name": "signal", "containerPort": 3868, "protocol": "SCTP"},
    ]}]);
    pod
}

fn leaving() -> Value {
    let mut pod = pod("shop/leaving", json!({"app": "leaving"}), "node2", "Running", &["10.1.0.6"]);
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod
}

/// Of the host's network, with labels that selectors ask for.
fn host() -> Value {
    let mut pod = pod("shop/host", json!({"app": "web"}), "node2", "Running", &["10.0.0.2", "fd00::2"]);
    pod["spec"]["hostNetwork"] = json!(true);
    pod["spec"]["containers"] = json!([{"name": "one", "ports": [{"name": "http", "containerPort": 80}]}]);
    pod
}

/// The cluster with these policies: CNPs where there is a `tier`. Of NetworkPolicies, `namespace` is shop unless given.
pub fn with(policies: &Value) -> Cluster {
    let mut cluster = cluster();
    for (number, spec) in policies.as_array().unwrap_or(&vec![policies.clone()]).iter().enumerate() {
        let name = spec.get("name").cloned().unwrap_or(json!(format!("policy-{number}")));
        let namespace = spec.get("namespace").cloned().unwrap_or(json!("shop"));
        if spec.get("tier").is_some() {
            let policy = json!({"metadata": {"name": name}, "spec": spec});
            cluster.cluster_policies.push(serde_json::from_value(policy).unwrap());
        } else {
            let policy = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
            cluster.policies.push(serde_json::from_value(policy).unwrap());
        }
    }
    cluster
}

/// A NetworkPolicy for `web` with one ingress rule.
pub fn ingress(rule: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "ingress": [rule]})
}

/// A NetworkPolicy for `web` with one egress rule.
pub fn egress(rule: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"], "egress": [rule]})
}

/// An Admin CNP for `web` of shop with ingress rules.
pub fn admin_ingress(rules: Value) -> Value {
    json!({"tier": "Admin", "priority": 10, "subject": web(), "ingress": rules})
}

/// An Admin CNP for `web` of shop with egress rules.
pub fn admin_egress(rules: Value) -> Value {
    json!({"tier": "Admin", "priority": 10, "subject": web(), "egress": rules})
}

/// The pod `web`, as a subject or a peer of a CNP.
pub fn web() -> Value {
    json!({"pods": {
        "namespaceSelector": {"matchLabels": {"team": "red"}},
        "podSelector": {"matchLabels": {"app": "web"}},
    }})
}

/// All pods, as a subject or a peer of a CNP.
pub fn all() -> Value {
    json!({"namespaces": {}})
}

/// A packet such as `web > db tcp/80`, `web6 > db6 udp/53`, `out > web icmp`.
pub fn packet(words: &str) -> Packet {
    let words: Vec<&str> = words.split_whitespace().collect();
    let [from, ">", to, what] = words[..] else { panic!("{words:?}") };
    let (protocol, port) = what.split_once('/').unwrap_or((what, "0"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        "icmp" => Protocol::Icmp,
        other => panic!("{other}"),
    };
    Packet { from: address(from), to: address(to), protocol, port: port.parse().unwrap() }
}

fn address(name: &str) -> IpAddr {
    let found = ADDRESSES.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}"));
    found.1.parse().unwrap()
}

/// What is said of a packet at both ends: egress, then ingress.
pub fn ends(policies: &Value, words: &str) -> (bool, bool) {
    let Judgement { egress, ingress } = judge(&with(policies), &packet(words));
    (egress, ingress)
}

/// What it is about, the policies, the packets that are allowed, and those that are not.
pub type Case<'a> = (&'a str, Value, &'a [&'a str], &'a [&'a str]);

/// Judges them all.
pub fn hold(cases: &[Case<'_>]) {
    for (about, policies, allowed, denied) in cases {
        let cluster = with(policies);
        for words in *allowed {
            assert!(judge(&cluster, &packet(words)).allowed(), "{about}: {words} is denied");
        }
        for words in *denied {
            assert!(!judge(&cluster, &packet(words)).allowed(), "{about}: {words} is allowed");
        }
    }
}
