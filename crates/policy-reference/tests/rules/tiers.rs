//! Must catch: tiers, priorities, names or rules in another order, Pass that ends it, a NetworkPolicy that does not.

use serde_json::{Value, json};

use crate::world::{all, hold, web};

const IN: &str = "db > web tcp/1";
const OTHER: &str = "till > web tcp/1";

fn policy(tier: &str, priority: i32, name: &str, actions: &[&str]) -> Value {
    let rules: Vec<Value> = actions.iter().map(|action| json!({"action": action, "from": [all()]})).collect();
    json!({"tier": tier, "priority": priority, "name": name, "subject": web(), "ingress": rules})
}

fn admin(action: &str) -> Value {
    policy("Admin", 10, "admin", &[action])
}

fn baseline(action: &str) -> Value {
    policy("Baseline", 10, "baseline", &[action])
}

/// Isolates `web`, and lets `db` in or nobody.
fn network(open: bool) -> Value {
    let rules = if open { json!([{"from": [{"podSelector": {}}]}]) } else { json!([]) };
    json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "ingress": rules})
}

#[test]
fn one_after_the_other() {
    hold(&[
        ("Accept is final", json!([admin("Accept"), network(false), baseline("Deny")]), &[IN, OTHER], &[]),
        ("Deny is final", json!([admin("Deny"), network(true), baseline("Accept")]), &[], &[IN, OTHER]),
        ("Pass to NetworkPolicy", json!([admin("Pass"), network(true), baseline("Deny")]), &[IN], &[OTHER]),
        ("Pass to Baseline", json!([admin("Pass"), baseline("Deny")]), &[], &[IN, OTHER]),
        ("Pass to nothing", admin("Pass"), &[IN, OTHER], &[]),
        ("NetworkPolicy denies for good", json!([network(true), baseline("Accept")]), &[IN], &[OTHER]),
        ("NetworkPolicy allows for good", json!([network(true), baseline("Deny")]), &[IN], &[OTHER]),
        ("Baseline alone", baseline("Deny"), &["web > db tcp/1", "db > till tcp/1"], &[IN, OTHER]),
        ("Baseline Accept", baseline("Accept"), &[IN], &[]),
        ("Baseline Pass", json!([policy("Baseline", 1, "a", &["Pass"]), baseline("Deny")]), &[IN, OTHER], &[]),
        ("Pass skips the rest of its tier", json!([policy("Admin", 1, "a", &["Pass"]), admin("Deny")]), &[IN], &[]),
    ]);
}

#[test]
fn isolated_in_the_other_direction_only() {
    let egress_only = json!({"podSelector": {}, "policyTypes": ["Egress"]});
    hold(&[("egress", json!([egress_only, baseline("Deny")]), &[], &[OTHER, "web > out tcp/1"])]);
    hold(&[("egress", json!([egress_only, baseline("Accept")]), &[OTHER], &["web > out tcp/1"])]);
}

#[test]
fn first_match_counts() {
    let by = |priority, name, actions: &[&str]| policy("Admin", priority, name, actions);
    hold(&[
        ("lower priority", json!([by(20, "a", &["Deny"]), by(10, "b", &["Accept"])]), &[IN], &[]),
        ("as numbers", json!([by(1000, "a", &["Deny"]), by(9, "b", &["Accept"])]), &[IN], &[]),
        ("by name", json!([by(10, "b", &["Deny"]), by(10, "a", &["Accept"])]), &[IN], &[]),
        ("by name, turned", json!([by(10, "b", &["Accept"]), by(10, "a", &["Deny"])]), &[], &[IN]),
        ("order of rules", by(10, "a", &["Accept", "Deny"]), &[IN], &[]),
        ("order of rules, turned", by(10, "a", &["Deny", "Accept"]), &[], &[IN]),
        ("no rule, no matter", json!([by(1, "a", &[]), by(10, "b", &["Deny"])]), &[], &[IN]),
        ("priority is of a tier", json!([policy("Baseline", 1, "a", &["Deny"]), by(20, "b", &["Accept"])]), &[IN], &[]),
    ]);
}

#[test]
fn a_rule_that_does_not_match_leaves_it_to_the_next() {
    let db = json!({"pods": {"podSelector": {"matchLabels": {"app": "db"}}}});
    let rules = json!([{"action": "Accept", "from": [db]}, {"action": "Deny", "from": [all()]}]);
    let policy = json!({"tier": "Admin", "priority": 1, "subject": web(), "ingress": rules});
    hold(&[("db first", policy, &[IN, "out > web tcp/1"], &[OTHER])]);
}
