//! Routes of a plan, for the links that a node has. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::plan::{NodePlan, RouteAction, RouteSpec};

use crate::owned;
use crate::rtnl::route::{Hop, Route};

/// Where a node stands in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    /// The link with the node's address.
    pub index: u32,
    /// What is reached through it without a gateway.
    pub on_link: Vec<Cidr>,
}

/// What says which node a packet in the tunnel goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelKind {
    /// The route: lightweight encapsulation.
    Routes,
    /// An entry of the link's forwarding table (FDB), by Ethernet destination. The nodes' addresses of one family alone
    /// are used outside: a link has one.
    Entries,
}

/// The tunnel's link as routes need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelGround {
    /// The link's index.
    pub index: u32,
    /// What says where packets go.
    pub kind: TunnelKind,
}

/// A peer's block that cannot be routed natively.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotOnLink {
    /// The block.
    pub block: Cidr,
    /// The node that has it.
    pub node_ip: IpAddr,
}

/// What a plan's routes become.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rendered {
    /// Routes, without those to pods of this node.
    pub routes: BTreeSet<Route>,
    /// Routes to pods of this node.
    pub pod_routes: BTreeSet<Route>,
    /// Blocks without a route because their node is not on this node's link.
    pub not_on_link: Vec<NotOnLink>,
    /// Pod links that are not there.
    pub without_link: Vec<String>,
    /// Blocks that the tunnel cannot lead to: their nodes have no address of the family that its link uses outside.
    pub out_of_reach: Vec<Cidr>,
}

/// What of the kernel a plan's routes depend on.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// Where the node stands in each family.
    pub grounds: BTreeMap<Family, Ground>,
    /// The tunnel's link.
    pub tunnel: Option<TunnelGround>,
    /// Indexes of the pod links that are there.
    pub links: BTreeMap<String, u32>,
    /// Routers that lead to other nodes: gateway and link, by the node's address.
    pub routers: BTreeMap<IpAddr, (IpAddr, u32)>,
}

/// Renders.
#[must_use]
pub fn render(plan: &NodePlan, kernel: &Kernel) -> Rendered {
    let Kernel { grounds, tunnel, links, routers } = kernel;
    let mut rendered = Rendered::default();
    let mut routes = Vec::with_capacity(plan.routes.len());
    let peers = plan.tunnel.iter().flat_map(|tunnel| &tunnel.peers);
    // To a peer's block, and to the peer itself in the tunnel.
    let next_hops: BTreeMap<Cidr, IpAddr> =
        peers.flat_map(|peer| [peer.block, Cidr::host_range(peer.address())].map(|to| (to, peer.next_hop()))).collect();
    let questions: BTreeSet<IpAddr> = plan.probes.targets.values().map(|target| target.at).collect();
    let vni = plan.tunnel.as_ref().map(|tunnel| tunnel.vxlan.vni).unwrap_or_default();
    let gateways = plan.egress.as_ref().and_then(|egress| egress.gateways.as_ref());
    let questions_vni = gateways.map_or(vni, |gateways| gateways.questions);
    for RouteSpec { destination, action } in &plan.routes {
        let family = destination.family();
        let route = |hop, prefsrc, metric| Route {
            table: owned::ROUTE_TABLE,
            protocol: owned::PROTOCOL,
            destination: *destination,
            hop,
            prefsrc,
            metric,
        };
        let in_tunnel = plan.tunnel.as_ref().and_then(|tunnel| tunnel.addresses.get(&family)).copied();
        let prefsrc = plan.node_ips.get(&family).copied().or(in_tunnel);
        match action {
            RouteAction::Here => {
                routes.push(Route { table: owned::LOCAL_TABLE, ..route(Hop::Local, None, owned::METRIC) });
            }
            RouteAction::Unreachable => {
                routes.push(route(Hop::Unreachable, None, owned::METRIC_UNREACHABLE));
            }
            RouteAction::Local { link } => match links.get(link) {
                Some(index) => {
                    rendered.pod_routes.insert(route(Hop::Link { index: *index }, prefsrc, owned::METRIC));
                }
                None => rendered.without_link.push(link.clone()),
            },
            RouteAction::Tunnel { from, to } => {
                let Some((ground, gateway)) = tunnel.zip(next_hops.get(destination).copied()) else { continue };
                let TunnelGround { index, kind } = ground;
                let outside = plan.node_ips.values().next();
                // To a peer itself go questions alone.
                let vni = if destination.prefix_len() == family.bits() { questions_vni } else { vni };
                let hop = match kind {
                    TunnelKind::Routes => Hop::Tunnel { index, gateway, vni, from: *from, to: *to },
                    TunnelKind::Entries if outside != Some(from) => {
                        rendered.out_of_reach.push(*destination);
                        continue;
                    }
                    TunnelKind::Entries => Hop::Gateway { gateway, index, onlink: true },
                };
                routes.push(route(hop, in_tunnel, owned::METRIC));
            }
            RouteAction::Via(node_ip) | RouteAction::Fabric(node_ip) => {
                let hop = if matches!(action, RouteAction::Fabric(_)) {
                    routers.get(node_ip).map(|(gateway, index)| (*gateway, *index, true))
                } else {
                    let ground = grounds.get(&family).filter(|g| g.on_link.iter().any(|net| net.contains(*node_ip)));
                    ground.map(|ground| (*node_ip, ground.index, false))
                };
                match hop {
                    Some((gateway, index, onlink)) => {
                        routes.push(route(Hop::Gateway { gateway, index, onlink }, prefsrc, owned::METRIC));
                    }
                    // A question never takes the way of the block itself.
                    None if questions.contains(&destination.network()) => {
                        routes.push(route(Hop::Unreachable, None, owned::METRIC));
                    }
                    None => rendered.not_on_link.push(NotOnLink { block: *destination, node_ip: *node_ip }),
                }
            }
        }
    }
    rendered.routes = routes.into_iter().collect();
    rendered
}

