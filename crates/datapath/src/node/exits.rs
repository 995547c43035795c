//! Ways out of the cluster made to agree with the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;
use overlane_core::family::Family;
use overlane_core::plan::{NodePlan, diff};

use super::Underlay;
use super::routes::{place, table};
use crate::netlink::{NetlinkError, Refused, Request, Socket};
use crate::owned;
use crate::owned::NEXT_HOP_EXIT;
use crate::render::exits::{Exits, Way, render};
use crate::render::routes::TunnelGround;
use crate::rtnl::none_if_absent;
use crate::rtnl::route::{self, Route};
use crate::rtnl::rule::{self, Rule};

/// What [`keep_exits`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptExits {
    /// Rules and routes written or removed.
    pub changes: usize,
    /// Those that are there, are not planned, and were left.
    pub surplus: usize,
    /// Next hops that are not on the node's link, or the node itself.
    pub not_on_link: Vec<IpAddr>,
    /// Nodes of gateways that this kernel has no routes to.
    pub out_of_reach: Vec<String>,
    /// What the kernel refused; the rest was done.
    pub failed: Vec<Refused>,
}

/// What becomes of rules and routes that are not planned any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surplus {
    /// They stay: packets may still be marked for them.
    Kept,
    /// They go.
    Removed,
}

/// Makes rules and tables of exits agree with the plan, in the calling thread's namespace. A second call changes nothing.
///
/// Before a rule leads to a table, all of the table is there. While marks are still made for what goes, it has to stay: a
/// packet with a mark that no rule knows is dropped.
///
/// # Errors
/// The kernel could not be read. What it refused to write is in the answer.
pub fn keep_exits(
    plan: &NodePlan,
    underlays: &BTreeMap<Family, Underlay>,
    tunnel: Option<TunnelGround>,
    surplus: Surplus,
) -> Result<KeptExits, NetlinkError> {
    let mut socket = Socket::route()?;
    let way = Way {
        grounds: underlays.iter().map(|(family, underlay)| (*family, underlay.ground())).collect(),
        own: underlays.values().map(|underlay| underlay.node_ip).collect(),
        tunnel,
    };
    let Exits { rules: wanted, routes: wanted_routes, not_on_link, out_of_reach } = render(plan.egress.as_ref(), &way);
    let there = rules(&mut socket)?;
    let rules = diff(&wanted, &there);
    // What an agent left that died between rules and routes is found too.
    let tables = wanted.iter().chain(&there).map(|rule| rule.table).chain([owned::exit_table(NEXT_HOP_EXIT)]);
    let mut found = BTreeSet::new();
    for number in tables.collect::<BTreeSet<_>>() {
        found.extend(table(&mut socket, number, owned::PROTOCOL, 0)?.into_iter().filter(Route::is_ours));
    }
    let routes = diff(&wanted_routes, &found);
    let mut kept = KeptExits { not_on_link, out_of_reach, ..KeptExits::default() };
    // A default route of the same metric is replaced: between two writes nothing is without a way.
    kept.apply(&mut socket, routes.add.iter().map(Route::set))?;
    kept.apply(&mut socket, rules.add.iter().map(Rule::add))?;
    let replaced: BTreeSet<_> = routes.add.iter().map(place).collect();
    let gone: Vec<&Route> = routes.remove.iter().filter(|route| !replaced.contains(&place(route))).collect();
    if surplus == Surplus::Kept {
        kept.surplus = rules.remove.len() + gone.len();
        return Ok(kept);
    }
    kept.apply(&mut socket, rules.remove.iter().map(Rule::delete))?;
    kept.apply(&mut socket, gone.into_iter().map(Route::delete))?;
    Ok(kept)
}

impl KeptExits {
    fn apply(&mut self, socket: &mut Socket, requests: impl Iterator<Item = Request>) -> Result<(), NetlinkError> {
        for answer in socket.batch(requests.collect())? {
            match answer {
                Ok(()) => self.changes += 1,
                Err(refused) if matches!(refused.errno, Errno::ESRCH | Errno::ENOENT) => {}
                Err(refused) => self.failed.push(refused),
            }
        }
        Ok(())
    }
}

/// What of ours there is: rules, and routes in the tables that they lead to.
///
/// # Errors
/// The kernel could not be read.
pub fn observed_exits(socket: &mut Socket) -> Result<(BTreeSet<Rule>, BTreeSet<Route>), NetlinkError> {
    let mut routes = BTreeSet::new();
    for family in Family::ALL {
        let listed = none_if_absent(socket.dump(route::list_everywhere(family, owned::PROTOCOL)))?;
        let ours = |route: &Route| route.is_ours() && owned::is_exit_table(route.table);
        routes.extend(listed.iter().filter_map(Route::read).filter(ours));
    }
    Ok((rules(socket)?, routes))
}

fn rules(socket: &mut Socket) -> Result<BTreeSet<Rule>, NetlinkError> {
    let mut rules = BTreeSet::new();
    for family in Family::ALL {
        let listed = none_if_absent(socket.dump(rule::list(family)))?;
        rules.extend(listed.iter().filter_map(Rule::read));
    }
    Ok(rules)
}
