//! Flows that the kernel remembers, forgotten when their address goes: nothing that belonged to a pod that ended may
//! reach the next owner of its address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;
use overlane_core::family::Family;

use crate::netlink::{Message, NetlinkError, Request, Socket, find, ip_of};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const NESTED: u16 = 0x8000;
/// Source and destination of each family, as attributes of a tuple and as bits of a filter.
const ENDS_V4: [(u16, u32); 2] = [(1, 1), (2, 2)];
const ENDS_V6: [(u16, u32); 2] = [(3, 1), (4, 2)];
const HEADER_LEN: usize = 4;
/// Up to so many addresses the kernel looks for each; beyond, reading all entries once is cheaper.
const FILTERED: usize = 2;

/// Deletes every entry that names one of the addresses, as source or destination, before or after translation. Gives
/// how many.
///
/// # Errors
/// The list could not be read whole, or an entry not be deleted for another reason than absence.
pub fn forget(addresses: &[IpAddr]) -> Result<usize, NetlinkError> {
    if addresses.is_empty() {
        return Ok(0);
    }
    let mut socket = Socket::netfilter()?;
    let wanted: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    // By the entry's own number: one entry may be found by several of its ends.
    let mut entries = std::collections::BTreeMap::new();
    for request in requests(&wanted) {
        // The table may hold hundreds of thousands of entries of others.
        let found = socket.dump_some(request, |message| {
            let attributes = message.after(HEADER_LEN);
            let named = names_one(attributes, &wanted).then(|| deletion(&message, attributes)).flatten()?;
            let bytes = |kind| find(attributes, kind).unwrap_or(&[]).to_vec();
            Some(((bytes(CTA_ID), bytes(CTA_TUPLE_ORIG)), named))
        })?;
        entries.extend(found);
    }
    let mut count = 0;
    for answer in socket.batch(entries.into_values().collect())? {
        match answer {
            Ok(()) => count += 1,
            // It ended by itself.
            Err(refused) if refused.errno == Errno::ENOENT => {}
            Err(refused) => return Err(refused.into()),
        }
    }
    Ok(count)
}

fn header(family: Family) -> [u8; HEADER_LEN] {
    [if family == Family::V4 { 2 } else { 10 }, 0, 0, 0]
}

fn requests(wanted: &BTreeSet<IpAddr>) -> Vec<Request> {
    if wanted.len() > FILTERED {
        let families: BTreeSet<_> = wanted.iter().map(Family::of).collect();
        return families.into_iter().map(list).collect();
    }
    wanted.iter().flat_map(list_filtered).collect()
}

fn list(family: Family) -> Request {
    Request::new(GET, 0, format!("list {family} conntrack entries")).body(&header(family))
}

/// One list for each place that an address may have in an entry: a filter's conditions hold together, not each.
fn list_filtered(address: &IpAddr) -> Vec<Request> {
    let family = Family::of(address);
    let ends = if family == Family::V4 { ENDS_V4 } else { ENDS_V6 };
    let mut requests = Vec::with_capacity(4);
    for (tuple, flags_of_tuple) in [(CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS), (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS)]
    {
        for (end, flag) in ends {
            let request = Request::new(GET, 0, format!("list conntrack entries of {address}"))
                .body(&header(family))
                .nest(tuple, |r| r.nest(CTA_TUPLE_IP, |r| r.ip(end, *address)))
                .nest(CTA_FILTER, |r| {
                    let flags = |kind| if kind == flags_of_tuple { flag } else { 0 };
                    r.u32(CTA_FILTER_ORIG_FLAGS, flags(CTA_FILTER_ORIG_FLAGS))
                        .u32(CTA_FILTER_REPLY_FLAGS, flags(CTA_FILTER_REPLY_FLAGS))
                });
            requests.push(request);
        }
    }
    requests
}

/// Looked at again here: a kernel before 5.8 does not filter.
fn names_one(attributes: &[u8], wanted: &BTreeSet<IpAddr>) -> bool {
    let ends = |tuple| {
        let ip = find(attributes, tuple).and_then(|t| find(t, CTA_TUPLE_IP)).unwrap_or(&[]);
        ENDS_V4.into_iter().chain(ENDS_V6).filter_map(move |(end, _)| find(ip, end).and_then(ip_of))
    };
    ends(CTA_TUPLE_ORIG).chain(ends(CTA_TUPLE_REPLY)).any(|address| wanted.contains(&address))
}

/// Deletes exactly this entry: its number tells it from one that took its place.
fn deletion(message: &Message, attributes: &[u8]) -> Option<Request> {
    let tuple = find(attributes, CTA_TUPLE_ORIG)?;
    let mut request = Request::new(DELETE, 0, "delete a conntrack entry")
        .body(message.payload.get(..HEADER_LEN)?)
        .attr(CTA_TUPLE_ORIG | NESTED, tuple);
    for kind in [CTA_ZONE, CTA_ID] {
        if let Some(value) = find(attributes, kind) {
            request = request.attr(kind, value);
        }
    }
    Some(request)
}
