//! Membership of the packet filter's sets: what an element is, as nft text and as the kernel's key.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::plan::{NodePlan, PodElement, PodMember, PortMember, TunnelPeer, TunnelSender};

use super::policy::{PolicySet, Way};
use crate::mac::{self, Mac};

/// The Ethernet source inside of a VXLAN packet, from the outer UDP header on: behind that (8 bytes), VXLAN's own (8) and
/// the Ethernet destination (6).
pub const INNER_SOURCE: &str = "@th,176,48";

/// One element of one set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// What a pod may send from.
    Pod(PodMember),
    /// Another node's address, and its Ethernet address.
    Node(IpAddr, Mac),
    /// The same where the Ethernet address is not known.
    NodeAnyMac(IpAddr),
    /// What another node's pods may come from, and the node's Ethernet address.
    Peer(Cidr, Mac),
    /// The same where the Ethernet address is not known.
    PeerAnyMac(Cidr),
    /// Sources that are masqueraded.
    MasqueradeSource(Cidr),
    /// Destinations that are not masqueraded.
    MasqueradeExcept(Cidr),
    /// Destinations that are inside of the cluster.
    Inside(Cidr),
    /// A pod that is known to leave by gateways or not.
    Decided(IpAddr),
    /// A pod that leaves by the gateway slot of this number.
    Exit(u8, IpAddr),
    /// A node that answers from outside may come from in the tunnel.
    Gateway(IpAddr),
    /// A node that the tunnel leads to.
    Outer(IpAddr),
    /// A port of the node that leads to a pod.
    Port(PortMember),
    /// A pod that a port leads to, as source and destination: it may call itself by that port.
    Hairpin(IpAddr),
    /// What may come from links of other plugins.
    Delegated(IpAddr),
    /// What may come out of the tunnel: addresses of this block, from that endpoint.
    Tunnel(TunnelPeer),
    /// Who may send in the tunnel.
    Vtep(TunnelSender),
    /// What another node's own packets bear in the tunnel, and the node's address, which pods see.
    NodeName(IpAddr, IpAddr),
}

/// A set. Its name is what [`std::fmt::Display`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// Destinations that are not masqueraded: ranges.
    MasqueradeExcept(Family),
    /// Sources that are masqueraded: ranges.
    MasqueradeSource(Family),
    /// Other nodes: address, Ethernet address.
    Node(Family),
    /// Other nodes whose Ethernet address is not known.
    NodeAnyMac(Family),
    /// Peers with blocks of this length: first address of the block, Ethernet address.
    Peer(Family, u8),
    /// Peers whose Ethernet address is not known: ranges.
    PeerAnyMac(Family),
    /// This node's pods: link, Ethernet address, address.
    Pod(Family),
    /// Ports bound to one address of the node: address, protocol, port; with pod's address and port.
    Port(Family),
    /// Ports of all addresses of the node: protocol, port; with pod's address and port.
    PortAny(Family),
    /// Pods that ports lead to: address, the same address.
    Hairpin(Family),
    /// Pods behind other plugins' links.
    Delegated(Family),
    /// Peers in the tunnel with blocks of this length: first address of the block, the endpoint's Ethernet address.
    Tunnel(Family, u8),
    /// Outer source address, its Ethernet address, and the Ethernet source inside.
    Vtep(Family),
    /// The same where the outer Ethernet address is not known.
    VtepAnyMac(Family),
    /// Nodes in the tunnel: what their packets bear, with the node's address.
    NodeName(Family),
    /// Destinations that are inside of the cluster: ranges.
    Inside(Family),
    /// Pods that are known to leave by gateways or not.
    Decided(Family),
    /// Pods that leave by the gateway slot of this number.
    Exit(Family, u8),
    /// Nodes that answers from outside may come from in the tunnel.
    Gateway(Family),
    /// Nodes that the tunnel leads to.
    Outer(Family),
    /// Network policy.
    Policy(PolicySet),
}

