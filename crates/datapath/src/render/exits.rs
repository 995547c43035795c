//! Ways out of the cluster: the tables that marked packets are routed by, and the rules that lead there. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlane_core::cidr::Cidr;
use overlane_core::egress::ANSWERS;
use overlane_core::family::Family;
use overlane_core::plan::{EgressPlan, GatewayPlan, Outside, Place, TunnelWay};

use super::routes::{Ground, TunnelGround, TunnelKind};
use crate::owned::{self, NEXT_HOP_EXIT};
use crate::rtnl::route::{Hop, Route};
use crate::rtnl::rule::Rule;

/// What a plan's exits become.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exits {
    /// The rules.
    pub rules: BTreeSet<Rule>,
    /// The routes, each in its exit's table. Every table ends in "unreachable": what has no way goes no other.
    pub routes: BTreeSet<Route>,
    /// Next hops that are not on the node's link, or are the node itself: packets for them are answered with "unreachable".
    pub not_on_link: Vec<IpAddr>,
    /// Gateways that only routes which encapsulate lead to, where the kernel has none: packets for them are answered with
    /// "unreachable".
    pub out_of_reach: Vec<String>,
}

/// What of the kernel a plan's exits depend on.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// Where the node stands in each family.
    pub grounds: BTreeMap<Family, Ground>,
    /// The node's own addresses.
    pub own: BTreeSet<IpAddr>,
    /// The tunnel's link.
    pub tunnel: Option<TunnelGround>,
}

/// Renders.
#[must_use]
pub fn render(plan: Option<&EgressPlan>, way: &Way) -> Exits {
    let mut exits = Exits::default();
    let Some(plan) = plan else { return exits };
    next_hops(&plan.outside, way, &mut exits);
    if let Some(gateways) = &plan.gateways {
        to_gateways(gateways, way, &mut exits);
    }
    exits
}

fn next_hops(outside: &Outside, way: &Way, exits: &mut Exits) {
    let Way { grounds, own, .. } = way;
    let Outside::NextHops { by, .. } = outside else { return };
    for (family, next_hop) in by {
        let (route, rule) = exit(NEXT_HOP_EXIT, *family);
        exits.rules.insert(rule);
        exits.routes.insert(Route { metric: owned::METRIC_UNREACHABLE, ..route(Hop::Unreachable) });
        let Some(gateway) = *next_hop else { continue };
        let ground = grounds.get(family).filter(|ground| is_on_link(ground, gateway) && !own.contains(&gateway));
        match ground {
            Some(ground) => {
                let hop = Hop::Gateway { gateway, index: ground.index, onlink: false };
                exits.routes.insert(route(hop));
            }
            None => exits.not_on_link.push(gateway),
        }
    }
}

/// A slot of another node has a table that leads there; one of this node none, so that its packets go by the node's own
/// way. Answers that the table does not know are a pod's of this node.
fn to_gateways(plan: &GatewayPlan, way: &Way, exits: &mut Exits) {
    let hop = |TunnelWay { from, to, next_hop }: TunnelWay, vni| match way.tunnel {
        Some(TunnelGround { index, kind: TunnelKind::Routes }) => {
            Some(Hop::Tunnel { index, gateway: next_hop, vni, from, to })
        }
        _ => None,
    };
    for slot in &plan.exits {
        let (node, ways) = match &slot.place {
            Place::Here => continue,
            Place::At { node, ways } => (node.as_str(), ways.clone()),
            Place::Nowhere => ("", BTreeMap::new()),
        };
        for family in slot.addresses.keys() {
            let (route, rule) = exit(slot.number, *family);
            exits.rules.insert(rule);
            exits.routes.insert(Route { metric: owned::METRIC_UNREACHABLE, ..route(Hop::Unreachable) });
            let Some(there) = ways.get(family) else { continue };
            match hop(*there, slot.vni) {
                Some(hop) => _ = exits.routes.insert(route(hop)),
                None => exits.out_of_reach.push(node.to_owned()),
            }
        }
    }
    for (block, back) in &plan.back {
        let (route, rule) = exit(ANSWERS, block.family());
        if let Some(hop) = hop(*back, plan.answers) {
            exits.rules.insert(rule);
            exits.routes.insert(Route { destination: *block, ..route(hop) });
        }
    }
    exits.out_of_reach.sort();
    exits.out_of_reach.dedup();
}

fn exit(number: u8, family: Family) -> (impl Fn(Hop) -> Route, Rule) {
    let table = owned::exit_table(number);
    let route = move |hop| Route {
        table,
        protocol: owned::PROTOCOL,
        destination: Cidr::everything(family),
        hop,
        prefsrc: None,
        metric: owned::METRIC,
    };
    let rule =
        Rule { family, priority: owned::RULE_PRIORITY, mark: owned::exit_mark(number), mask: owned::MARK_MASK, table };
    (route, rule)
}

/// A link-local address is on every link.
fn is_on_link(ground: &Ground, address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local())
        || ground.on_link.iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests {
    //! Must catch: a family without a next hop that takes the node's own way.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_has_no_next_hop_goes_nowhere() {
        let hop: IpAddr = "10.224.0.250".parse().unwrap();
        let far: IpAddr = "fd10::250".parse().unwrap();
        let ground = Ground { index: 2, on_link: vec!["10.224.0.0/16".parse().unwrap()] };
        let grounds = BTreeMap::from([(Family::V4, ground)]);
        let way = |own: &[IpAddr]| Way { grounds: grounds.clone(), own: own.iter().copied().collect(), tunnel: None };
        let plan = |v6| EgressPlan {
            outside: Outside::NextHops {
                by: [(Family::V4, Some(hop)), (Family::V6, v6)].into(),
                keep_pod_address: false,
            },
            ..EgressPlan::default()
        };
        for (v6, not_on_link) in [(None, vec![]), (Some(far), vec![far])] {
            let exits = render(Some(&plan(v6)), &way(&[]));
            assert_eq!((exits.rules.len(), exits.not_on_link), (2, not_on_link));
            let hops: Vec<_> = exits.routes.iter().map(|r| (r.destination.to_string(), r.hop, r.metric)).collect();
            let gateway = Hop::Gateway { gateway: hop, index: 2, onlink: false };
            let nowhere = |family: &str| (family.to_owned(), Hop::Unreachable, owned::METRIC_UNREACHABLE);
            let here = ("0.0.0.0/0".to_owned(), gateway, owned::METRIC);
            assert_eq!(hops, [here, nowhere("0.0.0.0/0"), nowhere("::/0")]);
        }
        let dropped = EgressPlan { outside: Outside::Dropped, ..EgressPlan::default() };
        assert_eq!(render(Some(&dropped), &way(&[])), Exits::default());
        assert_eq!(render(None, &way(&[])), Exits::default());
        // A node cannot be its own next hop.
        assert_eq!(render(Some(&plan(None)), &way(&[hop])).not_on_link, [hop]);
    }
}
