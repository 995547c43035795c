//! The axes along which policy-assistant, the tool of Kubernetes' network policy group, makes its cases: three namespaces of three
//! pods, two ports, every protocol; each kind of peer, of ports and of target, in each direction, one policy at a time. Every pod
//! sends to every pod and port, and the whole table has to be the reference's.

use std::time::Duration;

use overlane_policy_reference::{Cluster, Packet, Protocol, judge, why};
use overlane_suites::volley::Shot;
use serde_json::{Value, json};

use crate::canary;
use crate::ground::{carries, cluster};
use crate::objects::{self, Definition};
use crate::stage::{IDLE, Range, Stage};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 2] = [80, 81];
const PROTOCOLS: [(&str, Protocol); 3] = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
/// How long a packet that is to be denied has for not being it.
const PATIENCE: Duration = Duration::from_millis(250);

fn up() -> Range {
    let mut stage = Stage::up(2, "ipv4,ipv6", Definition::AsItIs);
    let of_port = |port: &u16| {
        PROTOCOLS.map(|(protocol, _)| {
            let name = format!("serve-{port}-{}", protocol.to_lowercase());
            json!({"name": name, "containerPort": port, "protocol": protocol})
        })
    };
    let ports: Vec<Value> = PORTS.iter().flat_map(of_port).collect();
    let containers = json!([{"name": "main", "image": "overlane.io/lab", "command": IDLE, "ports": ports}]);
    for namespace in NAMESPACES {
        stage.namespace(namespace, &json!({"ns": namespace}));
        for (number, pod) in PODS.iter().enumerate() {
            stage.create(namespace, pod, number % 2, &json!({"pod": pod}), &json!({"containers": containers}));
        }
    }
    for namespace in NAMESPACES {
        PODS.iter().for_each(|pod| drop(stage.admit(namespace, pod)));
    }
    stage.open()
}

/// Kinds of the other side; nothing: the field is not there.
fn peers(range: &Range) -> Vec<Option<Value>> {
    let pods = |selector: Value| json!({"podSelector": selector});
    let spaces = |selector: Value| json!({"namespaceSelector": selector});
    let expression = |key: &str, operator: &str, values: &[&str]| match values {
        [] => json!({"matchExpressions": [{"key": key, "operator": operator}]}),
        values => json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
    };
    let (x, y) = (json!({"matchLabels": {"ns": "x"}}), json!({"matchLabels": {"ns": "y"}}));
    let (a, b) = (json!({"matchLabels": {"pod": "a"}}), json!({"matchLabels": {"pod": "b"}}));
    let addresses = &range.host("y/a").ips;
    let own = addresses
        .iter()
        .map(|ip| json!({"ipBlock": {"cidr": format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })}}));
    let but = |cidr: &str, v4: bool| {
        let except = addresses.iter().find(|ip| ip.is_ipv4() == v4).unwrap();
        json!({"ipBlock": {"cidr": cidr, "except": [format!("{except}/{}", if v4 { 32 } else { 128 })]}})
    };
    vec![
        None,
        Some(json!([])),
        Some(json!([pods(json!({}))])),
        Some(json!([pods(a.clone())])),
        Some(json!([pods(expression("pod", "In", &["b", "c"]))])),
        Some(json!([pods(expression("pod", "NotIn", &["b", "c"]))])),
        Some(json!([pods(expression("pod", "Exists", &[]))])),
        Some(json!([pods(expression("pod", "DoesNotExist", &[]))])),
        Some(json!([spaces(json!({}))])),
        Some(json!([spaces(y.clone())])),
        Some(json!([spaces(expression("ns", "In", &["x", "z"]))])),
        Some(json!([spaces(expression("ns", "NotIn", &["x", "z"]))])),
        Some(json!([{"namespaceSelector": y.clone(), "podSelector": a.clone()}])),
        Some(json!([{"namespaceSelector": {}, "podSelector": b.clone()}])),
        Some(json!([pods(b), spaces(y)])),
        Some(json!([{"namespaceSelector": x, "podSelector": {}}, pods(a)])),
        Some(own.collect()),
        Some(json!([but("0.0.0.0/0", true), but("::/0", false)])),
    ]
}

/// Kinds of what it is about; nothing: the field is not there.
fn ports() -> Vec<Option<Value>> {
    vec![
        None,
        Some(json!([])),
        Some(json!([{"protocol": "TCP", "port": 80}])),
        Some(json!([{"protocol": "UDP", "port": 81}])),
        Some(json!([{"protocol": "SCTP", "port": 80}])),
        Some(json!([{"port": 81}])),
        Some(json!([{"protocol": "UDP"}])),
        Some(json!([{"protocol": "TCP", "port": "serve-81-tcp"}])),
        Some(json!([{"protocol": "UDP", "port": "serve-81-tcp"}])),
        Some(json!([{"protocol": "UDP", "port": "serve-80-udp"}, {"protocol": "TCP", "port": 81}])),
        Some(json!([{"protocol": "TCP", "port": 80, "endPort": 81}])),
    ]
}

