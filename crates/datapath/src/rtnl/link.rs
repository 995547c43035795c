//! Links.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

use crate::mac::{self, Mac};
use crate::netlink::{Message, NetlinkError, Request, attrs, find, ip_of, text, u32_of};

const INFO_LEN: usize = 16;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_VXLAN_UDP_CSUM: u16 = 18;
const IFLA_VXLAN_UDP_ZERO_CSUM6_RX: u16 = 20;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const AF_INET6: u16 = 10;
const UP: u32 = 1;

/// A link, as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// The interface index.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The kind (`veth`, `bridge` ...); none for hardware.
    pub kind: Option<String>,
    /// The alias.
    pub alias: Option<String>,
    /// The Ethernet address.
    pub mac: Option<Mac>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// `IFF_...`.
    pub flags: u32,
    /// The link group.
    pub group: u32,
    /// The bridge or bond that the link is part of.
    pub master: Option<u32>,
    /// The other end's index (in its own namespace), or what the link stands on.
    pub peer_index: Option<u32>,
    /// The number, in this namespace, of the namespace that the other end is in; none if it is this one.
    pub peer_nsid: Option<i32>,
    /// How IPv6 link-local addresses are made: 1 is "not at all".
    pub addr_gen_mode: Option<u8>,
    /// What a VXLAN link was made with.
    pub vxlan: Option<VxlanLink>,
}

/// What a VXLAN link is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanLink {
    /// Its UDP port.
    pub port: u16,
    /// What it has of its own; none where routes say where packets go (`external`).
    pub own: Option<VxlanEnd>,
}

/// What a VXLAN link has of its own, where no routes say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanEnd {
    /// The network's identifier.
    pub vni: u32,
    /// The outer source.
    pub local: IpAddr,
}

impl Link {
    /// Reads `RTM_NEWLINK` or `RTM_DELLINK`.
    #[must_use]
    pub fn read(message: &Message) -> Option<Self> {
        let index = u32_of(message.payload.get(4..)?)?;
        let mut link = Self { index, flags: u32_of(message.payload.get(8..)?)?, ..Self::default() };
        for (kind, value) in attrs(message.after(INFO_LEN)) {
            match kind {
                IFLA_IFNAME => link.name = text(value),
                IFLA_IFALIAS => link.alias = Some(text(value)),
                IFLA_ADDRESS => link.mac = mac::from_slice(value),
                IFLA_MTU => link.mtu = u32_of(value)?,
                IFLA_GROUP => link.group = u32_of(value)?,
                IFLA_MASTER => link.master = u32_of(value),
                IFLA_LINK => link.peer_index = u32_of(value),
                IFLA_LINK_NETNSID => link.peer_nsid = u32_of(value).map(u32::cast_signed),
                IFLA_LINKINFO => {
                    link.kind = find(value, IFLA_INFO_KIND).map(text);
                    if link.kind.as_deref() == Some(VXLAN_KIND) {
                        link.vxlan = find(value, IFLA_INFO_DATA).and_then(vxlan);
                    }
                }
                IFLA_AF_SPEC => {
                    link.addr_gen_mode = find(value, AF_INET6)
                        .and_then(|v6| find(v6, IFLA_INET6_ADDR_GEN_MODE))
                        .and_then(|mode| mode.first().copied());
                }
                _ => {}
            }
        }
        Some(link)
    }

    /// Whether it was set up by somebody (not: whether it has a carrier).
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & UP != 0
    }
}

/// The kind of a VXLAN link.
pub const VXLAN_KIND: &str = "vxlan";

fn vxlan(data: &[u8]) -> Option<VxlanLink> {
    let is_external = find(data, IFLA_VXLAN_COLLECT_METADATA).is_some_and(|value| value.first() == Some(&1));
    let port = find(data, IFLA_VXLAN_PORT)?.try_into().map(u16::from_be_bytes).ok()?;
    if is_external {
        return Some(VxlanLink { port, own: None });
    }
    let vni = find(data, IFLA_VXLAN_ID).and_then(u32_of)?;
    let local = find(data, IFLA_VXLAN_LOCAL).or_else(|| find(data, IFLA_VXLAN_LOCAL6)).and_then(ip_of)?;
    Some(VxlanLink { port, own: Some(VxlanEnd { vni, local }) })
}

