//! Flows that the kernel remembers, forgotten when their address goes: nothing that belonged to a pod that ended may
//! reach the next owner of its address.

mod began;
mod flows;

pub use began::{Began, Heard, ListenError, Listener};
pub use flows::{Doomed, Flow, flows_that};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use overlane_core::cidr::Cidr;

use crate::netlink::{Message, NetlinkError, Request, Socket, find, ip_of};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const TCP: u8 = 6;
const UDP: u8 = 17;
const NESTED: u16 = 0x8000;
/// Source and destination of each family, as attributes of a tuple.
const ENDS: [u16; 4] = [1, 2, 3, 4];
/// Sources and destinations among them.
const ENDS_FROM: [u16; 2] = [1, 3];
const ENDS_TO: [u16; 2] = [2, 4];
const HEADER_LEN: usize = 4;

/// Deletes every entry that names one of the addresses, as source or destination, before or after translation. Gives
/// how many.
///
/// # Errors
/// The list could not be read whole, or an entry not be deleted for another reason than absence.
pub fn forget(addresses: &[IpAddr]) -> Result<usize, NetlinkError> {
    if addresses.is_empty() {
        return Ok(0);
    }
    let wanted: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    delete_those(|attributes| names_one(attributes, &wanted))
}

fn delete_those(is_one: impl Fn(&[u8]) -> bool) -> Result<usize, NetlinkError> {
    let mut socket = Socket::netfilter()?;
    // One walk, whatever the number of addresses: each costs the kernel its whole table (10 ms for 262,144 buckets), with
    // a filter too. The table may hold hundreds of thousands of entries of others.
    let found = socket.dump_some(list(), |message| {
        let attributes = message.after(HEADER_LEN);
        let named = is_one(attributes).then(|| deletion(&message, attributes)).flatten()?;
        let bytes = |kind| find(attributes, kind).unwrap_or(&[]).to_vec();
        Some(((bytes(CTA_ID), bytes(CTA_TUPLE_ORIG)), named))
    })?;
    // By the entry's own number: a list may show one twice.
    let entries: BTreeMap<_, _> = found.into_iter().collect();
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

/// Deletes every entry of UDP whose first packet went to one of these ports of this node (of one of its addresses, if
/// that is given) and was not translated: a port that begins to lead to a pod must not leave old senders with the node.
/// (A connection of TCP ends by itself.) What is sent through the node to such a port elsewhere is none of that. Gives
/// how many.
///
/// # Errors
/// As [`forget`].
pub fn forget_udp_to(ports: &[(Option<IpAddr>, u16)]) -> Result<usize, NetlinkError> {
    if ports.is_empty() {
        return Ok(0);
    }
    let own = crate::node::addresses()?;
    let leads = |ip: IpAddr, port| {
        own.contains(&ip) && ports.iter().any(|(bound, led)| *led == port && bound.is_none_or(|bound| bound == ip))
    };
    let to_one = |attributes: &[u8]| {
        let proto = find(attributes, CTA_TUPLE_ORIG).and_then(|tuple| find(tuple, CTA_TUPLE_PROTO)).unwrap_or(&[]);
        let is_udp = find(proto, CTA_PROTO_NUM).is_some_and(|number| number == [UDP]);
        let port = find(proto, CTA_PROTO_DST_PORT).and_then(|port| port.try_into().ok()).map(u16::from_be_bytes);
        let ip = |tuple| find(attributes, tuple).and_then(|t| find(t, CTA_TUPLE_IP)).unwrap_or(&[]);
        // Who answers is who was asked.
        let asked = ENDS_TO.iter().find_map(|end| find(ip(CTA_TUPLE_ORIG), *end));
        let answers = ENDS_FROM.iter().find_map(|end| find(ip(CTA_TUPLE_REPLY), *end));
        let to = asked.and_then(ip_of).zip(port);
        is_udp && asked == answers && to.is_some_and(|(ip, port)| leads(ip, port))
    };
    delete_those(to_one)
}

/// Whether an address is in one of `networks`, of which none lies in another.
fn is_in(networks: &BTreeSet<Cidr>, ip: IpAddr) -> bool {
    let before = networks.range(..=Cidr::host_range(ip)).next_back();
    before.is_some_and(|network| network.contains(ip))
}

/// Deletes every entry of a flow that began in one of the `sources` and is answered from an address that is `doomed`. Gives
/// how many.
fn forget_answered(sources: &[Cidr], doomed: impl Fn(IpAddr) -> bool) -> Result<usize, NetlinkError> {
    delete_those(|attributes| {
        let end = |tuple, ends: &[u16]| {
            let ip = find(attributes, tuple).and_then(|t| find(t, CTA_TUPLE_IP)).unwrap_or(&[]);
            ends.iter().find_map(|end| find(ip, *end)).and_then(ip_of)
        };
        let from = end(CTA_TUPLE_ORIG, &ENDS_FROM);
        let answers = end(CTA_TUPLE_REPLY, &ENDS_FROM);
        from.is_some_and(|ip| sources.iter().any(|source| source.contains(ip))) && answers.is_some_and(&doomed)
    })
}

/// Deletes every entry of a flow that began in one of the `sources` and is answered from outside of `inside`, of which none
/// lies in another. Gives how many.
///
/// # Errors
/// As [`forget`].
pub fn forget_from(sources: &[Cidr], inside: &BTreeSet<Cidr>) -> Result<usize, NetlinkError> {
    forget_answered(sources, |ip| !is_in(inside, ip))
}

/// Deletes every entry of a flow that began in one of the `sources` and is answered from one of `networks`, of which none
/// lies in another. Gives how many.
///
/// # Errors
/// As [`forget`].
pub fn forget_to(sources: &[Cidr], networks: &BTreeSet<Cidr>) -> Result<usize, NetlinkError> {
    if networks.is_empty() {
        return Ok(0);
    }
    forget_answered(sources, |ip| is_in(networks, ip))
}

/// Where most flows go that take their ports from one address of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busiest {
    /// Whom they go to.
    pub to: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// How many there are: each holds a port of its own.
    pub flows: u32,
}

