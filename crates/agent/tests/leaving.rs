//! Must catch: a pod that leaves as its node because nobody has heard its labels yet, or as the pod that had its name
//! before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use overlane_agent::leaving::PodFacts;
use overlane_agent::watch::cache;
use overlane_agent::watch::fold::{Fold, KEEP_MS};
use overlane_agent::watch::item::{Change, Item, NodeFacts};
use overlane_api::crd::{EgressGatewaySpec, EgressGatewayStatus, EgressSlot};
use overlane_core::egress::CUT;
use overlane_core::ipam::{Attachment, Lease, LeaseKind, LeaseState, NetnsId, PodName};
use overlane_core::labels::Labels;
use overlane_core::rate::Bandwidth;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn gateway(name: &str, number: u8) -> (String, Box<EgressGatewayStatus>) {
    let pod_selector = LabelSelector { match_labels: Some(labels(&[("way", name)])), ..LabelSelector::default() };
    let applied = EgressGatewaySpec { pod_selector, ..EgressGatewaySpec::default() };
    let slot = EgressSlot { number, egress_ips: vec!["10.224.0.200".into()] };
    let status = EgressGatewayStatus {
        applied: Some(applied),
        slots: vec![slot],
        nodes: vec!["n1".into()],
        ..EgressGatewayStatus::default()
    };
    (name.to_owned(), Box::new(status))
}

fn pod(name: &str, uid: &str, way: &str) -> ((String, String), PodFacts) {
    let facts = PodFacts { uid: uid.into(), labels: labels(&[("way", way)]), ..PodFacts::default() };
    (("default".into(), name.into()), facts)
}

fn lease(name: &str, uid: &str) -> Lease {
    Lease {
        id: 1,
        kind: LeaseKind::Interface,
        state: LeaseState::Active,
        attachment: Attachment { container_id: "c".into(), ifname: "eth0".into() },
        network: "overlane".into(),
        pod: Some(PodName { namespace: "default".into(), name: name.into(), uid: uid.into() }),
        link: "ovlpa".into(),
        addresses: vec![[10, 244, 0, 1].into()],
        ports: Vec::new(),
        bandwidth: Bandwidth::default(),
        netns: NetnsId { nsid: Some(1), inode: 1, path: String::new() },
        began_ns: 1,
    }
}

/// Everything but pods, namespaces and gateways was heard.
fn fold() -> Fold {
    let mut fold = Fold::new("n0", 1);
    fold.take(Item::Cluster(Change::Done), 0);
    fold.take(Item::Node(Change::Listed(NodeFacts::default())), 0);
    fold.take(Item::Node(Change::Done), 0);
    fold.take(Item::Maps(0, Change::Done), 0);
    fold.take(Item::Config(Change::Done), 0);
    fold
}

fn list<T: Clone>(fold: &mut Fold, of: fn(Change<T>) -> Item, all: &[T]) {
    fold.take(of(Change::Begin), 0);
    for one in all {
        fold.take(of(Change::Listed(one.clone())), 0);
    }
    fold.take(of(Change::Done), 0);
}

fn slots(fold: &mut Fold, lease: &Lease) -> Option<BTreeSet<u8>> {
    fold.view().selection.and_then(|selection| selection.slots(lease))
}

#[test]
fn a_new_agent_waits_until_it_knows_who_leaves_by_what() {
    let mut fold = fold();
    assert!(!fold.complete(), "gateways were not heard");
    list(&mut fold, Item::Gateway, &[gateway("office", 2)]);
    assert!(fold.asks_pods() && !fold.complete());
    list(&mut fold, Item::Namespace, &[("default".to_owned(), Labels::new())]);
    assert!(!fold.complete());
    list(&mut fold, Item::Pod, &[pod("a", "u1", "office"), pod("b", "u2", "home")]);
    assert!(fold.complete());
    assert_eq!(slots(&mut fold, &lease("a", "u1")), Some([2].into()));
    assert_eq!(slots(&mut fold, &lease("b", "u2")), Some(BTreeSet::new()));
    // What is not known, or is another of its name, is undecided.
    assert_eq!(slots(&mut fold, &lease("c", "u3")), None);
    assert_eq!(slots(&mut fold, &lease("a", "u9")), None);
    assert_eq!(slots(&mut fold, &Lease { pod: None, ..lease("a", "u1") }), Some(BTreeSet::new()), "no pod");
}