#[cfg(test)]
mod tests {
    //! Must catch: a route by a gateway that is not on the link (the kernel would refuse it, or follow the default).
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn each_action_becomes_a_route_or_a_note() {
        let spec = |destination: &str, action| RouteSpec { destination: destination.parse().unwrap(), action };
        let plan = NodePlan {
            routes: BTreeSet::from([
                spec("10.244.0.0/16", RouteAction::Unreachable),
                spec("10.244.1.7/32", RouteAction::Local { link: "ovlpa".into() }),
                spec("10.244.1.8/32", RouteAction::Local { link: "ovlpb".into() }),
                spec("10.244.2.0/24", RouteAction::Via("10.224.0.5".parse().unwrap())),
                spec("10.244.3.0/24", RouteAction::Via("10.225.0.5".parse().unwrap())),
                spec("fd12::/80", RouteAction::Via("fd10::5".parse().unwrap())),
            ]),
            node_ips: BTreeMap::from([(Family::V4, "10.224.0.4".parse().unwrap())]),
            ..NodePlan::default()
        };
        let ground = Ground { index: 2, on_link: vec!["10.224.0.0/16".parse().unwrap()] };
        let links = BTreeMap::from([("ovlpa".to_owned(), 9)]);
        let grounds = BTreeMap::from([(Family::V4, ground)]);
        let rendered = render(&plan, &Kernel { grounds, links, ..Kernel::default() });

        let lines: Vec<_> =
            rendered.routes.iter().map(|r| (r.destination.to_string(), r.hop, r.prefsrc, r.metric)).collect();
        let node = Some("10.224.0.4".parse().unwrap());
        let gateway = Hop::Gateway { gateway: "10.224.0.5".parse().unwrap(), index: 2, onlink: false };
        assert_eq!(
            lines,
            [
                ("10.244.0.0/16".to_owned(), Hop::Unreachable, None, owned::METRIC_UNREACHABLE),
                ("10.244.2.0/24".to_owned(), gateway, node, owned::METRIC),
            ]
        );
        let pod = rendered.pod_routes.first().unwrap();
        assert_eq!((pod.hop, pod.prefsrc), (Hop::Link { index: 9 }, node));
        assert_eq!(rendered.without_link, ["ovlpb"]);
        let left_out: Vec<_> = rendered.not_on_link.iter().map(|n| n.block.to_string()).collect();
        assert_eq!(left_out, ["10.244.3.0/24", "fd12::/80"]);
    }
}
