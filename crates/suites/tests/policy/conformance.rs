//! The cases that the ClusterNetworkPolicy API's own conformance tests have (network-policy-api v0.2.0), told anew: which
//! rule of several counts, in each tier, direction and protocol; peers by CIDR, by node and by named port; priorities;
//! and a tier that leaves the decision to the next.

use overlane_suites::volley::{Carries, Shot};
use overlane_suites::wait::millis;
use serde_json::{Value, json};

use crate::canary;
use crate::objects::{self, Definition};
use crate::stage::{Range, Stage};

/// Namespaces, each with a pod on either node. Policies are about the first.
const CAST: [&str; 4] = ["shop", "friend", "rival", "guest"];
/// By protocol, the port that has a rule of its own and the one that has none.
const PORTS: [(&str, u16, u16); 3] = [("tcp", 80, 8080), ("udp", 53, 5353), ("sctp", 9003, 9005)];
const TIERS: [&str; 2] = ["Admin", "Baseline"];
const WAYS: [Way; 2] = [Way::Egress, Way::Ingress];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Egress,
    Ingress,
}

impl Way {
    fn rules(self) -> &'static str {
        if self == Self::Egress { "egress" } else { "ingress" }
    }

    fn peers(self) -> &'static str {
        if self == Self::Egress { "to" } else { "from" }
    }
}

fn up() -> Range {
    let mut stage = Stage::up(2, "ipv4,ipv6", Definition::AsItIs);
    let ports = json!([{"name": "web", "containerPort": 80}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]);
    let containers =
        json!([{"name": "main", "image": "overlane.io/lab", "command": crate::stage::IDLE, "ports": ports}]);
    for namespace in CAST {
        stage.namespace(namespace, &json!({"house": namespace}));
        for node in 0..2 {
            stage.create(
                namespace,
                &format!("pod-{node}"),
                node,
                &json!({"house": namespace}),
                &json!({"containers": containers}),
            );
        }
    }
    for namespace in CAST {
        (0..2).for_each(|node| drop(stage.admit(namespace, &format!("pod-{node}"))));
    }
    stage.open()
}

fn house(namespace: &str) -> Value {
    json!({"matchLabels": {"house": namespace}})
}

fn of(namespace: &str) -> Value {
    json!({ "namespaces": house(namespace) })
}

fn pods_of(namespace: &str) -> Value {
    json!({"pods": {"namespaceSelector": house(namespace), "podSelector": house(namespace)}})
}

fn carries(protocol: &str, port: u16) -> Carries {
    match protocol {
        "tcp" => Carries::Tcp(port),
        "udp" => Carries::Udp(port),
        _ => Carries::Sctp(port),
    }
}

fn ports(list: &[(&str, u16)]) -> Value {
    let one = |(protocol, port): &(&str, u16)| json!({*protocol: {"destinationPort": {"number": port}}});
    list.iter().map(one).collect()
}

/// A rule about these peers; about everything without ports.
fn rule(way: Way, action: &str, peers: &[&Value], protocols: Option<Value>) -> Value {
    let mut rule = json!({"action": action, way.peers(): peers});
    if let Some(protocols) = protocols {
        rule["protocols"] = protocols;
    }
    rule
}

/// A policy about the pods of the shop.
fn policy(name: &str, tier: &str, priority: u16, rules: &[(Way, Vec<Value>)]) -> Value {
    let mut spec = json!({"tier": tier, "priority": priority, "subject": of(CAST[0])});
    for (way, rules) in rules {
        spec[way.rules()] = json!(rules);
    }
    objects::cluster_policy(name, &spec)
}

fn swap(policy: &mut Value, way: Way, one: usize, other: usize) {
    policy["spec"][way.rules()].as_array_mut().unwrap().swap(one, other);
}

/// Packets between all pods of the shop and of another namespace, that way.
fn packets(range: &Range, way: Way, other: &str, carries: Carries) -> Vec<Shot> {
    let mut shots = Vec::new();
    for (one, two) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (shop, other) = (format!("{}/pod-{one}", CAST[0]), format!("{other}/pod-{two}"));
        let (from, to) = if way == Way::Egress { (shop, other) } else { (other, shop) };
        shots.extend(range.shots(&from, &to, carries));
    }
    shots
}

/// Ends the test unless these packets pass, or none does.
fn expect(range: &Range, what: &str, shots: &[Shot], allowed: bool) {
    assert!(!shots.is_empty(), "{what}: nothing to be fired");
    if allowed {
        let lost = range.unanswered(shots);
        let lost: Vec<String> = lost.iter().map(|(shot, _)| range.tell(shot)).collect();
        assert!(lost.is_empty(), "{what}: is to pass: {lost:#?}");
        return;
    }
    let fates = range.fire(shots, millis(200));
    let through = shots.iter().zip(fates).filter(|(_, fate)| fate.arrived || fate.answered);
    let through: Vec<String> = through.map(|(shot, _)| range.tell(shot)).collect();
    assert!(through.is_empty(), "{what}: is to be denied: {through:#?}");
}

/// What has to become of each: way, the other namespace, protocol and port, whether it passes.
type Expectation<'a> = (Way, &'a str, &'a str, u16, bool);

