//! Rules that say which table a packet's route is looked up in (`linux/fib_rules.h`).

use nix::libc;
use overlane_core::family::Family;

use super::number;
use crate::netlink::{Message, Request, attrs, u32_of};
use crate::owned;

const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 2;
const HEADER_LEN: usize = 12;

/// A rule on a packet's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The family whose packets it is for.
    pub family: Family,
    /// Its place among the rules: less goes first.
    pub priority: u32,
    /// The mark, of the bits in `mask`.
    pub mark: u32,
    /// Bits of the mark that count.
    pub mask: u32,
    /// The table that it leads to.
    pub table: u32,
}

impl Rule {
    /// Reads `RTM_NEWRULE` or `RTM_DELRULE`, if it is a rule of ours: one that leads from marks to a table and says that
    /// we made it. What else it asks for makes it somebody else's.
    #[must_use]
    pub fn read(message: &Message) -> Option<Self> {
        let [family, _, _, tos, table, _, _, action, flags @ ..] = *message.payload.first_chunk::<HEADER_LEN>()?;
        let inverted = u32::from_ne_bytes(flags) & FIB_RULE_INVERT != 0;
        let family = Family::ALL.into_iter().find(|known| number(*known) == family)?;
        let mut rule = Self { family, priority: 0, mark: 0, mask: 0, table: u32::from(table) };
        let mut protocol = 0;
        for (attr, value) in attrs(message.after(HEADER_LEN)) {
            match attr {
                FRA_PRIORITY => rule.priority = u32_of(value)?,
                FRA_FWMARK => rule.mark = u32_of(value)?,
                FRA_FWMASK => rule.mask = u32_of(value)?,
                FRA_TABLE => rule.table = u32_of(value)?,
                FRA_PROTOCOL => protocol = *value.first()?,
                // It is always told, and `u32::MAX` is none.
                FRA_SUPPRESS_PREFIXLEN if u32_of(value) == Some(u32::MAX) => {}
                _ => return None,
            }
        }
        (action == FR_ACT_TO_TBL
            && tos == 0
            && !inverted
            && protocol == owned::PROTOCOL
            && owned::is_exit_table(rule.table))
        .then_some(rule)
    }

    /// Adds the rule; refused if it is there.
    #[must_use]
    pub fn add(&self) -> Request {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.put(Request::new(libc::RTM_NEWRULE, flags, format!("add {}", self.words())))
    }

    /// Removes exactly this rule.
    #[must_use]
    pub fn delete(&self) -> Request {
        self.put(Request::new(libc::RTM_DELRULE, 0, format!("delete {}", self.words())))
    }

    fn put(&self, request: Request) -> Request {
        let header = [number(self.family), 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
        request
            .body(&header)
            .u32(FRA_PRIORITY, self.priority)
            .u32(FRA_FWMARK, self.mark)
            .u32(FRA_FWMASK, self.mask)
            .u32(FRA_TABLE, self.table)
            .attr(FRA_PROTOCOL, &[owned::PROTOCOL])
    }

    fn words(&self) -> String {
        let Self { family, mark, mask, table, .. } = self;
        format!("{family} rule from mark {mark:#x}/{mask:#x} to table {table}")
    }
}

/// Asks for all rules of a family (a dump).
#[must_use]
pub fn list(family: Family) -> Request {
    let header = [number(family), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Request::new(libc::RTM_GETRULE, 0, format!("list {family} rules")).body(&header)
}