fn rule(peers: Option<&Value>, ports: Option<&Value>, field: &str) -> Value {
    let mut rule = json!({});
    for (field, value) in [(field, peers), ("ports", ports)] {
        if let Some(value) = value {
            rule[field] = value.clone();
        }
    }
    rule
}

/// Policies of namespace x: each kind of peer, with the others' kinds in turn.
fn cases(range: &Range) -> Vec<Value> {
    let targets = [
        json!({}),
        json!({"matchLabels": {"pod": "a"}}),
        json!({"matchExpressions": [{"key": "pod", "operator": "In", "values": ["a", "b"]}]}),
    ];
    let (peers, ports) = (peers(range), ports());
    let mut cases = Vec::new();
    for number in 0..2 * peers.len() {
        let (peer, other) = (peers[number % peers.len()].as_ref(), peers[(number * 5 + 1) % peers.len()].as_ref());
        let (port, more) = (ports[number % ports.len()].as_ref(), ports[(number * 3 + 2) % ports.len()].as_ref());
        let mut spec = json!({"podSelector": targets[number % 3]});
        if number % 3 != 1 {
            spec["ingress"] = json!([rule(peer, port, "from")]);
        }
        if number % 3 != 0 {
            spec["egress"] = json!([rule(if number % 3 == 1 { peer } else { other }, more, "to")]);
        }
        if number % 2 == 0 {
            spec["policyTypes"] =
                [json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])][number % 3].clone();
        }
        cases.push(spec);
    }
    for types in [&["Ingress"][..], &["Egress"], &["Ingress", "Egress"]] {
        cases.push(json!({"podSelector": {}, "policyTypes": types}));
    }
    cases
}

/// Every packet of the table, with what the reference makes of it.
fn table(range: &Range, cluster: &Cluster) -> Vec<(Shot, Packet, bool)> {
    let names: Vec<String> =
        NAMESPACES.iter().flat_map(|namespace| PODS.map(|pod| format!("{namespace}/{pod}"))).collect();
    let mut table = Vec::new();
    for (from, to) in
        names.iter().flat_map(|from| names.iter().map(move |to| (from, to))).filter(|(from, to)| from != to)
    {
        for (port, (_, protocol)) in PORTS.iter().flat_map(|port| PROTOCOLS.map(|protocol| (*port, protocol))) {
            for (source, target) in range.pairs(from, to) {
                let packet = Packet { from: source, to: target, protocol, port };
                let shot = range.shot(source, target, carries(&packet));
                table.extend(shot.map(|shot| (shot, packet, judge(cluster, &packet).allowed())));
            }
        }
    }
    table
}

#[test]
fn the_whole_table_is_as_the_reference_has_it() {
    overlane_suites::clean::begin();
    let range = up();
    let (mut allowed, mut denied, mut found) = (0, 0, Vec::new());
    for (number, spec) in cases(&range).iter().enumerate() {
        objects::put(range.api(), &objects::policy("x", "case", spec));
        canary::settle(&range);
        let cluster = cluster(range.api(), |namespace| NAMESPACES.contains(&namespace));
        let table = table(&range, &cluster);
        let (open, shut): (Vec<_>, Vec<_>) = table.into_iter().partition(|(_, _, allowed)| *allowed);
        (allowed, denied) = (allowed + open.len(), denied + shut.len());
        let lost = range.unanswered(&open.iter().map(|(shot, ..)| *shot).collect::<Vec<_>>());
        found.extend(lost.iter().map(|(shot, _)| format!("case {number} {spec}: is to pass: {}", range.tell(shot))));
        let fates = range.fire(&shut.iter().map(|(shot, ..)| *shot).collect::<Vec<_>>(), PATIENCE);
        let through = shut.iter().zip(fates).filter(|(_, fate)| fate.arrived || fate.answered);
        found.extend(through.map(|((shot, packet, _), _)| {
            let told = why(&cluster, packet).join("\n    ");
            format!("case {number} {spec}: is to be denied: {}\n    {told}", range.tell(shot))
        }));
        assert!(found.len() < 20, "{} differences:\n{}", found.len(), found.join("\n"));
    }
    println!("{allowed} allowed, {denied} denied");
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    assert!(allowed > 5000 && denied > 2500, "{allowed} allowed, {denied} denied");
}
