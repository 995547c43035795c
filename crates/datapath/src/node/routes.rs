//! Our routes made to agree with the plan.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;
use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::plan::{NodePlan, RouteAction, diff};

use super::{TunnelGround, Underlay};
use crate::netlink::{NetlinkError, Refused, Socket};
use crate::owned;
use crate::render::routes::{Kernel, NotOnLink, render};
use crate::rtnl::link::{self, Link};
use crate::rtnl::none_if_absent;
use crate::rtnl::route::{self, Hop, Route};

/// What becomes of the routes to this node's pods. `wire` and `retire` make and remove them; a plan made a moment
/// ago must not undo that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodRoutes {
    /// They are not looked at: for a plan that races with pods that come and go.
    LeftAlone,
    /// They are made to agree too: for the start and for audits, while the caller holds pods back.
    Planned,
}

/// What becomes of routes to other nodes that are not planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwayRoutes {
    /// They stay: not everything has been heard yet.
    Kept,
    /// They go.
    Planned,
}

/// What [`apply`] did and what it could not do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Routes added.
    pub added: Vec<Route>,
    /// Routes removed.
    pub removed: Vec<Route>,
    /// Blocks without a route because the peer's node is not on this node's link.
    pub not_on_link: Vec<NotOnLink>,
    /// Pods' routes left out because their link is not there.
    pub without_link: Vec<String>,
    /// Blocks that the tunnel cannot lead to, for want of node addresses of one family.
    pub out_of_reach: Vec<Cidr>,
    /// What the kernel refused; the rest was done.
    pub failed: Vec<Refused>,
    /// What was to be there, without pods' routes.
    pub desired: BTreeSet<Route>,
    /// The kernel holds just these, without pods' routes: all was done, and nothing else was left alone.
    pub whole: bool,
}

impl Applied {
    /// Whether all was as planned.
    #[must_use]
    pub const fn changed_nothing(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.failed.is_empty()
    }
}

/// Makes our routes agree with the plan, in the calling thread's namespace (`tunnel` is the tunnel's link, if there is
/// one): what is ours and not planned goes, what is planned and absent comes. A second call changes nothing.
///
/// `held` is what the kernel is known to hold of ours, without pods' routes: the `desired` of a call before that was
/// `whole`. It spares reading the kernel's, which is most of the work where there are thousands; what drifted meanwhile is
/// not seen. It is for [`PodRoutes::LeftAlone`].
///
/// # Errors
/// The kernel could not be read. What it refused to write is in the answer.
pub fn apply(
    plan: &NodePlan,
    underlays: &BTreeMap<Family, Underlay>,
    tunnel: Option<TunnelGround>,
    pods: PodRoutes,
    away: AwayRoutes,
    held: Option<&BTreeSet<Route>>,
) -> Result<Applied, NetlinkError> {
    let mut socket = Socket::route()?;
    let needs_links =
        pods == PodRoutes::Planned && plan.routes.iter().any(|r| matches!(r.action, RouteAction::Local { .. }));
    let kernel = Kernel {
        grounds: underlays.iter().map(|(family, underlay)| (*family, underlay.ground())).collect(),
        tunnel,
        links: if needs_links { pod_links(&mut socket)? } else { BTreeMap::new() },
        routers: routers(&mut socket, plan)?,
    };
    let rendered = render(plan, &kernel);

    let mut desired = rendered.routes;
    let mut without_link = rendered.without_link;
    let observed = match (pods, held) {
        (PodRoutes::LeftAlone, Some(held)) => Cow::Borrowed(held),
        (PodRoutes::LeftAlone, None) => {
            let mut observed = observed_routes(&mut socket)?;
            observed.retain(|route| !is_pod_route(route));
            Cow::Owned(observed)
        }
        (PodRoutes::Planned, _) => Cow::Owned(observed_routes(&mut socket)?),
    };
    match pods {
        PodRoutes::LeftAlone => without_link.clear(),
        PodRoutes::Planned => desired.extend(rendered.pod_routes),
    }
    let routes = diff(&desired, &observed);
    let mut applied = Applied {
        not_on_link: rendered.not_on_link,
        out_of_reach: rendered.out_of_reach,
        without_link,
        ..Applied::default()
    };

    // What an addition replaces is gone: a deletion could hit what came in its place. What is not ours is not replaced.
    let replaced: BTreeSet<_> = routes.add.iter().map(place).collect();
    let ours: BTreeSet<_> = observed.iter().map(place).filter(|place| replaced.contains(place)).collect();
    let add = |route: &Route| if ours.contains(&place(route)) { route.set() } else { route.add() };
    let adds = routes.add.iter().map(add).collect();
    let kept = |route: &Route| {
        away == AwayRoutes::Kept && matches!(route.hop, Hop::Gateway { .. } | Hop::Tunnel { .. } | Hop::Local)
    };
    let mut gone = routes.remove;
    gone.retain(|route| !replaced.contains(&place(route)));
    let surplus = gone.len();
    gone.retain(|route| !kept(route));
    let left_alone = surplus > gone.len();
    let removals = gone.iter().map(Route::delete).collect();
    for (route, answer) in routes.add.into_iter().zip(socket.batch(adds)?) {
        match answer {
            Ok(()) => applied.added.push(route),
            Err(refused) => applied.failed.push(refused),
        }
    }
    for (route, answer) in gone.into_iter().zip(socket.batch(removals)?) {
        match answer {
            Ok(()) => applied.removed.push(route),
            Err(refused) if matches!(refused.errno, Errno::ESRCH | Errno::ENOENT) => {}
            Err(refused) => applied.failed.push(refused),
        }
    }
    desired.retain(|route| !is_pod_route(route));
    let whole = applied.failed.is_empty() && !left_alone;
    Ok(Applied { desired, whole, ..applied })
}

