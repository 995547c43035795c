//! Routes.

use std::net::IpAddr;

use nix::libc;
use overlane_core::cidr::Cidr;

use super::number;
use crate::netlink::{Message, Request, attrs, ip_of, u16_of, u32_of};
use crate::owned;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_ENCAP_TYPE: u16 = 21;
const RTA_ENCAP: u16 = 22;
const LWTUNNEL_ENCAP_IP: u16 = 2;
const LWTUNNEL_ENCAP_IP6: u16 = 4;
/// The same numbers in both families: identifier, destination, source, flags.
const LWTUNNEL_IP_ID: u16 = 1;
const LWTUNNEL_IP_DST: u16 = 2;
const LWTUNNEL_IP_SRC: u16 = 3;
const LWTUNNEL_IP_FLAGS: u16 = 6;
/// The outer UDP checksum is filled in.
const TUNNEL_CSUM: u16 = 1;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_UNREACHABLE: u8 = 7;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
const RTNH_F_ONLINK: u32 = 4;
/// `LOOPBACK_IFINDEX` of net/flow.h: `lo` of every namespace.
const LOOPBACK: u32 = 1;
const HEADER_LEN: usize = 12;

/// What becomes of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// Out of a link, to the destination itself.
    Link {
        /// The link.
        index: u32,
    },
    /// To a gateway on a link.
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The link.
        index: u32,
        /// The gateway is taken to be on the link whatever the routes say.
        onlink: bool,
    },
    /// Into a tunnel link, with the outer addresses (lightweight encapsulation).
    Tunnel {
        /// The tunnel link.
        index: u32,
        /// The far endpoint, as a neighbour on that link.
        gateway: IpAddr,
        /// The tunnel's identifier.
        vni: u32,
        /// The outer source.
        from: IpAddr,
        /// The outer destination.
        to: IpAddr,
    },
    /// To this machine itself.
    Local,
    /// Answered with "unreachable".
    Unreachable,
    /// Something that we never make (several hops, blackhole, ...).
    Other,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The table.
    pub table: u32,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
    /// The destination.
    pub destination: Cidr,
    /// What becomes of the packets.
    pub hop: Hop,
    /// The source address that this machine itself uses.
    pub prefsrc: Option<IpAddr>,
    /// Less is preferred. The kernel makes 1024 of 0 for IPv6.
    pub metric: u32,
}

impl Route {
    /// Reads `RTM_NEWROUTE` or `RTM_DELROUTE`.
    #[must_use]
    pub fn read(message: &Message) -> Option<Self> {
        let [family, dst_len, _, _, table, protocol, _, kind] = *message.payload.first_chunk()?;
        let flags = u32_of(message.payload.get(8..)?)?;
        let mut route = Raw { table: u32::from(table), ..Raw::default() };
        for (attr, value) in attrs(message.after(HEADER_LEN)) {
            route.take(attr, value);
        }
        let unspecified = if family == 2 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let hop = match (kind, route.gateway, route.oif) {
            (RTN_UNREACHABLE, ..) => Hop::Unreachable,
            (RTN_LOCAL, ..) if !route.other => Hop::Local,
            _ if route.other || kind != RTN_UNICAST => Hop::Other,
            (_, Some(gateway), Some(index)) if route.encap_type != 0 => route.tunnel(index, gateway),
            _ if route.encap_type != 0 => Hop::Other,
            (_, Some(gateway), Some(index)) => Hop::Gateway { gateway, index, onlink: flags & RTNH_F_ONLINK != 0 },
            (_, None, Some(index)) => Hop::Link { index },
            _ => Hop::Other,
        };
        Some(Self {
            table: route.table,
            protocol,
            destination: Cidr::around(route.dst.unwrap_or(unspecified), dst_len).ok()?,
            hop,
            prefsrc: route.prefsrc,
            metric: route.metric,
        })
    }

