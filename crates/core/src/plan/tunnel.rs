//! The tunnel that carries pod packets where the fabric does not.
//!
//! Every node has one tunnel endpoint (VTEP). What peers must know of it follows from the node's addresses, so that
//! nobody has to tell it. A node's own packets to other nodes' pods bear an address of its block, the first one, which
//! no pod gets: so the answers come back in the tunnel. The pod's node makes the node's address of it again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use super::{Mac, NodeInput, Peer, gateway};
use crate::cidr::Cidr;
use crate::cluster::{Carrier, Vxlan};
use crate::family::Family;

/// Bytes that VXLAN adds before an inner IP packet: outer IP, UDP, VXLAN, inner Ethernet (RFC 7348, section 5).
const OVERHEAD_V4: u32 = 20 + 8 + 8 + 14;
const OVERHEAD_V6: u32 = 40 + 8 + 8 + 14;

/// What of one peer the tunnel has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelPeer {
    /// One of its blocks.
    pub block: Cidr,
    /// What its tunnel endpoint is known by.
    pub mac: Mac,
}

impl TunnelPeer {
    /// What the peer itself uses as source towards pods of other nodes: the block's first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.block.network()
    }

    /// The next hop of a route to the block, inside the tunnel. In IPv6 link-local, from the endpoint's MAC: Linux takes
    /// no other next hop while the block is still routed elsewhere.
    #[must_use]
    pub fn next_hop(&self) -> IpAddr {
        if self.block.family() == Family::V4 {
            return self.block.network();
        }
        let [a, b, c, d, e, f] = self.mac;
        let word = |high, low| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0x6f6c, word(a, b), word(c, d), word(e, f)).into()
    }
}

/// Who may send in the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelSender {
    /// The node's address, the outer source.
    pub address: IpAddr,
    /// What its packets bear on the nodes' segment; `None` where any must be taken.
    pub underlay: Option<Mac>,
    /// What its tunnel endpoint is known by.
    pub mac: Mac,
}

/// A node's tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelPlan {
    /// The numbers.
    pub vxlan: Vxlan,
    /// It carries what pods of different nodes send each other, so that their packets must fit; else what goes to and
    /// from egress gateways alone.
    pub carries_pods: bool,
    /// This node's own endpoint.
    pub mac: Mac,
    /// What this node uses as source towards pods of other nodes, of each family that it has a block of.
    pub addresses: BTreeMap<Family, IpAddr>,
    /// The other nodes' blocks, with their endpoints: what may come out of the tunnel.
    pub peers: BTreeSet<TunnelPeer>,
    /// Who may send in it.
    pub senders: BTreeSet<TunnelSender>,
    /// What the other nodes' own packets bear, and the node's address of that family, if it has one.
    pub nodes: BTreeMap<IpAddr, IpAddr>,
    /// Bytes that it takes from the underlay's MTU.
    pub overhead: u32,
}

/// What a node's tunnel endpoint is known by: its IPv4 address, behind a prefix of our own; a hash of its IPv6 address
/// where it has no other. Locally administered unicast (IEEE 802c); `None` if the node has no address.
#[must_use]
pub fn vtep_mac(node_ips: &BTreeMap<Family, IpAddr>) -> Option<Mac> {
    match node_ips.get(&Family::V4).or_else(|| node_ips.get(&Family::V6))? {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Some([0x06, 0x6f, a, b, c, d])
        }
        IpAddr::V6(address) => {
            // FNV-1a, 64 bits, folded to 40.
            let hash = address
                .octets()
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
            let [_, _, _, a, b, c, d, e] = (hash ^ (hash >> 40)).to_be_bytes();
            Some([0x0a, a, b, c, d, e])
        }
    }
}

/// The addresses by which two nodes reach each other: of the first family, IPv4 before IPv6, that both have.
pub(super) fn between(own: &BTreeMap<Family, IpAddr>, peer: &BTreeMap<Family, IpAddr>) -> Option<(IpAddr, IpAddr)> {
    own.iter().find_map(|(family, from)| Some((*from, *peer.get(family)?)))
}

/// What may come, by what is sent and what is accepted besides.
pub(super) fn accepted(input: &NodeInput) -> BTreeSet<Carrier> {
    input.accept.union(&input.routing.carriers()).copied().collect()
}

/// The tunnel of a node that has these blocks, to peers with those; `None` where none is used or this node has no
/// address.
pub(super) fn plan(input: &NodeInput, own: &BTreeSet<Cidr>, peers: &BTreeMap<Cidr, &Peer>) -> Option<TunnelPlan> {
    let carries_pods = accepted(input).contains(&Carrier::Vxlan);
    if !carries_pods && input.gateways.is_empty() {
        return None;
    }
    let mac = vtep_mac(&input.node_ips)?;
    let mut addresses = BTreeMap::new();
    // In the order in which the node was given them: the first stays the first.
    for block in input.own_blocks.iter().filter(|block| own.contains(block)) {
        addresses.entry(block.family()).or_insert_with(|| block.network());
    }
    let to_gateways = if carries_pods { BTreeSet::new() } else { gateway::peers_of(input, peers) };
    let reached: BTreeMap<Cidr, &Peer> = peers
        .iter()
        .filter(|(block, _)| carries_pods || to_gateways.contains(block))
        .filter(|(_, peer)| between(&input.node_ips, &peer.node_ips).is_some())
        .map(|(b, p)| (*b, *p))
        .collect();
    let endpoint = |block: &Cidr, peer: &Peer| Some(TunnelPeer { block: *block, mac: vtep_mac(&peer.node_ips)? });
    let all: BTreeSet<TunnelPeer> = reached.iter().filter_map(|(block, peer)| endpoint(block, peer)).collect();
    let mut senders = BTreeSet::new();
    for peer in reached.values() {
        let sender =
            |ip: &IpAddr| Some(TunnelSender { address: *ip, underlay: peer.mac, mac: vtep_mac(&peer.node_ips)? });
        senders.extend(peer.node_ips.values().filter_map(sender));
    }
    let names =
        reached.iter().filter_map(|(block, peer)| Some((block.network(), *peer.node_ips.get(&block.family())?)));
    let outer = reached.values().filter_map(|peer| between(&input.node_ips, &peer.node_ips));
    let v6 =
        outer.map(|(_, to)| Family::of(&to)).chain(input.node_ips.keys().copied().take(1)).any(|f| f == Family::V6);
    Some(TunnelPlan {
        vxlan: input.vxlan,
        carries_pods,
        mac,
        addresses,
        peers: all,
        senders,
        nodes: names.collect(),
        overhead: if v6 { OVERHEAD_V6 } else { OVERHEAD_V4 },
    })
}
