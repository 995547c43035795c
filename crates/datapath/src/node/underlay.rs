//! The link that has the node's address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;
use overlane_core::cidr::Cidr;
use overlane_core::family::Family;

use crate::mac::Mac;
use crate::netlink::{NetlinkError, Socket};
use crate::render::routes::Ground;
use crate::rtnl::address::{self, LinkAddress};
use crate::rtnl::link::{self, Link};
use crate::rtnl::none_if_absent;
use crate::rtnl::route::{self, Hop, Route};

const RT_TABLE_MAIN: u32 = 254;

/// The link that has the node's address of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The node's address that it was looked up by.
    pub node_ip: IpAddr,
    /// The link's name.
    pub link: String,
    /// The link's index.
    pub index: u32,
    /// Its Ethernet address; none on a link of another kind.
    pub mac: Option<Mac>,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Networks of the address's family that are reached through it without a gateway.
    pub on_link: Vec<Cidr>,
}

/// Why the underlay is not known.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// No link has the address.
    #[error("no link has the node's address {node_ip}")]
    NotHere {
        /// The address.
        node_ip: IpAddr,
    },
    /// The kernel could not be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl Underlay {
    pub(super) fn ground(&self) -> Ground {
        Ground { index: self.index, on_link: self.on_link.clone() }
    }
}

/// Finds the link that has `node_ip`, in the calling thread's namespace.
///
/// # Errors
/// No link has it, or the kernel could not be read.
pub fn underlay(node_ip: IpAddr) -> Result<Underlay, UnderlayError> {
    let mut socket = Socket::route()?;
    let absent = UnderlayError::NotHere { node_ip };
    let addresses = socket.dump(address::list())?;
    let found = addresses.iter().filter_map(LinkAddress::read).find(|a| a.address == node_ip);
    let Some(LinkAddress { index, .. }) = found else { return Err(absent) };
    let link = match socket.request(link::get_by_index(index)) {
        Ok(answers) => answers.iter().find_map(Link::read),
        Err(error) if error.errno() == Some(Errno::ENODEV) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(link) = link else { return Err(absent) };
    let routes = none_if_absent(socket.dump(route::list(Family::of(&node_ip), RT_TABLE_MAIN, 0, index)))?;
    let mut on_link: Vec<_> = routes
        .iter()
        .filter_map(Route::read)
        .filter(|r| r.table == RT_TABLE_MAIN && r.hop == Hop::Link { index } && !is_link_local(&r.destination))
        .map(|r| r.destination)
        .collect();
    on_link.sort();
    on_link.dedup();
    Ok(Underlay { node_ip, link: link.name, index, mac: link.mac, mtu: link.mtu, on_link })
}

/// Every link has that network; it says nothing about which node is where.
fn is_link_local(cidr: &Cidr) -> bool {
    matches!(cidr.network(), IpAddr::V6(a) if a.is_unicast_link_local())
}

/// Every address of the node's own.
///
/// # Errors
/// The list could not be read whole.
pub fn addresses() -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let listed = Socket::route()?.dump(address::list())?;
    Ok(listed.iter().filter_map(LinkAddress::read).map(|a| a.address).collect())
}