fn step(range: &Range, what: &str, policies: &[&Value], expected: &[Expectation<'_>]) {
    policies.iter().for_each(|policy| objects::put(range.api(), policy));
    canary::settle(range);
    for (way, other, protocol, port, allowed) in expected {
        let what = format!("{what}: {} {other} {protocol}/{port}", way.peers());
        expect(range, &what, &packets(range, *way, other, carries(protocol, *port)), *allowed);
    }
}

/// Everything with a friend is accepted, denied, passed; a port with a rival denied, passed; a port with a guest accepted,
/// the rest denied. Baseline has no rules that pass.
fn ordered_rules(tier: &str, way: Way, own: &[(&str, u16)]) -> Vec<Value> {
    let [_, friend, rival, guest] = CAST.map(of);
    let mut rules = Vec::new();
    let actions: &[&str] = if tier == "Admin" { &["Accept", "Deny", "Pass"] } else { &["Accept", "Deny"] };
    rules.extend(actions.iter().map(|action| rule(way, action, &[&friend], None)));
    let actions: &[&str] = if tier == "Admin" { &["Deny", "Pass"] } else { &["Deny"] };
    rules.extend(actions.iter().map(|action| rule(way, action, &[&rival], Some(ports(own)))));
    rules.push(rule(way, "Accept", &[&guest], Some(ports(own))));
    rules.push(rule(way, "Deny", &[&guest], None));
    rules
}

/// Tries the order of rules for these ways and protocols at once.
fn ordered(range: &Range, tier: &str, ways: &[Way], protocols: &[(&str, u16, u16)]) {
    let own: Vec<(&str, u16)> = protocols.iter().map(|(protocol, own, _)| (*protocol, *own)).collect();
    let rules = ways.iter().map(|way| (*way, ordered_rules(tier, *way, &own))).collect::<Vec<_>>();
    let mut policy = policy("ordered", tier, 10, &rules);
    let each = |make: &dyn Fn(Way, &'static str, u16, u16) -> Vec<Expectation<'static>>| -> Vec<Expectation<'static>> {
        let protocols = PORTS.into_iter().filter(|(protocol, ..)| own.iter().any(|(wanted, _)| wanted == protocol));
        let pairs = protocols.flat_map(|one| ways.iter().map(move |way| (*way, one)));
        pairs.flat_map(|(way, (protocol, own, other))| make(way, protocol, own, other)).collect()
    };
    let case = format!("{tier} {ways:?} {own:?}");
    let all = |other: &'static str, own_passes: bool, other_passes: bool| {
        move |way, protocol, own, rest| {
            vec![(way, other, protocol, own, own_passes), (way, other, protocol, rest, other_passes)]
        }
    };
    let written =
        [each(&all("friend", true, true)), each(&all("guest", true, false)), each(&all("rival", false, true))];
    step(range, &format!("{case}, as written"), &[&policy], &written.concat());
    ways.iter().for_each(|way| swap(&mut policy, *way, 0, 1));
    step(range, &format!("{case}, denied first"), &[&policy], &each(&all("friend", false, false)));
    if tier == "Admin" {
        ways.iter().for_each(|way| swap(&mut policy, *way, 0, 2));
        ways.iter().for_each(|way| swap(&mut policy, *way, 3, 4));
        let passed = [each(&all("friend", true, true)), each(&all("rival", true, true))].concat();
        step(range, &format!("{case}, passed first"), &[&policy], &passed);
    }
    objects::delete(range.api(), &policy);
}

#[test]
fn the_first_rule_that_matches_counts() {
    let range = up();
    for tier in TIERS {
        for way in WAYS {
            PORTS.iter().for_each(|protocol| ordered(&range, tier, &[way], &[*protocol]));
        }
        ordered(&range, tier, &WAYS, &PORTS);
    }
}

#[test]
fn peers_by_address() {
    let range = up();
    let everything = json!({"networks": ["0.0.0.0/0", "::/0"]});
    for tier in TIERS {
        let rules = vec![
            rule(Way::Egress, "Accept", &[&pods_of("rival")], None),
            rule(Way::Egress, "Deny", &[&everything], None),
        ];
        let mut policy = policy("addresses", tier, 85, &[(Way::Egress, rules)]);
        let expected = |(protocol, port, _)| {
            [("friend", false), ("guest", false), ("rival", true)]
                .map(|(other, passes)| (Way::Egress, other, protocol, port, passes))
        };
        let expected: Vec<Expectation<'_>> = PORTS.into_iter().flat_map(expected).collect();
        step(&range, &format!("{tier}, the world denied"), &[&policy], &expected);
        let first = ["friend/pod-0", "guest/pod-0"].iter().flat_map(|name| range.host(name).ips.clone());
        let first: Vec<String> = first.map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })).collect();
        let accept = rule(Way::Egress, "Accept", &[&json!({ "networks": first })], None);
        policy["spec"]["egress"].as_array_mut().unwrap().insert(0, accept);
        step(&range, "two addresses accepted", &[&policy], &[]);
        for (protocol, port, _) in PORTS {
            for (other, passes) in
                [("friend/pod-0", true), ("guest/pod-0", true), ("friend/pod-1", false), ("guest/pod-1", false)]
            {
                let shots = range.shots("shop/pod-1", other, carries(protocol, port));
                expect(&range, &format!("{tier}, {other} {protocol}"), &shots, passes);
            }
        }
        objects::delete(range.api(), &policy);
    }
}

