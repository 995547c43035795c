//! Links as witnesses: what the kernel says of pods whose leases the store has lost.
//!
//! Each link of ours bears its container in its alias, each of its routes an address, and the kernel knows the number
//! of the pod's namespace and what the interface is called there. That is a lease, but for the name of the network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use overlane_core::ipam::{Attachment, Lease, LeaseKind, LeaseState, NetnsId, PodName};
use overlane_core::rate::Bandwidth;
use overlane_datapath::netlink::{NetlinkError, Socket};
use overlane_datapath::rtnl::link::Link;
use overlane_datapath::rtnl::route::Hop;
use overlane_datapath::{node, pod};

/// What runtimes call the first interface of a sandbox: for a pod whose namespace cannot be asked.
const IFNAME: &str = "eth0";
/// The network's name in the conflist that we write.
pub const NETWORK: &str = "overlane";

/// Addresses that our routes lead to a link, by the link's index, in the order of the families.
pub fn addresses() -> Result<BTreeMap<u32, Vec<IpAddr>>, NetlinkError> {
    let mut socket = Socket::route()?;
    let mut found: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
    for route in node::observed_routes(&mut socket)? {
        if let Hop::Link { index } = route.hop
            && route.destination.prefix_len() == route.destination.family().bits()
        {
            found.entry(index).or_default().push(route.destination.network());
        }
    }
    Ok(found)
}

/// What the other end of a link is called, where it is.
fn interface_name(link: &Link) -> String {
    let name = match (link.peer_nsid, link.peer_index) {
        (Some(nsid), Some(index)) => pod::interface_name(nsid, index).unwrap_or_else(|error| {
            tracing::warn!(%error, link = %link.name, "ask what a pod calls its interface");
            None
        }),
        _ => None,
    };
    name.unwrap_or_else(|| IFNAME.to_owned())
}

/// The lease that a link bears witness of; `None` if it does not name a container.
pub fn lease(link: &Link, addresses: &[IpAddr], id: u64, began_ns: u64) -> Option<Lease> {
    let (pod, container) = parse_alias(link.alias.as_deref()?)?;
    Some(Lease {
        id,
        kind: LeaseKind::Interface,
        attachment: Attachment { container_id: container.to_owned(), ifname: interface_name(link) },
        network: NETWORK.to_owned(),
        pod,
        addresses: addresses.to_vec(),
        link: link.name.clone(),
        // No link tells which ports lead to it.
        ports: Vec::new(),
        bandwidth: Bandwidth::default(),
        netns: NetnsId { nsid: link.peer_nsid, inode: 0, path: String::new() },
        began_ns,
        state: LeaseState::Active,
    })
}

/// `overlane:<namespace>/<pod>:<container id>`.
fn parse_alias(alias: &str) -> Option<(Option<PodName>, &str)> {
    let rest = alias.strip_prefix("overlane:")?;
    let (pod, container) = rest.rsplit_once(':')?;
    let (namespace, name) = pod.split_once('/')?;
    let pod = (!name.is_empty()).then(|| PodName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: String::new(),
    });
    (!container.is_empty()).then_some((pod, container))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: an alias that `owned::pod_alias` writes and that is not understood here.

    use overlane_datapath::owned;

    use super::*;

    #[test]
    fn aliases_are_read_back() {
        let alias = owned::pod_alias("default", "web-0", "c0ffee");
        let (pod, container) = parse_alias(&alias).unwrap();
        assert_eq!((pod.unwrap().name.as_str(), container), ("web-0", "c0ffee"));
        let alias = owned::pod_alias("", "", "c0ffee");
        assert_eq!(parse_alias(&alias), Some((None, "c0ffee")));
        for bad in ["", "overlane:", "overlane:a:b", "overlane:a/b:", "docker:a/b:c"] {
            assert_eq!(parse_alias(bad), None, "{bad}");
        }
    }
}
