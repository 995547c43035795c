//! Must catch: pod packets that leave by the default route, a peer's block routed to the wrong node, a pod that may
//! send from an address that another node was given.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod egress;
mod gateway;
mod probe;
mod property;
mod trust;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlane_core::cidr::Cidr;
use overlane_core::cluster::Routing;
use overlane_core::family::Family;
use overlane_core::masq::MasqConfig;
use overlane_core::plan::{
    EndpointSpec, MasqPlan, NodeInput, NodeMember, NodePlan, Note, Peer, PeerMember, PodElement, PodMember, ProbePlan,
    ProbeTarget, RouteAction, RouteSpec, plan,
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidrs(texts: &[&str]) -> BTreeSet<Cidr> {
    texts.iter().map(|text| cidr(text)).collect()
}

fn ips(texts: &[&str]) -> BTreeMap<Family, IpAddr> {
    texts.iter().map(|text| ip(text)).map(|addr| (Family::of(&addr), addr)).collect()
}

fn peer(name: &str, blocks: &[&str], node_ips: &[&str], mac: Option<[u8; 6]>) -> Peer {
    let blocks = blocks.iter().map(|text| cidr(text)).collect();
    Peer { name: name.to_owned(), blocks, node_ips: ips(node_ips), mac }
}

fn endpoint(link: &str, addresses: &[&str]) -> EndpointSpec {
    EndpointSpec {
        link: link.to_owned(),
        foreign_link: false,
        mac: MAC,
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        ports: Vec::new(),
    }
}

fn via(block: &str, node: &str) -> RouteSpec {
    RouteSpec { destination: cidr(block), action: RouteAction::Via(ip(node)) }
}

fn here(address: &str) -> RouteSpec {
    RouteSpec { destination: Cidr::host_range(ip(address)), action: RouteAction::Here }
}

fn local(address: &str, link: &str) -> RouteSpec {
    let action = RouteAction::Local { link: link.to_owned() };
    RouteSpec { destination: Cidr::host_range(ip(address)), action }
}

fn unreachable(block: &str) -> RouteSpec {
    RouteSpec { destination: cidr(block), action: RouteAction::Unreachable }
}

fn dual() -> NodeInput {
    NodeInput {
        service_cidrs: Vec::new(),
        pod_cidrs: vec![cidr("10.244.0.0/16"), cidr("fd12:3456:789a::/64")],
        routing: Routing::Native,
        node_ips: ips(&["10.224.0.4", "fd10:224::4"]),
        own_blocks: vec![cidr("10.244.0.0/24"), cidr("fd12:3456:789a::/80")],
        peers: vec![
            peer("b", &["10.244.1.0/24", "fd12:3456:789a:0:1::/80"], &["10.224.0.5", "fd10:224::5"], Some(MAC)),
            peer("c", &["10.244.2.0/24", "fd12:3456:789a:0:2::/80"], &["10.224.0.6", "fd10:224::6"], None),
        ],
        endpoints: vec![endpoint("l1", &["10.244.0.1", "fd12:3456:789a::1"])],
        masquerade: Some(MasqConfig::default()),
        ..NodeInput::default()
    }
}

/// The same cluster with one family, or with the families in the other order.
fn only(families: &[Family]) -> NodeInput {
    let mut input = dual();
    let keep = |cidr: &Cidr| families.contains(&cidr.family());
    for list in [&mut input.pod_cidrs, &mut input.own_blocks] {
        list.retain(keep);
        list.sort_by_key(|cidr| families.iter().position(|family| *family == cidr.family()));
    }
    input.node_ips.retain(|family, _| families.contains(family));
    for peer in &mut input.peers {
        peer.blocks.retain(keep);
        peer.node_ips.retain(|family, _| families.contains(family));
    }
    for endpoint in &mut input.endpoints {
        endpoint.addresses.retain(|address| families.contains(&Family::of(address)));
    }
    input
}

#[test]
fn a_dual_stack_node() {
    let plan = plan(&dual());
    let routes = BTreeSet::from([
        unreachable("10.244.0.0/16"),
        unreachable("fd12:3456:789a::/64"),
        unreachable("10.244.0.0/24"),
        unreachable("fd12:3456:789a::/80"),
        local("10.244.0.1", "l1"),
        local("fd12:3456:789a::1", "l1"),
        via("10.244.1.0/24", "10.224.0.5"),
        via("fd12:3456:789a:0:1::/80", "fd10:224::5"),
        via("10.244.2.0/24", "10.224.0.6"),
        via("fd12:3456:789a:0:2::/80", "fd10:224::6"),
        here("10.244.0.255"),
        here("fd12:3456:789a:0:0:ffff:ffff:ffff"),
        via("10.244.1.255/32", "10.224.0.5"),
        via("fd12:3456:789a:0:1:ffff:ffff:ffff/128", "fd10:224::5"),
        via("10.244.2.255/32", "10.224.0.6"),
        via("fd12:3456:789a:0:2:ffff:ffff:ffff/128", "fd10:224::6"),
    ]);
    let space = cidrs(&["10.244.0.0/16", "fd12:3456:789a::/64"]);
    let nodes = [("10.224.0.5", Some(MAC)), ("fd10:224::5", Some(MAC)), ("10.224.0.6", None), ("fd10:224::6", None)];
    let peers = [
        ("10.244.1.0/24", Some(MAC)),
        ("fd12:3456:789a:0:1::/80", Some(MAC)),
        ("10.244.2.0/24", None),
        ("fd12:3456:789a:0:2::/80", None),
    ];
    let pod = |address: &str| PodMember { link: "l1".into(), mac: MAC, address: ip(address) };
    let expected = NodePlan {
        delegated: BTreeSet::new(),
        service_space: BTreeSet::new(),
        ports: BTreeSet::new(),
        routes,
        pod_space: space.clone(),
        node_ips: ips(&["10.224.0.4", "fd10:224::4"]),
        pods: BTreeSet::from([pod("10.244.0.1"), pod("fd12:3456:789a::1")]),
        nodes: nodes.iter().map(|(address, mac)| NodeMember { address: ip(address), mac: *mac }).collect(),
        peers: peers.iter().map(|(block, mac)| PeerMember { block: cidr(block), mac: *mac }).collect(),
        masquerade: Some(MasqPlan {
            sources: cidrs(&["10.244.0.0/24", "fd12:3456:789a::/80"]),
            except: space,
            node_ips: ips(&["10.224.0.4", "fd10:224::4"]),
        }),
        tunnel: None,
        egress: None,
        probes: ProbePlan {
            own: ips(&["10.244.0.255", "fd12:3456:789a:0:0:ffff:ffff:ffff"]),
            targets: [
                ("10.244.1.0/24", "10.244.1.255", "10.224.0.5"),
                ("10.244.2.0/24", "10.244.2.255", "10.224.0.6"),
                ("fd12:3456:789a:0:1::/80", "fd12:3456:789a:0:1:ffff:ffff:ffff", "fd10:224::5"),
                ("fd12:3456:789a:0:2::/80", "fd12:3456:789a:0:2:ffff:ffff:ffff", "fd10:224::6"),
            ]
            .map(|(block, at, node_ip)| (cidr(block), ProbeTarget { at: ip(at), node_ip: ip(node_ip) }))
            .into(),
        },
        policed: false,
        logs_denied: false,
        notes: BTreeSet::new(),
    };
    assert_eq!(plan, expected);
}

#[test]
fn behind_another_plugins_link_only_the_address_is_known() {
    let mut input = dual();
    input.endpoints.push(EndpointSpec { foreign_link: true, ..endpoint("ipam:7", &["10.244.0.7"]) });
    let (with, without) = (plan(&input), plan(&dual()));
    assert_eq!((&with.routes, &with.pods), (&without.routes, &without.pods), "the other plugin's routes are its own");
    assert_eq!(with.delegated, BTreeSet::from([ip("10.244.0.7")]));
    assert!(with.pod_elements().contains(&PodElement::Delegated(ip("10.244.0.7"))));
    // The block was given to another node.
    input.own_blocks.retain(|block| block.family() == Family::V6);
    input.peers[0].blocks.push(cidr("10.244.0.0/24"));
    assert!(plan(&input).delegated.is_empty());
}

#[test]
fn one_family_is_the_same_with_less() {
    let whole = plan(&dual());
    for families in [&[Family::V4][..], &[Family::V6], &[Family::V6, Family::V4]] {
        let part = plan(&only(families));
        let expected: BTreeSet<RouteSpec> =
            whole.routes.iter().filter(|route| families.contains(&route.destination.family())).cloned().collect();
        assert_eq!(part.routes, expected, "{families:?}");
        assert!(part.notes.is_empty());
        assert!(part.nodes.iter().all(|node| families.contains(&Family::of(&node.address))));
        assert!(part.pods.iter().all(|pod| families.contains(&Family::of(&pod.address))));
    }
}

#[test]
fn a_node_alone() {
    let input = NodeInput { peers: vec![], own_blocks: vec![], endpoints: vec![], ..dual() };
    let plan = plan(&input);
    assert_eq!(plan.routes, BTreeSet::from([unreachable("10.244.0.0/16"), unreachable("fd12:3456:789a::/64")]));
    assert_eq!(plan.masquerade.unwrap().sources, BTreeSet::new());
    assert_eq!(overlane_core::plan::plan(&NodeInput::default()), NodePlan::default());
    assert!(overlane_core::plan::plan(&NodeInput { policed: true, ..NodeInput::default() }).policed);
}

#[test]
fn a_peer_without_an_address_of_a_family_is_noted() {
    let mut input = dual();
    input.peers[0].node_ips.remove(&Family::V6);
    let plan = plan(&input);
    let block = cidr("fd12:3456:789a:0:1::/80");
    assert_eq!(plan.notes, BTreeSet::from([Note::PeerWithoutAddress { peer: "b".into(), block }]));
    assert!(plan.routes.iter().all(|route| route.destination != block));
    assert!(plan.peers.iter().all(|member| member.block != block), "what has no way there has none back");
    assert!(plan.routes.contains(&via("10.244.1.0/24", "10.224.0.5")), "the other family is not harmed");
}

#[test]
fn masquerade_leaves_alone_what_the_configuration_says() {
    let config = |cidrs_: &[&str], v4, v6| MasqConfig {
        non_masquerade: cidrs(cidrs_),
        masq_link_local: v4,
        masq_link_local_ipv6: v6,
    };
    let space = ["10.244.0.0/16", "fd12:3456:789a::/64"];
    let table: [(MasqConfig, &[&str]); 4] = [
        (config(&[], true, true), &[]),
        (config(&[], false, false), &["169.254.0.0/16", "fe80::/10"]),
        (config(&["192.168.0.0/16"], true, false), &["192.168.0.0/16", "fe80::/10"]),
        // What contains the pod CIDR stands for it.
        (config(&["10.244.3.0/24", "fd12:3456:789a:0:8000::/80"], false, true), &["169.254.0.0/16"]),
    ];
    for (config, more) in table {
        let masquerade = plan(&NodeInput { masquerade: Some(config), ..dual() }).masquerade.unwrap();
        assert_eq!(masquerade.except, cidrs(&space).union(&cidrs(more)).copied().collect());
    }
    let wide = plan(&NodeInput { masquerade: Some(config(&["10.0.0.0/8"], true, true)), ..dual() });
    assert_eq!(wide.masquerade.unwrap().except, cidrs(&["10.0.0.0/8", "fd12:3456:789a::/64"]));
    assert_eq!(plan(&NodeInput { masquerade: None, ..dual() }).masquerade, None);
}

#[test]
fn a_node_without_an_address_of_its_blocks_family_says_so() {
    let plan = plan(&NodeInput { node_ips: ips(&["10.224.0.4"]), ..dual() });
    assert_eq!(plan.notes, BTreeSet::from([Note::NodeWithoutAddress { block: cidr("fd12:3456:789a::/80") }]));
}
