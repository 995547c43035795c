//! What a node is told of policy, and what people are told, against the reference: random clusters, policies and packets.
//!
//! Must catch: a Pass that is final, or a block's exception that is not one.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use overlane_api::policy::{Objects, Understood};
use overlane_core::policy::portset::PortSet;
use overlane_core::policy::{
    self, Direction, Ids, Judge, OwnPod, PeerId, PolicyPlan, SideExplanation, Why, compile, explain,
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
    let world = &understood.world;
    let pod = |(address, index): (&IpAddr, &usize)| OwnPod {
        profile: (*world.profiles[*index]).clone(),
        addresses: vec![*address],
    };
    world.addresses.iter().map(pod).collect()
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

fn agree(cluster: &Cluster, seed: u64, ids: &mut Ids) {
    let understood = objects(cluster).understand();
    let plan = compile(&understood.world, &own(&understood), &understood.policies, ids);
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
        agree(&generate::cluster(seed, generate::Size::default()), seed, &mut Ids::default());
    }

    /// What was there before does not matter to what is decided, and what stays keeps its number.
    #[test]
    fn numbers_stay(seed in any::<u64>()) {
        let mut cluster = generate::cluster(seed, generate::Size::default());
        let mut ids = Ids::default();
        let before = objects(&cluster).understand();
        let first = compile(&before.world, &own(&before), &before.policies, &mut ids);
        let again = compile(&before.world, &own(&before), &before.policies, &mut ids.clone());
        prop_assert_eq!(&first, &again);
        cluster.policies.truncate(cluster.policies.len() / 2);
        agree(&cluster, seed, &mut ids);
        let after = objects(&cluster).understand();
        let second = compile(&after.world, &own(&after), &after.policies, &mut ids);
        // A pod that the same policies select is in the same class.
        // Who keeps a number is to a class that keeps its own what it was: while one plan takes the other's place, both are there.
        let numbers = |plan: &PolicyPlan| plan.hosts.values().chain(plan.spans.values()).copied().collect::<BTreeSet<_>>();
        let both: Vec<PeerId> = numbers(&first).intersection(&numbers(&second)).copied().chain([PeerId::NOBODY]).collect();
        for id in first.classes.keys().filter(|id| second.classes.contains_key(*id)) {
            for peer in &both {
                prop_assert_eq!(first.allowed(*id, *peer), second.allowed(*id, *peer), "{:?} of {:?}", peer, id);
            }
        }
        // What does not change keeps its numbers.
        let third = compile(&after.world, &own(&after), &after.policies, &mut ids);
        prop_assert_eq!(second, third);
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
    let plan = compile(&audited.world, &own(&audited), &audited.policies, &mut Ids::default());
    let class = &plan.classes[&plan.class(Direction::Ingress, DB.parse().unwrap()).unwrap()];
    let outcomes = &class.verdicts[&plan.peer(WEB.parse().unwrap())];
    assert!(outcomes.keys().all(|outcome| outcome.allowed), "{outcomes:?}");
    assert_eq!(outcomes.keys().filter(|outcome| outcome.audited.is_some()).count(), 1, "{outcomes:?}");
    // Any other word leaves it in force.
    assert!(!received(&shop(&serde_json::json!({"overlane.io/mode": "off"})), WEB, DB, 80).allowed);
}