    fn put(&self, request: Request, scope: u8) -> Request {
        let (kind, flags) = match self.hop {
            Hop::Unreachable | Hop::Other => (RTN_UNREACHABLE, 0),
            Hop::Local => (RTN_LOCAL, 0),
            Hop::Gateway { onlink: true, .. } | Hop::Tunnel { .. } => (RTN_UNICAST, RTNH_F_ONLINK),
            Hop::Gateway { .. } | Hop::Link { .. } => (RTN_UNICAST, 0),
        };
        let family = number(self.destination.family());
        let mut header = [family, self.destination.prefix_len(), 0, 0, 0, self.protocol, scope, kind, 0, 0, 0, 0];
        header[8..12].copy_from_slice(&flags.to_ne_bytes());
        let mut request = request
            .body(&header)
            .u32(RTA_TABLE, self.table)
            .ip(RTA_DST, self.destination.network())
            .u32(RTA_PRIORITY, self.metric);
        if let Hop::Gateway { gateway, .. } | Hop::Tunnel { gateway, .. } = self.hop {
            request = request.ip(RTA_GATEWAY, gateway);
        }
        if let Hop::Gateway { index, .. } | Hop::Link { index } | Hop::Tunnel { index, .. } = self.hop {
            request = request.u32(RTA_OIF, index);
        }
        if self.hop == Hop::Local {
            request = request.u32(RTA_OIF, LOOPBACK);
        }
        if let Hop::Tunnel { vni, from, to, .. } = self.hop {
            request = encap(request, vni, from, to);
        }
        match self.prefsrc {
            Some(prefsrc) => request.ip(RTA_PREFSRC, prefsrc),
            None => request,
        }
    }

    fn words(&self) -> String {
        let Self { destination, table, .. } = self;
        match self.hop {
            Hop::Link { index } => format!("route {destination} dev #{index} table {table}"),
            Hop::Gateway { gateway, index, .. } => {
                format!("route {destination} via {gateway} dev #{index} table {table}")
            }
            Hop::Tunnel { to, index, .. } => {
                format!("route {destination} in the tunnel to {to} dev #{index} table {table}")
            }
            Hop::Local => format!("route local {destination} table {table}"),
            Hop::Unreachable | Hop::Other => format!("route unreachable {destination} table {table}"),
        }
    }

    /// Whether it is one of ours on a node.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        owned::is_route(self.table, self.protocol, self.metric)
    }

    /// Writes the route; refused if there is one with the same destination, metric and table.
    #[must_use]
    pub fn add(&self) -> Request {
        self.write(libc::NLM_F_EXCL)
    }

    /// Writes the route, over one with the same destination, metric and table.
    #[must_use]
    pub fn set(&self) -> Request {
        self.write(libc::NLM_F_REPLACE)
    }

    fn write(&self, how: i32) -> Request {
        let scope = match self.hop {
            // The kernel wants it so for IPv4 destinations that are on the link; IPv6 has no scopes.
            Hop::Link { .. } => RT_SCOPE_LINK,
            Hop::Local => RT_SCOPE_HOST,
            _ => RT_SCOPE_UNIVERSE,
        };
        self.put(Request::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | how, format!("add {}", self.words())), scope)
    }

    /// Removes exactly this route.
    #[must_use]
    pub fn delete(&self) -> Request {
        const RT_SCOPE_NOWHERE: u8 = 255;
        self.put(Request::new(libc::RTM_DELROUTE, 0, format!("delete {}", self.words())), RT_SCOPE_NOWHERE)
    }
}

/// The outer header of packets of a route. Over IPv4 the outer checksum is left out, as RFC 7348 (section 5) has it;
/// over IPv6 it is there (RFC 8200, section 8.1).
fn encap(request: Request, vni: u32, from: IpAddr, to: IpAddr) -> Request {
    let v6 = to.is_ipv6();
    let kind = if v6 { LWTUNNEL_ENCAP_IP6 } else { LWTUNNEL_ENCAP_IP };
    let request = request.attr(RTA_ENCAP_TYPE, &kind.to_ne_bytes());
    request.nest(RTA_ENCAP, |r| {
        let r = r.attr(LWTUNNEL_IP_ID, &u64::from(vni).to_be_bytes()).ip(LWTUNNEL_IP_DST, to).ip(LWTUNNEL_IP_SRC, from);
        if v6 { r.attr(LWTUNNEL_IP_FLAGS, &TUNNEL_CSUM.to_be_bytes()) } else { r }
    })
}

#[derive(Default)]
struct Raw {
    table: u32,
    dst: Option<IpAddr>,
    gateway: Option<IpAddr>,
    oif: Option<u32>,
    prefsrc: Option<IpAddr>,
    metric: u32,
    encap_type: u16,
    encap: Encap,
    other: bool,
}

#[derive(Default)]
struct Encap {
    vni: Option<u32>,
    from: Option<IpAddr>,
    to: Option<IpAddr>,
    flags: u16,
}

