//! Must catch: a port without protocol that is any protocol, ICMP through a rule with ports, a range that leaves an end
//! out, a name looked up at the source or in a container that has ended.

use serde_json::{Value, json};

use crate::world::{egress, hold, ingress};

fn open(ports: Value) -> Value {
    ingress(json!({"ports": ports}))
}

#[test]
fn protocols() {
    let (tcp, udp, sctp, icmp) = ("out > web tcp/5", "out > web udp/5", "out > web sctp/5", "out > web icmp");
    hold(&[
        ("absent", open(Value::Null), &[tcp, udp, sctp, icmp], &[]),
        ("empty", open(json!([])), &[tcp, udp, sctp, icmp], &[]),
        ("nothing set", open(json!([{}])), &[tcp], &[udp, sctp, icmp]),
        ("TCP", open(json!([{"protocol": "TCP"}])), &[tcp], &[udp, sctp, icmp]),
        ("UDP", open(json!([{"protocol": "UDP"}])), &[udp], &[tcp, sctp, icmp]),
        ("SCTP", open(json!([{"protocol": "SCTP"}])), &[sctp], &[tcp, udp, icmp]),
        ("two", open(json!([{"protocol": "SCTP"}, {"protocol": "UDP"}])), &[sctp, udp], &[tcp, icmp]),
    ]);
}

#[test]
fn numbers() {
    let range = |first: u16, last: u16| open(json!([{"protocol": "UDP", "port": first, "endPort": last}]));
    hold(&[
        (
            "one",
            open(json!([{"port": 5}])),
            &["out > web tcp/5"],
            &["out > web tcp/4", "out > web tcp/6", "out > web udp/5"],
        ),
        ("two", open(json!([{"port": 5}, {"port": 7}])), &["out > web tcp/5", "out > web tcp/7"], &["out > web tcp/6"]),
        (
            "range",
            range(5, 7),
            &["out > web udp/5", "out > web udp/6", "out > web udp/7"],
            &["out > web udp/4", "out > web udp/8", "out > web tcp/6", "out > web icmp"],
        ),
        ("range of one", range(5, 5), &["out > web udp/5"], &["out > web udp/4", "out > web udp/6"]),
        (
            "all numbers",
            range(1, 65535),
            &["out > web udp/1", "out > web udp/65535"],
            &["out > web tcp/1", "out > web icmp"],
        ),
        (
            "both must match",
            ingress(json!({"from": [{"podSelector": {}}], "ports": [{"port": 5}]})),
            &["db > web tcp/5"],
            &["db > web tcp/6", "till > web tcp/5"],
        ),
    ]);
}

#[test]
fn names_at_the_pod_selected() {
    let named = |name: &str, protocol: &str| open(json!([{"protocol": protocol, "port": name}]));
    hold(&[
        (
            "no protocol is TCP",
            open(json!([{"port": "http"}])),
            &["out > web tcp/80"],
            &["out > web udp/80", "out > web tcp/1"],
        ),
        ("not the source's", named("http", "TCP"), &["db > web tcp/80"], &["db > web tcp/8080"]),
        ("of two containers", named("http", "TCP"), &["out > web tcp/80", "out > web tcp/81"], &["out > web tcp/82"]),
        (
            "UDP of two",
            named("dns", "UDP"),
            &["out > web udp/53"],
            &["out > web tcp/5353", "out > web tcp/53", "out > web udp/5353"],
        ),
        ("TCP of two", named("dns", "TCP"), &["out > web tcp/5353"], &["out > web udp/53", "out > web tcp/53"]),
        ("of no such protocol", named("dns", "SCTP"), &[], &["out > web sctp/53"]),
        ("sidecar", named("metrics", "TCP"), &["out > web tcp/9090"], &["out > web tcp/80"]),
        ("init container that ends", named("once", "TCP"), &[], &["out > web tcp/7070"]),
        ("nobody's", named("nothing", "TCP"), &[], &["out > web tcp/80", "out > web tcp/7000"]),
        ("a number as a name", named("80", "TCP"), &[], &["out > web tcp/80"]),
    ]);
}

#[test]
fn names_at_the_peer() {
    let to = |rule: Value| egress(rule);
    let ports = json!([{"port": "http"}]);
    let sctp = json!([{"port": "signal", "protocol": "SCTP"}]);
    let db = json!([{"podSelector": {"matchLabels": {"app": "db"}}}]);
    let all = json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]);
    hold(&[
        ("the destination's", to(json!({"to": db, "ports": ports})), &["web > db tcp/8080"], &["web > db tcp/80"]),
        ("SCTP", to(json!({"ports": sctp})), &["web > db sctp/3868"], &["web > db tcp/3868", "web > till sctp/3868"]),
        (
            "without the name",
            to(json!({"ports": ports})),
            &["web > db tcp/8080"],
            &["web > till tcp/80", "web > till tcp/8080"],
        ),
        ("no pod", to(json!({"ports": ports})), &[], &["web > out tcp/80", "web > out tcp/8080"]),
        ("the host's network", to(json!({"ports": ports})), &[], &["web > node2 tcp/80"]),
        ("through a block", to(json!({"to": all, "ports": ports})), &["web > db tcp/8080"], &["web > out tcp/8080"]),
    ]);
}
