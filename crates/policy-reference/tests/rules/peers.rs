//! Must catch: a podSelector that reaches other namespaces, selectors that find pods of the host's network, a block
//! that leaves pods or nodes out, takes its exceptions in, or is of the other family.

use serde_json::{Value, json};

use crate::world::{egress, hold, ingress};

fn from(peer: Value) -> Value {
    ingress(json!({"from": [peer]}))
}

fn to(peer: Value) -> Value {
    egress(json!({"to": [peer]}))
}

#[test]
fn pods_and_namespaces() {
    let web = json!({"matchLabels": {"app": "web"}});
    let blue = json!({"matchLabels": {"team": "blue"}});
    let (db, till, plain, out) = ("db > web tcp/1", "till > web tcp/1", "plain > web tcp/1", "out > web tcp/1");
    hold(&[
        ("all of the namespace", from(json!({"podSelector": {}})), &[db, "other6 > web6 icmp"], &[till, plain, out]),
        ("all pods", from(json!({"namespaceSelector": {}})), &[db, till, plain], &[out, "node2 > web tcp/1"]),
        ("pods of the namespace", from(json!({"podSelector": web})), &[], &[db, till, plain]),
        ("namespaces", from(json!({"namespaceSelector": blue})), &[till, plain], &[db, out]),
        ("both", from(json!({"namespaceSelector": blue, "podSelector": web})), &[till], &[plain, db]),
        ("either", ingress(json!({"from": [{"namespaceSelector": blue}, {"podSelector": {}}]})), &[till, db], &[out]),
        ("to pods", to(json!({"podSelector": {}})), &["web > db tcp/1"], &["web > till tcp/1", "web > out tcp/1"]),
    ]);
}

#[test]
fn peers_of_the_policy_s_namespace() {
    let policy = json!({
        "namespace": "bank", "podSelector": {}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {}}]}],
    });
    hold(&[("bank", policy, &["plain > till tcp/1"], &["web > till tcp/1", "lost > till tcp/1"])]);
}

#[test]
fn the_host_s_network() {
    let (node, out) = ("node2 > web tcp/1", "web > node2 tcp/1");
    hold(&[
        ("pods", from(json!({"podSelector": {}})), &[], &[node]),
        ("namespaces", from(json!({"namespaceSelector": {}})), &[], &[node]),
        ("both", to(json!({"namespaceSelector": {}, "podSelector": {}})), &[], &[out]),
        ("its address", from(json!({"ipBlock": {"cidr": "10.0.0.0/24"}})), &[node], &["db > web tcp/1"]),
        ("to its address", to(json!({"ipBlock": {"cidr": "10.0.0.2/32"}})), &[out], &["web > db tcp/1"]),
    ]);
}

#[test]
fn everyone() {
    let all = ["out > web tcp/1", "till > web icmp", "node2 > web udp/1", "out6 > web6 sctp/1"];
    hold(&[
        ("absent", ingress(json!({})), &all, &[]),
        ("empty", ingress(json!({"from": []})), &all, &[]),
        ("of a port", ingress(json!({"ports": [{"port": 1}]})), &["out > web tcp/1"], &["out > web tcp/2"]),
        ("to", egress(json!({"to": []})), &["web > out tcp/1", "web6 > far6 icmp"], &[]),
    ]);
}

#[test]
fn blocks() {
    let block = |cidr: &str, except: &[&str]| from(json!({"ipBlock": {"cidr": cidr, "except": except}}));
    let (out, near, more, far) = ("out > web tcp/1", "out-77 > web tcp/1", "out-200 > web tcp/1", "far > web tcp/1");
    let (pod, pod6, out6, far6) = ("db > web tcp/1", "db6 > web6 tcp/1", "out6 > web6 tcp/1", "far6 > web6 tcp/1");
    hold(&[
        ("plain", block("203.0.113.0/24", &[]), &[out, near, more], &[far, pod, out6]),
        ("half", block("203.0.113.0/25", &[]), &[out, near], &[more]),
        ("one address", block("203.0.113.5/32", &[]), &[out], &[near]),
        ("except", block("203.0.113.0/24", &["203.0.113.64/26"]), &[out, more], &[near, far]),
        ("two exceptions", block("203.0.113.0/24", &["203.0.113.64/26", "203.0.113.5/32"]), &[more], &[near, out]),
        ("except all", block("203.0.113.0/24", &["203.0.113.0/25", "203.0.113.128/25"]), &[], &[out, near, more]),
        ("except itself", block("203.0.113.5/32", &["203.0.113.5/32"]), &[], &[out]),
        (
            "all of IPv4",
            block("0.0.0.0/0", &[]),
            &[out, far, pod, "node2 > web icmp", "first > web tcp/1"],
            &[out6, pod6],
        ),
        ("all but pods", block("0.0.0.0/0", &["10.1.0.0/16"]), &[out, "node2 > web tcp/1"], &[pod]),
        ("all of IPv6", block("::/0", &[]), &[out6, pod6], &[out, pod]),
        ("IPv6", block("2001:db8::/32", &["2001:db8:1::/48"]), &[out6], &[far6, pod6, out]),
        ("a pod", block("10.1.0.2/32", &[]), &[pod], &["till > web tcp/1"]),
        ("bits of the host", block("203.0.113.77/24", &["203.0.113.70/26"]), &[out, more], &[near]),
    ]);
}
