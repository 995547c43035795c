//! Changes of policies and labels that leave a verdict as it was never show in it.

use overlane_suites::api::Api;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use serde_json::{Value, json};

use crate::canary;
use crate::objects::{self, namespace_path};
use crate::scene::{self, CLIENT, OPEN, SERVERS, SHOP};
use crate::stage::Range;
use crate::talk::{Over, Talk};
use crate::watch;

/// A namespace that has nothing to do with the shop.
const OTHER: &str = "other";
/// How many changes there are.
const CHANGES: usize = 200;

/// A policy that isolates servers further and lets in somebody else.
fn beside(number: usize) -> Value {
    let spec = json!({
        "podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"turn": format!("none-{number}")}}}]}],
    });
    objects::policy(SHOP, "beside", &spec)
}

/// One that isolates the client too, and lets it send whatever it likes to servers.
fn outwards() -> Value {
    let spec = json!({
        "podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "server"}}}]}],
    });
    objects::policy(SHOP, "outwards", &spec)
}

/// One that leaves all of it to the next tier.
fn passing(number: usize) -> Value {
    let shop = json!({"matchLabels": {"team": "shop"}});
    let spec = json!({
        "tier": "Admin", "priority": number % 1000, "subject": {"namespaces": shop},
        "ingress": [{"action": "Pass", "from": [{"namespaces": shop}]}],
        "egress": [{"action": "Pass", "to": [{"namespaces": shop}]}],
    });
    objects::cluster_policy("passing", &spec)
}

/// One of another namespace, which asks which turn it is of pods of the shop: those are to each other what they were, but
/// not to this one.
fn elsewhere(number: usize) -> Value {
    let turns = json!([{"key": "turn", "operator": "In", "values": ["0", "1", (number % 7).to_string()]}]);
    let shop = json!({"matchLabels": {"team": "shop"}});
    let peer = json!({"namespaceSelector": shop, "podSelector": {"matchExpressions": turns}});
    let spec = json!({
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [peer], "ports": [{"port": number + 1}]}],
        "egress": [{"to": [{"ipBlock": {"cidr": format!("10.244.{}.0/24", number % 200)}}, peer]}],
    });
    objects::policy(OTHER, &format!("elsewhere-{}", number % 5), &spec)
}

/// The same closing in other words: a range in place of a number, a rule more that adds nothing.
fn in_other_words(closing: &Value, number: usize) -> Value {
    let mut words = closing.clone();
    let from = words["spec"]["ingress"][0]["from"].clone();
    let ports: Vec<Value> =
        ["TCP", "UDP"].iter().map(|protocol| json!({"protocol": protocol, "port": OPEN, "endPort": OPEN})).collect();
    let ports = json!({"from": from, "ports": ports});
    match number % 3 {
        0 => words["spec"]["ingress"].as_array_mut().unwrap().push(ports),
        1 => words["spec"]["ingress"][0] = ports,
        _ => (),
    }
    words
}

fn change(range: &Range, closing: &Value, number: usize) {
    let api = range.api();
    let turn = json!({"turn": (number % 7).to_string()});
    // Not a multiple of seven: each kind of change comes with each turn.
    match number % 15 {
        0 | 7 | 14 => objects::put(api, &elsewhere(number)),
        1 => objects::delete(api, &elsewhere(number - 1)),
        2 => objects::label(api, &Api::pod_path(OTHER, "bystander-1"), &turn),
        3 => objects::label(api, &namespace_path(OTHER), &turn),
        4 => objects::put(api, &beside(number)),
        5 => objects::label(api, &Api::pod_path(SHOP, "client"), &turn),
        6 => objects::put(api, &passing(number)),
        8 => objects::delete(api, &passing(number)),
        9 => objects::put(api, &outwards()),
        10 => objects::label(api, &Api::pod_path(SHOP, if number.is_multiple_of(4) { "near" } else { "far" }), &turn),
        11 => objects::delete(api, &outwards()),
        12 => objects::put(api, &in_other_words(closing, number)),
        _ => objects::delete(api, &beside(number)),
    }
}

#[test]
fn a_verdict_that_stays_does_not_flicker() {
    let range = scene::shop(|stage| {
        stage.namespace(OTHER, &json!({"turn": "0"}));
        for node in 0..2 {
            stage.run(OTHER, &format!("bystander-{node}"), node, &json!({"turn": "0"}));
        }
    });
    let closing = &scene::closings()[0].1;
    objects::put(range.api(), closing);
    canary::settle(&range);
    let (open, shut) = scene::packets(&range);
    let from = &range.host(CLIENT).ns;
    let talks: Vec<Talk> = SERVERS
        .iter()
        .flat_map(|server| range.pairs(CLIENT, server).into_iter().map(move |(_, to)| (server, to)))
        .flat_map(|(server, to)| {
            [Over::Tcp(OPEN), Over::Udp(OPEN)].map(|over| Talk::open(from, &range.host(server).ns, to, over))
        })
        .collect();
    watch::while_doing(&range, "changes", &open, &shut, |notes| {
        for number in 0..CHANGES {
            notes.note(format!("change {}", number % 15));
            change(&range, closing, number);
            // At times several come at once, at times each has its own plan.
            std::thread::sleep(millis((number as u64 * 37) % 90));
        }
        canary::settle(&range);
    });
    for talk in &talks {
        let (lost, broken) = (talk.lost(), talk.client.broken() || talk.server.broken());
        assert!(lost == 0 && !broken, "{}: {lost} lost, broken: {broken}", talk.name);
    }
}

/// An agent that has had no policy to follow learns whom a policy means before the first one counts.
#[test]
fn the_first_policy_does_not_interrupt_whom_it_allows() {
    let range = scene::shop(|_| ());
    for policy in objects::all(range.api()) {
        objects::delete(range.api(), &policy);
    }
    let (open, shut) = scene::packets(&range);
    for (what, policy) in scene::closings() {
        // Until nobody follows pods any more.
        std::thread::sleep(secs(3));
        let shut_by_then = || {
            eventually(secs(60), "the policy is in force", || {
                let through = range.fire(&shut, millis(100)).iter().filter(|fate| fate.arrived).count();
                ensure(through == 0, || format!("{through} packets pass"))
            });
        };
        watch::while_doing(&range, what, &open, &[], |notes| {
            notes.note("the policy");
            objects::put(range.api(), &policy);
            shut_by_then();
            std::thread::sleep(secs(1));
            notes.note("its end");
            objects::delete(range.api(), &policy);
            std::thread::sleep(secs(1));
        });
    }
}
