//! Must catch: a subject of the host's network, a peer or port of a CNP that matches too much, an unknown peer that
//! does not fail closed, or that makes an Accept rule do so for other rules.

use serde_json::{Value, json};

use crate::world::{admin_egress, admin_ingress, all, hold, web};

/// Lets through what matches and nothing else.
fn only_from(peer: Value) -> Value {
    admin_ingress(json!([
        {"action": "Accept", "from": [peer]},
        {"action": "Deny", "from": [all()]},
    ]))
}

fn only_to(peer: Value) -> Value {
    admin_egress(json!([
        {"action": "Accept", "to": [peer]},
        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]},
    ]))
}

/// An Admin CNP for this subject with one ingress rule.
fn about(subject: Value, action: &str, peer: Value) -> Value {
    let rules = json!([{"action": action, "from": [peer]}]);
    json!({"tier": "Admin", "priority": 1, "subject": subject, "ingress": rules})
}

#[test]
fn subjects() {
    let subject = |subject: Value| about(subject, "Deny", all());
    let blue = json!({"matchLabels": {"team": "blue"}});
    let nowhere = json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]});
    let (to_web, to_till, to_lost) = ("other > web tcp/1", "web > till tcp/1", "web > lost tcp/1");
    hold(&[
        ("all", subject(all()), &["web > node2 tcp/1"], &[to_web, to_till, to_lost]),
        ("namespaces", subject(json!({"namespaces": blue})), &[to_web, to_lost], &[to_till, "web > plain tcp/1"]),
        ("pods", subject(web()), &[to_till, "web > db tcp/1"], &[to_web]),
        (
            "pods of all",
            subject(json!({"pods": {"podSelector": {"matchLabels": {"app": "web"}}}})),
            &["web > plain tcp/1"],
            &[to_web, to_till, to_lost],
        ),
        ("without object", subject(json!({"namespaces": nowhere})), &[to_web, to_till], &[to_lost]),
    ]);
}

#[test]
fn peers() {
    let blue = json!({"matchLabels": {"team": "blue"}});
    let zone = json!({"nodes": {"matchLabels": {"zone": "b"}}});
    let far = json!({"networks": ["203.0.113.0/25", "2001:db8:1::/48"]});
    hold(&[
        (
            "namespaces",
            only_from(json!({"namespaces": blue})),
            &["till > web tcp/1", "out > web tcp/1"],
            &["db > web tcp/1"],
        ),
        (
            "pods",
            only_from(json!({"pods": {"namespaceSelector": blue, "podSelector": {"matchLabels": {"app": "web"}}}})),
            &["till > web tcp/1"],
            &["plain > web tcp/1", "db > web tcp/1", "lost > web tcp/1"],
        ),
        (
            "not the host's network",
            admin_ingress(json!([{"action": "Deny", "from": [all()]}])),
            &["node2 > web tcp/1"],
            &[],
        ),
        ("nor as a destination", only_to(all()), &["web > db tcp/1"], &["web > node2 tcp/1", "web > out tcp/1"]),
        (
            "nodes",
            only_to(zone.clone()),
            &["web > node2 tcp/1", "web6 > node2-6 icmp"],
            &["web > till tcp/1", "web > out tcp/1"],
        ),
        (
            "nodes of another zone",
            only_to(json!({"nodes": {"matchLabels": {"zone": "c"}}})),
            &[],
            &["web > node2 tcp/1"],
        ),
        ("all nodes", only_to(json!({"nodes": {}})), &["web > node2 tcp/1"], &["web > db tcp/1"]),
        (
            "networks",
            only_to(far),
            &["web > out tcp/1", "web > out-77 tcp/1", "web6 > far6 tcp/1"],
            &["web > out-200 tcp/1", "web6 > out6 tcp/1"],
        ),
        (
            "networks mean pods too",
            only_to(json!({"networks": ["10.1.0.2/32"]})),
            &["web > db tcp/1"],
            &["web > till tcp/1"],
        ),
        (
            "bits of the host",
            only_to(json!({"networks": ["203.0.113.77/24"]})),
            &["web > out tcp/1"],
            &["web > far tcp/1"],
        ),
        (
            "one of some",
            admin_egress(json!([{"action": "Deny", "to": [zone, {"namespaces": blue}]}])),
            &["web > db tcp/1"],
            &["web > node2 tcp/1", "web > till tcp/1"],
        ),
    ]);
}

