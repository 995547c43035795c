//! Flows that are open when a policy comes are judged again, by the direction in which they were opened.

use std::net::SocketAddr;
use std::time::Instant;

use overlane_suites::wait::{ensure, eventually, millis, secs};
use serde_json::{Value, json};

use crate::canary;
use crate::objects;
use crate::scene::{self, CLIENT, OPEN, SERVERS, SHOP, SHUT};
use crate::stage::{IDLE, Range};
use crate::talk::{Over, Talk};

/// A conversation of each kind with each server, in each family.
fn talks(range: &Range, kinds: &[Over]) -> Vec<Talk> {
    let from = &range.host(CLIENT).ns;
    let mut talks = Vec::new();
    for server in SERVERS {
        for (_, to) in range.pairs(CLIENT, server) {
            talks.extend(kinds.iter().map(|over| Talk::open(from, &range.host(server).ns, to, *over)));
        }
    }
    heard(&talks);
    talks
}

/// Waits until each side has heard something.
fn heard(talks: &[Talk]) {
    eventually(secs(10), "everybody is heard", || {
        let silent = talks.iter().filter(|talk| talk.sides().iter().any(|side| side.heard() < 5));
        let silent: Vec<&str> = silent.map(|talk| talk.name.as_str()).collect();
        ensure(silent.is_empty(), || format!("silent: {silent:?}"))
    });
}

/// Ends the test if any side hears something for so long.
fn silence(talks: &[Talk], seconds: u64, why: &str) {
    let before: Vec<[u64; 2]> = talks.iter().map(Talk::heard).collect();
    std::thread::sleep(secs(seconds));
    let after = talks.iter().zip(before).filter(|(talk, before)| talk.heard() != *before);
    let heard: Vec<String> = after
        .map(|(talk, before)| format!("{}: client and server heard {before:?}, then {:?}", talk.name, talk.heard()))
        .collect();
    assert!(heard.is_empty(), "{why}: {heard:#?}");
}

/// Writes a policy that shuts; waits until nothing new passes any more where it shuts. From then on two seconds are left.
fn shut(range: &Range, policy: &Value) {
    let (open, shut) = scene::packets(range);
    let began = Instant::now();
    objects::put(range.api(), policy);
    eventually(secs(60), "new flows are denied", || {
        let through = range.fire(&shut, millis(100)).iter().filter(|fate| fate.arrived).count();
        ensure(through == 0, || format!("{through} of {} pass", shut.len()))
    });
    println!("  new flows are denied {:.2?} after the policy was written", began.elapsed());
    assert!(range.unanswered(&open).is_empty(), "what is left open goes on passing");
}

fn closing(range: &Range, policy: &Value) {
    let open = talks(range, &[Over::Tcp(OPEN), Over::Udp(OPEN)]);
    let talks = talks(range, &[Over::Tcp(SHUT), Over::Udp(SHUT), Over::Echo]);
    shut(range, policy);
    std::thread::sleep(secs(2));
    silence(&talks, 5, "both go on sending, and are heard more than two seconds later");
    talks.iter().for_each(|talk| talk.client.mute(true));
    silence(&talks, 5, "servers alone go on sending, and are heard");
    for talk in &talks {
        talk.client.mute(false);
        talk.server.mute(true);
    }
    silence(&talks, 3, "clients alone go on sending, and are heard");
    for talk in &open {
        let (lost, broken) = (talk.lost(), talk.client.broken() || talk.server.broken());
        assert!(lost == 0 && !broken, "{}: {lost} lost of what is allowed, broken: {broken}", talk.name);
    }
    objects::delete(range.api(), policy);
    canary::settle(range);
    let (open, shut) = scene::packets(range);
    assert!(range.unanswered(&[open, shut].concat()).is_empty(), "without the policy all passes again");
}

#[test]
fn what_is_forbidden_ends_and_what_is_allowed_goes_on() {
    let range = scene::shop(|_| ());
    for (what, policy) in scene::closings() {
        println!("{what}");
        closing(&range, &policy);
    }
}

/// The same beyond the cluster, where packets bear other addresses on their way: out of it, as their node, and in, by a
/// port of the node.
#[test]
fn what_is_forbidden_beyond_the_cluster_ends() {
    const BEYOND: u16 = 7021;
    let range = scene::shop(|stage| {
        let ports =
            ["TCP", "UDP"].map(|protocol| json!({"containerPort": SHUT, "hostPort": BEYOND, "protocol": protocol}));
        let door = json!([{"name": "main", "image": "overlane.io/lab", "command": IDLE, "ports": ports}]);
        stage.create(SHOP, "door", 1, &json!({"app": "door"}), &json!({"containers": door}));
        stage.admit(SHOP, "door");
    });
    let hosts = ["internet", "shop/door", "vm", "node-1"].map(|name| range.host(name));
    let [internet, door, vm, node] = hosts;
    let mut talks = Vec::new();
    for (_, to) in range.pairs(CLIENT, "internet") {
        let kinds = [Over::Tcp(BEYOND), Over::Udp(BEYOND), Over::Echo];
        talks.extend(kinds.map(|over| Talk::open(&range.host(CLIENT).ns, &internet.ns, to, over)));
    }
    for at in &door.ips {
        let to = *node.ips.iter().find(|ip| ip.is_ipv4() == at.is_ipv4()).unwrap();
        let at = SocketAddr::new(*at, SHUT);
        let kinds = [Over::Tcp(BEYOND), Over::Udp(BEYOND)];
        talks.extend(kinds.map(|over| Talk::by_way_of(&vm.ns, &door.ns, at, to, over)));
    }
    heard(&talks);
    let inside = json!([{"podSelector": {}}]);
    let spec = json!({
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": inside}], "egress": [{"to": inside}],
    });
    objects::put(range.api(), &objects::policy(SHOP, "inside", &spec));
    canary::settle(&range);
    std::thread::sleep(secs(2));
    silence(&talks, 5, "both go on sending, and are heard more than two seconds later");
    talks.iter().for_each(|talk| talk.client.mute(true));
    silence(&talks, 5, "servers alone go on sending, and are heard");
}

/// Datagrams that were cut pass again once they are allowed, though nobody has paused.
#[test]
fn what_is_allowed_again_is_heard_again() {
    let range = scene::shop(|_| ());
    let policy = &scene::closings()[0].1;
    let talks = talks(&range, &[Over::Udp(SHUT), Over::Echo]);
    shut(&range, policy);
    std::thread::sleep(secs(2));
    silence(&talks, 2, "what is forbidden is heard");
    objects::delete(range.api(), policy);
    let before: Vec<[u64; 2]> = talks.iter().map(Talk::heard).collect();
    eventually(secs(20), "everybody is heard again", || {
        let silent = talks.iter().zip(&before).filter(|(talk, before)| talk.heard()[0] == before[0]);
        let silent: Vec<&str> = silent.map(|(talk, _)| talk.name.as_str()).collect();
        ensure(silent.is_empty(), || format!("silent: {silent:?}"))
    });
}
