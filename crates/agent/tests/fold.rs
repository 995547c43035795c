//! Must catch: a route that goes because a list was short, one that stays after its node was deleted, a block that is
//! used although it is an earlier machine's or another node's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use overlane_agent::watch::cache;
use overlane_agent::watch::fold::{Effect, Fold, KEEP_MS};
use overlane_agent::watch::item::{Change, ClusterWord, Item, NodeConfig, NodeFacts};
use overlane_api::crd::{ClusterNetworkSpec, Egress};
use overlane_core::cluster::{Routing, RoutingState};
use overlane_core::family::Family;
use overlane_core::ipam::Block;
use proptest::prelude::*;

fn spec() -> ClusterNetworkSpec {
    ClusterNetworkSpec {
        ip_families: vec!["IPv4".into()],
        pod_cidrs: vec!["10.244.0.0/16".into()],
        service_cidrs: vec!["10.0.0.0/16".into()],
        max_pods: 250,
        ..ClusterNetworkSpec::default()
    }
}

/// A node with block 10.244.`block`.0/24.
fn config(block: u8, uid: &str) -> NodeConfig {
    NodeConfig {
        node_uid: uid.into(),
        blocks: [Block { cidr: format!("10.244.{block}.0/24").parse().unwrap(), pair: 0 }].into(),
        node_ips: BTreeMap::from([(Family::V4, [10, 224, 0, block].into())]),
        mac: None,
    }
}

fn applied(name: &str, config: NodeConfig) -> Item {
    Item::Config(Change::Applied((name.into(), Ok(config))))
}

fn cluster(asked: ClusterNetworkSpec, in_force: Option<ClusterNetworkSpec>) -> Item {
    let word = ClusterWord { asked, in_force, routing: None, refused: false };
    Item::Cluster(Change::Applied(("default".into(), Box::new(word))))
}

#[test]
fn a_new_agent_does_not_take_what_was_refused() {
    let mut fold = Fold::new("n0", 1);
    let refused = ClusterWord { asked: spec(), in_force: None, routing: None, refused: true };
    fold.take(Item::Cluster(Change::Applied(("default".into(), Box::new(refused)))), 0);
    assert!(fold.view().cluster.is_none());
    fold.take(cluster(spec(), None), 1);
    assert!(fold.view().cluster.is_some());
}

/// An older controller goes back to `loadBalancer`, and leaves in place what it does not know.
#[test]
fn next_hops_of_another_outbound_type_are_nothing() {
    let mut fold = Fold::new("n0", 1);
    let egress = Egress { next_hops: vec!["10.224.0.250".into()], keep_pod_address: true, ..Egress::default() };
    fold.take(cluster(spec(), Some(ClusterNetworkSpec { egress, ..spec() })), 0);
    let view = fold.view();
    assert!(view.findings.is_empty(), "{:?}", view.findings);
    assert!(view.cluster.unwrap().egress().next_hops.is_empty());
}

fn gone(name: &str) -> Item {
    Item::Config(Change::Gone((name.into(), Ok(NodeConfig::default()))))
}

fn list(fold: &mut Fold, configs: &[(&str, NodeConfig)], now: u64) {
    fold.take(Item::Config(Change::Begin), now);
    for (name, config) in configs {
        fold.take(Item::Config(Change::Listed(((*name).into(), Ok(config.clone())))), now);
    }
    fold.take(Item::Config(Change::Done), now);
}

/// Everything was heard: own node `n0` with block 0, and the others.
fn started(others: &[(&str, NodeConfig)]) -> Fold {
    let mut fold = Fold::new("n0", 1);
    fold.take(cluster(spec(), None), 0);
    fold.take(Item::Cluster(Change::Done), 0);
    fold.take(Item::Node(Change::Listed(NodeFacts { uid: "u0".into(), ..NodeFacts::default() })), 0);
    fold.take(Item::Node(Change::Done), 0);
    fold.take(Item::Maps(0, Change::Begin), 0);
    fold.take(Item::Maps(0, Change::Done), 0);
    fold.take(Item::Gateway(Change::Begin), 0);
    fold.take(Item::Gateway(Change::Done), 0);
    assert!(!fold.complete());
    let mut all = vec![("n0", config(0, "u0"))];
    all.extend_from_slice(others);
    list(&mut fold, &all, 0);
    assert!(fold.complete());
    fold
}

