//! Must catch: an invalid rule that allows something, that takes the other rules along, or that leaves a pod
//! unisolated.

use serde_json::{Value, json};

use crate::world::{egress, hold, ingress};

const IN: &str = "db > web tcp/8080";

/// Rules of which one item is invalid and the rest would allow everything.
fn bad_rules() -> Vec<(&'static str, Value)> {
    let peer = |peer: Value| json!({"from": [{"podSelector": {}}, peer]});
    let port = |port: Value| json!({"ports": [{"protocol": "TCP"}, port]});
    let operator = |operator: &str, values: Value| {
        let expressions = json!([{"key": "app", "operator": operator, "values": values}]);
        peer(json!({"podSelector": {"matchExpressions": expressions}}))
    };
    vec![
        ("no length", peer(json!({"ipBlock": {"cidr": "10.1.0.0"}}))),
        ("a length too big", peer(json!({"ipBlock": {"cidr": "10.1.0.0/33"}}))),
        ("no CIDR", peer(json!({"ipBlock": {"cidr": "anywhere"}}))),
        ("except outside", peer(json!({"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.2.0.0/24"]}}))),
        ("except around", peer(json!({"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.0.0.0/8"]}}))),
        ("except of the other family", peer(json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["::/0"]}}))),
        ("except no CIDR", peer(json!({"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.0.9"]}}))),
        ("block and pods", peer(json!({"ipBlock": {"cidr": "10.1.0.0/16"}, "podSelector": {}}))),
        ("block and namespaces", peer(json!({"ipBlock": {"cidr": "10.1.0.0/16"}, "namespaceSelector": {}}))),
        ("nothing", peer(json!({}))),
        ("operator", operator("Like", json!(["web"]))),
        ("In without values", operator("In", json!([]))),
        ("Exists with values", operator("Exists", json!(["web"]))),
        (
            "namespaces' operator",
            peer(json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}})),
        ),
        ("end before port", port(json!({"port": 8080, "endPort": 8079}))),
        ("end of a name", port(json!({"port": "http", "endPort": 9000}))),
        ("end without port", port(json!({"endPort": 9000}))),
        ("end too big", port(json!({"port": 8080, "endPort": 65536}))),
        ("port 0", port(json!({"port": 0}))),
        ("protocol", port(json!({"protocol": "ICMP"}))),
        ("protocol in small letters", port(json!({"protocol": "tcp"}))),
    ]
}

#[test]
fn the_rule_allows_nothing_and_the_others_count() {
    for (about, bad) in bad_rules() {
        hold(&[(about, ingress(bad.clone()), &["web > db tcp/8080"], &[IN, "out > web tcp/9"])]);
        let mut policy = ingress(bad);
        policy["ingress"].as_array_mut().unwrap().push(json!({"ports": [{"port": 9}]}));
        hold(&[(about, policy, &["out > web tcp/9"], &[IN])]);
    }
}

#[test]
fn egress_too() {
    for (about, mut bad) in bad_rules() {
        if let Some(peers) = bad.as_object_mut().unwrap().remove("from") {
            bad["to"] = peers;
        }
        hold(&[(about, egress(bad), &[IN], &["web > db tcp/8080", "web > out tcp/9"])]);
    }
}

#[test]
fn a_selector_that_cannot_be_read() {
    let like = json!({"matchLabels": {"app": "db"}, "matchExpressions": [{"key": "app", "operator": "Like"}]});
    let policy = json!({"podSelector": like, "policyTypes": ["Ingress"], "ingress": [{}]});
    hold(&[
        ("all of the namespace", policy.clone(), &["web > till tcp/1", "web > out tcp/1"], &[IN, "web > db tcp/1"]),
        ("others count", json!([policy, ingress(json!({}))]), &[IN], &["web > db tcp/1"]),
    ]);
}
