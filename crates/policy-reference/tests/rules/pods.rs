//! Must catch: policy for a pod of the host's network or a completed one, none for one that is being deleted, a pod cut
//! off from its own node or from itself.

use serde_json::json;

use crate::world::{admin_egress, admin_ingress, all, egress, ends, hold, ingress, packet, with};

#[test]
fn without_policies_everything() {
    hold(&[(
        "nothing",
        json!([]),
        &["till > web tcp/80", "out > web udp/1", "web6 > out6 icmp", "out > far sctp/9"],
        &[],
    )]);
}

#[test]
fn who_is_subject_to_policy() {
    let everyone = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let deny = json!({
        "tier": "Admin", "priority": 1, "subject": all(),
        "ingress": [{"action": "Deny", "from": [all()]}],
        "egress": [{"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}],
    });
    hold(&[
        (
            "host network, all isolated",
            everyone.clone(),
            &["far > node2 tcp/80", "node2 > far tcp/80"],
            &["far > other tcp/80"],
        ),
        (
            "host network, all denied",
            deny.clone(),
            &["far > node2 tcp/80", "node2 > far tcp/80"],
            &["other > far tcp/80"],
        ),
        ("deleted until it is gone", everyone.clone(), &[], &["far > leaving tcp/80", "leaving > far tcp/80"]),
        ("failed", everyone.clone(), &["far > failed tcp/80", "failed > far icmp"], &[]),
        ("failed, denied", deny.clone(), &["failed > far icmp"], &[]),
        ("the address of one that has completed", everyone.clone(), &["far > till tcp/80", "far6 > till6 tcp/80"], &[]),
        ("an address of nobody", everyone, &["far > odd tcp/80"], &[]),
        ("a namespace without object", deny, &[], &["lost > far tcp/80"]),
    ]);
}

#[test]
fn policy_of_the_one_that_has_the_address_now() {
    let banks = json!({"namespace": "bank", "podSelector": {}, "policyTypes": ["Ingress"]});
    hold(&[("bank", banks, &[], &["far > till tcp/80"])]);
    let from_db = ingress(json!({"from": [{"podSelector": {"matchLabels": {"app": "db"}}}]}));
    hold(&[("done is not the peer", from_db, &["db > web tcp/1"], &["till > web tcp/1"])]);
}

#[test]
fn own_node_and_self_always() {
    let isolated = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let everything = json!([{"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}]);
    let own = [
        "node1 > web tcp/80",
        "web > node1 tcp/80",
        "node1-6 > web6 udp/1",
        "web6 > node1-6 icmp",
        "web > web tcp/9",
        "web6 > web6 tcp/9",
        "web > node1-out tcp/9",
        "node1-out > web icmp",
    ];
    let others = ["node2 > web tcp/80", "web > node2 tcp/80", "web6 > node2-6 icmp", "node2-6 > web6 tcp/1"];
    hold(&[
        ("isolated", isolated, &own, &others),
        ("denied", admin_egress(everything), &["web > node1 tcp/80", "web > web tcp/9"], &["web > node2 tcp/80"]),
        (
            "denied by node",
            admin_egress(json!([{"action": "Deny", "to": [{"nodes": {}}]}])),
            &["web > node1-out tcp/80"],
            &["web > node2 tcp/80"],
        ),
        (
            "denied from itself",
            admin_ingress(json!([{"action": "Deny", "from": [all()]}])),
            &["web > web tcp/80"],
            &["db > web tcp/80"],
        ),
    ]);
}

#[test]
fn a_pod_without_node() {
    let mut cluster = with(&json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    for pod in &mut cluster.pods {
        pod.spec.as_mut().unwrap().node_name = None;
    }
    assert!(!overlane_policy_reference::judge(&cluster, &packet("web > node1 tcp/80")).allowed());
}

#[test]
fn each_end_by_itself() {
    let from_db = ingress(json!({"from": [{"podSelector": {"matchLabels": {"app": "db"}}}]}));
    let to_db = egress(json!({"to": [{"podSelector": {"matchLabels": {"app": "db"}}}]}));
    assert_eq!(ends(&from_db, "till > web tcp/80"), (true, false));
    assert_eq!(ends(&from_db, "web > till tcp/80"), (true, true));
    assert_eq!(ends(&to_db, "web > till tcp/80"), (false, true));
    assert_eq!(ends(&to_db, "till > web tcp/80"), (true, true));
    let both = json!([from_db, {"namespace": "bank", "podSelector": {}, "policyTypes": ["Egress"]}]);
    assert_eq!(ends(&both, "till > web tcp/80"), (false, false));
}
