//! What is wrong with a pod's network: each thing that `wire` made, looked for one by one.

use std::net::IpAddr;

use overlane_core::family::Family;
use overlane_core::rate::RateLimit;

use super::{PodSpec, requests, shape};
use crate::mac::{self, Mac};
use crate::netlink::{Message, NetlinkError, Socket};
use crate::owned;
use crate::rtnl::address::{self, LinkAddress};
use crate::rtnl::link;
use crate::rtnl::neighbour::{self, Neighbour};
use crate::rtnl::none_if_absent;
use crate::rtnl::route::{self, Hop, Route};

/// One thing that is not as it was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The link is not there.
    #[error("link {link} is missing")]
    NoLink {
        /// The link.
        link: String,
    },
    /// It is something else than a veth.
    #[error("link {link} is not a veth")]
    Kind {
        /// The link.
        link: String,
    },
    /// It was set down.
    #[error("link {link} is down")]
    Down {
        /// The link.
        link: String,
    },
    /// Its alias says something else.
    #[error("link {link} has not the alias {wanted:?}")]
    Alias {
        /// The link.
        link: String,
        /// What it should be.
        wanted: String,
    },
    /// Its Ethernet address is another.
    #[error("link {link} has not the address {}", mac::text(*wanted))]
    Mac {
        /// The link.
        link: String,
        /// What it should be.
        wanted: Mac,
    },
    /// Its MTU is another.
    #[error("link {link} has mtu {found}, not {wanted}")]
    Mtu {
        /// The link.
        link: String,
        /// What it is.
        found: u32,
        /// What it should be.
        wanted: u32,
    },
    /// An address is missing in the pod.
    #[error("address {address} is missing on {link}")]
    Address {
        /// The link.
        link: String,
        /// The address.
        address: IpAddr,
    },
    /// A route is missing or another.
    #[error("route to {destination} is missing on {link}")]
    Route {
        /// The link.
        link: String,
        /// The destination.
        destination: overlane_core::cidr::Cidr,
    },
    /// The pod's traffic is not held to a limit.
    #[error("nothing holds {link} to {limit}")]
    Limit {
        /// The link.
        link: String,
        /// The limit.
        limit: RateLimit,
    },
    /// A permanent neighbour is missing or another.
    #[error("neighbour {address} is missing or not permanent on {link}")]
    Neighbour {
        /// The link.
        link: String,
        /// The neighbour.
        address: IpAddr,
    },
}

pub(super) fn host(socket: &mut Socket, spec: &PodSpec) -> Result<Vec<Fault>, NetlinkError> {
    let mut faults = Vec::new();
    let Some(index) = link_faults(socket, &spec.link, owned::HOST_MAC, spec.mtu, Some(&spec.alias), &mut faults)?
    else {
        return Ok(faults);
    };
    let neighbours: Vec<Neighbour> = read(socket.dump(neighbour::list(index))?, Neighbour::read);
    for address in &spec.addresses {
        neighbour_fault(&neighbours, index, &spec.link, *address, spec.mac, &mut faults);
        let routes = socket.dump(route::list(Family::of(address), owned::ROUTE_TABLE, owned::PROTOCOL, index));
        let routes: Vec<Route> = read(none_if_absent(routes)?, Route::read);
        route_fault(&routes, &requests::host_route(spec, *address, index), &spec.link, &mut faults);
    }
    shape::faults(socket, spec, index, &mut faults)?;
    Ok(faults)
}

pub(super) fn pod(socket: &mut Socket, spec: &PodSpec) -> Result<Vec<Fault>, NetlinkError> {
    let mut faults = Vec::new();
    let Some(index) = link_faults(socket, &spec.ifname, spec.mac, spec.mtu, None, &mut faults)? else {
        return Ok(faults);
    };
    let neighbours: Vec<Neighbour> = read(socket.dump(neighbour::list(index))?, Neighbour::read);
    let addresses: Vec<LinkAddress> = read(socket.dump(address::list())?, LinkAddress::read);
    for address in &spec.addresses {
        if !addresses.iter().any(|a| a.index == index && a.address == *address) {
            faults.push(Fault::Address { link: spec.ifname.clone(), address: *address });
        }
        let family = Family::of(address);
        neighbour_fault(&neighbours, index, &spec.ifname, requests::gateway(family), owned::HOST_MAC, &mut faults);
        let routes: Vec<Route> = read(none_if_absent(socket.dump(route::list_everywhere(family, 0)))?, Route::read);
        for wanted in requests::pod_routes(family, index) {
            route_fault(&routes, &wanted, &spec.ifname, &mut faults);
        }
    }
    Ok(faults)
}

/// The link's index, if it is there.
fn link_faults(
    socket: &mut Socket,
    name: &str,
    mac: Mac,
    mtu: u32,
    alias: Option<&str>,
    faults: &mut Vec<Fault>,
) -> Result<Option<u32>, NetlinkError> {
    let found = link::found(socket.request(link::get(name)))?;
    let name = name.to_owned();
    let Some(found) = found else {
        faults.push(Fault::NoLink { link: name });
        return Ok(None);
    };
    if found.kind.as_deref() != Some("veth") {
        faults.push(Fault::Kind { link: name.clone() });
    }
    if !found.is_up() {
        faults.push(Fault::Down { link: name.clone() });
    }
    if let Some(wanted) = alias.filter(|a| found.alias.as_deref() != Some(a)) {
        faults.push(Fault::Alias { link: name.clone(), wanted: wanted.to_owned() });
    }
    if found.mac != Some(mac) {
        faults.push(Fault::Mac { link: name.clone(), wanted: mac });
    }
    if found.mtu != mtu {
        faults.push(Fault::Mtu { link: name, found: found.mtu, wanted: mtu });
    }
    Ok(Some(found.index))
}

fn neighbour_fault(list: &[Neighbour], index: u32, link: &str, address: IpAddr, mac: Mac, faults: &mut Vec<Fault>) {
    let good = |n: &Neighbour| n.index == index && n.address == address && n.mac == Some(mac) && n.is_permanent();
    if !list.iter().any(good) {
        faults.push(Fault::Neighbour { link: link.to_owned(), address });
    }
}

fn route_fault(list: &[Route], wanted: &Route, link: &str, faults: &mut Vec<Fault>) {
    // The pod may have put a better route beside ours; only ours is looked for. `onlink` is not shown for all kinds.
    let same_hop = |hop: &Hop| match (hop, &wanted.hop) {
        (Hop::Gateway { gateway: a, index: i, .. }, Hop::Gateway { gateway: b, index: j, .. }) => a == b && i == j,
        (a, b) => a == b,
    };
    let good = |r: &Route| {
        r.table == wanted.table
            && r.destination == wanted.destination
            && r.prefsrc == wanted.prefsrc
            && same_hop(&r.hop)
    };
    if !list.iter().any(good) {
        faults.push(Fault::Route { link: link.to_owned(), destination: wanted.destination });
    }
}

fn read<T>(messages: Vec<Message>, one: impl Fn(&Message) -> Option<T>) -> Vec<T> {
    messages.iter().filter_map(one).collect()
}
