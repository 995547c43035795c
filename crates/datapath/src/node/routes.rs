//! Our routes and rules made to agree with the plan.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use overlane_core::family::Family;
use overlane_core::plan::{NodePlan, RouteAction, diff};

use super::Underlay;
use crate::netlink::{NetlinkError, Refused, Socket};
use crate::owned;
use crate::render::routes::{NotOnLink, render};
use crate::rtnl::link::{self, Link};
use crate::rtnl::none_if_absent;
use crate::rtnl::route::{self, Hop, Route};
use crate::rtnl::rule::{self, Rule};

/// What becomes of the routes to this node's pods. `wire` and `retire` make and remove them; a plan made a moment
/// ago must not undo that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodRoutes {
    /// They are not looked at: for a plan that races with pods that come and go.
    LeftAlone,
    /// They are made to agree too: for the start and for audits, while the caller holds pods back.
    Planned,
}

/// What [`apply`] did and what it could not do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Routes and rules added.
    pub added: usize,
    /// Routes and rules removed.
    pub removed: usize,
    /// Blocks without a route because the peer's node is not on this node's link.
    pub not_on_link: Vec<NotOnLink>,
    /// Pods' routes left out because their link is not there.
    pub without_link: Vec<String>,
    /// What the kernel refused; the rest was done.
    pub failed: Vec<Refused>,
}

/// Makes our routes and rules agree with the plan, in the calling thread's namespace: what is ours and not planned
/// goes, what is planned and absent comes. A second call changes nothing.
///
/// # Errors
/// The kernel could not be read. What it refused to write is in the answer.
pub fn apply(
    plan: &NodePlan,
    underlays: &BTreeMap<Family, Underlay>,
    pods: PodRoutes,
) -> Result<Applied, NetlinkError> {
    let mut socket = Socket::route()?;
    let needs_links =
        pods == PodRoutes::Planned && plan.routes.iter().any(|r| matches!(r.action, RouteAction::Local { .. }));
    let links = if needs_links { pod_links(&mut socket)? } else { BTreeMap::new() };
    let grounds = underlays.iter().map(|(family, underlay)| (*family, underlay.ground())).collect();
    let rendered = render(plan, &grounds, &links);

    let mut observed = observed_routes(&mut socket, owned::ROUTE_TABLE)?;
    let mut desired = rendered.routes;
    let mut without_link = rendered.without_link;
    match pods {
        PodRoutes::LeftAlone => {
            observed.retain(|route| !matches!(route.hop, Hop::Link { .. }));
            without_link.clear();
        }
        PodRoutes::Planned => desired.extend(rendered.pod_routes),
    }
    let routes = diff(&desired, &observed);
    let rules = diff(&rendered.rules, &observed_rules(&mut socket)?);
    let mut applied = Applied { not_on_link: rendered.not_on_link, without_link, ..Applied::default() };

    // A rule leads nowhere before its routes are there: routes come first and go last.
    let replaced: BTreeSet<_> = routes.add.iter().map(place).collect();
    let adds = routes.add.iter().map(Route::set).chain(rules.add.iter().map(Rule::add)).collect();
    // What an addition has replaced is gone; a deletion could hit what came in its place.
    let gone: Vec<_> = routes.remove.iter().filter(|route| !replaced.contains(&place(route))).collect();
    let removals = rules.remove.iter().map(Rule::delete).chain(gone.into_iter().map(Route::delete)).collect();
    for answer in socket.batch(adds)? {
        match answer {
            Ok(()) => applied.added += 1,
            Err(refused) if refused.errno == Errno::EEXIST => {}
            Err(refused) => applied.failed.push(refused),
        }
    }
    for answer in socket.batch(removals)? {
        match answer {
            Ok(()) => applied.removed += 1,
            Err(refused) if matches!(refused.errno, Errno::ESRCH | Errno::ENOENT) => {}
            Err(refused) => applied.failed.push(refused),
        }
    }
    Ok(applied)
}

/// What the kernel takes for "the same route" when it replaces one.
fn place(route: &Route) -> (u32, overlane_core::cidr::Cidr, u32) {
    (route.table, route.destination, route.metric)
}

/// Our routes of a table, both families.
pub(crate) fn observed_routes(socket: &mut Socket, table: u32) -> Result<BTreeSet<Route>, NetlinkError> {
    let mut routes = BTreeSet::new();
    for family in Family::ALL {
        let list = none_if_absent(socket.dump(route::list(family, table, owned::PROTOCOL, 0)))?;
        let ours = |r: &Route| r.protocol == owned::PROTOCOL && r.table == table;
        routes.extend(list.iter().filter_map(Route::read).filter(ours));
    }
    Ok(routes)
}

/// Our rules, both families.
pub(crate) fn observed_rules(socket: &mut Socket) -> Result<BTreeSet<Rule>, NetlinkError> {
    let mut rules = BTreeSet::new();
    for family in Family::ALL {
        let list = none_if_absent(socket.dump(rule::list(family)))?;
        let ours = |r: &Rule| r.protocol == owned::PROTOCOL && owned::RULE_PREFS.contains(&r.pref);
        rules.extend(list.iter().filter_map(Rule::read).filter(ours));
    }
    Ok(rules)
}

fn pod_links(socket: &mut Socket) -> Result<BTreeMap<String, u32>, NetlinkError> {
    let list = socket.dump(link::list(Some("veth")))?;
    Ok(list.iter().filter_map(Link::read).map(|link| (link.name, link.index)).collect())
}
