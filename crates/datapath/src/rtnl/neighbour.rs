//! Neighbours (ARP and ND entries).

use std::net::IpAddr;

use nix::libc;

use super::family_of;
use crate::mac::{self, Mac};
use crate::netlink::{Message, Request, attrs, ip_of, u16_of, u32_of};

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const AF_BRIDGE: u8 = 7;
/// The link's own table, not a bridge's (linux/neighbour.h).
const NTF_SELF: u8 = 2;
const HEADER_LEN: usize = 12;

/// A neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The link.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address, if it is known.
    pub mac: Option<Mac>,
    /// `NUD_...`.
    pub state: u16,
}

impl Neighbour {
    /// Reads `RTM_NEWNEIGH`.
    #[must_use]
    pub fn read(message: &Message) -> Option<Self> {
        let index = u32_of(message.payload.get(4..)?)?;
        let state = u16_of(message.payload.get(8..)?)?;
        let (mut address, mut lladdr) = (None, None);
        for (kind, value) in attrs(message.after(HEADER_LEN)) {
            match kind {
                NDA_DST => address = ip_of(value),
                NDA_LLADDR => lladdr = mac::from_slice(value),
                _ => {}
            }
        }
        Some(Self { index, address: address?, mac: lladdr, state })
    }

    /// Whether it never expires and is never asked for.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.state & NUD_PERMANENT != 0
    }
}

fn header(family: u8, index: u32, state: u16) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&state.to_ne_bytes());
    bytes
}

/// Writes a permanent neighbour, over whatever is there.
#[must_use]
pub fn set_permanent(index: u32, ifname: &str, address: IpAddr, mac: Mac) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    Request::new(libc::RTM_NEWNEIGH, flags, format!("add neighbour {address} on link {ifname}"))
        .body(&header(family_of(&address), index, NUD_PERMANENT))
        .ip(NDA_DST, address)
        .attr(NDA_LLADDR, &mac)
}

/// Removes a neighbour.
#[must_use]
pub fn delete(index: u32, ifname: &str, address: IpAddr) -> Request {
    Request::new(libc::RTM_DELNEIGH, 0, format!("delete neighbour {address} on link {ifname}"))
        .body(&header(family_of(&address), index, 0))
        .ip(NDA_DST, address)
}

/// An entry of a VXLAN link's forwarding table (FDB): whom packets with an Ethernet destination go to.
///
/// Writes a permanent one, over whatever is there for that destination.
#[must_use]
pub fn set_forwarding(index: u32, ifname: &str, mac: Mac, to: IpAddr) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    Request::new(libc::RTM_NEWNEIGH, flags, format!("add forwarding to {to} on link {ifname}"))
        .body(&forwarding_header(index, NUD_PERMANENT | NUD_NOARP))
        .attr(NDA_LLADDR, &mac)
        .ip(NDA_DST, to)
}

/// Removes the entries of an Ethernet destination from a VXLAN link's forwarding table.
#[must_use]
pub fn delete_forwarding(index: u32, ifname: &str, mac: Mac) -> Request {
    let what = format!("delete forwarding of {} on link {ifname}", mac::text(mac));
    Request::new(libc::RTM_DELNEIGH, 0, what).body(&forwarding_header(index, 0)).attr(NDA_LLADDR, &mac)
}

/// Asks for the forwarding table of a link (a dump).
#[must_use]
pub fn list_forwarding(index: u32) -> Request {
    Request::new(libc::RTM_GETNEIGH, 0, "list forwarding entries").body(&header(AF_BRIDGE, index, 0))
}

fn forwarding_header(index: u32, state: u16) -> [u8; HEADER_LEN] {
    let mut bytes = header(AF_BRIDGE, index, state);
    bytes[10] = NTF_SELF;
    bytes
}

/// Asks for the neighbours (a dump), of one link if `index` is not 0.
#[must_use]
pub fn list(index: u32) -> Request {
    const NDA_IFINDEX: u16 = 8;
    let request = Request::new(libc::RTM_GETNEIGH, 0, "list neighbours").body(&[0; HEADER_LEN]);
    if index == 0 { request } else { request.u32(NDA_IFINDEX, index) }
}