#[test]
fn one_that_runs_goes_on_while_it_hears() {
    let mut fold = fold();
    list(&mut fold, Item::Gateway, &[]);
    assert!(fold.complete() && fold.view().selection.is_none());
    fold.take(Item::Gateway(Change::Applied(gateway("office", 2))), 0);
    assert!(fold.complete() && fold.view().selection.is_none(), "not in force yet here");
    list(&mut fold, Item::Namespace, &[("default".to_owned(), Labels::new())]);
    list(&mut fold, Item::Pod, &[pod("a", "u1", "office")]);
    assert_eq!(slots(&mut fold, &lease("a", "u1")), Some([2].into()));
    // A static pod is called otherwise by its runtime.
    let (name, facts) = pod("s", "mirror", "office");
    fold.take(Item::Pod(Change::Applied((name, PodFacts { static_uid: "hash".into(), ..facts }))), 0);
    assert_eq!(slots(&mut fold, &lease("s", "hash")), Some([2].into()));
    fold.take(Item::Namespace(Change::Gone(("default".to_owned(), Labels::new()))), 0);
    assert_eq!(slots(&mut fold, &lease("a", "u1")), None);
    fold.take(Item::Gateway(Change::Gone(gateway("office", 2))), 0);
    assert!(fold.view().selection.is_none() && !fold.asks_pods());
}

#[test]
fn what_is_known_outlives_the_agent() {
    let mut fold = fold();
    list(&mut fold, Item::Gateway, &[gateway("office", 2)]);
    list(&mut fold, Item::Namespace, &[("default".to_owned(), Labels::new())]);
    list(&mut fold, Item::Pod, &[pod("a", "u1", "office")]);
    let before = fold.view().selection.unwrap();
    let dir = tempfile::tempdir().unwrap();
    cache::write(dir.path(), &cache::encode(&fold, "boot").unwrap()).unwrap();
    cache::write_leaving(dir.path(), cache::encode_leaving(&fold, "boot").unwrap().as_deref()).unwrap();
    let mut fresh = Fold::new("n0", 1);
    assert!(cache::load(dir.path(), "boot", &mut fresh).unwrap());
    assert!(fresh.asks_pods());
    assert_eq!(fresh.view().selection.unwrap(), before);
}

#[test]
fn what_a_list_lacks_is_kept_for_a_while() {
    let mut fold = fold();
    list(&mut fold, Item::Gateway, &[gateway("office", 2)]);
    list(&mut fold, Item::Namespace, &[("default".to_owned(), Labels::new())]);
    list(&mut fold, Item::Pod, &[pod("a", "u1", "office")]);
    list(&mut fold, Item::Gateway, &[]);
    assert_eq!(slots(&mut fold, &lease("a", "u1")), Some([2].into()), "a store of the past may say so");
    assert_eq!(fold.next_expiry(), Some(KEEP_MS));
    fold.expire(KEEP_MS);
    assert!(fold.view().selection.is_none() && fold.next_expiry().is_none());
}

#[test]
fn one_that_cannot_be_understood_cuts() {
    let mut fold = fold();
    let (name, mut status) = gateway("office", 2);
    status.slots[0].egress_ips = vec!["nonsense".into()];
    list(&mut fold, Item::Gateway, &[(name, status)]);
    list(&mut fold, Item::Namespace, &[("default".to_owned(), Labels::new())]);
    list(&mut fold, Item::Pod, &[pod("a", "u1", "office")]);
    assert_eq!(slots(&mut fold, &lease("a", "u1")), Some([CUT].into()));
    assert_eq!(fold.view().gateway_faults.len(), 1);
}