fn peers(fold: &mut Fold) -> Vec<String> {
    fold.view().peers.iter().map(|peer| peer.name.clone()).collect()
}

#[test]
fn deleted_at_once_missing_for_a_while() {
    let mut fold = started(&[("n1", config(1, "")), ("n2", config(2, "")), ("n3", config(3, ""))]);
    assert_eq!(peers(&mut fold), ["n1", "n2", "n3"]);
    assert_eq!(fold.take(gone("n1"), 5), Effect::View);
    assert_eq!(peers(&mut fold), ["n2", "n3"]);
    // A list that is short: n2 stays, its block is nobody else's; n3's block was given to n4.
    list(&mut fold, &[("n0", config(0, "u0")), ("n4", config(3, ""))], 1_000);
    assert_eq!(peers(&mut fold), ["n2", "n4"]);
    assert_eq!(fold.next_expiry(), Some(1_000 + KEEP_MS));
    // A second short list does not begin the wait anew.
    list(&mut fold, &[("n0", config(0, "u0")), ("n4", config(3, ""))], 30_000);
    assert_eq!(fold.expire(1_000 + KEEP_MS - 1), Effect::None);
    assert_eq!(fold.expire(1_000 + KEEP_MS), Effect::View);
    assert_eq!(peers(&mut fold), ["n4"]);
    // One that comes back is no longer missing.
    list(&mut fold, &[("n0", config(0, "u0"))], 100_000);
    assert_eq!(fold.take(applied("n4", config(3, "")), 100_001), Effect::View);
    assert_eq!(fold.next_expiry(), None);
}

#[test]
fn own_block_missing_lost_contested() {
    let mut fold = started(&[]);
    let view = fold.view();
    assert_eq!(view.own.blocks.len(), 1);
    // Another node's configuration names it too: nobody knows whose it is.
    fold.take(applied("n9", config(0, "")), 1);
    let view = fold.view();
    assert_eq!(view.contested.len(), 1);
    assert!(view.lost.is_empty());
    // Ours is gone: it is the other's. The node's addresses stay known.
    fold.take(gone("n0"), 2);
    let view = fold.view();
    assert_eq!(view.lost.values().collect::<Vec<_>>(), ["n9"]);
    assert!(view.own.blocks.is_empty() && view.own.missing.is_some());
    assert_eq!(view.own.node_ips.len(), 1);
    assert_eq!(view.known.len(), 1);
    fold.take(gone("n9"), 3);
    assert!(fold.view().lost.is_empty());
}

#[test]
fn an_earlier_machines_configuration_is_not_ours() {
    let mut fold = started(&[]);
    assert_eq!(fold.view().own.blocks.len(), 1);
    // A Node object made again under a running machine: what was ours stays ours.
    fold.take(Item::Node(Change::Applied(NodeFacts { uid: "u1".into(), ..NodeFacts::default() })), 1);
    assert_eq!(fold.view().own.blocks.len(), 1);
    // A new machine: the old one's block was never ours.
    let mut fresh = Fold::new("n0", 1);
    fresh.take(Item::Node(Change::Listed(NodeFacts { uid: "u1".into(), ..NodeFacts::default() })), 0);
    list(&mut fresh, &[("n0", config(0, "u0"))], 0);
    let view = fresh.view();
    assert!(view.own.blocks.is_empty());
    assert!(view.own.missing.unwrap().contains("earlier Node"));
    fresh.take(applied("n0", config(7, "u1")), 1);
    assert_eq!(fresh.view().own.blocks.len(), 1);
}

