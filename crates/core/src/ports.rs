//! Ports of a node that lead to a pod: what a pod asks for, and when two may not have the same.

use std::fmt;
use std::net::IpAddr;

use crate::family::Family;

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number (IANA, "Protocol Numbers").
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the node that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The node's address that it is bound to; none means all. An unspecified one (`0.0.0.0`, `::`) means all of its
    /// family.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's.
    pub pod_port: u16,
}

impl PortMapping {
    /// Whether it is for packets of this family.
    #[must_use]
    pub fn is_for(&self, family: Family) -> bool {
        self.host_ip.is_none_or(|ip| Family::of(&ip) == family)
    }

    /// The one address that it is bound to.
    #[must_use]
    pub fn bound_to(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    /// Whether a packet could be for both. One that is bound to an address goes before one that is bound to all, so
    /// these two may be beside each other (as the scheduler has it that puts pods beside each other only if their host
    /// addresses differ, and takes an unspecified one for all).
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        let family = |f| self.is_for(f) && other.is_for(f);
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && self.bound_to() == other.bound_to()
            && (family(Family::V4) || family(Family::V6))
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bound_to() {
            Some(ip) => write!(f, "{}/{} of {ip}", self.host_port, self.protocol),
            None => write!(f, "{}/{}", self.host_port, self.protocol),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: two pods on one port of one address; a pod refused for a port that is another's on another address.

    use super::*;

    fn port(protocol: Protocol, ip: &str, host_port: u16) -> PortMapping {
        PortMapping { protocol, host_ip: ip.parse().ok(), host_port, pod_port: 80 }
    }

    #[test]
    fn ports_collide_on_one_address_alone() {
        let tcp = |ip| port(Protocol::Tcp, ip, 8080);
        for (one, other, collide) in [
            (tcp(""), tcp(""), true),
            (tcp("10.0.0.1"), tcp("10.0.0.1"), true),
            (tcp("10.0.0.1"), tcp("127.0.0.1"), false),
            (tcp("10.0.0.1"), tcp(""), false),
            (tcp("0.0.0.0"), tcp(""), true),
            (tcp("0.0.0.0"), tcp("::"), false),
            (tcp(""), port(Protocol::Udp, "", 8080), false),
            (tcp(""), port(Protocol::Tcp, "", 8081), false),
        ] {
            assert_eq!(one.collides(&other), collide, "{one} and {other}");
            assert_eq!(other.collides(&one), collide, "{other} and {one}");
        }
    }
}
