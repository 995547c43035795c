//! What a rule of nftables asks of a packet.

use std::collections::BTreeMap;

use overlane_core::family::Family;
use overlane_core::firewall::{Dimension, RangeSet, Span, all_addresses, all_ports, protocol, state};

use super::At;

/// Conditions, all of which have to hold.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) families: Vec<Family>,
    pub(super) spans: BTreeMap<Dimension, Span>,
    /// Whether there is a condition that nobody understood.
    pub(super) opaque: bool,
}

impl Ask {
    pub(super) fn new(families: &[Family]) -> Self {
        Self { families: families.to_vec(), spans: BTreeMap::new(), opaque: false }
    }

    pub(super) fn and(&mut self, dimension: Dimension, span: &Span) {
        let both = self.spans.get(&dimension).map_or_else(|| span.clone(), |before| before.and(span));
        self.spans.insert(dimension, both);
    }

    /// How many ranges it has.
    pub(super) fn size(&self) -> usize {
        self.spans.values().map(|span| span.thinkable().ranges().len()).sum::<usize>() + 1
    }
}

/// What values of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Addresses of a family.
    Address(Family),
    /// Protocols.
    Protocol,
    /// Ports.
    Port,
    /// Types of a family's ICMP.
    Icmp(Family),
    /// States of a flow.
    State,
    /// Names of links.
    Link,
    /// Families.
    Family,
}

impl Kind {
    /// Every value that there is.
    pub(super) fn all(self) -> RangeSet {
        match self {
            Self::Address(family) => all_addresses(family),
            Self::Protocol => RangeSet::range(0, 255),
            Self::Port | Self::Icmp(_) => all_ports(),
            Self::State => RangeSet::range(state::NEW, state::RELATED),
            Self::Link => RangeSet::range(0, 3),
            Self::Family => RangeSet::range(4, 6),
        }
    }
}

/// A field of a packet, and what having it says.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) kind: Kind,
    /// Where its values are; of families nowhere.
    pub(super) dimension: Option<Dimension>,
    /// The family of packets that have it, where that is one.
    pub(super) family: Option<Family>,
    /// Protocols of packets that have it.
    pub(super) protocols: Option<Span>,
}

impl Field {
    const fn new(kind: Kind, dimension: Dimension) -> Self {
        Self { kind, dimension: Some(dimension), family: None, protocols: None }
    }

    /// The field that an expression is, if it is one that is known.
    pub(super) fn of(left: &At<'_>) -> Option<Self> {
        let (what, inner) = left.only()?;
        match what {
            "payload" => Self::payload(inner.text_of("protocol").ok()??, inner.text_of("field").ok()??),
            "meta" => Self::meta(inner.text_of("key").ok()??),
            // A direction beside it would be of an address or a counter.
            "ct" if inner.text_of("key").ok()? == Some("state") => Some(Self::new(Kind::State, Dimension::State)),
            _ => None,
        }
    }

    fn meta(key: &str) -> Option<Self> {
        Some(match key {
            "l4proto" => Self::new(Kind::Protocol, Dimension::Protocol),
            "iifname" | "iif" => Self::new(Kind::Link, Dimension::LinkIn),
            "oifname" | "oif" => Self::new(Kind::Link, Dimension::LinkOut),
            "nfproto" | "protocol" => Self { kind: Kind::Family, dimension: None, family: None, protocols: None },
            _ => return None,
        })
    }

    fn payload(header: &str, field: &str) -> Option<Self> {
        let one = |number: u8| Span::sure(RangeSet::one(number.into()));
        let ports = |protocols: Span| {
            let dimension = if field == "dport" { Dimension::Detail } else { Dimension::SourcePort };
            let known = field == "dport" || field == "sport";
            known.then(|| Self { protocols: Some(protocols), ..Self::new(Kind::Port, dimension) })
        };
        match header {
            "ip" => Self::network(Family::V4, field),
            "ip6" => Self::network(Family::V6, field),
            "tcp" => ports(one(protocol::TCP)),
            "udp" => ports(one(protocol::UDP)),
            "sctp" => ports(one(protocol::SCTP)),
            "dccp" => ports(one(33)),
            "udplite" => ports(one(136)),
            // Two bytes of whatever there is.
            "th" => ports(Span::sure(protocol::with_ports()).or(&Span::perhaps(RangeSet::range(0, 255)))),
            "icmp" => Self::icmp(Family::V4, field),
            "icmpv6" => Self::icmp(Family::V6, field),
            _ => None,
        }
    }

    fn network(family: Family, field: &str) -> Option<Self> {
        let new = match field {
            "saddr" => Self::new(Kind::Address(family), Dimension::Source),
            "daddr" => Self::new(Kind::Address(family), Dimension::Destination),
            "protocol" | "nexthdr" => Self::new(Kind::Protocol, Dimension::Protocol),
            _ => return None,
        };
        Some(Self { family: Some(family), ..new })
    }

    fn icmp(family: Family, field: &str) -> Option<Self> {
        let protocols = Some(Span::sure(RangeSet::one(protocol::icmp(family).into())));
        let new = Self::new(Kind::Icmp(family), Dimension::Detail);
        (field == "type").then_some(Self { family: Some(family), protocols, ..new })
    }
}
