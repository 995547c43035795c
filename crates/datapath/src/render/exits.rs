//! Ways out of the cluster: the tables that marked packets are routed by, and the rules that lead there. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::plan::{EgressPlan, Outside};

use super::routes::Ground;
use crate::owned;
use crate::rtnl::route::{Hop, Route};
use crate::rtnl::rule::Rule;

/// The exit of packets that go to a next hop.
pub const NEXT_HOP_EXIT: u8 = 1;

/// What a plan's exits become.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exits {
    /// The rules.
    pub rules: BTreeSet<Rule>,
    /// The routes, each in its exit's table. Every table ends in "unreachable": what has no way goes no other.
    pub routes: BTreeSet<Route>,
    /// Next hops that are not on the node's link, or are the node itself: packets for them are answered with "unreachable".
    pub not_on_link: Vec<IpAddr>,
}

/// Renders.
#[must_use]
pub fn render(plan: Option<&EgressPlan>, grounds: &BTreeMap<Family, Ground>, own: &BTreeSet<IpAddr>) -> Exits {
    let mut exits = Exits::default();
    let Some(EgressPlan { outside: Outside::NextHops { by, .. }, .. }) = plan else { return exits };
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
    exits
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
        let plan = |v6| EgressPlan {
            inside: BTreeSet::new(),
            outside: Outside::NextHops {
                by: [(Family::V4, Some(hop)), (Family::V6, v6)].into(),
                keep_pod_address: false,
            },
        };
        for (v6, not_on_link) in [(None, vec![]), (Some(far), vec![far])] {
            let exits = render(Some(&plan(v6)), &grounds, &BTreeSet::new());
            assert_eq!((exits.rules.len(), exits.not_on_link), (2, not_on_link));
            let hops: Vec<_> = exits.routes.iter().map(|r| (r.destination.to_string(), r.hop, r.metric)).collect();
            let gateway = Hop::Gateway { gateway: hop, index: 2, onlink: false };
            let nowhere = |family: &str| (family.to_owned(), Hop::Unreachable, owned::METRIC_UNREACHABLE);
            let here = ("0.0.0.0/0".to_owned(), gateway, owned::METRIC);
            assert_eq!(hops, [here, nowhere("0.0.0.0/0"), nowhere("::/0")]);
        }
        let dropped = EgressPlan { inside: BTreeSet::new(), outside: Outside::Dropped };
        assert_eq!(render(Some(&dropped), &grounds, &BTreeSet::new()), Exits::default());
        assert_eq!(render(None, &grounds, &BTreeSet::new()), Exits::default());
        // A node cannot be its own next hop.
        assert_eq!(render(Some(&plan(None)), &grounds, &[hop].into()).not_on_link, [hop]);
    }
}