#[test]
fn what_means_nothing_does_not_take_away_what_was_known() {
    use overlane_api::convert::ConvertError;
    let mut fold = started(&[("n1", config(1, ""))]);
    let fault = ConvertError::Mac { field: "status.underlayMAC".into(), given: "x".into() };
    fold.take(Item::Config(Change::Applied(("n1".into(), Err(fault)))), 1);
    let view = fold.view();
    assert_eq!(view.peers[0].blocks.len(), 1);
    assert!(view.peer_faults[0].contains("n1"), "{:?}", view.peer_faults);
    // The same for a ClusterNetwork that is not valid.
    let mut bad = spec();
    bad.pod_cidrs = vec!["10.244.0.1/16".into()];
    for in_force in [None, Some(spec())] {
        fold.take(cluster(bad.clone(), in_force), 2);
        let view = fold.view();
        assert!(view.cluster.is_some());
        assert!(!view.findings.is_empty());
    }
    fold.take(cluster(spec(), Some(spec())), 3);
    assert!(fold.view().findings.is_empty());
}

#[test]
fn what_the_controller_has_not_put_in_force_does_not_count() {
    let mut fold = started(&[]);
    let pod_cidrs = |fold: &mut Fold| {
        let plan = fold.view().cluster.clone().unwrap();
        plan.pod_cidrs().map(|cidr| cidr.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(pod_cidrs(&mut fold), ["10.244.0.0/16"], "the first is used at once");
    let other = ClusterNetworkSpec { pod_cidrs: vec!["10.96.0.0/12".into()], ..spec() };
    for in_force in [None, Some(spec())] {
        // Not judged yet, then refused.
        fold.take(cluster(other.clone(), in_force), 1);
        let view = fold.view();
        assert!(view.findings.is_empty(), "valid in itself");
        assert_eq!(pod_cidrs(&mut fold), ["10.244.0.0/16"]);
    }
    fold.take(cluster(other.clone(), Some(other)), 2);
    assert_eq!(pod_cidrs(&mut fold), ["10.96.0.0/12"]);
}

#[test]
fn what_is_taken_during_a_change_is_remembered() {
    let mut fold = started(&[]);
    assert_eq!(fold.view().routing, Some(RoutingState::settled(Routing::Native)));
    let routing = RoutingState { accepts: Routing::Auto.carriers(), step: 7, ..RoutingState::settled(Routing::Native) };
    let word = ClusterWord { asked: spec(), in_force: Some(spec()), routing: Some(routing.clone()), refused: false };
    fold.take(Item::Cluster(Change::Applied(("default".into(), Box::new(word)))), 1);
    assert_eq!(fold.view().routing, Some(routing.clone()));
    let dir = tempfile::tempdir().unwrap();
    cache::write(dir.path(), &cache::encode(&fold, "boot").unwrap()).unwrap();
    let mut back = Fold::new("n0", 1);
    assert!(cache::load(dir.path(), "boot", &mut back).unwrap());
    assert_eq!(back.view().routing, Some(routing));
}

#[test]
fn masquerade_fragments_of_all_maps() {
    let mut fold = started(&[]);
    let map =
        |name: &str, text: &str| Item::Maps(0, Change::Applied((name.into(), vec![("config".into(), text.into())])));
    fold.take(map("a", "nonMasqueradeCIDRs: [10.1.0.0/16]"), 1);
    fold.take(map("b", "nonMasqueradeCIDRs: [10.2.0.0/16]\nmasqLinkLocal: true"), 1);
    fold.take(map("c", "nonMasqueradeCIDRs: [10.3.0.1/16]"), 1);
    let view = fold.view();
    assert_eq!(view.masq.non_masquerade.len(), 2);
    assert!(view.masq.masq_link_local);
    assert_eq!(view.masq_faults.len(), 1);
    assert!(view.masq_faults[0].contains("kube-system/c/config"), "{:?}", view.masq_faults);
}

#[test]
fn the_own_state_is_absent_only_if_a_whole_list_lacks_it() {
    let mut fold = started(&[]);
    assert_eq!(fold.state(), None);
    assert_eq!(fold.take(Item::State(Change::Begin), 1), Effect::None);
    assert_eq!(fold.state(), None);
    assert_eq!(fold.take(Item::State(Change::Done), 1), Effect::State);
    assert_eq!(fold.state(), Some(None));
    fold.take(Item::State(Change::Applied(Box::default())), 2);
    assert!(fold.state().unwrap().is_some());
    fold.take(Item::State(Change::Begin), 3);
    assert!(fold.state().unwrap().is_some());
    fold.take(Item::State(Change::Gone(Box::default())), 4);
    assert_eq!(fold.state(), Some(None));
}

#[derive(Clone, Debug)]
enum Step {
    Apply(u8, u8),
    Gone(u8),
    Relist(BTreeSet<u8>),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..6_u8, 1..8_u8).prop_map(|(node, block)| Step::Apply(node, block)),
        (1..6_u8).prop_map(Step::Gone),
        proptest::collection::btree_set(1..6_u8, 0..5).prop_map(Step::Relist),
        (0..70_000_u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #[test]
    fn what_was_not_deleted_and_not_displaced_stays(steps in steps()) {
        let mut fold = started(&[]);
        let mut now = 0;
        // By the words alone: what each node has, and since when it is missing.
        let mut model: BTreeMap<u8, (u8, Option<u64>)> = BTreeMap::new();
        let displace = |model: &mut BTreeMap<u8, (u8, Option<u64>)>| {
            let taken: BTreeSet<u8> = model.values().filter(|(_, missing)| missing.is_none()).map(|(b, _)| *b).collect();
            model.retain(|_, (block, missing)| missing.is_none() || !taken.contains(block));
        };
        for step in steps {
            match step {
                Step::Apply(node, block) => {
                    fold.take(applied(&format!("n{node}"), config(block, "")), now);
                    model.insert(node, (block, None));
                    displace(&mut model);
                }
                Step::Gone(node) => {
                    fold.take(gone(&format!("n{node}")), now);
                    model.remove(&node);
                }
                Step::Relist(nodes) => {
                    let named: Vec<(String, NodeConfig)> = nodes.iter().map(|n| (format!("n{n}"), config(*n, ""))).collect();
                    let mut all: Vec<(&str, NodeConfig)> = named.iter().map(|(n, c)| (n.as_str(), c.clone())).collect();
                    all.push(("n0", config(0, "u0")));
                    list(&mut fold, &all, now);
                    for (_, missing) in model.values_mut() {
                        missing.get_or_insert(now);
                    }
                    for node in nodes {
                        model.insert(node, (node, None));
                    }
                    displace(&mut model);
                }
                Step::Pass(time) => {
                    now += time;
                    fold.expire(now);
                    model.retain(|_, (_, missing)| missing.is_none_or(|since| now < since + KEEP_MS));
                }
            }
            let expected: Vec<String> = model.keys().map(|n| format!("n{n}")).collect();
            prop_assert_eq!(peers(&mut fold), expected);
        }
    }

    #[test]
    fn a_view_on_file_comes_back(blocks in proptest::collection::btree_set(1..200_u8, 0..20)) {
        let named: Vec<(String, NodeConfig)> = blocks.iter().map(|n| (format!("n{n}"), config(*n, "u"))).collect();
        let others: Vec<(&str, NodeConfig)> = named.iter().map(|(n, c)| (n.as_str(), c.clone())).collect();
        let mut fold = started(&others);
        fold.take(Item::Maps(0, Change::Applied(("m".into(), vec![("k".into(), "masqLinkLocal: true".into())]))), 1);
        let before = fold.view();
        let dir = tempfile::tempdir().unwrap();
        cache::write(dir.path(), &cache::encode(&fold, "boot").unwrap()).unwrap();
        let mut back = Fold::new("n0", 1);
        prop_assert!(cache::load(dir.path(), "boot", &mut back).unwrap());
        let mut after = back.view();
        prop_assert!(!after.complete);
        after.complete = true;
        prop_assert_eq!(before, after);
        let mut other = Fold::new("n0", 1);
        prop_assert!(!cache::load(dir.path(), "another boot", &mut other).unwrap());
    }
}
