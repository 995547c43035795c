//! The tunnel's link, with its addresses and neighbours, made to agree with the plan.
//!
//! Routes say where its packets go, permanent neighbours what they bear inside: it learns nothing and floods nothing. Where
//! the kernel has no routes that encapsulate (`CONFIG_LWTUNNEL`), permanent entries of its forwarding table do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;
use overlane_core::family::Family;
use overlane_core::plan::{NodePlan, RouteAction, TunnelPlan};

use super::AwayRoutes;
use crate::mac::Mac;
use crate::netlink::{NetlinkError, Refused, Request, Socket};
use crate::owned::{self, TUNNEL_LINK};
use crate::pod::has_ipv6;
use crate::render::routes::TunnelKind;
use crate::rtnl::address::{self, LinkAddress};
use crate::rtnl::link::{self, Link, VxlanEnd, VxlanLink};
use crate::rtnl::neighbour::{self, Neighbour};
use crate::rtnl::route;
use crate::sysctl::{self, SysctlError};

/// What the kernel can do.
///
/// # Errors
/// The kernel could not be asked.
pub fn tunnel_kind() -> Result<TunnelKind, NetlinkError> {
    let mut socket = Socket::route()?;
    // It is refused in any case: there is no such link.
    match socket.request(route::encapsulating_nowhere()) {
        Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => Ok(TunnelKind::Entries),
        Err(error) if error.errno().is_none() => Err(error),
        _ => Ok(TunnelKind::Routes),
    }
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// A link of that name is somebody else's.
    #[error("link {TUNNEL_LINK} is a {kind}, which is not ours to replace: rename or delete it", kind = kind.as_deref().unwrap_or("physical device"))]
    NotOurs {
        /// Its kind; none of hardware.
        kind: Option<String>,
    },
    /// Another tunnel of this machine has the port.
    #[error(
        "UDP port {port} is another VXLAN's on this node: give the ClusterNetwork another vxlan.port, or end that one"
    )]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The kernel could not be read, or refused the link.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The link's reverse-path filter could not be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// What [`keep_tunnel`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptTunnel {
    /// The link's index.
    pub index: u32,
    /// Addresses and neighbours written or removed, the link among them.
    pub changes: usize,
    /// What the kernel refused; the rest was done.
    pub failed: Vec<Refused>,
    /// What was to be known of peers.
    pub neighbours: BTreeMap<IpAddr, Mac>,
}

/// What an earlier call left of the tunnel, which spares reading it: what drifted meanwhile is not seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldTunnel {
    /// The link's index: another one knows nobody.
    pub index: u32,
    /// What is known of peers, and nothing else.
    pub neighbours: BTreeMap<IpAddr, Mac>,
}

/// Makes the tunnel's link agree with the plan, in the calling thread's namespace; `mtu` is the link's, in bytes. A
/// second call changes nothing. What leads into the tunnel is the routes' business, and what is known of peers goes when
/// their routes do. `held` is what a call before left, if it did all. `None` where none is planned.
///
/// # Errors
/// See [`TunnelError`].
pub fn keep_tunnel(
    node: &NodePlan,
    kind: TunnelKind,
    mtu: u32,
    away: AwayRoutes,
    held: Option<&HeldTunnel>,
) -> Result<Option<KeptTunnel>, TunnelError> {
    let Some(plan) = &node.tunnel else { return Ok(None) };
    let mut socket = Socket::route()?;
    let vxlan =
        VxlanLink { port: plan.vxlan.port, own: end(node, kind).map(|local| VxlanEnd { vni: plan.vxlan.vni, local }) };
    let (found, made) = link(&mut socket, plan, vxlan, mtu)?;
    let mut requests = Vec::new();
    if found.mac != Some(plan.mac) || found.mtu != mtu {
        requests.push(link::set_mac_and_mtu(found.index, TUNNEL_LINK, plan.mac, mtu));
    }
    if found.addr_gen_mode.is_some_and(|mode| mode != 1) {
        requests.push(link::set_identity(found.index, TUNNEL_LINK, None, has_ipv6()));
    }
    // Before it is up: neighbours of a link that is down go.
    if !found.is_up() {
        requests.push(link::set_up(found.index, TUNNEL_LINK));
    }
    let wanted: BTreeMap<IpAddr, Mac> = plan.peers.iter().map(|peer| (peer.next_hop(), peer.mac)).collect();
    let mut kept =
        KeptTunnel { index: found.index, changes: usize::from(made), failed: Vec::new(), neighbours: wanted };
    kept.apply(&mut socket, requests)?;
    if kept.failed.iter().any(|refused| matches!(refused.errno, Errno::EADDRINUSE | Errno::EEXIST)) {
        return Err(TunnelError::PortTaken { port: plan.vxlan.port });
    }
    if node.egress.as_ref().is_some_and(|egress| egress.gateways.is_some()) {
        take_answers()?;
    }
    let mut requests = addresses(&mut socket, found.index, plan)?;
    let held = held.filter(|held| held.index == found.index).map(|held| held.neighbours.clone());
    let present = held.map_or_else(|| neighbours(&mut socket, found.index), Ok)?;
    let mut peers = Changes::of(found.index, &present, &kept.neighbours);
    if let Some(local) = end(node, kind) {
        let entries = forwarding(&mut socket, found.index, node, plan, local)?;
        peers.gone.extend(entries.gone);
        peers.missing.extend(entries.missing);
    }
    if away == AwayRoutes::Planned {
        requests.extend(peers.gone);
    }
    requests.extend(peers.missing);
    kept.apply(&mut socket, requests)?;
    Ok(Some(kept))
}

