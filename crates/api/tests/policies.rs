//! What a node is told of policy, and what people are told, against the reference: random clusters, policies and packets.
//!
//! Must catch: a Pass that is final, a block's exception that is not one, or a pod that changed and is to a plan what it was.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use overlane_api::policy::{Objects, Understood};
use overlane_core::policy::portset::PortSet;
use overlane_core::policy::{
    self, Direction, Judge, OwnPod, PeerId, Planner, PolicyPlan, SideExplanation, Why, World, compile, explain,
};
use overlane_core::ports::Protocol;
use overlane_policy_reference::{self as reference, Cluster, Packet, generate};
use proptest::prelude::*;

fn objects(cluster: &Cluster) -> Objects {
    let cluster_policies = serde_json::to_value(&cluster.cluster_policies).unwrap();
    Objects {
        namespaces: cluster.namespaces.clone(),
        pods: cluster.pods.clone(),
        nodes: cluster.nodes.clone(),
        policies: cluster.policies.clone(),
        cluster_policies: serde_json::from_value(cluster_policies).unwrap(),
    }
}

fn about(packet: &Packet) -> Option<(Protocol, u16)> {
    let protocol = match packet.protocol {
        reference::Protocol::Tcp => Protocol::Tcp,
        reference::Protocol::Udp => Protocol::Udp,
        reference::Protocol::Sctp => Protocol::Sctp,
        reference::Protocol::Icmp => return None,
    };
    Some((protocol, packet.port))
}

/// All pods, as if they were of one node: it is told of each class.
fn own(understood: &Understood) -> Vec<OwnPod> {
    let pod = |profile: &Arc<policy::Profile>, address: &IpAddr| OwnPod {
        profile: Arc::clone(profile),
        addresses: vec![*address],
    };
    let pods = understood.world.pods();
    pods.flat_map(|(profile, addresses)| addresses.iter().map(move |address| pod(profile, address))).collect()
}

/// What a data plane makes of a plan.
fn passes(plan: &PolicyPlan, direction: Direction, packet: &Packet) -> bool {
    let (own, other) = match direction {
        Direction::Egress => (packet.from, packet.to),
        Direction::Ingress => (packet.to, packet.from),
    };
    let Some(class) = plan.class(direction, own) else { return true };
    let id = plan.peer(other);
    let allowed = plan.allowed(class, id);
    let class = &plan.classes[&class];
    let outcomes = class.verdicts.get(&id).unwrap_or_else(|| &class.verdicts[&PeerId::NOBODY]);
    let point = PortSet::point(about(packet));
    let found: Vec<_> = outcomes.iter().filter(|(_, ports)| !ports.and(&point).is_empty()).collect();
    assert_eq!(found.len(), 1, "one outcome for each thing: {outcomes:?}");
    assert_eq!(allowed.and(&point).is_empty(), !found[0].0.allowed);
    found[0].0.allowed
}