/// One end of a veth pair to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// The name, up to 15 bytes.
    pub name: &'a str,
    /// The Ethernet address; the kernel's choice if none.
    pub mac: Option<Mac>,
    /// The MTU in bytes.
    pub mtu: u32,
}

impl VethEnd<'_> {
    fn put(self, request: Request) -> Request {
        let request = request.text(IFLA_IFNAME, self.name).u32(IFLA_MTU, self.mtu);
        match self.mac {
            Some(mac) => request.attr(IFLA_ADDRESS, &mac),
            None => request,
        }
    }
}

fn header(index: u32, flags: u32, change: u32) -> [u8; INFO_LEN] {
    let mut bytes = [0; INFO_LEN];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// Makes a veth pair with the other end in `peer_ns`; the near end is up, the far one is not. The answer holds the near
/// end (an echo).
#[must_use]
pub fn add_veth(near: VethEnd<'_>, far: VethEnd<'_>, peer_ns: BorrowedFd<'_>) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ECHO;
    let request = Request::new(libc::RTM_NEWLINK, flags, format!("add veth {} with peer {}", near.name, far.name));
    near.put(request.body(&header(0, UP, UP))).nest(IFLA_LINKINFO, |r| {
        r.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |r| {
            r.nest(VETH_INFO_PEER, |r| {
                far.put(r.body(&header(0, 0, 0))).u32(IFLA_NET_NS_FD, peer_ns.as_raw_fd().cast_unsigned())
            })
        })
    })
}

