//! Must catch: a plan that leaves behind what an earlier one held, numbers that a restart does not go on with, a class that comes
//! when there is no chain for it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::*;
use overlane_core::few::Few;
use overlane_core::labels::{Labels, Requirement, Selector};
use overlane_core::plan::NodePlan;
use overlane_core::policy::{
    Action, Direction, Namespaces, OwnPod, Peer, Planner, PodSelector, Policy, PolicyName, PolicyPlan, PortMatch,
    Profile, Rule, Tier, World,
};
use overlane_core::ports::Protocol;
use overlane_datapath::nft::{Audit, Table};

fn labels(app: &str) -> Labels {
    [("app".to_owned(), app.to_owned())].into()
}

fn profile(app: &str) -> Profile {
    Profile { namespace: "ns".to_owned(), labels: labels(app), ..Profile::default() }
}

fn pods(app: &str) -> PodSelector {
    let app = Requirement::In("app".to_owned(), [app.to_owned()].into());
    let pods = Selector { requirements: [app].into() };
    PodSelector { namespaces: Namespaces::Named("ns".to_owned()), pods }
}

/// Lets others reach pods, at three ports from one on.
fn policy(app: &str, from: &[&str], port: u16) -> Policy {
    policy_for(app, from, [PortMatch::Range(Protocol::Tcp, port, port + 2)])
}

fn policy_for(app: &str, from: &[&str], ports: impl IntoIterator<Item = PortMatch>) -> Policy {
    let peers = from.iter().map(|from| match from.parse() {
        Ok(cidr) => Peer::Block { cidr, except: Few::default() },
        Err(_) => Peer::Pods(pods(from)),
    });
    let rule = Rule {
        name: "ingress[0]".to_owned(),
        action: Action::Accept,
        peers: Some(peers.collect()),
        ports: Some(ports.into_iter().collect()),
    };
    Policy {
        name: PolicyName { tier: Tier::Namespace, namespace: "ns".to_owned(), name: app.to_owned() },
        priority: 0,
        subject: pods(app),
        rules: [(Direction::Ingress, vec![rule])].into(),
        audit: false,
    }
}

/// Pods `0` to `count` of this node, each of an app of its own, and 300 clients elsewhere.
fn world(count: u8) -> (World, Vec<OwnPod>) {
    let mut world = World::default();
    let mut own = Vec::new();
    for n in 0..count {
        let addresses = vec![ip(&format!("10.244.0.{}", n + 1)), ip(&format!("fd12::{:x}", n + 1))];
        own.push(OwnPod { profile: Arc::new(profile(&n.to_string())), addresses });
    }
    let client = Arc::new(profile("client"));
    for n in 0..300 {
        world.enter(ip(&format!("10.244.{}.{}", 1 + n / 200, 1 + n % 200)), &client);
        world.enter(ip(&format!("fd13::{n:x}")), &client);
    }
    (world, own)
}

fn node() -> NodePlan {
    NodePlan { policed: true, pod_space: ["10.244.0.0/16", "fd12::/16"].map(cidr).into(), ..NodePlan::default() }
}

/// A node with a table.
fn table(ns: &Ns) -> Table {
    let table = Table::new(BTreeSet::new());
    ns.run(|| table.apply(&node(), &BTreeMap::new()).unwrap());
    table
}

/// Elements as a set of words, without what they have counted.
fn words(ns: &Ns) -> BTreeSet<String> {
    let value: serde_json::Value = serde_json::from_str(&ns.sh("nft -j list table inet overlane")).unwrap();
    let mut words = BTreeSet::new();
    for object in value["nftables"].as_array().unwrap() {
        let Some(set) = object.get("map").or_else(|| object.get("set")) else { continue };
        for element in set["elem"].as_array().into_iter().flatten() {
            words.insert(format!("{} {element}", set["name"]));
        }
    }
    words
}

fn plan(count: u8, policies: &[Policy], planner: &mut Planner) -> Arc<PolicyPlan> {
    let (world, own) = world(count);
    Arc::new(planner.plan(&world, &own, &policies.iter().cloned().map(Arc::new).collect::<Vec<_>>()))
}

#[test]
fn a_plan_takes_anothers_place() {
    let (ns, fresh) = (Ns::new(), Ns::new());
    let (held, mut planner) = (table(&ns), Planner::default());
    let many: Vec<Policy> = (0..20).map(|n| policy(&n.to_string(), &["client", "192.0.2.0/24"], 80 + n)).collect();
    let mut other = many.clone();
    other[3] = policy("3", &["192.0.2.0/25", "198.51.100.0/24", "2001:db8::/32"], 80);
    other.truncate(12);
    let rounds: [(u8, &[Policy]); 6] = [(3, &[]), (3, &many), (20, &many), (20, &other), (2, &other), (0, &[])];
    for (round, (count, policies)) in rounds.into_iter().enumerate() {
        let plan = plan(count, policies, &mut planner);
        ns.run(|| held.police(Arc::clone(&plan), &[]).unwrap());
        ns.run(|| assert_eq!(held.audit().unwrap(), Audit::default(), "round {round}"));
        let anew = table(&fresh);
        fresh.run(|| anew.police(Arc::clone(&plan), &[]).unwrap());
        assert_eq!(words(&ns), words(&fresh), "round {round}");
        fresh.sh("nft flush ruleset");
    }
    assert!(!ns.sh("nft list table inet overlane").contains("goto policy_in_0\n"));
}

