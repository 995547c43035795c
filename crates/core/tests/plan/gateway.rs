//! Must catch: a slot that is at two nodes; a chosen pod's packet for which a silent gateway's way stays; a tunnel for
//! gateways alone that takes more nodes' packets than theirs, or shortens pods' packets.

use overlane_core::cluster::Outbound;
use overlane_core::egress::{ANSWERS, CUT, Gateway, QUESTIONS, Slot, slot_vni, vni};
use overlane_core::plan::{ExitPlan, GatewayPlan, Place, TunnelWay};

use super::*;

fn gateway(name: &str, number: u8, nodes: &[&str], destinations: &[&str]) -> Gateway {
    Gateway {
        name: name.to_owned(),
        destinations: destinations.iter().map(|text| cidr(text)).collect(),
        slots: vec![Slot { number, addresses: ips(&["10.224.0.200", "fd10:224::200"]) }],
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        ..Gateway::default()
    }
}

fn input(gateways: Vec<Gateway>) -> NodeInput {
    NodeInput { name: "a".to_owned(), gateways, ..dual() }
}

fn gateways(plan: &NodePlan) -> &GatewayPlan {
    plan.egress.as_ref().and_then(|egress| egress.gateways.as_ref()).unwrap()
}

fn places(input: &NodeInput) -> Vec<Place> {
    gateways(&plan(input)).exits.iter().map(|exit| exit.place.clone()).collect()
}

fn at(node: &str, to: &str, v4: &str, v6: &str) -> Place {
    let way = |next_hop: &str| TunnelWay { from: ip("10.224.0.4"), to: ip(to), next_hop: ip(next_hop) };
    Place::At { node: node.to_owned(), ways: [(Family::V4, way(v4)), (Family::V6, way(v6))].into() }
}

#[test]
fn one_that_sends_to_a_gateway() {
    let input = input(vec![gateway("office", 2, &["b"], &[])]);
    let made = plan(&input);
    let plan = gateways(&made);
    let b = at("b", "10.224.0.5", "10.244.1.0", "fe80::6f6c:66f:ae0:5");
    assert_eq!(plan.exits.iter().map(|exit| exit.place.clone()).collect::<Vec<_>>(), [b]);
    assert!(!plan.gateway && plan.taken.is_empty() && plan.back.is_empty());
    assert_eq!(plan.answer_from, ["10.224.0.5", "fd10:224::5"].map(ip).into());
    assert_eq!(plan.answers, vni(made.tunnel.as_ref().unwrap().vxlan.vni, ANSWERS));
    // Bare pod packets stay what they were.
    assert!(made.routes.contains(&via("10.244.1.0/24", "10.224.0.5")));
    let tunnel = made.tunnel.as_ref().unwrap();
    let blocks: BTreeSet<Cidr> = tunnel.peers.iter().map(|peer| peer.block).collect();
    assert_eq!((tunnel.carries_pods, blocks), (false, cidrs(&["10.244.1.0/24", "fd12:3456:789a:0:1::/80"])));
    assert!(plan.probes.targets.is_empty(), "nobody leaves by it");
}

#[test]
fn one_whose_pods_leave_by_gateways_asks_them() {
    let input = NodeInput { asks_gateways: true, ..input(vec![gateway("office", 2, &["b", "c", "gone"], &[])]) };
    let made = plan(&input);
    let plan = gateways(&made);
    let asked: Vec<_> = plan.asked.iter().map(|(question, node)| (question.to_string(), node.as_str())).collect();
    assert_eq!(asked, [("10.244.1.0/32".to_owned(), "b"), ("10.244.2.0/32".to_owned(), "c")]);
    assert_eq!(plan.probes.own, ips(&["10.244.0.0", "fd12:3456:789a::"]));
    let route = |at: &str, to: &str| RouteSpec {
        destination: cidr(at),
        action: RouteAction::Tunnel { from: ip("10.224.0.4"), to: ip(to) },
    };
    assert!(made.routes.contains(&route("10.244.1.0/32", "10.224.0.5")));
    assert!(made.routes.contains(&route("10.244.2.0/32", "10.224.0.6")));
}

