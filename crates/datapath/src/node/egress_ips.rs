//! Egress addresses on the node's link: those of the gateway slots that are at this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;
use overlane_core::family::Family;

use super::Underlay;
use crate::announce;
use crate::netlink::{NetlinkError, Refused, Socket};
use crate::owned;
use crate::rtnl::address::{self, LinkAddress};

/// What [`keep_egress_ips`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptEgressIps {
    /// Those that were given to a link just now.
    pub added: BTreeSet<IpAddr>,
    /// Those that were taken from one.
    pub removed: BTreeSet<IpAddr>,
    /// What the kernel refused; the rest was done.
    pub failed: Vec<Refused>,
}

/// Gives the links of `underlays` exactly these addresses, in the calling thread's namespace; that the segment has to hear of
/// it is [`announce_all`]'s. Addresses that others gave stay.
///
/// # Errors
/// The kernel could not be read.
pub fn keep_egress_ips(
    wanted: &BTreeSet<IpAddr>,
    underlays: &BTreeMap<Family, Underlay>,
) -> Result<KeptEgressIps, NetlinkError> {
    let mut socket = Socket::route()?;
    let present = observed_egress_ips(&mut socket)?;
    let place = |address: &IpAddr| underlays.get(&Family::of(address)).map(|underlay| (underlay.index, *address));
    let places: BTreeSet<(u32, IpAddr)> = wanted.iter().filter_map(place).collect();
    let there: BTreeSet<(u32, IpAddr)> = present.iter().map(|found| (found.index, found.address)).collect();
    let gone: Vec<&LinkAddress> = present.iter().filter(|a| !places.contains(&(a.index, a.address))).collect();
    let name = |index| underlays.values().find(|u| u.index == index).map_or("", |underlay| underlay.link.as_str());
    let mut kept = KeptEgressIps::default();
    let removals = gone.iter().map(|found| address::delete(found.index, name(found.index), found)).collect();
    for (found, answer) in gone.iter().zip(socket.batch(removals)?) {
        match answer {
            Err(refused) if refused.errno != Errno::EADDRNOTAVAIL => kept.failed.push(refused),
            _ => _ = kept.removed.insert(found.address),
        }
    }
    let missing: Vec<(u32, IpAddr)> = places.difference(&there).copied().collect();
    let additions = missing.iter().map(|(index, ip)| address::add_egress_ip(*index, name(*index), *ip)).collect();
    for ((_, ip), answer) in missing.iter().zip(socket.batch(additions)?) {
        match answer {
            Ok(()) => _ = kept.added.insert(*ip),
            Err(refused) => kept.failed.push(refused),
        }
    }
    Ok(kept)
}

/// Tells the segment who has these addresses. That nobody hears it is no error: neighbours ask again by themselves.
pub fn announce_all(addresses: &BTreeSet<IpAddr>, underlays: &BTreeMap<Family, Underlay>) {
    for address in addresses {
        let Some(underlay) = underlays.get(&Family::of(address)) else { continue };
        if let Some(mac) = underlay.mac {
            let _ = announce::announce(underlay.index, mac, *address);
        }
    }
}

/// Egress addresses that are there, on whatever link.
///
/// # Errors
/// The kernel could not be read.
pub fn observed_egress_ips(socket: &mut Socket) -> Result<Vec<LinkAddress>, NetlinkError> {
    let listed = socket.dump(address::list())?;
    Ok(listed
        .iter()
        .filter_map(LinkAddress::read)
        .filter(|found| owned::is_egress_ip(found.protocol, found.prefix_len, found.address))
        .collect())
}
