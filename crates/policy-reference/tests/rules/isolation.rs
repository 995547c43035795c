//! Must catch: a policy that isolates in a direction that it is not about, rules that are ANDed, a policy that reaches
//! pods of another namespace.

use serde_json::{Value, json};

use crate::world::{hold, ingress};

const IN: &str = "out > web tcp/1";
const OUT: &str = "web > out tcp/1";

fn typed(types: Value, ingress: Value, egress: Value) -> Value {
    json!({"podSelector": {}, "policyTypes": types, "ingress": ingress, "egress": egress})
}

#[test]
fn types() {
    let rule = json!([{"ports": [{"port": 9}]}]);
    let none = Value::Null;
    hold(&[
        ("absent", typed(none.clone(), none.clone(), none.clone()), &[OUT], &[IN]),
        ("absent, ingress", typed(none.clone(), rule.clone(), none.clone()), &[OUT, "out > web tcp/9"], &[IN]),
        ("absent, egress", typed(none.clone(), none.clone(), rule.clone()), &["web > out tcp/9"], &[IN, OUT]),
        ("absent, no egress rules", typed(none.clone(), none.clone(), json!([])), &[OUT], &[IN]),
        ("empty", typed(json!([]), none.clone(), none.clone()), &[OUT], &[IN]),
        ("empty, egress", typed(json!([]), none.clone(), rule.clone()), &["web > out tcp/9"], &[IN, OUT]),
        ("Ingress", typed(json!(["Ingress"]), none.clone(), none.clone()), &[OUT], &[IN]),
        ("Ingress despite rules", typed(json!(["Ingress"]), none.clone(), rule.clone()), &[OUT], &[IN]),
        ("Egress", typed(json!(["Egress"]), none.clone(), none.clone()), &[IN], &[OUT]),
        ("Egress despite rules", typed(json!(["Egress"]), rule.clone(), none.clone()), &[IN], &[OUT]),
        ("both", typed(json!(["Ingress", "Egress"]), none.clone(), rule), &["web > out tcp/9"], &[IN, OUT]),
        ("another", typed(json!(["Sideways"]), none.clone(), none), &[IN, OUT], &[]),
        ("no spec", Value::Null, &[OUT], &[IN, "out > db tcp/1"]),
    ]);
}

#[test]
fn who_is_selected() {
    let policy = |selector: Value| json!({"podSelector": selector, "policyTypes": ["Ingress"]});
    let app = json!({"matchLabels": {"app": "web"}});
    hold(&[
        ("all", policy(json!({})), &["out > till tcp/1", "out > lost tcp/1"], &[IN, "out > db tcp/1"]),
        ("absent is all", policy(Value::Null), &["out > till tcp/1"], &[IN, "out > db tcp/1"]),
        ("some", policy(app), &["out > db tcp/1", "out > till tcp/1"], &[IN, "out6 > web6 tcp/1"]),
        (
            "of a namespace without object",
            json!({"namespace": "absent", "podSelector": {}}),
            &[IN],
            &["out > lost tcp/1"],
        ),
    ]);
}

#[test]
fn rules_add_up() {
    let port = |number: u16| json!({"ports": [{"port": number}]});
    let two_rules = json!({"podSelector": {}, "ingress": [port(1), port(2)]});
    let two_policies = json!([ingress(port(1)), ingress(port(2))]);
    let closed = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    let crossed = json!({"podSelector": {}, "ingress": [
        {"from": [{"podSelector": {}}], "ports": [{"port": 1}]},
        {"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}], "ports": [{"port": 2}]},
    ]});
    hold(&[
        ("of a policy", two_rules, &[IN, "out > web tcp/2"], &["out > web tcp/3"]),
        ("of policies", two_policies, &[IN, "out > web tcp/2"], &["out > web tcp/3"]),
        ("not taken back", json!([ingress(port(1)), closed]), &[IN], &["out > web tcp/3"]),
        ("nor before", json!([closed, ingress(port(1))]), &[IN], &["out > web tcp/3"]),
        ("not mixed", crossed, &["db > web tcp/1", "till > web tcp/2"], &["db > web tcp/2", "till > web tcp/1"]),
        (
            "all",
            json!([closed, {"podSelector": {}, "ingress": [{}]}]),
            &[IN, "till > web icmp", "out6 > web6 sctp/9"],
            &[],
        ),
    ]);
}