#[test]
fn who_does_not_answer_is_none() {
    let silent = |nodes: &[&str]| {
        let silent = nodes.iter().map(|node| (*node).to_owned()).collect();
        NodeInput { silent, ..input(vec![gateway("office", 2, &["a", "b"], &[])]) }
    };
    let b = at("b", "10.224.0.5", "10.244.1.0", "fe80::6f6c:66f:ae0:5");
    assert_eq!(places(&silent(&["b"])), [Place::Here]);
    assert_eq!(places(&silent(&["a"])), [b]);
    assert_eq!(places(&silent(&["a", "b"])), [Place::Nowhere]);
    assert_eq!(places(&input(vec![gateway("office", 2, &["gone"], &[])])), [Place::Nowhere]);
}

#[test]
fn one_that_may_be_a_gateway() {
    let input = input(vec![gateway("office", 2, &["a"], &[]), gateway("bank", 9, &["b"], &["10.99.0.0/16"])]);
    let made = plan(&input);
    let plan = gateways(&made);
    assert!(plan.gateway);
    assert_eq!(plan.exits.iter().map(|exit| exit.number).collect::<Vec<_>>(), [9, 2], "some destinations before all");
    assert_eq!(plan.exits[1].place, Place::Here);
    let own = made.tunnel.as_ref().unwrap().vxlan.vni;
    assert_eq!(plan.taken, [(2, plan.exits[1].vni)].into(), "the other slot's packets are not for this node");
    assert_eq!((plan.questions, plan.answers), (vni(own, QUESTIONS), vni(own, ANSWERS)));
    let back: Vec<String> = plan.back.keys().map(ToString::to_string).collect();
    assert_eq!(back, ["10.244.1.0/24", "10.244.2.0/24", "fd12:3456:789a:0:1::/80", "fd12:3456:789a:0:2::/80"]);
    assert_eq!(made.tunnel.as_ref().unwrap().peers.len(), 4, "any node may send to a gateway");
    assert_eq!(plan.asked.len(), 1, "gateways ask each other");
}

#[test]
fn identifiers_are_told_apart() {
    let own = 8_417_137;
    let slot = |number, address: &str| Slot { number, addresses: ips(&[address]) };
    let slots = (2..ANSWERS).map(|number| slot_vni(own, &slot(number, "10.224.0.200")));
    let all: BTreeSet<u32> = slots.chain([own, vni(own, ANSWERS), vni(own, QUESTIONS)]).collect();
    assert_eq!(all.len(), 256);
    assert_ne!(slot_vni(own, &slot(2, "10.224.0.200")), slot_vni(own, &slot(2, "10.224.0.201")), "another's now");
    assert!(all.iter().all(|vni| *vni < 1 << 24));
}

#[test]
fn the_rest_leaves_as_before() {
    let made = plan(&input(vec![gateway("office", 2, &["b"], &[])])).egress.unwrap();
    assert_eq!(made.outside, overlane_core::plan::Outside::AsNode);
    let ExitPlan { destinations, addresses, .. } = &made.gateways.unwrap().exits[0];
    assert_eq!((destinations.len(), addresses), (0, &ips(&["10.224.0.200", "fd10:224::200"])));
    assert_eq!(plan(&input(Vec::new())).egress, None);
    assert_eq!(plan(&input(Vec::new())).tunnel, None);
}

#[test]
fn without_a_slot_nothing_leaves() {
    let bare =
        |name: &str, destinations: &[&str]| Gateway { slots: Vec::new(), ..gateway(name, 0, &["b"], destinations) };
    let made = plan(&input(vec![bare("office", &["10.99.0.0/16"]), gateway("bank", 9, &["b"], &[])]));
    let cut = gateways(&made).exits.last().unwrap();
    assert_eq!((cut.number, &cut.place, cut.addresses.len()), (CUT, &Place::Nowhere, 0));
    assert_eq!(cut.destinations, cidrs(&["10.99.0.0/16"]));
    let made = plan(&input(vec![bare("office", &["10.99.0.0/16"]), bare("home", &[])]));
    assert_eq!(gateways(&made).exits.last().unwrap().destinations, BTreeSet::new(), "all that is outside");
    // Where nothing may leave, no gateway's address does either.
    let none = NodeInput { outbound: Outbound::None, ..input(vec![gateway("office", 2, &["a", "b"], &[])]) };
    assert_eq!(places(&none), [Place::Nowhere]);
}
