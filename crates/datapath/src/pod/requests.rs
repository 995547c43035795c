//! Which requests make a pod's network. Pure.

use std::net::IpAddr;
use std::sync::LazyLock;

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;

use super::PodSpec;
use crate::netlink::Request;
use crate::owned;
use crate::rtnl::route::{Hop, Route};
use crate::rtnl::{address, link, neighbour};

const LOOPBACK_INDEX: u32 = 1;

/// What goes to the host's namespace once the link is there. A route that is there already is refused: it may be
/// somebody else's.
pub(super) fn host(spec: &PodSpec, index: u32) -> Vec<Request> {
    let of_address = |address: &IpAddr| {
        [neighbour::set_permanent(index, &spec.link, *address, spec.mac), host_route(spec, *address, index).add()]
    };
    spec.addresses.iter().flat_map(of_address).collect()
}

/// The host's route to one of the pod's addresses.
pub(super) fn host_route(spec: &PodSpec, address: IpAddr, index: u32) -> Route {
    let prefsrc = spec.prefsrc.get(&Family::of(&address)).copied();
    Route { prefsrc, ..bare_host_route(address, index) }
}

pub(super) fn bare_host_route(address: IpAddr, index: u32) -> Route {
    Route {
        table: owned::ROUTE_TABLE,
        protocol: owned::PROTOCOL,
        destination: Cidr::host_range(address),
        hop: Hop::Link { index },
        prefsrc: None,
        metric: owned::METRIC,
    }
}

/// What goes to the pod's namespace.
pub(super) fn pod(spec: &PodSpec, index: u32) -> Vec<Request> {
    let mut requests = vec![
        link::set_up(LOOPBACK_INDEX, "lo"),
        link::set_identity(index, &spec.ifname, None, has_ipv6()),
        link::set_up(index, &spec.ifname),
    ];
    for pod_address in &spec.addresses {
        let gateway = gateway(Family::of(pod_address));
        requests.push(address::add_alone(index, &spec.ifname, *pod_address));
        requests.push(neighbour::set_permanent(index, &spec.ifname, gateway, owned::HOST_MAC));
        requests.extend(pod_routes(Family::of(pod_address), index).iter().map(Route::set));
    }
    requests
}

/// Whether the kernel runs with IPv6 at all (not so after `ipv6.disable=1`).
pub(crate) fn has_ipv6() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| std::path::Path::new("/proc/sys/net/ipv6").exists());
    *HAS
}

/// The gateway that a pod sees.
pub(super) fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => owned::GATEWAY_V4.into(),
        Family::V6 => owned::GATEWAY_V6.into(),
    }
}

/// A pod's routes of a family. A link-local IPv6 gateway needs no route of its own.
pub(super) fn pod_routes(family: Family, index: u32) -> Vec<Route> {
    let gateway = gateway(family);
    let route = |destination, hop| Route {
        table: owned::ROUTE_TABLE,
        protocol: owned::PROTOCOL,
        destination,
        hop,
        prefsrc: None,
        metric: owned::METRIC,
    };
    let everywhere: IpAddr = match family {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    let mut routes = Vec::with_capacity(2);
    if family == Family::V4 {
        routes.push(route(Cidr::host_range(gateway), Hop::Link { index }));
    }
    if let Ok(destination) = Cidr::new(everywhere, 0) {
        routes.push(route(destination, Hop::Gateway { gateway, index, onlink: family == Family::V4 }));
    }
    routes
}