#[test]
fn protocols() {
    let deny = |protocols: Value| admin_ingress(json!([{"action": "Deny", "from": [all()], "protocols": protocols}]));
    let (tcp, udp, sctp, icmp) = ("db > web tcp/80", "db > web udp/53", "db > web sctp/80", "db > web icmp");
    hold(&[
        ("absent", admin_ingress(json!([{"action": "Deny", "from": [all()]}])), &[], &[tcp, udp, sctp, icmp]),
        ("TCP", deny(json!([{"tcp": {}}])), &[udp, sctp, icmp], &[tcp, "db > web tcp/1"]),
        ("UDP", deny(json!([{"udp": {}}])), &[tcp, sctp, icmp], &[udp]),
        ("SCTP", deny(json!([{"sctp": {}}])), &[tcp, udp, icmp], &[sctp]),
        ("two", deny(json!([{"sctp": {}}, {"tcp": {}}])), &[udp, icmp], &[sctp, tcp]),
        ("number", deny(json!([{"tcp": {"destinationPort": {"number": 80}}}])), &["db > web tcp/81", sctp], &[tcp]),
        (
            "range",
            deny(json!([{"udp": {"destinationPort": {"range": {"start": 53, "end": 55}}}}])),
            &["db > web udp/52", "db > web udp/56", "db > web tcp/54"],
            &[udp, "db > web udp/54", "db > web udp/55"],
        ),
    ]);
}

#[test]
fn named_ports() {
    let name = |name: &str| json!([{"destinationNamedPort": name}]);
    let deny = |protocols: Value| admin_ingress(json!([{"action": "Deny", "from": [all()], "protocols": protocols}]));
    let deny_to = |to: Value| admin_egress(json!([{"action": "Deny", "to": [to], "protocols": name("http")}]));
    hold(&[
        (
            "of both protocols",
            deny(name("dns")),
            &["db > web tcp/53", "db > web udp/5353", "db > web icmp"],
            &["db > web udp/53", "db > web tcp/5353"],
        ),
        ("sidecar", deny(name("metrics")), &["db > web udp/9090"], &["db > web tcp/9090"]),
        ("not the source's", deny(name("http")), &["db > web tcp/8080"], &["db > web tcp/80"]),
        ("nobody's", deny(name("nothing")), &["db > web tcp/80", "db > web tcp/7000"], &[]),
        ("the peer's", deny_to(all()), &["web > db tcp/80", "web > till tcp/80"], &["web > db tcp/8080"]),
        (
            "through a network",
            deny_to(json!({"networks": ["0.0.0.0/0"]})),
            &["web > out tcp/80", "web > node2 tcp/80"],
            &["web > db tcp/8080"],
        ),
    ]);
}

/// Peers that a rule cannot be read for.
fn bad_peers() -> Vec<(&'static str, Value)> {
    let like = json!({"matchExpressions": [{"key": "zone", "operator": "Like"}]});
    vec![
        ("nothing known", json!({})),
        ("a field of tomorrow", json!({"services": {}})),
        ("domain names", json!({"domainNames": ["example.org"]})),
        ("network", json!({"networks": ["10.0.0.0/8", "10.0.0.0"]})),
        ("no networks", json!({"networks": []})),
        ("namespaces", json!({"namespaces": like})),
        ("pods", json!({"pods": {"podSelector": like}})),
        ("nodes", json!({"nodes": like})),
        ("two fields", json!({"nodes": {}, "namespaces": {}})),
    ]
}