impl Set {
    /// How nft declares it.
    #[must_use]
    pub fn kind(self) -> String {
        let address = |family| if family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
        match self {
            Self::MasqueradeExcept(f) | Self::MasqueradeSource(f) | Self::PeerAnyMac(f) | Self::Inside(f) => {
                format!("type {}; flags interval", address(f))
            }
            Self::NodeAnyMac(f)
            | Self::Delegated(f)
            | Self::Decided(f)
            | Self::Exit(f, _)
            | Self::Gateway(f)
            | Self::Outer(f) => {
                format!("type {}", address(f))
            }
            Self::Node(f) | Self::Peer(f, _) | Self::Tunnel(f, _) => format!("type {} . ether_addr", address(f)),
            Self::Vtep(f) => format!("typeof {} . ether saddr . {INNER_SOURCE}", source(f)),
            Self::VtepAnyMac(f) => format!("typeof {} . {INNER_SOURCE}", source(f)),
            Self::NodeName(f) => format!("type {0} : {0}", address(f)),
            Self::Pod(f) => format!("type ifname . ether_addr . {}", address(f)),
            Self::Port(f) => format!("type {0} . inet_proto . inet_service : {0} . inet_service", address(f)),
            Self::PortAny(f) => format!("type inet_proto . inet_service : {} . inet_service", address(f)),
            Self::Hairpin(f) => format!("type {0} . {0}", address(f)),
            Self::Policy(set) => set.kind(),
        }
    }

    /// Whether its elements lead to something: nft calls it a map.
    #[must_use]
    pub const fn is_map(self) -> bool {
        match self {
            Self::Port(_) | Self::PortAny(_) | Self::NodeName(_) => true,
            Self::Policy(set) => !matches!(set, PolicySet::Own(_) | PolicySet::Cut(_)),
            _ => false,
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MasqueradeExcept(family) => write!(f, "masq_except{}", digit(family)),
            Self::MasqueradeSource(family) => write!(f, "masq_source{}", digit(family)),
            Self::Node(family) => write!(f, "node{}_mac", digit(family)),
            Self::NodeAnyMac(family) => write!(f, "node{}_any", digit(family)),
            Self::Peer(family, prefix_len) => write!(f, "peer{}_{prefix_len}", digit(family)),
            Self::PeerAnyMac(family) => write!(f, "peer{}_any", digit(family)),
            Self::Pod(family) => write!(f, "pod{}", digit(family)),
            Self::Port(family) => write!(f, "port{}", digit(family)),
            Self::PortAny(family) => write!(f, "port{}_any", digit(family)),
            Self::Hairpin(family) => write!(f, "hairpin{}", digit(family)),
            Self::Delegated(family) => write!(f, "delegated{}", digit(family)),
            Self::Tunnel(family, prefix_len) => write!(f, "tunnel{}_{prefix_len}", digit(family)),
            Self::Vtep(family) => write!(f, "vtep{}_mac", digit(family)),
            Self::VtepAnyMac(family) => write!(f, "vtep{}_any", digit(family)),
            Self::NodeName(family) => write!(f, "map_node{}", digit(family)),
            Self::Inside(family) => write!(f, "inside{}", digit(family)),
            Self::Decided(family) => write!(f, "decided{}", digit(family)),
            Self::Exit(family, number) => write!(f, "exit{}_{number}", digit(family)),
            Self::Gateway(family) => write!(f, "gateway{}", digit(family)),
            Self::Outer(family) => write!(f, "outer{}", digit(family)),
            Self::Policy(set) => write!(f, "{set}"),
        }
    }
}

/// An element's key: components one after the other, each filled up to 4 bytes. The longest is that of an IPv6 flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    bytes: [u8; KEY_MAX],
    length: usize,
}

const KEY_MAX: usize = 16 + 4 + 4 + 16 + 4;

/// An element as nf_tables has it. A range is two of them: where it begins, and the first key after it.
///
/// In the order in which the kernel takes them: where one range ends and the next begins, the end comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawElement {
    /// The set.
    pub set: Set,
    /// The key.
    pub key: Key,
    /// It does not end a range.
    pub start: bool,
    /// The last key of a range whose keys have several parts: these are one element.
    pub end: Key,
    /// What it leads to.
    pub data: Data,
}

/// What an element leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// A value; empty where it leads to nothing.
    Value(Key),
    /// Where the packet goes on.
    Verdict(Way),
}

impl Data {
    /// Nothing.
    pub const NONE: Self = Self::Value(Key::EMPTY);
}

impl RawElement {
    /// One that is no range and leads to nothing.
    #[must_use]
    pub const fn new(set: Set, key: Key) -> Self {
        Self { set, key, start: true, end: Key::EMPTY, data: Data::NONE }
    }