/// What comes from outside by way of a gateway comes out of the tunnel, where no route of the node leads back: a reverse-path
/// filter (RFC 3704) that is strict would drop it. The larger of a link's and all links' value counts, and 2 is loose. The link
/// is ours, so that there is nothing to put back.
fn take_answers() -> Result<(), SysctlError> {
    let key = |link: &str| format!("net/ipv4/conf/{link}/rp_filter");
    let is_strict = |link| sysctl::read(&key(link)).is_ok_and(|now| now == "1");
    if is_strict(TUNNEL_LINK) || is_strict("all") && sysctl::read(&key(TUNNEL_LINK)).is_ok_and(|now| now != "2") {
        sysctl::write(&key(TUNNEL_LINK), "2")?;
    }
    Ok(())
}

/// The outer source, where the link has one of its own.
fn end(node: &NodePlan, kind: TunnelKind) -> Option<IpAddr> {
    node.node_ips.values().next().copied().filter(|_| kind == TunnelKind::Entries)
}

/// Which node each endpoint is at.
fn forwarding(
    socket: &mut Socket,
    index: u32,
    node: &NodePlan,
    plan: &TunnelPlan,
    local: IpAddr,
) -> Result<Changes, NetlinkError> {
    let endpoints: BTreeMap<_, Mac> = plan.peers.iter().map(|peer| (peer.block, peer.mac)).collect();
    let mut wanted: BTreeMap<Mac, IpAddr> = BTreeMap::new();
    for route in &node.routes {
        let RouteAction::Tunnel { to, .. } = route.action else { continue };
        if let Some(mac) = endpoints.get(&route.destination).filter(|_| Family::of(&to) == Family::of(&local)) {
            wanted.insert(*mac, to);
        }
    }
    let listed = socket.dump(neighbour::list_forwarding(index))?;
    let found = listed.iter().filter_map(Neighbour::read).filter(|entry| entry.index == index);
    let present: BTreeMap<Mac, IpAddr> = found.filter_map(|entry| Some((entry.mac?, entry.address))).collect();
    let gone = present.keys().filter(|mac| !wanted.contains_key(*mac));
    let missing = wanted.iter().filter(|(mac, to)| present.get(*mac) != Some(to));
    Ok(Changes {
        gone: gone.map(|mac| neighbour::delete_forwarding(index, TUNNEL_LINK, *mac)).collect(),
        missing: missing.map(|(mac, to)| neighbour::set_forwarding(index, TUNNEL_LINK, *mac, *to)).collect(),
    })
}

/// What of the peers is there and not planned, and the other way round.
struct Changes {
    gone: Vec<Request>,
    missing: Vec<Request>,
}

impl Changes {
    fn of(index: u32, present: &BTreeMap<IpAddr, Mac>, wanted: &BTreeMap<IpAddr, Mac>) -> Self {
        let gone = present.keys().filter(|address| !wanted.contains_key(address));
        let missing = wanted.iter().filter(|(address, mac)| present.get(address) != Some(mac));
        let set = |(address, mac): (&IpAddr, &Mac)| neighbour::set_permanent(index, TUNNEL_LINK, *address, *mac);
        Self {
            gone: gone.map(|address| neighbour::delete(index, TUNNEL_LINK, *address)).collect(),
            missing: missing.map(set).collect(),
        }
    }
}

