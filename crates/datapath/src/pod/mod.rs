//! A pod's link: made, taken out of service, deleted, checked.
//!
//! The packet filter's elements are not made here: they are the caller's ([`crate::nft::Table`]), before [`Wirer::wire`]
//! and before [`Wirer::retire`], so that several pods' elements can go in one transaction.

mod check;
mod nsid;
mod requests;
mod shape;
mod wirer;

use std::collections::BTreeMap;
use std::net::IpAddr;

use overlane_core::family::Family;
use overlane_core::rate::Bandwidth;

pub use check::Fault;
pub use nsid::{interface_name, is_alive, netnsid_assign, netnsid_of};
pub(crate) use requests::has_ipv6;
pub use wirer::Wirer;

use crate::mac::Mac;
use crate::netlink::{NetlinkError, Refused};
use crate::netns::NetnsError;
use crate::sysctl::SysctlError;

/// A pod's network, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// The host's end ([`crate::owned::pod_link_name`]).
    pub link: String,
    /// The host's end's alias ([`crate::owned::pod_alias`]).
    pub alias: String,
    /// The pod's end's name (`eth0`).
    pub ifname: String,
    /// The pod's end's address ([`crate::owned::pod_mac`]).
    pub mac: Mac,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// The pod's addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Packets from and to 127.0.0.0/8 may pass the link, translated: ports of the node lead to the pod.
    pub from_loopback: bool,
    /// Limits of the pod's traffic.
    pub bandwidth: Bandwidth,
    /// The source that the node itself uses towards the pod, by family.
    pub prefsrc: BTreeMap<Family, IpAddr>,
}

/// What the kernel says about a link that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wired {
    /// The host's end.
    pub host_index: u32,
    /// The pod's end, in its namespace.
    pub pod_index: u32,
}

/// A pod's link that goes out of service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retiring {
    /// The host's end.
    pub link: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

/// Why a pod was not wired. Nothing of it is left behind unless `undo` says so.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Netlink does not work.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A name is taken: the host's link's or the pod's interface's.
    #[error("link {link} or interface {ifname} of the pod is there already: {source}")]
    Taken {
        /// The host's end.
        link: String,
        /// The pod's end.
        ifname: String,
        /// The kernel's answer.
        source: Refused,
    },
    /// A step was refused.
    #[error("wire pod link {link}: {source}")]
    Step {
        /// The host's end.
        link: String,
        /// The kernel's answer.
        source: Refused,
    },
    /// Somebody else has a route to the pod's address where ours would be.
    #[error(
        "wire pod link {link}: there is a foreign route to {destination} (protocol {protocol}, metric {}); \
         find out who made it (`ip route show {destination}`) and remove it, or take {destination} out of the pod CIDR",
        crate::owned::METRIC
    )]
    ForeignRoute {
        /// The host's end.
        link: String,
        /// The address.
        destination: overlane_core::cidr::Cidr,
        /// Who made it (`rtm_protocol`).
        protocol: u8,
    },
    /// A setting of the link was not written.
    #[error("wire pod link {link}: {source}")]
    Sysctl {
        /// The host's end.
        link: String,
        /// The system's answer.
        source: SysctlError,
    },
    /// The kernel took an IPv6 address and does not use it.
    #[error("wire pod link {link}: address {address} of the pod does not come into use")]
    AddressNotReady {
        /// The host's end.
        link: String,
        /// The address.
        address: IpAddr,
    },
    /// The kernel said yes and did not say what it made.
    #[error("wire pod link {link}: the kernel did not describe the link that it made")]
    NoEcho {
        /// The host's end.
        link: String,
    },
    /// It failed, and the link that was made could not be removed either.
    #[error("{cause}; and the link {link} stays behind: {undo}")]
    NotUndone {
        /// The host's end.
        link: String,
        /// Why it failed.
        cause: Box<WireError>,
        /// Why it stays.
        undo: NetlinkError,
    },
}