fn agree(cluster: &Cluster, seed: u64, planner: &mut Planner) {
    let understood = objects(cluster).understand();
    let plan = planner.plan(&understood.world, &own(&understood), &understood.policies);
    let judge = Judge::new(&understood.world, &understood.endpoints, &understood.policies);
    for packet in generate::packets(cluster, seed, 100) {
        let judged = reference::judge(cluster, &packet);
        let asked = policy::Packet { from: packet.from, to: packet.to, about: about(&packet) };
        let told = explain(&understood.world, &understood.endpoints, &understood.policies, &asked);
        assert_eq!(judge.explain(&asked), told, "seed {seed}: {packet:?}");
        let allowed = |direction| told.sides.get(&direction).is_none_or(|side| side.allowed);
        let both = (allowed(Direction::Egress), allowed(Direction::Ingress));
        assert_eq!(both, (judged.egress, judged.ingress), "seed {seed}: {packet:?} {told:?}");
        assert_eq!(told.allowed, judged.allowed());
        for (direction, side) in &told.sides {
            if !matches!(side.why, Why::Itself | Why::OwnNode) {
                assert_eq!(passes(&plan, *direction, &packet), side.allowed, "seed {seed}: {packet:?} {side:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_reference_says_the_same(seed in any::<u64>()) {
        agree(&generate::cluster(seed, generate::Size::default()), seed, &mut Planner::default());
    }

    /// What was there before does not matter to what is decided, and what stays keeps its number.
    #[test]
    fn numbers_stay(seed in any::<u64>()) {
        let mut cluster = generate::cluster(seed, generate::Size::default());
        let mut planner = Planner::default();
        let before = objects(&cluster).understand();
        let first = planner.plan(&before.world, &own(&before), &before.policies);
        let again = planner.clone().plan(&before.world, &own(&before), &before.policies);
        prop_assert_eq!(&first, &again);
        cluster.policies.truncate(cluster.policies.len() / 2);
        agree(&cluster, seed, &mut planner);
        let after = objects(&cluster).understand();
        let second = planner.plan(&after.world, &own(&after), &after.policies);
        // A pod that the same policies select is in the same class.
        // Who keeps a number is to a class that keeps its own what it was: while one plan takes the other's place, both are there.
        let numbers = |plan: &PolicyPlan| plan.hosts.iter().map(|(_, id)| id).chain(plan.spans.values().copied()).collect::<BTreeSet<_>>();
        let both: Vec<PeerId> = numbers(&first).intersection(&numbers(&second)).copied().chain([PeerId::NOBODY]).collect();
        for id in first.classes.keys().filter(|id| second.classes.contains_key(*id)) {
            for peer in &both {
                prop_assert_eq!(first.allowed(*id, *peer), second.allowed(*id, *peer), "{:?} of {:?}", peer, id);
            }
        }
        // What does not change keeps its numbers.
        let third = planner.plan(&after.world, &own(&after), &after.policies);
        prop_assert_eq!(second, third);
    }
}

/// What one plan after the other says is what a plan made anew says, whatever came and went in between.
fn keep_up(seed: u64, steps: u64) {
    let mut cluster = generate::cluster(seed, generate::Size::default());
    let (mut planner, mut world) = (Planner::default(), World::default());
    let mut there: BTreeMap<IpAddr, Arc<policy::Profile>> = BTreeMap::new();
    let mut policies = Vec::new();
    for step in 0..steps {
        let dice = seed.wrapping_mul(31).wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(17);
        // Labels and policies change at every third step, pods and who is here at each.
        if step % 3 == 0 {
            generate::dress(dice, &mut cluster, generate::Size::default());
        }
        // A policy keeps its name and says something else.
        if let [one, other, ..] = &mut cluster.policies[..]
            && step % 2 == 0
        {
            std::mem::swap(&mut one.spec, &mut other.spec);
        }
        let mut some = cluster.clone();
        some.pods = cluster
            .pods
            .iter()
            .enumerate()
            .filter(|(n, _)| dice >> (n % 64) & 3 != 0)
            .map(|(_, p)| p.clone())
            .collect();
        some.policies.truncate(cluster.policies.len() - (dice as usize % 3).min(cluster.policies.len()));
        let now = objects(&some).understand();
        follow(&mut world, &mut there, &now.world);
        if step % 5 == 4 {
            let aliases = world.nodes().values().flat_map(|node| node.addresses.iter().take(1)).take(1);
            let alias = if policies.is_empty() { "198.51.100.7" } else { "10.244.255.9" };
            let aliases = aliases.map(|address| (alias.parse().unwrap(), *address)).collect();
            world.set_ground(&aliases, &["10.244.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()].into());
        }
        if step % 2 == 0 || policies.len() != now.policies.len() {
            policies.clone_from(&now.policies);
        }
        let mut own = own(&now);
        own.retain(|pod| {
            pod.addresses.iter().any(|address| match address {
                IpAddr::V4(ip) => ip.octets()[3] % 3 != 0,
                IpAddr::V6(ip) => ip.octets()[15] % 3 != 0,
            })
        });
        let (plan, anew) = (planner.plan(&world, &own, &policies), compile(&world, &own, &policies));
        assert_eq!(plan.hosts.iter().count(), plan.hosts.len());
        let others: BTreeSet<IpAddr> = there
            .keys()
            .copied()
            .chain(world.nodes().values().flat_map(|node| node.addresses.clone()))
            .chain(world.aliases().keys().copied())
            .chain(generate::packets(&cluster, dice, 40).into_iter().flat_map(|packet| [packet.from, packet.to]))
            .chain(plan.spans.keys().flat_map(|(first, last)| [*first, *last]))
            .collect();
        assert_eq!(plan.pods.keys().collect::<Vec<_>>(), anew.pods.keys().collect::<Vec<_>>());
        for (direction, pod) in plan.pods.keys() {
            for other in &others {
                let says = |plan: &PolicyPlan| {
                    let class = plan.class(*direction, *pod)?;
                    let class = &plan.classes[&class];
                    let outcomes =
                        class.verdicts.get(&plan.peer(*other)).unwrap_or_else(|| &class.verdicts[&PeerId::NOBODY]);
                    Some((class.policies.clone(), outcomes.clone()))
                };
                assert_eq!(says(&plan), says(&anew), "seed {seed} step {step}: {direction} of {pod}, {other}");
            }
        }
    }
}

/// Brings a world to another's state as an agent does: by what differs.
fn follow(world: &mut World, there: &mut BTreeMap<IpAddr, Arc<policy::Profile>>, now: &World) {
    world.set_namespaces(now.namespaces());
    let names: BTreeSet<String> = world.nodes().keys().chain(now.nodes().keys()).cloned().collect();
    names.iter().for_each(|name| world.set_node(name, now.nodes().get(name).cloned()));
    let pods: BTreeMap<IpAddr, Arc<policy::Profile>> = now
        .pods()
        .flat_map(|(profile, addresses)| addresses.iter().map(|address| (*address, Arc::clone(profile))))
        .collect();
    for (address, profile) in std::mem::take(there) {
        if pods.get(&address) != Some(&profile) {
            assert!(world.leave(address, &profile) || pods.contains_key(&address));
        }
    }
    pods.iter().for_each(|(address, profile)| world.enter(*address, profile));
    *there = pods;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_made_from_the_one_before_is_as_one_made_anew(seed in any::<u64>()) {
        keep_up(seed, 12);
    }
}

const WEB: &str = "10.244.0.5";
const DB: &str = "10.244.1.5";

/// A pod, a database, and a policy that lets the one speak to the other.
fn shop(annotations: &serde_json::Value) -> Understood {
    let pod = |name: &str, address: &str| {
        serde_json::json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
            "spec": {"containers": [], "nodeName": "n1"},
            "status": {"podIPs": [{"ip": address}]},
        })
    };
    let cluster: Cluster = serde_json::from_value(serde_json::json!({
        "namespaces": [{"metadata": {"name": "shop", "labels": {"team": "shop"}}}],
        "nodes": [{
            "metadata": {"name": "n1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.224.0.4"}]},
        }],
        "pods": [pod("web", WEB), pod("db", DB)],
        "policies": [{"metadata": {"name": "db", "namespace": "shop", "annotations": annotations}, "spec": {
            "podSelector": {"matchLabels": {"app": "db"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 5432}]}],
        }}],
    }))
    .unwrap();
    objects(&cluster).understand()
}