/// The busiest destination of flows that began in one of the `sources` and were translated to one of `addresses`, for each family and each of TCP and UDP
/// that has any.
///
/// # Errors
/// The list could not be read whole.
pub fn busiest(sources: &[Cidr], addresses: &BTreeSet<IpAddr>) -> Result<Vec<Busiest>, NetlinkError> {
    let found =
        Socket::netfilter()?.dump_some(list(), |message| translated(message.after(HEADER_LEN), sources, addresses))?;
    let mut flows: HashMap<(IpAddr, SocketAddr, u8), u32> = HashMap::new();
    for key in found {
        *flows.entry(key).or_default() += 1;
    }
    let mut most: BTreeMap<(bool, u8), Busiest> = BTreeMap::new();
    for ((_, to, protocol), flows) in flows {
        let best = most.entry((to.is_ipv4(), protocol)).or_insert(Busiest { to, protocol, flows });
        // Of two with as many the same one is named each time.
        if (best.flows, to) < (flows, best.to) {
            *best = Busiest { to, protocol, flows };
        }
    }
    Ok(most.into_values().collect())
}

/// The address that a flow was translated to, if it is one of `addresses`, whom it goes to, and its protocol.
fn translated(attributes: &[u8], sources: &[Cidr], addresses: &BTreeSet<IpAddr>) -> Option<(IpAddr, SocketAddr, u8)> {
    let (asks, answers) = (find(attributes, CTA_TUPLE_ORIG)?, find(attributes, CTA_TUPLE_REPLY)?);
    let end = |tuple, ends: &[u16]| {
        let ip = find(tuple, CTA_TUPLE_IP)?;
        ends.iter().find_map(|end| find(ip, *end)).and_then(ip_of)
    };
    let from = end(answers, &ENDS_TO)?;
    let began = end(asks, &ENDS_FROM)?;
    if !addresses.contains(&from) || !sources.iter().any(|source| source.contains(began)) {
        return None;
    }
    let proto = find(answers, CTA_TUPLE_PROTO)?;
    let protocol = *find(proto, CTA_PROTO_NUM)?.first()?;
    let port = find(proto, CTA_PROTO_SRC_PORT)?.try_into().ok().map(u16::from_be_bytes)?;
    let to = SocketAddr::new(end(answers, &ENDS_FROM)?, port);
    matches!(protocol, TCP | UDP).then_some((from, to, protocol))
}

/// Both families.
fn list() -> Request {
    const AF_UNSPEC: u8 = 0;
    Request::new(GET, 0, "list conntrack entries").body(&[AF_UNSPEC, 0, 0, 0])
}

fn names_one(attributes: &[u8], wanted: &BTreeSet<IpAddr>) -> bool {
    let ends = |tuple| {
        let ip = find(attributes, tuple).and_then(|t| find(t, CTA_TUPLE_IP)).unwrap_or(&[]);
        ENDS.into_iter().filter_map(move |end| find(ip, end).and_then(ip_of))
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