#[test]
fn single_ports_become_ranges_and_back() {
    let (ns, fresh) = (Ns::new(), Ns::new());
    let (held, mut planner) = (table(&ns), Planner::default());
    let every = |step: usize| (1..=60_000).step_by(step).map(|port| PortMatch::Range(Protocol::Tcp, port, port));
    let single = policy_for("0", &["client"], every(6));
    let range = policy_for("0", &["client"], [PortMatch::Range(Protocol::Tcp, 1, 60_000)]);
    let both = policy_for("0", &["client"], every(30_000).chain([PortMatch::Range(Protocol::Udp, 7, 8)]));
    for (round, (policy, ports, ranges)) in
        [(&single, 10_000, 0), (&range, 0, 1), (&both, 2, 1), (&single, 10_000, 0)].into_iter().enumerate()
    {
        let plan = plan(1, std::slice::from_ref(policy), &mut planner);
        let began = std::time::Instant::now();
        ns.run(|| held.police(Arc::clone(&plan), &[]).unwrap());
        eprintln!("round {round}: in force after {:?}", began.elapsed());
        let there = words(&ns);
        let count = |name: &str| there.iter().filter(|word| word.split(' ').next().unwrap().ends_with(name)).count();
        assert_eq!((count("_port\""), count("_ports\"")), (ports, ranges), "round {round}");
        ns.run(|| assert_eq!(held.audit().unwrap(), Audit::default(), "round {round}"));
        let anew = table(&fresh);
        fresh.run(|| anew.police(plan, &[]).unwrap());
        assert_eq!(there, words(&fresh), "round {round}");
        fresh.sh("nft flush ruleset");
    }
}

#[test]
fn a_restart_goes_on_with_what_is_there() {
    let ns = Ns::new();
    let (held, mut planner) = (table(&ns), Planner::default());
    let policies: Vec<Policy> = (0..12).map(|n| policy(&n.to_string(), &["client", "192.0.2.0/24"], 80 + n)).collect();
    // So that numbers are not those that a first plan would give.
    for count in [12, 3, 12, 5] {
        let plan = plan(count, &policies[usize::from(12 - count)..], &mut planner);
        ns.run(|| held.police(plan, &[]).unwrap());
    }
    let last = plan(9, &policies, &mut planner);
    ns.run(|| held.police(Arc::clone(&last), &[]).unwrap());
    let before = ns.sh("nft -a list table inet overlane");

    let again = Table::new(BTreeSet::new());
    ns.run(|| again.apply(&node(), &BTreeMap::new()).unwrap());
    assert_eq!(ns.sh("nft -a list table inet overlane"), before, "what policy says is not known yet: all stays");
    let mut planner = Planner::from_used(ns.run(|| again.used().unwrap()));
    let plan = plan(9, &policies, &mut planner);
    assert_eq!(plan, last, "the same numbers");
    ns.run(|| again.police(plan, &[]).unwrap());
    assert_eq!(ns.sh("nft -a list table inet overlane"), before, "nothing was written");
    ns.run(|| assert_eq!(again.audit().unwrap(), Audit::default()));
}

#[test]
fn none_of_it_is_left_when_it_is_switched_off() {
    let ns = Ns::new();
    let (held, mut planner) = (table(&ns), Planner::default());
    let policies = [policy("0", &["client"], 80)];
    let plan = plan(2, &policies, &mut planner);
    ns.run(|| held.police(Arc::clone(&plan), &[]).unwrap());
    assert!(ns.sh("nft list table inet overlane").contains("jump policy_in"));
    let off = NodePlan { policed: false, ..node() };
    ns.run(|| held.apply(&off, &BTreeMap::new()).unwrap());
    ns.run(|| held.police(Arc::clone(&plan), &[]).unwrap());
    assert!(!ns.sh("nft list table inet overlane").contains("policy_"));
    ns.run(|| held.apply(&node(), &BTreeMap::new()).unwrap());
    ns.run(|| held.police(plan, &[]).unwrap());
    assert!(ns.sh("nft list table inet overlane").contains("jump policy_in"));
}

#[test]
fn what_a_foreign_hand_took_comes_back() {
    let ns = Ns::new();
    let (held, mut planner) = (table(&ns), Planner::default());
    let plan = plan(2, &[policy("0", &["client"], 80)], &mut planner);
    ns.run(|| held.police(plan, &[]).unwrap());
    let before = words(&ns);
    ns.sh("nft flush map inet overlane policy_host4; nft flush map inet overlane policy_in4");
    ns.sh("nft add element inet overlane policy_in6 '{ fd12::77 : return }'");
    let audit = ns.run(|| held.audit().unwrap());
    assert_eq!((audit.structure, audit.missing, audit.surplus), (false, 302, 1));
    assert_eq!(words(&ns), before);
}