/// What the receiver's side says.
fn received(understood: &Understood, from: &str, to: &str, port: u16) -> SideExplanation {
    let about = Some((Protocol::Tcp, port));
    let packet = policy::Packet { from: from.parse().unwrap(), to: to.parse().unwrap(), about };
    let told = explain(&understood.world, &understood.endpoints, &understood.policies, &packet);
    told.sides[&Direction::Ingress].clone()
}

#[test]
fn the_reason_is_told() {
    let shop = shop(&serde_json::json!({}));
    let told = received(&shop, WEB, DB, 5432);
    assert!(told.allowed && matches!(&told.why, Why::Rule { rule, .. } if rule == "ingress[0]"), "{told:?}");
    let told = received(&shop, WEB, DB, 80);
    assert!(!told.allowed && matches!(&told.why, Why::Isolated { by } if by.len() == 1), "{told:?}");
    assert_eq!(received(&shop, DB, WEB, 80).why, Why::NotSelected);
    assert_eq!(received(&shop, "10.224.0.4", DB, 80).why, Why::OwnNode);
    assert_eq!(received(&shop, DB, DB, 80).why, Why::Itself);
}

#[test]
fn what_is_audited_passes_and_is_told() {
    let audited = shop(&serde_json::json!({"overlane.io/mode": "audit"}));
    let told = received(&audited, WEB, DB, 80);
    assert!(told.allowed && told.audited.as_ref().is_some_and(|policy| policy.name == "db"), "{told:?}");
    let told = received(&audited, WEB, DB, 5432);
    assert!(told.allowed && told.audited.is_none(), "{told:?}");
    let plan = compile(&audited.world, &own(&audited), &audited.policies);
    let class = &plan.classes[&plan.class(Direction::Ingress, DB.parse().unwrap()).unwrap()];
    let outcomes = &class.verdicts[&plan.peer(WEB.parse().unwrap())];
    assert!(outcomes.keys().all(|outcome| outcome.allowed), "{outcomes:?}");
    assert_eq!(outcomes.keys().filter(|outcome| outcome.audited.is_some()).count(), 1, "{outcomes:?}");
    // Any other word leaves it in force.
    assert!(!received(&shop(&serde_json::json!({"overlane.io/mode": "off"})), WEB, DB, 80).allowed);
}
