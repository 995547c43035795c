//! The space of packets that rules divide: what a packet has of each dimension.

use std::net::IpAddr;
use std::rc::Rc;

use super::set::RangeSet;
use crate::cidr::Cidr;
use crate::family::Family;

/// Something of a packet that rules ask for. Each value of it is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// The protocol's number (IANA, "Protocol Numbers").
    Protocol,
    /// The port at the source; 0 of what has none.
    SourcePort,
    /// The port at the destination; of ICMP type and code, as [`icmp`] has them; 0 of what has neither.
    Detail,
    /// What is known of the packet's flow: one of [`state`].
    State,
    /// The link that it came by: one of [`link`].
    LinkIn,
    /// The link that it goes to: one of [`link`].
    LinkOut,
}

impl Dimension {
    /// All, in the order in which a space is divided.
    pub const ALL: [Self; 8] = [
        Self::State,
        Self::LinkIn,
        Self::LinkOut,
        Self::Source,
        Self::Destination,
        Self::Protocol,
        Self::Detail,
        Self::SourcePort,
    ];
}

/// What a packet filter that keeps track of flows knows of one.
pub mod state {
    /// The packet is the first of its flow.
    pub const NEW: u128 = 0;
    /// The flow is known.
    pub const ESTABLISHED: u128 = 1;
    /// The packet is an error about a flow that is known.
    pub const RELATED: u128 = 2;
}

/// What a link of a node is for.
pub mod link {
    /// There is none: a packet of the node's own, or for it.
    pub const NONE: u128 = 0;
    /// The link to other nodes.
    pub const UNDERLAY: u128 = 1;
    /// A pod's.
    pub const POD: u128 = 2;
    /// The tunnel's.
    pub const TUNNEL: u128 = 3;
}

/// Protocols by number.
pub mod protocol {
    use super::RangeSet;
    use crate::family::Family;

    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP of IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;

    /// Those that have ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
    pub const WITH_PORTS: [u8; 5] = [TCP, UDP, 33, SCTP, 136];

    /// A family's ICMP.
    #[must_use]
    pub const fn icmp(family: Family) -> u8 {
        match family {
            Family::V4 => ICMP,
            Family::V6 => ICMPV6,
        }
    }

    /// Those that have ports, as a set.
    #[must_use]
    pub fn with_ports() -> RangeSet {
        WITH_PORTS.iter().map(|number| (u128::from(*number), u128::from(*number))).collect()
    }

    /// Every protocol that a family's packets have: the other one's ICMP is none.
    #[must_use]
    pub fn all(family: Family) -> RangeSet {
        let other = match family {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        };
        RangeSet::range(0, 255).without(&RangeSet::one(u128::from(icmp(other))))
    }
}

/// All that 16 bits hold: every port, every type and code.
#[must_use]
pub fn all_ports() -> RangeSet {
    RangeSet::range(0, u128::from(u16::MAX))
}

/// The numbers of an ICMP type, with one code or all.
#[must_use]
pub fn icmp(kind: u8, code: Option<u8>) -> RangeSet {
    let first = u128::from(kind) << 8;
    match code {
        Some(code) => RangeSet::one(first | u128::from(code)),
        None => RangeSet::range(first, first | 0xff),
    }
}

/// An address as a number.
#[must_use]
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// A network's addresses.
#[must_use]
pub fn addresses(cidr: Cidr) -> RangeSet {
    RangeSet::range(number(cidr.network()), number(cidr.last()))
}

/// All addresses of a family.
#[must_use]
pub fn all_addresses(family: Family) -> RangeSet {
    addresses(Cidr::everything(family))
}

/// Packets: every one that has one of the values of each dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    source: Rc<RangeSet>,
    destination: Rc<RangeSet>,
    protocol: Rc<RangeSet>,
    source_port: Rc<RangeSet>,
    detail: Rc<RangeSet>,
    state: Rc<RangeSet>,
    link_in: Rc<RangeSet>,
    link_out: Rc<RangeSet>,
}

impl Default for Space {
    /// Of each dimension everything.
    fn default() -> Self {
        let all = Rc::new(RangeSet::range(0, u128::MAX));
        Self {
            source: all.clone(),
            destination: all.clone(),
            protocol: all.clone(),
            source_port: all.clone(),
            detail: all.clone(),
            state: all.clone(),
            link_in: all.clone(),
            link_out: all,
        }
    }
}

impl Space {
    /// What there is of a dimension.
    #[must_use]
    pub fn of(&self, dimension: Dimension) -> &RangeSet {
        match dimension {
            Dimension::Source => &self.source,
            Dimension::Destination => &self.destination,
            Dimension::Protocol => &self.protocol,
            Dimension::SourcePort => &self.source_port,
            Dimension::Detail => &self.detail,
            Dimension::State => &self.state,
            Dimension::LinkIn => &self.link_in,
            Dimension::LinkOut => &self.link_out,
        }
    }

    /// The same with something else of one dimension.
    #[must_use]
    pub fn with(mut self, dimension: Dimension, set: RangeSet) -> Self {
        let place = match dimension {
            Dimension::Source => &mut self.source,
            Dimension::Destination => &mut self.destination,
            Dimension::Protocol => &mut self.protocol,
            Dimension::SourcePort => &mut self.source_port,
            Dimension::Detail => &mut self.detail,
            Dimension::State => &mut self.state,
            Dimension::LinkIn => &mut self.link_in,
            Dimension::LinkOut => &mut self.link_out,
        };
        *place = Rc::new(set);
        self
    }
}
