//! Addresses of links.

use std::net::IpAddr;

use nix::libc;

use super::family_of;
use crate::netlink::{Message, Request, attrs, ip_of, u32_of};
use crate::owned;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
/// Linux 5.18.
const IFA_PROTO: u16 = 11;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const HEADER_LEN: usize = 8;

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkAddress {
    /// The link.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Bits of the network that is on-link.
    pub prefix_len: u8,
    /// `RT_SCOPE_...`: 0 is universe, 253 link.
    pub scope: u8,
    /// `IFA_F_...`.
    pub flags: u32,
    /// Who gave it (`IFA_PROTO`); 0 where nobody said.
    pub protocol: u8,
}

impl LinkAddress {
    /// Reads `RTM_NEWADDR`.
    #[must_use]
    pub fn read(message: &Message) -> Option<Self> {
        let [_, prefix_len, flags, scope] = *message.payload.first_chunk()?;
        let index = u32_of(message.payload.get(4..)?)?;
        let (mut address, mut local, mut all_flags, mut protocol) = (None, None, u32::from(flags), 0);
        for (kind, value) in attrs(message.after(HEADER_LEN)) {
            match kind {
                IFA_ADDRESS => address = ip_of(value),
                IFA_LOCAL => local = ip_of(value),
                IFA_FLAGS => all_flags = u32_of(value)?,
                IFA_PROTO => protocol = *value.first()?,
                _ => {}
            }
        }
        // On a point-to-point link IFA_ADDRESS is the other end.
        Some(Self { index, address: local.or(address)?, prefix_len, scope, flags: all_flags, protocol })
    }

    /// Whether it stays until somebody takes it away.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.flags & IFA_F_PERMANENT != 0
    }
}

/// Gives a link the address, alone in its network: no duplicate detection (the address is ours by lease), no route.
#[must_use]
pub fn add_alone(index: u32, ifname: &str, address: IpAddr) -> Request {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut header = [family_of(&address), bits, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    Request::new(libc::RTM_NEWADDR, flags, format!("add address {address}/{bits} to link {ifname}"))
        .body(&header)
        .ip(IFA_LOCAL, address)
        .ip(IFA_ADDRESS, address)
        .u32(IFA_FLAGS, IFA_F_NODAD | IFA_F_NOPREFIXROUTE)
}

/// The same of an egress address: marked as ours, and never chosen as a source by itself (RFC 4862, section 5.5.4:
/// deprecated).
#[must_use]
pub fn add_egress_ip(index: u32, ifname: &str, address: IpAddr) -> Request {
    let request = add_alone(index, ifname, address).attr(IFA_PROTO, &[owned::PROTOCOL]);
    if address.is_ipv4() {
        return request;
    }
    // struct ifa_cacheinfo: preferred for no time, valid for ever.
    let lifetimes = [0, u32::MAX, 0, 0];
    request.attr(IFA_CACHEINFO, &lifetimes.map(u32::to_ne_bytes).concat())
}

/// Takes an address from a link.
#[must_use]
pub fn delete(index: u32, ifname: &str, address: &LinkAddress) -> Request {
    let LinkAddress { address: ip, prefix_len, .. } = address;
    let mut header = [family_of(ip), *prefix_len, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    Request::new(libc::RTM_DELADDR, 0, format!("delete address {ip}/{prefix_len} of link {ifname}"))
        .body(&header)
        .ip(IFA_LOCAL, *ip)
}

/// Asks for all addresses (a dump).
#[must_use]
pub fn list() -> Request {
    Request::new(libc::RTM_GETADDR, 0, "list addresses").body(&[0; HEADER_LEN])
}