#[test]
fn peers_that_are_nodes() {
    let range = up();
    let nodes = json!({"nodes": {"matchLabels": {"kubernetes.io/os": "linux"}}});
    let world = json!({"networks": ["0.0.0.0/0", "::/0"]});
    // The pods of the first node, to the other: a pod and its own node always reach each other.
    let shots = |protocol, port| range.shots("shop/pod-0", "node-1", carries(protocol, port));
    let admin = vec![
        rule(Way::Egress, "Accept", &[&nodes], Some(ports(&[("tcp", 36363)]))),
        rule(Way::Egress, "Pass", &[&nodes], Some(ports(&[("udp", 34345)]))),
        rule(Way::Egress, "Deny", &[&pods_of("rival"), &nodes, &world], None),
    ];
    let two = json!([{"tcp": {"destinationPort": {"range": {"start": 36363, "end": 36364}}}}]);
    let baseline =
        vec![rule(Way::Egress, "Accept", &[&nodes], Some(two)), rule(Way::Egress, "Deny", &[&nodes, &world], None)];
    let cases = [
        ("Admin", admin, [true, false, true, false, false]),
        ("Baseline", baseline, [true, true, false, false, false]),
    ];
    for (tier, rules, expected) in cases {
        let policy = policy("nodes", tier, 75, &[(Way::Egress, rules)]);
        step(&range, tier, &[&policy], &[]);
        let packets = [("tcp", 36363), ("tcp", 36364), ("udp", 34345), ("udp", 34346), ("sctp", 9003)];
        for ((protocol, port), passes) in packets.into_iter().zip(expected) {
            expect(&range, &format!("{tier}, a node's {protocol}/{port}"), &shots(protocol, port), passes);
        }
        objects::delete(range.api(), &policy);
    }
}

#[test]
fn ports_by_name() {
    let range = up();
    let named = |name: &str| Some(json!([{ "destinationNamedPort": name }]));
    for tier in TIERS {
        for way in WAYS {
            for (name, protocol, port, other) in [("web", "tcp", 80, 8080), ("dns", "udp", 53, 5353)] {
                let rules =
                    vec![rule(way, "Accept", &[&of("guest")], named(name)), rule(way, "Deny", &[&of("guest")], None)];
                let policy = policy("named", tier, 20, &[(way, rules)]);
                let wrong = if protocol == "tcp" { "udp" } else { "tcp" };
                let expected = [
                    (way, "guest", protocol, port, true),
                    (way, "guest", protocol, other, false),
                    (way, "guest", wrong, port, false),
                ];
                step(&range, &format!("{tier} {way:?} {name}"), &[&policy], &expected);
                objects::delete(range.api(), &policy);
            }
        }
    }
}

/// Both ways with a rival, on either port.
fn rival(passes: bool) -> Vec<Expectation<'static>> {
    let ports = [80, 8080].into_iter();
    ports.flat_map(|port| WAYS.map(|way| (way, "rival", "tcp", port, passes))).collect()
}

fn about_rivals(name: &str, tier: &str, priority: u16, action: &str) -> Value {
    policy(name, tier, priority, &WAYS.map(|way| (way, vec![rule(way, action, &[&pods_of("rival")], None)])))
}

#[test]
fn a_lower_priority_goes_first() {
    let range = up();
    let deny = about_rivals("denies", "Admin", 50, "Deny");
    let baseline = about_rivals("baseline", "Baseline", 10, "Accept");
    let pass = about_rivals("passes", "Admin", 60, "Pass");
    step(&range, "denied at 50, passed at 60", &[&deny, &pass, &baseline], &rival(false));
    let pass = about_rivals("passes", "Admin", 40, "Pass");
    step(&range, "passed at 40", &[&pass], &rival(true));
    let pass = about_rivals("passes", "Admin", 60, "Pass");
    step(&range, "passed at 60 again", &[&pass], &rival(false));
}

#[test]
fn tiers_go_before_each_other() {
    let range = up();
    let admin = |action| about_rivals("admin", "Admin", 10, action);
    let baseline = about_rivals("baseline", "Baseline", 10, "Deny");
    let peers = json!([{"namespaceSelector": house("rival")}]);
    let spec = json!({
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": peers}], "egress": [{"to": peers}],
    });
    let middle = objects::policy("shop", "middle", &spec);
    step(&range, "Admin denies", &[&middle, &baseline, &admin("Deny")], &rival(false));
    step(&range, "Admin passes, NetworkPolicy allows", &[&admin("Pass")], &rival(true));
    objects::delete(range.api(), &middle);
    step(&range, "Admin passes, Baseline denies", &[], &rival(false));
    step(&range, "Admin accepts, Baseline denies", &[&admin("Accept")], &rival(true));
}