/// What leads to the nodes that a plan has routers for.
fn routers(socket: &mut Socket, plan: &NodePlan) -> Result<BTreeMap<IpAddr, (IpAddr, u32)>, NetlinkError> {
    let nodes: BTreeSet<IpAddr> = plan
        .routes
        .iter()
        .filter_map(|route| if let RouteAction::Fabric(node_ip) = route.action { Some(node_ip) } else { None })
        .collect();
    let mut found = BTreeMap::new();
    for node_ip in nodes {
        let answer = match socket.request(route::look_up(node_ip)) {
            Ok(answer) => answer,
            // Nothing leads there.
            Err(error) if error.errno().is_some() => continue,
            Err(error) => return Err(error),
        };
        match answer.iter().find_map(Route::read).map(|route| route.hop) {
            Some(Hop::Gateway { gateway, index, .. }) => _ = found.insert(node_ip, (gateway, index)),
            Some(Hop::Link { index }) => _ = found.insert(node_ip, (node_ip, index)),
            _ => {}
        }
    }
    Ok(found)
}

/// Whether it leads to a pod of this node.
fn is_pod_route(route: &Route) -> bool {
    matches!(route.hop, Hop::Link { .. })
}

/// What the kernel takes for "the same route" when it replaces one.
pub(super) fn place(route: &Route) -> (u32, overlane_core::cidr::Cidr, u32) {
    (route.table, route.destination, route.metric)
}

/// Where routes of ours lead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routed {
    /// The families that have any: those of the cluster, once an agent has been here.
    pub families: Vec<Family>,
    /// Names of the links that lead to other nodes.
    pub underlays: BTreeSet<String>,
}

/// Where routes of ours lead in the calling thread's namespace.
///
/// # Errors
/// The kernel could not be read.
pub fn routed() -> Result<Routed, NetlinkError> {
    let mut socket = Socket::route()?;
    let routes = observed_routes(&mut socket)?;
    let has = |family: &Family| routes.iter().any(|route| route.destination.family() == *family);
    let gateways: BTreeSet<u32> = routes
        .iter()
        .filter_map(|route| match route.hop {
            Hop::Gateway { index, .. } | Hop::Tunnel { index, .. } => Some(index),
            _ => None,
        })
        .collect();
    let links = socket.dump(link::list(None))?;
    let is_underlay = |link: &Link| gateways.contains(&link.index) && link.name != owned::TUNNEL_LINK;
    let underlays = links.iter().filter_map(Link::read).filter(is_underlay);
    Ok(Routed {
        families: Family::ALL.into_iter().filter(has).collect(),
        underlays: underlays.map(|link| link.name).collect(),
    })
}

/// Our routes, IPv4's before IPv6's.
///
/// # Errors
/// The kernel could not be read.
pub fn observed_routes(socket: &mut Socket) -> Result<BTreeSet<Route>, NetlinkError> {
    let mut routes = table(socket, owned::ROUTE_TABLE, owned::PROTOCOL, 0)?;
    routes.extend(table(socket, owned::LOCAL_TABLE, owned::PROTOCOL, 0)?);
    Ok(routes.into_iter().filter(Route::is_ours).collect())
}

/// Routes of table main that were made by `protocol` (0: by anybody) and lead to link `index` (0: anywhere), both
/// families.
pub(crate) fn main_table(socket: &mut Socket, protocol: u8, index: u32) -> Result<Vec<Route>, NetlinkError> {
    table(socket, owned::ROUTE_TABLE, protocol, index)
}

pub(super) fn table(socket: &mut Socket, table: u32, protocol: u8, index: u32) -> Result<Vec<Route>, NetlinkError> {
    let mut routes = Vec::new();
    for family in Family::ALL {
        let list = none_if_absent(socket.dump(route::list(family, table, protocol, index)))?;
        routes.extend(list.iter().filter_map(Route::read));
    }
    Ok(routes)
}

fn pod_links(socket: &mut Socket) -> Result<BTreeMap<String, u32>, NetlinkError> {
    let list = socket.dump(link::list(Some("veth")))?;
    Ok(list.iter().filter_map(Link::read).map(|link| (link.name, link.index)).collect())
}