    /// The same, with what it leads to.
    #[must_use]
    pub const fn leading_to(mut self, data: Data) -> Self {
        self.data = data;
        self
    }
}

/// A packet's source, as nft has it.
fn source(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip saddr",
        Family::V6 => "ip6 saddr",
    }
}

/// `4` or `6`, the last part of most sets' names.
pub(super) fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// Everything of a plan that is membership, but the pods.
#[must_use]
pub fn of_plan(plan: &NodePlan) -> BTreeSet<Element> {
    let mut all: Vec<_> = plan
        .nodes
        .iter()
        .map(|node| match node.mac {
            Some(mac) => Element::Node(node.address, mac),
            None => Element::NodeAnyMac(node.address),
        })
        .collect();
    all.extend(plan.peers.iter().map(|peer| match peer.mac {
        Some(mac) => Element::Peer(peer.block, mac),
        None => Element::PeerAnyMac(peer.block),
    }));
    if let Some(tunnel) = &plan.tunnel {
        all.extend(tunnel.peers.iter().copied().map(Element::Tunnel));
        all.extend(tunnel.senders.iter().copied().map(Element::Vtep));
        all.extend(tunnel.senders.iter().map(|sender| Element::Outer(sender.address)));
        all.extend(tunnel.nodes.iter().map(|(inside, address)| Element::NodeName(*inside, *address)));
    }
    if let Some(masquerade) = &plan.masquerade {
        all.extend(disjoint(&masquerade.sources).map(Element::MasqueradeSource));
        all.extend(disjoint(&masquerade.except).map(Element::MasqueradeExcept));
    }
    all.extend(plan.egress.iter().flat_map(|egress| disjoint(&egress.inside)).map(Element::Inside));
    let gateways = plan.egress.iter().filter_map(|egress| egress.gateways.as_ref());
    all.extend(gateways.flat_map(|gateways| &gateways.answer_from).copied().map(Element::Gateway));
    all.into_iter().collect()
}

/// Those that lie in no other: ranges of one set must not overlap. (What contains sorts before what it contains.)
fn disjoint(cidrs: &BTreeSet<Cidr>) -> impl Iterator<Item = Cidr> + '_ {
    let mut last: Option<Cidr> = None;
    cidrs.iter().copied().filter(move |cidr| {
        let covered = last.is_some_and(|outer| outer.contains_cidr(cidr));
        if !covered {
            last = Some(*cidr);
        }
        !covered
    })
}

impl Element {
    /// The set that it is part of.
    #[must_use]
    pub fn set(&self) -> Set {
        match self {
            Self::Pod(pod) => Set::Pod(Family::of(&pod.address)),
            Self::Node(address, _) => Set::Node(Family::of(address)),
            Self::NodeAnyMac(address) => Set::NodeAnyMac(Family::of(address)),
            Self::Peer(block, _) => Set::Peer(block.family(), block.prefix_len()),
            Self::PeerAnyMac(block) => Set::PeerAnyMac(block.family()),
            Self::MasqueradeSource(cidr) => Set::MasqueradeSource(cidr.family()),
            Self::MasqueradeExcept(cidr) => Set::MasqueradeExcept(cidr.family()),
            Self::Port(port) if port.host_ip.is_some() => Set::Port(Family::of(&port.address)),
            Self::Port(port) => Set::PortAny(Family::of(&port.address)),
            Self::Hairpin(address) => Set::Hairpin(Family::of(address)),
            Self::Delegated(address) => Set::Delegated(Family::of(address)),
            Self::Tunnel(peer) => Set::Tunnel(peer.block.family(), peer.block.prefix_len()),
            Self::Vtep(sender) if sender.underlay.is_some() => Set::Vtep(Family::of(&sender.address)),
            Self::Vtep(sender) => Set::VtepAnyMac(Family::of(&sender.address)),
            Self::NodeName(inside, _) => Set::NodeName(Family::of(inside)),
            Self::Inside(cidr) => Set::Inside(cidr.family()),
            Self::Decided(address) => Set::Decided(Family::of(address)),
            Self::Exit(number, address) => Set::Exit(Family::of(address), *number),
            Self::Gateway(address) => Set::Gateway(Family::of(address)),
            Self::Outer(address) => Set::Outer(Family::of(address)),
        }
    }

