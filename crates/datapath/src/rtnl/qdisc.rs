//! Queueing disciplines and the one filter that redirects to another link.
//!
//! Layouts: linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h.

use nix::libc;
use overlane_core::rate::RateLimit;

use crate::netlink::{Message, Request, attrs, find, text, u32_of};

const TCMSG_LEN: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TC_U32_TERMINAL: u8 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;
const ETH_P_ALL: u16 = 3;
const FILTER_PRIORITY: u32 = 1;

/// A queueing discipline, as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// The link's index.
    pub link: u32,
    /// What it hangs on.
    pub at: Place,
    /// `tbf`, `ingress` ...
    pub kind: String,
    /// Of a token bucket: bytes a second, and the most that waits, bytes.
    pub bucket: Option<(u64, u32)>,
}

/// Where a discipline hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// All that the link sends.
    Root,
    /// All that the link receives.
    Ingress,
    /// Below another.
    Other,
}

impl Qdisc {
    /// Reads `RTM_NEWQDISC`.
    #[must_use]
    pub fn read(message: &Message) -> Option<Self> {
        let link = u32_of(message.payload.get(4..)?)?;
        let at = match u32_of(message.payload.get(12..)?)? {
            TC_H_ROOT => Place::Root,
            TC_H_INGRESS => Place::Ingress,
            _ => Place::Other,
        };
        let mut qdisc = Self { link, at, kind: String::new(), bucket: None };
        for (kind, value) in attrs(message.after(TCMSG_LEN)) {
            match kind {
                TCA_KIND => qdisc.kind = text(value),
                TCA_OPTIONS => qdisc.bucket = bucket(value),
                _ => {}
            }
        }
        qdisc.bucket = qdisc.bucket.filter(|_| qdisc.kind == "tbf");
        Some(qdisc)
    }

    /// Whether it is what [`set_bucket`] makes of a limit.
    #[must_use]
    pub fn limits(&self, limit: &RateLimit) -> bool {
        self.at == Place::Root && self.bucket == Some((limit.bytes(), limit.queue_bytes()))
    }
}

fn bucket(options: &[u8]) -> Option<(u64, u32)> {
    let parms = find(options, TCA_TBF_PARMS)?;
    let low = u32_of(parms.get(8..)?)?;
    // A rate that does not fit 32 bits stands in an attribute of its own.
    let rate = find(options, TCA_TBF_RATE64).and_then(|v| v.first_chunk()).map(|v| u64::from_ne_bytes(*v));
    Some((rate.unwrap_or_else(|| u64::from(low)), u32_of(parms.get(24..)?)?))
}

fn header(link: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, link, handle, parent, info].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Lets a link send no more than `limit`: a token bucket at its root, in place of what is there.
#[must_use]
pub fn set_bucket(link: u32, name: &str, limit: &RateLimit) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let rate = limit.bytes();
    let low = u32::try_from(rate).unwrap_or(u32::MAX);
    // struct tc_tbf_qopt: the rate (12 bytes, its last four the rate itself), no peak rate, limit, buffer, mtu. The
    // buffer, a time, gives way to the burst in bytes.
    let mut parms = vec![0; 36];
    parms[8..12].copy_from_slice(&low.to_ne_bytes());
    parms[24..28].copy_from_slice(&limit.queue_bytes().to_ne_bytes());
    Request::new(libc::RTM_NEWQDISC, flags, format!("limit link {name} to {limit}"))
        .body(&header(link, 0, TC_H_ROOT, 0))
        .text(TCA_KIND, "tbf")
        .nest(TCA_OPTIONS, |r| {
            let r = r.attr(TCA_TBF_PARMS, &parms).u32(TCA_TBF_BURST, limit.burst_bytes());
            if rate >= u64::from(u32::MAX) { r.attr(TCA_TBF_RATE64, &rate.to_ne_bytes()) } else { r }
        })
}

/// Makes the place where what a link receives can be filtered; refused if there is one.
#[must_use]
pub fn add_ingress(link: u32, name: &str) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    Request::new(libc::RTM_NEWQDISC, flags, format!("add ingress qdisc of link {name}"))
        .body(&header(link, INGRESS_HANDLE, TC_H_INGRESS, 0))
        .text(TCA_KIND, "ingress")
}

/// Takes that place away, filters included.
#[must_use]
pub fn delete_ingress(link: u32, name: &str) -> Request {
    Request::new(libc::RTM_DELQDISC, 0, format!("delete ingress qdisc of link {name}")).body(&header(
        link,
        INGRESS_HANDLE,
        TC_H_INGRESS,
        0,
    ))
}

/// Sends everything that a link receives by another link first.
#[must_use]
pub fn redirect(link: u32, name: &str, to: u32) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let info = FILTER_PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
    // struct tc_u32_sel with one key that every packet has: nothing of it is compared.
    let mut every = vec![0; 32];
    every[0] = TC_U32_TERMINAL;
    every[2] = 1;
    // struct tc_mirred: index, capab, action, two counts, direction, link.
    let mirred: Vec<u8> =
        [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Request::new(libc::RTM_NEWTFILTER, flags, format!("redirect what link {name} receives"))
        .body(&header(link, 0, INGRESS_HANDLE, info))
        .text(TCA_KIND, "u32")
        .nest(TCA_OPTIONS, |r| {
            r.attr(TCA_U32_SEL, &every).nest(TCA_U32_ACT, |r| {
                r.nest(1, |r| {
                    r.text(TCA_ACT_KIND, "mirred").nest(TCA_ACT_OPTIONS, |r| r.attr(TCA_MIRRED_PARMS, &mirred))
                })
            })
        })
}

/// Asks for all disciplines (a dump): the kernel gives those of every link.
#[must_use]
pub fn list() -> Request {
    Request::new(libc::RTM_GETQDISC, 0, "list qdiscs").body(&header(0, 0, 0, 0))
}

/// Asks for the filters of what a link receives (a dump).
#[must_use]
pub fn list_ingress_filters(link: u32) -> Request {
    Request::new(libc::RTM_GETTFILTER, 0, "list ingress filters").body(&header(link, 0, INGRESS_HANDLE, 0))
}

/// Whether a filter redirects to a link. Reads `RTM_NEWTFILTER`.
#[must_use]
pub fn redirects_to(filter: &Message, to: u32) -> bool {
    let parms = || {
        let options = find(filter.after(TCMSG_LEN), TCA_OPTIONS)?;
        let first = find(find(options, TCA_U32_ACT)?, 1)?;
        let parms = find(find(first, TCA_ACT_OPTIONS)?, TCA_MIRRED_PARMS)?;
        Some((u32_of(parms.get(20..)?)?, u32_of(parms.get(24..)?)?))
    };
    parms() == Some((TCA_EGRESS_REDIR, to))
}