#[test]
fn a_peer_that_cannot_be_read_fails_closed() {
    let port = json!({"tcp": {"destinationPort": {"number": 1}}});
    let rule = |action: &str, peer: &Value| json!({"action": action, "to": [all(), peer], "protocols": [port]});
    for (about, peer) in bad_peers() {
        let deny_all = json!({"action": "Deny", "to": [all()]});
        let accept = admin_egress(json!([rule("Accept", &peer), deny_all]));
        let (db, out, udp) = ("web > db tcp/1", "web > out tcp/2", "web > db udp/9");
        hold(&[
            (about, accept, &[out], &[db, udp]),
            (
                about,
                admin_egress(json!([rule("Deny", &peer)])),
                &["till > out tcp/1", "db > web tcp/1"],
                &[db, out, udp],
            ),
            (
                about,
                admin_egress(json!([rule("Pass", &peer)])),
                &["till > out tcp/1", "db > web tcp/1"],
                &[db, out, udp],
            ),
        ]);
        let accept_first = admin_egress(json!([{"action": "Accept", "to": [all()]}, rule("Deny", &peer)]));
        hold(&[(about, accept_first, &[db, udp], &[out])]);
    }
}

#[test]
fn so_does_one_of_a_source() {
    let from = |action: &str, peer: Value| {
        admin_ingress(json!([{"action": action, "from": [peer]}, {"action": "Deny", "from": [web()]}]))
    };
    let network = json!({"networks": ["0.0.0.0/0"]});
    hold(&[
        ("Accept", from("Accept", network.clone()), &["db > web tcp/1"], &[]),
        ("Deny", from("Deny", network.clone()), &["web > db tcp/1"], &["db > web tcp/1", "out > web udp/1"]),
        ("Pass", from("Pass", network), &[], &["db > web tcp/1", "out > web udp/1"]),
    ]);
}

#[test]
fn a_protocol_that_cannot_be_read_fails_closed() {
    let bad = [
        json!({}),
        json!({"quic": {}}),
        json!({"tcp": {}, "udp": {}}),
        json!({"tcp": {}, "destinationNamedPort": "http"}),
        json!({"tcp": {"destinationPort": {}}}),
        json!({"tcp": {"destinationPort": {"number": 0}}}),
        json!({"tcp": {"destinationPort": {"number": 65536}}}),
        json!({"tcp": {"destinationPort": {"number": 1, "range": {"start": 1, "end": 2}}}}),
        json!({"tcp": {"destinationPort": {"range": {"start": 2, "end": 1}}}}),
        json!({"tcp": {"destinationPort": {"range": {"start": 1, "end": 65536}}}}),
    ];
    for protocol in bad {
        let rule = |action: &str| json!({"action": action, "from": [all()], "protocols": [{"tcp": {}}, protocol]});
        let accept = admin_ingress(json!([rule("Accept"), {"action": "Deny", "from": [all()]}]));
        hold(&[
            ("Accept", accept, &["out > web tcp/1"], &["db > web tcp/1"]),
            ("Deny", admin_ingress(json!([rule("Deny")])), &[], &["db > web tcp/1", "out > web icmp"]),
            ("Pass", admin_ingress(json!([rule("Pass")])), &[], &["db > web tcp/1", "out > web icmp"]),
        ]);
    }
}

#[test]
fn no_peers_or_no_subject_fail_closed() {
    let like = json!({"matchExpressions": [{"key": "team", "operator": "Like"}]});
    let policy = |subject: Value, action: &str| about(subject, action, web());
    hold(&[
        ("no peers", admin_ingress(json!([{"action": "Deny", "from": []}])), &["web > db tcp/1"], &["out > web tcp/1"]),
        ("no peers, Accept", admin_ingress(json!([{"action": "Accept", "from": []}])), &["out > web tcp/1"], &[]),
        ("subject", policy(json!({}), "Deny"), &[], &["out > web tcp/1", "out > till tcp/1"]),
        (
            "subject's selector",
            policy(json!({"namespaces": like}), "Pass"),
            &["web > out tcp/1"],
            &["out > till tcp/1"],
        ),
        (
            "subject of both",
            policy(json!({"namespaces": {}, "pods": {"podSelector": {}}}), "Accept"),
            &["out > till tcp/1"],
            &[],
        ),
    ]);
}
