//! Packets of a space in words.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::space::{Dimension, Space, link, protocol, state};
use super::{Flow, RangeSet};
use crate::cidr::Cidr;
use crate::family::Family;

/// Most networks that are named for one end.
const MOST_NETWORKS: usize = 2;

/// Packets that something holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Networks that they come from, and whether there are more.
    pub sources: (Vec<Cidr>, bool),
    /// Networks that they go to, and whether there are more.
    pub destinations: (Vec<Cidr>, bool),
    /// Their protocols and ports: `all protocols`, `tcp 22, 80-90`, `icmp type 8`.
    pub traffic: String,
}

impl Example {
    /// Out of spaces of a flow: the first, with what of the others is alike but for the protocol.
    pub(super) fn of(flow: &Flow, spaces: &[Space]) -> Self {
        let whole = |space: &Space| is_whole(flow, space);
        let (Some(first), rest) = (spaces.iter().find(|space| whole(space)).or_else(|| spaces.first()), spaces) else {
            return Self { sources: (vec![], false), destinations: (vec![], false), traffic: String::new() };
        };
        let ends = |space: &Space| (space.of(Dimension::Source).clone(), space.of(Dimension::Destination).clone());
        let mut protocols = first.of(Dimension::Protocol).clone();
        if whole(first) {
            let alike = rest.iter().filter(|space| whole(space) && ends(space) == ends(first));
            protocols = alike.fold(protocols, |all, space| all.or(space.of(Dimension::Protocol)));
        }
        let (sources, destinations) = ends(first);
        Self {
            sources: networks(flow.family(), &sources),
            destinations: networks(flow.family(), &destinations),
            traffic: traffic(flow, first, &protocols),
        }
    }
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}, {}", list(&self.sources), list(&self.destinations), self.traffic)
    }
}

fn list((networks, more): &(Vec<Cidr>, bool)) -> String {
    let mut text = networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if *more {
        text.push_str(", ...");
    }
    text
}

/// Whether a space has all of its protocols that the flow has.
fn is_whole(flow: &Flow, space: &Space) -> bool {
    flow.spaces().iter().any(|all| {
        all.of(Dimension::Protocol).covers(space.of(Dimension::Protocol))
            && all.of(Dimension::SourcePort) == space.of(Dimension::SourcePort)
            && all.of(Dimension::Detail) == space.of(Dimension::Detail)
    })
}

/// The largest networks at the beginning of a set.
fn networks(family: Family, set: &RangeSet) -> (Vec<Cidr>, bool) {
    let mut found = Vec::new();
    for (first, last) in set.ranges() {
        let mut next = Some(*first);
        while let Some(start) = next.filter(|start| start <= last) {
            let Some(cidr) = largest(family, start, *last) else { break };
            if found.len() == MOST_NETWORKS {
                return (found, true);
            }
            found.push(cidr);
            next = super::number(cidr.last()).checked_add(1);
        }
    }
    (found, false)
}

/// The largest network that begins there and does not end later.
fn largest(family: Family, start: u128, last: u128) -> Option<Cidr> {
    let address = address(family, start)?;
    (0..=family.bits()).find_map(|length| {
        let cidr = Cidr::new(address, length).ok()?;
        (super::number(cidr.last()) <= last).then_some(cidr)
    })
}

fn address(family: Family, number: u128) -> Option<IpAddr> {
    Some(match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).ok()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    })
}

fn traffic(flow: &Flow, space: &Space, protocols: &RangeSet) -> String {
    if *protocols == protocol::all(flow.family()) {
        return "all protocols".to_owned() + &states(flow, space);
    }
    let mut text = ranges(protocols, &|number| u8::try_from(number).map_or_else(|_| number.to_string(), protocol_name));
    if !is_whole(flow, space) {
        let details = space.of(Dimension::Detail);
        if *protocols == RangeSet::one(u128::from(protocol::icmp(flow.family()))) {
            text.push_str(&format!(" type {}", ranges(details, &icmp_type)));
        } else if *details != super::all_ports() {
            text.push_str(&format!(" port {}", ranges(details, &|port| port.to_string())));
        }
        let sources = space.of(Dimension::SourcePort);
        if *sources != super::all_ports() && *sources != RangeSet::one(0) {
            text.push_str(&format!(" from port {}", ranges(sources, &|port| port.to_string())));
        }
    } else if let super::Traffic::Udp(port) = flow.traffic {
        text.push_str(&format!(" port {port}"));
    }
    text + &states(flow, space)
}

/// What sets packets apart by the state of their flow and by links, where that does.
fn states(flow: &Flow, space: &Space) -> String {
    let mut text = String::new();
    for (dimension, before) in [(Dimension::State, "state"), (Dimension::LinkIn, "from"), (Dimension::LinkOut, "to")] {
        let set = space.of(dimension);
        if flow.spaces().first().is_none_or(|all| all.of(dimension) != set) {
            let names = (0..=3).filter(|number| set.contains(*number)).map(|number| name(dimension, number));
            text.push_str(&format!(", {before} {}", names.collect::<Vec<_>>().join(" or ")));
        }
    }
    text
}

fn name(dimension: Dimension, number: u128) -> &'static str {
    match (dimension, number) {
        (Dimension::State, state::NEW) => "new",
        (Dimension::State, state::ESTABLISHED) => "established",
        (Dimension::State, _) => "related",
        (_, link::UNDERLAY) => "the underlay",
        (_, link::POD) => "a pod's link",
        (_, link::TUNNEL) => "the tunnel",
        _ => "no link",
    }
}

fn icmp_type(number: u128) -> String {
    match (number >> 8, number & 0xff) {
        (kind, 0 | 0xff) => kind.to_string(),
        (kind, code) => format!("{kind} code {code}"),
    }
}

/// Ranges as `1-4, 7, ...`, four at most.
fn ranges(set: &RangeSet, name: &dyn Fn(u128) -> String) -> String {
    const MOST: usize = 4;
    let one = |(first, last): &(u128, u128)| {
        let (first, last) = (name(*first), name(*last));
        if first == last { first } else { format!("{first}-{last}") }
    };
    let mut parts: Vec<String> = set.ranges().iter().take(MOST).map(one).collect();
    if set.ranges().len() > MOST {
        parts.push("...".to_owned());
    }
    parts.join(", ")
}

/// A protocol's name, or its number where it has none that people know.
#[must_use]
pub fn protocol_name(number: u8) -> String {
    let name = match number {
        1 => "icmp",
        4 => "ipip",
        6 => "tcp",
        17 => "udp",
        33 => "dccp",
        41 => "ipv6",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        58 => "icmpv6",
        132 => "sctp",
        136 => "udplite",
        other => return other.to_string(),
    };
    name.to_owned()
}
