//! What holds for every input.

use std::collections::BTreeMap;
use std::net::IpAddr;

use overlane_core::cluster::Routing;
use overlane_core::family::Family;
use overlane_core::plan::{NodeInput, NodePlan, Peer, RouteAction, RouteSpec, diff, plan, vtep_mac};
use proptest::prelude::*;

use super::{cidr, endpoint, ip, ips};

/// What the routes do to a packet: longest prefix, and anything before "unreachable".
fn forward(plan: &NodePlan, to: IpAddr) -> Option<&RouteAction> {
    let routes = plan.routes.iter().filter(|route| route.destination.contains(to));
    let nowhere = |route: &RouteSpec| route.action == RouteAction::Unreachable;
    routes.max_by_key(|route| (route.destination.prefix_len(), !nowhere(route))).map(|route| &route.action)
}

fn any_input() -> impl Strategy<Value = NodeInput> {
    // Blocks of /24 to /28 in a small space, so that they often meet.
    let block = || {
        (0_u8..4, 24_u8..=28, 0_u64..16).prop_map(|(third, len, index)| {
            let around = cidr(&format!("10.244.{third}.0/24"));
            around.subnet(len, index % around.subnet_count(len).unwrap()).unwrap()
        })
    };
    let peer = (proptest::collection::vec(block(), 0..3), any::<bool>());
    let own = proptest::collection::vec(block(), 0..2);
    let pods = proptest::collection::btree_set((0_u8..4, any::<u8>()), 0..6);
    let routing = prop_oneof![Just(Routing::Native), Just(Routing::Vxlan)];
    (proptest::collection::vec(peer, 0..5), own, pods, routing).prop_map(|(peers, own_blocks, pods, routing)| {
        NodeInput {
            routing,
            service_cidrs: Vec::new(),
            pod_cidrs: vec![cidr("10.244.0.0/16")],
            node_ips: ips(&["10.224.0.1"]),
            own_blocks,
            peers: (2..)
                .zip(peers)
                .map(|(number, (blocks, known))| Peer {
                    name: format!("n{number}"),
                    blocks,
                    node_ips: if known { ips(&[&format!("10.224.0.{number}")]) } else { BTreeMap::new() },
                    mac: None,
                })
                .collect(),
            endpoints: (0..)
                .zip(pods)
                .map(|(number, (third, last))| endpoint(&format!("l{number}"), &[&format!("10.244.{third}.{last}")]))
                .collect(),
            masquerade: None,
            ..NodeInput::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// For every address of the pod CIDR: a packet goes to the pod that has it, or to the one node that was given it,
    /// or nowhere; it never leaves by another way, and comes from nobody else.
    #[test]
    fn every_address_has_one_way(input in any_input(), probes in proptest::collection::vec((0_u8..5, any::<u8>()), 64)) {
        let plan = plan(&input);
        for (third, last) in probes {
            let to = ip(&format!("10.244.{third}.{last}"));
            let ours = input.own_blocks.iter().any(|block| block.contains(to));
            let claimants: Vec<&Peer> =
                input.peers.iter().filter(|peer| peer.blocks.iter().any(|block| block.contains(to))).collect();
            let pod = input.endpoints.iter().find(|endpoint| endpoint.addresses.contains(&to));
            match forward(&plan, to).expect("the pod CIDR is covered") {
                RouteAction::Local { link } => {
                    prop_assert_eq!(Some(link), pod.map(|pod| &pod.link));
                    prop_assert!(ours || claimants.is_empty());
                }
                RouteAction::Via(node) => {
                    prop_assert!(!ours && claimants.len() == 1);
                    prop_assert_eq!(claimants[0].node_ips.get(&Family::V4), Some(node));
                    prop_assert!(plan.peers.iter().any(|member| member.block.contains(to)));
                }
                RouteAction::Tunnel { from, to: node } => {
                    prop_assert!(!ours && claimants.len() == 1);
                    prop_assert_eq!(claimants[0].node_ips.get(&Family::V4), Some(node));
                    prop_assert_eq!(input.node_ips.get(&Family::V4), Some(from));
                    let tunnel = plan.tunnel.as_ref().expect("a tunnel");
                    let mac = vtep_mac(&claimants[0].node_ips).expect("an endpoint");
                    prop_assert!(tunnel.peers.iter().any(|peer| peer.block.contains(to) && peer.mac == mac));
                    prop_assert!(tunnel.senders.iter().any(|sender| sender.address == *node && sender.mac == mac));
                    prop_assert!(plan.peers.is_empty());
                }
                RouteAction::Here => {
                    prop_assert!(ours && pod.is_none());
                    prop_assert!(input.own_blocks.iter().any(|block| block.last() == to));
                }
                RouteAction::Fabric(_) => prop_assert!(false, "no node is beyond a router"),
                RouteAction::Unreachable => {
                    prop_assert!(pod.is_none() || !(ours || claimants.is_empty()));
                }
            }
        }
        prop_assert_eq!(overlane_core::plan::plan(&input), plan);
    }

    #[test]
    fn a_difference_makes_one_of_the_other(
        desired in proptest::collection::btree_set(0_u8..20, 0..12),
        observed in proptest::collection::btree_set(0_u8..20, 0..12),
    ) {
        let changes = diff(&desired, &observed);
        let mut result = observed.clone();
        for gone in &changes.remove {
            prop_assert!(result.remove(gone));
        }
        for new in &changes.add {
            prop_assert!(result.insert(*new));
        }
        prop_assert_eq!(&result, &desired);
        prop_assert!(diff(&desired, &result).is_empty());
        prop_assert_eq!(changes.is_empty(), desired == observed);
    }
}