impl KeptTunnel {
    fn apply(&mut self, socket: &mut Socket, requests: Vec<Request>) -> Result<(), NetlinkError> {
        for answer in socket.batch(requests)? {
            match answer {
                Ok(()) => self.changes += 1,
                Err(refused) => self.failed.push(refused),
            }
        }
        Ok(())
    }
}

/// The link as it is, and whether it was just made.
fn link(socket: &mut Socket, plan: &TunnelPlan, vxlan: VxlanLink, mtu: u32) -> Result<(Link, bool), TunnelError> {
    if let Some(found) = tunnel_link(socket)? {
        if found.vxlan == Some(vxlan) {
            return Ok((found, false));
        }
        socket.request(link::delete(found.index, TUNNEL_LINK))?;
    }
    match socket.request(link::add_vxlan(TUNNEL_LINK, vxlan, plan.mac, mtu)) {
        Ok(_) => {}
        Err(error) if error.errno() == Some(Errno::EEXIST) => {
            return Err(TunnelError::PortTaken { port: plan.vxlan.port });
        }
        Err(error) => return Err(error.into()),
    }
    let made = link::found(socket.request(link::get(TUNNEL_LINK)))?;
    let gone = || NetlinkError::Malformed { what: format!("link {TUNNEL_LINK}, just made, is not there").into() };
    Ok((made.ok_or_else(gone)?, true))
}

/// The tunnel's link, if there is one; a link of its name and another kind is an error.
fn tunnel_link(socket: &mut Socket) -> Result<Option<Link>, TunnelError> {
    let found = link::found(socket.request(link::get(TUNNEL_LINK)))?;
    match found {
        Some(found) if !owned::is_tunnel(&found.name, found.kind.as_deref()) => {
            Err(TunnelError::NotOurs { kind: found.kind })
        }
        other => Ok(other),
    }
}

fn addresses(socket: &mut Socket, index: u32, plan: &TunnelPlan) -> Result<Vec<Request>, NetlinkError> {
    let wanted: BTreeSet<IpAddr> = plan.addresses.values().copied().collect();
    let listed = socket.dump(address::list())?;
    let present: Vec<LinkAddress> =
        listed.iter().filter_map(LinkAddress::read).filter(|found| found.index == index).collect();
    let is_link_local = |address: &IpAddr| matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let mut requests: Vec<Request> = present
        .iter()
        .filter(|found| !wanted.contains(&found.address) && !is_link_local(&found.address))
        .map(|found| address::delete(index, TUNNEL_LINK, found))
        .collect();
    let missing = wanted.iter().filter(|address| !present.iter().any(|found| found.address == **address));
    requests.extend(missing.map(|address| address::add_alone(index, TUNNEL_LINK, *address)));
    Ok(requests)
}

/// Permanent neighbours; one without a MAC has none of ours.
fn neighbours(socket: &mut Socket, index: u32) -> Result<BTreeMap<IpAddr, Mac>, NetlinkError> {
    let listed = socket.dump(neighbour::list(index))?;
    let found = listed.iter().filter_map(Neighbour::read).filter(|n| n.index == index && n.is_permanent());
    Ok(found.map(|n| (n.address, n.mac.unwrap_or_default())).collect())
}

/// The index of the tunnel's link, if there is one.
#[must_use]
pub fn tunnel_index() -> Option<u32> {
    let mut socket = Socket::route().ok()?;
    tunnel_link(&mut socket).ok().flatten().map(|link| link.index)
}

/// Deletes the tunnel's link, and with it its addresses, neighbours and routes. Whether there was one.
///
/// # Errors
/// The kernel could not be read, or refused.
pub fn end_tunnel() -> Result<bool, NetlinkError> {
    let mut socket = Socket::route()?;
    let found = link::found(socket.request(link::get(TUNNEL_LINK)))?;
    let Some(found) = found.filter(|found| owned::is_tunnel(&found.name, found.kind.as_deref())) else {
        return Ok(false);
    };
    socket.request(link::delete(found.index, TUNNEL_LINK))?;
    Ok(true)
}