    /// The elements of what is to be told of a pod.
    pub fn of_pod(element: &PodElement) -> impl Iterator<Item = Self> {
        let (first, second) = match element {
            PodElement::Source(pod) => (Self::Pod(pod.clone()), None),
            PodElement::Port(port) => (Self::Port(*port), Some(Self::Hairpin(port.address))),
            PodElement::Delegated(address) => (Self::Delegated(*address), None),
            PodElement::Decided(address) => (Self::Decided(*address), None),
            PodElement::Exit(number, address) => (Self::Exit(*number, *address), None),
        };
        std::iter::once(first).chain(second)
    }

    /// The element as nft reads it.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Pod(pod) => format!("\"{}\" . {} . {}", pod.link, mac::text(pod.mac), pod.address),
            Self::Node(address, mac) => format!("{address} . {}", mac::text(*mac)),
            Self::NodeAnyMac(address)
            | Self::Delegated(address)
            | Self::Decided(address)
            | Self::Exit(_, address)
            | Self::Gateway(address)
            | Self::Outer(address) => address.to_string(),
            Self::Peer(block, mac) => format!("{} . {}", block.network(), mac::text(*mac)),
            Self::PeerAnyMac(cidr)
            | Self::MasqueradeSource(cidr)
            | Self::MasqueradeExcept(cidr)
            | Self::Inside(cidr) => cidr.to_string(),
            Self::Port(port) => {
                let bound = port.host_ip.map(|ip| format!("{ip} . ")).unwrap_or_default();
                let PortMember { protocol, host_port, address, pod_port, .. } = port;
                format!("{bound}{protocol} . {host_port} : {address} . {pod_port}")
            }
            Self::Hairpin(address) => format!("{address} . {address}"),
            Self::Tunnel(peer) => format!("{} . {}", peer.address(), mac::text(peer.mac)),
            Self::Vtep(TunnelSender { address, underlay, mac }) => {
                let underlay = underlay.map(|mac| format!("{} . ", mac::text(mac))).unwrap_or_default();
                // A part of a packet that has no name for nft is a number to it.
                format!("{address} . {underlay}0x{}", mac::text(*mac).replace(':', ""))
            }
            Self::NodeName(inside, address) => format!("{inside} : {address}"),
        }
    }

    /// The element as the kernel has it.
    #[must_use]
    pub fn raw(&self) -> Vec<RawElement> {
        let set = self.set();
        let key = match self {
            Self::Pod(pod) => Key::EMPTY.link(&pod.link).part(&pod.mac).address(pod.address),
            Self::Node(address, mac) => Key::EMPTY.address(*address).part(mac),
            Self::NodeAnyMac(address)
            | Self::Delegated(address)
            | Self::Decided(address)
            | Self::Exit(_, address)
            | Self::Gateway(address)
            | Self::Outer(address) => Key::EMPTY.address(*address),
            Self::Peer(block, mac) => Key::EMPTY.address(block.network()).part(mac),
            Self::PeerAnyMac(cidr)
            | Self::MasqueradeSource(cidr)
            | Self::MasqueradeExcept(cidr)
            | Self::Inside(cidr) => {
                return range(set, cidr);
            }
            Self::Port(port) => {
                let bound = port.host_ip.map_or(Key::EMPTY, |ip| Key::EMPTY.address(ip));
                let key = bound.part(&[port.protocol.number()]).part(&port.host_port.to_be_bytes());
                let data = Key::EMPTY.address(port.address).part(&port.pod_port.to_be_bytes());
                return vec![RawElement::new(set, key).leading_to(Data::Value(data))];
            }
            Self::Hairpin(address) => Key::EMPTY.address(*address).address(*address),
            Self::Tunnel(peer) => Key::EMPTY.address(peer.address()).part(&peer.mac),
            Self::Vtep(TunnelSender { address, underlay, mac }) => {
                let key = Key::EMPTY.address(*address);
                underlay.map_or(key, |underlay| key.part(&underlay)).part(mac)
            }
            Self::NodeName(inside, address) => {
                let (key, data) = (Key::EMPTY.address(*inside), Key::EMPTY.address(*address));
                return vec![RawElement::new(set, key).leading_to(Data::Value(data))];
            }
        };
        vec![RawElement::new(set, key)]
    }
}

fn range(set: Set, cidr: &Cidr) -> Vec<RawElement> {
    let raw = |address, start| RawElement { start, ..RawElement::new(set, Key::EMPTY.address(address)) };
    // A range up to the last address has no end.
    let end = after(cidr.last()).map(|address| raw(address, false));
    std::iter::once(raw(cidr.network(), true)).chain(end).collect()
}

