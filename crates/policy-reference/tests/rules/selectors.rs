//! Must catch: requirements that are ORed, NotIn that asks for the key, an absent map that is not an empty one.

use serde_json::{Value, json};

use crate::world::{hold, ingress};

fn from_pods(selector: Value) -> Value {
    ingress(json!({"from": [{"namespaceSelector": {}, "podSelector": selector}]}))
}

fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"key": key, "operator": operator, "values": values})
}

#[test]
fn pods() {
    let (db, till, plain) = ("db > web tcp/1", "till > web tcp/1", "plain > web tcp/1");
    let one =
        |key, operator, values: &[&str]| from_pods(json!({"matchExpressions": [expression(key, operator, values)]}));
    hold(&[
        ("empty", from_pods(json!({})), &[db, till, plain], &[]),
        ("label", from_pods(json!({"matchLabels": {"app": "db"}})), &[db], &[till, plain]),
        ("label of another value", from_pods(json!({"matchLabels": {"tier": "front"}})), &[], &[db, till, plain]),
        ("In", one("app", "In", &["db", "none"]), &[db], &[till, plain]),
        ("In, two hits", one("app", "In", &["db", "web"]), &[db, till], &[plain]),
        ("NotIn", one("app", "NotIn", &["db", "none"]), &[till, plain], &[db]),
        ("NotIn, of all", one("app", "NotIn", &["db", "web"]), &[plain], &[db, till]),
        ("NotIn, key absent", one("tier", "NotIn", &["back"]), &[till, plain], &[db]),
        ("Exists", one("tier", "Exists", &[]), &[db], &[till, plain]),
        ("DoesNotExist", one("tier", "DoesNotExist", &[]), &[till, plain], &[db]),
    ]);
}

#[test]
fn all_of_them() {
    let (db, till) = ("db > web tcp/1", "till > web tcp/1");
    let exists = expression("tier", "Exists", &[]);
    let both = json!({"matchLabels": {"app": "web"}, "matchExpressions": [exists]});
    let two = json!({"matchExpressions": [exists, expression("app", "In", &["db"])]});
    let never = json!({"matchExpressions": [exists, expression("app", "In", &["web"])]});
    let labels = json!({"matchLabels": {"app": "db", "tier": "front"}});
    hold(&[
        ("labels and expressions", from_pods(both), &[], &[db, till]),
        ("expressions", from_pods(two), &[db], &[till]),
        ("expressions that no pod meets", from_pods(never), &[], &[db, till]),
        ("labels", from_pods(labels), &[], &[db, till]),
    ]);
}

#[test]
fn of_a_namespace_without_object() {
    let from = |selector: Value| ingress(json!({"from": [{"namespaceSelector": selector}]}));
    let absent = json!({"matchExpressions": [expression("team", "DoesNotExist", &[])]});
    let not_red = json!({"matchExpressions": [expression("team", "NotIn", &["red"])]});
    hold(&[
        ("empty", from(json!({})), &["lost > web tcp/1"], &[]),
        ("DoesNotExist", from(absent), &["lost > web tcp/1"], &["till > web tcp/1"]),
        ("NotIn", from(not_red), &["lost > web tcp/1", "till > web tcp/1"], &["db > web tcp/1"]),
        ("label", from(json!({"matchLabels": {"team": "red"}})), &["db > web tcp/1"], &["lost > web tcp/1"]),
    ]);
}
