//! Which blocks are believed, and which pods stay.

use std::collections::BTreeSet;

use overlane_core::plan::{NodeInput, Note, RouteAction, RouteSpec, plan};

use super::{cidr, cidrs, dual, endpoint, ip, local, via};

#[test]
fn a_block_of_our_own_is_not_routed_away() {
    for claimed in ["10.244.0.0/24", "10.244.0.128/25", "10.244.0.0/23"] {
        let mut input = dual();
        input.peers[0].blocks = vec![cidr(claimed), cidr("10.244.7.0/24")];
        let plan = plan(&input);
        let note = Note::PeerClaimsOurs { peer: "b".into(), block: cidr(claimed), own: cidr("10.244.0.0/24") };
        assert_eq!(plan.notes, BTreeSet::from([note]));
        assert!(plan.routes.contains(&local("10.244.0.1", "l1")));
        assert!(plan.routes.contains(&via("10.244.7.0/24", "10.224.0.5")), "its other block is routed");
        assert!(!plan.routes.contains(&via(claimed, "10.224.0.5")));
    }
}

#[test]
fn what_two_peers_claim_is_routed_to_neither() {
    for (one, two) in [("10.244.1.0/24", "10.244.1.0/24"), ("10.244.0.0/22", "10.244.1.0/24")] {
        let mut input = NodeInput { own_blocks: vec![cidr("10.244.9.0/24")], endpoints: vec![], ..dual() };
        input.peers[0].blocks = vec![cidr(one), cidr("10.244.7.0/24")];
        input.peers[1].blocks = vec![cidr(two)];
        let plan = plan(&input);
        assert_eq!(plan.notes.len(), 1);
        assert!(matches!(plan.notes.first().unwrap(), Note::PeersOverlap { .. }));
        let away: Vec<&RouteSpec> =
            plan.routes.iter().filter(|route| matches!(route.action, RouteAction::Via(_))).collect();
        assert_eq!(away, [&via("10.244.7.0/24", "10.224.0.5"), &via("10.244.7.255/32", "10.224.0.5")]);
    }
    let mut input = dual();
    input.peers[0].blocks = vec![cidr("10.244.4.0/22"), cidr("10.244.5.0/24")];
    assert!(plan(&input).notes.is_empty(), "one node's blocks may lie in each other");
}

#[test]
fn a_pod_in_a_block_that_was_given_away_is_taken_off() {
    let mut input = dual();
    input.own_blocks = vec![cidr("10.244.9.0/24"), cidr("fd12:3456:789a:0:9::/80")];
    input.peers[0].blocks.push(cidr("10.244.0.0/24"));
    input.endpoints.push(endpoint("l2", &["10.244.9.1", "fd12:3456:789a:0:9::1"]));
    let plan = plan(&input);
    let note = Note::PodOfPeer { link: "l1".into(), address: ip("10.244.0.1"), peer: "b".into() };
    assert_eq!(plan.notes, BTreeSet::from([note]));
    assert!(plan.pods.iter().all(|pod| pod.link == "l2"), "all of its addresses go, not one family");
    assert!(plan.routes.contains(&via("10.244.0.0/24", "10.224.0.5")));
    assert!(!plan.routes.iter().any(|route| matches!(&route.action, RouteAction::Local { link } if link == "l1")));
}

#[test]
fn a_pod_in_nobodys_block_keeps_what_it_has() {
    for own_blocks in [vec![], vec![cidr("10.244.9.0/24")]] {
        let plan = plan(&NodeInput { own_blocks, ..dual() });
        assert!(plan.routes.contains(&local("10.244.0.1", "l1")));
        assert_eq!(plan.pods.len(), 2);
        assert!(plan.notes.is_empty());
    }
}

#[test]
fn blocks_outside_the_pod_cidrs_join_the_space() {
    let mut input = dual();
    input.own_blocks.push(cidr("10.99.0.0/24"));
    input.peers[0].blocks.push(cidr("10.99.1.0/24"));
    input.endpoints.push(endpoint("l9", &["10.98.0.1"]));
    let plan = plan(&input);
    let outside =
        |node: Option<&str>, block| Note::OutsidePodCidrs { node: node.map(str::to_owned), block: cidr(block) };
    assert_eq!(plan.notes, BTreeSet::from([outside(None, "10.99.0.0/24"), outside(Some("b"), "10.99.1.0/24")]));
    let more = ["10.244.0.0/16", "fd12:3456:789a::/64", "10.99.0.0/24", "10.99.1.0/24", "10.98.0.1/32"];
    assert_eq!(plan.pod_space, cidrs(&more));
    assert!(plan.routes.contains(&via("10.99.1.0/24", "10.224.0.5")));
    assert_eq!(plan.masquerade.unwrap().except, cidrs(&more));
}

#[test]
fn a_block_that_would_swallow_the_cluster_is_not_taken() {
    for (block, inside) in [
        ("0.0.0.0/0", "10.244.0.0/16"),
        ("10.0.0.0/8", "10.244.0.0/16"),
        ("10.224.0.0/24", "10.224.0.4/32"),
        ("fd10:224::/64", "fd10:224::4/128"),
    ] {
        let mut input = NodeInput { own_blocks: vec![], endpoints: vec![], ..dual() };
        input.peers.truncate(1);
        input.peers[0].blocks = vec![cidr(block)];
        let told = plan(&input);
        let note = Note::TooWide { node: Some("b".into()), block: cidr(block), inside: cidr(inside) };
        assert_eq!(told.notes, BTreeSet::from([note]));
        assert_eq!(told.pod_space, cidrs(&["10.244.0.0/16", "fd12:3456:789a::/64"]));
        assert!(told.routes.iter().all(|route| route.action == RouteAction::Unreachable));
        let own = plan(&NodeInput { own_blocks: vec![cidr(block)], peers: vec![], ..input });
        assert_eq!(own.notes, BTreeSet::from([Note::TooWide { node: None, block: cidr(block), inside: cidr(inside) }]));
        let mut with_pod = NodeInput { own_blocks: vec![], ..dual() };
        with_pod.peers[0].blocks = vec![cidr(block)];
        assert_eq!(plan(&with_pod).pods.len(), 2, "a block that nobody can have takes no pod off");
    }
}

#[test]
fn notes_are_told_in_a_line() {
    let told = Note::TooWide { node: None, block: cidr("10.0.0.0/8"), inside: cidr("10.244.0.0/16") }.to_string();
    assert_eq!(told, "block 10.0.0.0/8 of this node has 10.244.0.0/16 in it; it is not routed");
    let told = Note::OutsidePodCidrs { node: Some("b".into()), block: cidr("10.99.0.0/24") }.to_string();
    assert_eq!(told, "block 10.99.0.0/24 of node b lies outside every pod CIDR of the cluster");
}