impl Encap {
    fn read(value: &[u8]) -> Self {
        let mut encap = Self::default();
        for (attr, value) in attrs(value) {
            match attr {
                LWTUNNEL_IP_ID => {
                    encap.vni = value.try_into().ok().map(u64::from_be_bytes).and_then(|id| id.try_into().ok());
                }
                LWTUNNEL_IP_DST => encap.to = ip_of(value),
                LWTUNNEL_IP_SRC => encap.from = ip_of(value),
                LWTUNNEL_IP_FLAGS => encap.flags = value.try_into().map(u16::from_be_bytes).unwrap_or_default(),
                _ => {}
            }
        }
        encap
    }
}

impl Raw {
    fn take(&mut self, attr: u16, value: &[u8]) {
        match attr {
            RTA_DST => self.dst = ip_of(value),
            RTA_GATEWAY => self.gateway = ip_of(value),
            RTA_OIF => self.oif = u32_of(value),
            RTA_PREFSRC => self.prefsrc = ip_of(value),
            RTA_PRIORITY => self.metric = u32_of(value).unwrap_or(0),
            RTA_TABLE => self.table = u32_of(value).unwrap_or(self.table),
            RTA_ENCAP_TYPE => self.encap_type = u16_of(value).unwrap_or(u16::MAX),
            RTA_ENCAP => self.encap = Encap::read(value),
            RTA_MULTIPATH | RTA_VIA => self.other = true,
            _ => {}
        }
    }
}

impl Raw {
    /// A route into a tunnel as [`encap`] makes it; another's is something that we never make.
    fn tunnel(&self, index: u32, gateway: IpAddr) -> Hop {
        let Encap { vni: Some(vni), from: Some(from), to: Some(to), flags } = self.encap else { return Hop::Other };
        let kind = if to.is_ipv6() { LWTUNNEL_ENCAP_IP6 } else { LWTUNNEL_ENCAP_IP };
        let checksum = flags & TUNNEL_CSUM != 0;
        if self.encap_type != kind || checksum != to.is_ipv6() {
            return Hop::Other;
        }
        Hop::Tunnel { index, gateway, vni, from, to }
    }
}

/// Asks which route a packet to `address` takes (see [`is_local`]).
#[must_use]
pub fn look_up(address: IpAddr) -> Request {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let header = [super::family_of(&address), bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Request::new(libc::RTM_GETROUTE, 0, format!("look up the route to {address}")).body(&header).ip(RTA_DST, address)
}

/// Asks for a route that encapsulates, by a link that cannot be: a kernel without such routes says so before it looks.
#[must_use]
pub fn encapsulating_nowhere() -> Request {
    let documentation = IpAddr::from([192, 0, 2, 1]);
    let hop = Hop::Tunnel {
        index: i32::MAX.cast_unsigned(),
        gateway: documentation,
        vni: 1,
        from: documentation,
        to: documentation,
    };
    Route {
        table: owned::ROUTE_TABLE,
        protocol: owned::PROTOCOL,
        destination: Cidr::host_range(documentation),
        hop,
        prefsrc: None,
        metric: owned::METRIC,
    }
    .add()
}

/// Whether the route in an answer leads to this machine itself.
#[must_use]
pub fn is_local(message: &Message) -> bool {
    message.kind == libc::RTM_NEWROUTE && message.payload.get(7) == Some(&RTN_LOCAL)
}

/// Asks for a table's routes made by `protocol`, out of link `index` if that is not 0 (a dump; the kernel filters).
#[must_use]
pub fn list(family: overlane_core::family::Family, table: u32, protocol: u8, index: u32) -> Request {
    let header = [number(family), 0, 0, 0, 0, protocol, 0, 0, 0, 0, 0, 0];
    let request = Request::new(libc::RTM_GETROUTE, 0, format!("list {family} routes of table {table}"))
        .body(&header)
        .u32(RTA_TABLE, table);
    if index == 0 { request } else { request.u32(RTA_OIF, index) }
}

/// Asks for all of a family's routes made by `protocol` (0: by anybody), in any table (a dump).
#[must_use]
pub fn list_everywhere(family: overlane_core::family::Family, protocol: u8) -> Request {
    let header = [number(family), 0, 0, 0, 0, protocol, 0, 0, 0, 0, 0, 0];
    Request::new(libc::RTM_GETROUTE, 0, format!("list {family} routes")).body(&header)
}