/// Makes a link that gives back to the kernel what it is sent; down at first, refused if there is one.
#[must_use]
pub fn add_ifb(name: &str) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    Request::new(libc::RTM_NEWLINK, flags, format!("add ifb {name}"))
        .body(&header(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .nest(IFLA_LINKINFO, |r| r.text(IFLA_INFO_KIND, "ifb"))
}

/// Makes a VXLAN link, down at first: it learns nothing and floods nothing. Outer IPv6 packets are taken without checksum
/// too, as RFC 6935 allows: some senders' hardware makes none.
#[must_use]
pub fn add_vxlan(name: &str, vxlan: VxlanLink, mac: Mac, mtu: u32) -> Request {
    let port = vxlan.port;
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    Request::new(libc::RTM_NEWLINK, flags, format!("add vxlan {name} on UDP port {port}"))
        .body(&header(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .attr(IFLA_ADDRESS, &mac)
        .u32(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO, |r| {
            r.text(IFLA_INFO_KIND, VXLAN_KIND).nest(IFLA_INFO_DATA, |r| {
                let r = match vxlan.own {
                    None => r.u8(IFLA_VXLAN_COLLECT_METADATA, 1),
                    Some(VxlanEnd { vni, local }) => {
                        let kind = if local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 };
                        // As routes have it: no outer checksum over IPv4 (RFC 7348, section 5).
                        r.u32(IFLA_VXLAN_ID, vni).ip(kind, local).u8(IFLA_VXLAN_UDP_CSUM, 0)
                    }
                };
                r.u8(IFLA_VXLAN_LEARNING, 0)
                    .attr(IFLA_VXLAN_PORT, &port.to_be_bytes())
                    .u8(IFLA_VXLAN_UDP_ZERO_CSUM6_RX, 1)
            })
        })
}

/// Sets a link up, by index.
#[must_use]
pub fn set_up(index: u32, name: &str) -> Request {
    Request::new(libc::RTM_NEWLINK, 0, format!("set link {name} up")).body(&header(index, UP, UP))
}

/// Sets alias and "no IPv6 link-local address by itself", by index. A kernel that has no IPv6 (`ipv6.disable=1`) refuses
/// to hear of it, and makes no such address.
#[must_use]
pub fn set_identity(index: u32, name: &str, alias: Option<&str>, has_ipv6: bool) -> Request {
    let request = Request::new(libc::RTM_NEWLINK, 0, format!("set alias of link {name}")).body(&header(index, 0, 0));
    let request = if has_ipv6 { no_link_local(request) } else { request };
    match alias {
        // Not NUL-terminated: the kernel counts the attribute's length.
        Some(alias) => request.attr(IFLA_IFALIAS, alias.as_bytes()),
        None => request,
    }
}

fn no_link_local(request: Request) -> Request {
    request.nest(IFLA_AF_SPEC, |r| r.nest(AF_INET6, |r| r.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)))
}

/// Sets MAC address and MTU of an existing link.
#[must_use]
pub fn set_mac_and_mtu(index: u32, name: &str, mac: Mac, mtu: u32) -> Request {
    Request::new(libc::RTM_NEWLINK, 0, format!("set address and mtu of link {name}"))
        .body(&header(index, 0, 0))
        .attr(IFLA_ADDRESS, &mac)
        .u32(IFLA_MTU, mtu)
}

/// Moves a link to a group, by index.
#[must_use]
pub fn set_group(index: u32, name: &str, group: u32) -> Request {
    Request::new(libc::RTM_NEWLINK, 0, format!("move link {name} to group {group:#x}"))
        .body(&header(index, 0, 0))
        .u32(IFLA_GROUP, group)
}

/// Deletes a link by index.
#[must_use]
pub fn delete(index: u32, name: &str) -> Request {
    Request::new(libc::RTM_DELLINK, 0, format!("delete link {name}")).body(&header(index, 0, 0))
}

/// Deletes a link by name.
#[must_use]
pub fn delete_by_name(name: &str) -> Request {
    Request::new(libc::RTM_DELLINK, 0, format!("delete link {name}")).body(&header(0, 0, 0)).text(IFLA_IFNAME, name)
}

/// Deletes all links of a group: one wait for all of them.
#[must_use]
pub fn delete_group(group: u32) -> Request {
    Request::new(libc::RTM_DELLINK, 0, format!("delete the links of group {group:#x}"))
        .body(&header(0, 0, 0))
        .u32(IFLA_GROUP, group)
}

/// Asks for a link by name.
#[must_use]
pub fn get(name: &str) -> Request {
    Request::new(libc::RTM_GETLINK, 0, format!("look up link {name}"))
        .body(&header(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
}

/// The link in the answer to [`get`]; none if there is no such link.
///
/// # Errors
/// Any other refusal.
pub fn found(answer: Result<Vec<Message>, NetlinkError>) -> Result<Option<Link>, NetlinkError> {
    match answer {
        Ok(answers) => Ok(answers.iter().find_map(Link::read)),
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks for a link by index.
#[must_use]
pub fn get_by_index(index: u32) -> Request {
    Request::new(libc::RTM_GETLINK, 0, format!("look up link {index}"))
        .body(&header(index, 0, 0))
        .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
}

/// Asks for a link by index in the namespace that has this number here (Linux 4.15).
#[must_use]
pub fn get_in(nsid: i32, index: u32) -> Request {
    Request::new(libc::RTM_GETLINK, 0, format!("look up link {index} of the namespace with number {nsid}"))
        .body(&header(index, 0, 0))
        .u32(IFLA_TARGET_NETNSID, nsid.cast_unsigned())
        .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
}

/// Asks for all links (a dump), of one kind if given.
#[must_use]
pub fn list(kind: Option<&str>) -> Request {
    let request = Request::new(libc::RTM_GETLINK, 0, "list links")
        .body(&header(0, 0, 0))
        .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    match kind {
        Some(kind) => request.nest(IFLA_LINKINFO, |r| r.text(IFLA_INFO_KIND, kind)),
        None => request,
    }
}
