//! Rules that choose a route table.

use nix::libc;
use overlane_core::cidr::Cidr;
use overlane_core::family::Family;

use super::number;
use crate::netlink::{Message, Request, attrs, ip_of, u32_of};

const FRA_DST: u16 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;
const HEADER_LEN: usize = 12;

/// A rule `to DESTINATION lookup TABLE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Packets to it ...
    pub destination: Cidr,
    /// ... are routed by this table.
    pub table: u32,
    /// Place in the order of rules; less comes first.
    pub pref: u32,
    /// Who made it.
    pub protocol: u8,
}

impl Rule {
    /// Reads `RTM_NEWRULE`; `None` also for a rule of a shape that we never make.
    #[must_use]
    pub fn read(message: &Message) -> Option<Self> {
        let [family, dst_len, src_len, tos, table, _, _, action] = *message.payload.first_chunk()?;
        let unspecified = if family == 2 { std::net::IpAddr::from([0; 4]) } else { std::net::IpAddr::from([0; 16]) };
        let (mut dst, mut pref, mut protocol, mut table) = (unspecified, 0, 0, u32::from(table));
        for (attr, value) in attrs(message.after(HEADER_LEN)) {
            match attr {
                FRA_DST => dst = ip_of(value)?,
                FRA_PRIORITY => pref = u32_of(value)?,
                FRA_TABLE => table = u32_of(value)?,
                FRA_PROTOCOL => protocol = *value.first()?,
                _ => {}
            }
        }
        let plain = src_len == 0 && tos == 0 && action == FR_ACT_TO_TBL;
        plain.then_some(Self { destination: Cidr::around(dst, dst_len).ok()?, table, pref, protocol })
    }

    fn put(&self, request: Request) -> Request {
        let header = [
            number(self.destination.family()),
            self.destination.prefix_len(),
            0,
            0,
            0,
            0,
            0,
            FR_ACT_TO_TBL,
            0,
            0,
            0,
            0,
        ];
        request
            .body(&header)
            .ip(FRA_DST, self.destination.network())
            .u32(FRA_PRIORITY, self.pref)
            .u32(FRA_TABLE, self.table)
            .u8(FRA_PROTOCOL, self.protocol)
    }

    /// Adds the rule; the kernel refuses one that is there.
    #[must_use]
    pub fn add(&self) -> Request {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.put(Request::new(
            libc::RTM_NEWRULE,
            flags,
            format!("add rule to {} lookup {}", self.destination, self.table),
        ))
    }

    /// Removes exactly this rule.
    #[must_use]
    pub fn delete(&self) -> Request {
        let what = format!("delete rule to {} lookup {}", self.destination, self.table);
        self.put(Request::new(libc::RTM_DELRULE, 0, what))
    }
}

/// Asks for a family's rules (a dump).
#[must_use]
pub fn list(family: Family) -> Request {
    let mut header = [0; HEADER_LEN];
    header[0] = number(family);
    Request::new(libc::RTM_GETRULE, 0, format!("list {family} rules")).body(&header)
}