/// The address behind; none behind the last.
pub(super) fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => a.to_bits().checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => a.to_bits().checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

impl Key {
    /// No bytes.
    pub const EMPTY: Self = Self { bytes: [0; KEY_MAX], length: 0 };

    /// From the kernel; `None` if it is longer than any of ours.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= KEY_MAX).then(|| Self::EMPTY.part(bytes))
    }

    /// The key's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(super) fn part(mut self, part: &[u8]) -> Self {
        let end = (self.length + part.len()).next_multiple_of(4);
        for (to, from) in self.bytes.iter_mut().skip(self.length).zip(part) {
            *to = *from;
        }
        self.length = end.min(KEY_MAX);
        self
    }

    /// `IFNAMSIZ` bytes, filled up with NUL.
    fn link(self, name: &str) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
            *to = from;
        }
        self.part(&bytes)
    }

    pub(super) fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => self.part(&a.octets()),
            IpAddr::V6(a) => self.part(&a.octets()),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a key whose parts are not filled up to 4 bytes, a range without its end, overlapping ranges.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn keys_are_padded() {
        let pod = PodMember { link: "ovlpabc".into(), mac: [2, 1, 2, 3, 4, 5], address: "10.0.0.1".parse().unwrap() };
        let raw = Element::Pod(pod).raw();
        assert_eq!(raw[0].key.bytes(), b"ovlpabc\0\0\0\0\0\0\0\0\0\x02\x01\x02\x03\x04\x05\0\0\x0a\0\0\x01");
        let peer = Element::Peer(cidr("10.244.3.0/24"), [2, 1, 2, 3, 4, 5]).raw();
        assert_eq!(peer[0].key.bytes(), b"\x0a\xf4\x03\0\x02\x01\x02\x03\x04\x05\0\0");
        assert_eq!(peer[0].set.to_string(), "peer4_24");
    }

    #[test]
    fn ports_lead_to_pods() {
        let (protocol, address) = (overlane_core::ports::Protocol::Udp, "10.244.0.7".parse().unwrap());
        let port = PortMember { protocol, host_ip: None, host_port: 53, address, pod_port: 5353 };
        let raw = Element::Port(port).raw();
        assert_eq!((raw[0].set, raw[0].key.bytes()), (Set::PortAny(Family::V4), b"\x11\0\0\0\0\x35\0\0".as_slice()));
        assert_eq!(raw[0].data, Data::Value(Key::EMPTY.part(b"\x0a\xf4\0\x07\x14\xe9\0\0")));
        let bound = PortMember { host_ip: "10.0.0.9".parse().ok(), ..port };
        let raw = Element::Port(bound).raw();
        assert_eq!((raw[0].set, raw[0].key.bytes().len()), (Set::Port(Family::V4), 12));
        assert_eq!(Element::Port(bound).text(), "10.0.0.9 . udp . 53 : 10.244.0.7 . 5353");
    }

    #[test]
    fn ranges_end_after_their_last_address() {
        let raw = Element::MasqueradeExcept(cidr("10.0.0.0/8")).raw();
        assert_eq!((raw[0].key.bytes(), raw[0].start), (&[10, 0, 0, 0][..], true));
        assert_eq!((raw[1].key.bytes(), raw[1].start), (&[11, 0, 0, 0][..], false));
        let next = Element::MasqueradeExcept(cidr("11.0.0.0/8")).raw();
        assert!(raw[1] < next[0], "the kernel refuses a range that begins before the one below it has ended");
        assert_eq!(Element::MasqueradeExcept(cidr("255.0.0.0/8")).raw().len(), 1);
        assert_eq!(Element::MasqueradeExcept(cidr("::/0")).raw().len(), 1);
    }

    #[test]
    fn ranges_within_others_are_left_out() {
        let cidrs = ["10.0.0.0/8", "10.244.0.0/16", "10.244.1.0/24", "11.0.0.0/8", "fd00::/8", "fd12::/16"];
        let kept: Vec<_> = disjoint(&cidrs.map(cidr).into()).map(|c| c.to_string()).collect();
        assert_eq!(kept, ["10.0.0.0/8", "11.0.0.0/8", "fd00::/8"]);
    }
}
