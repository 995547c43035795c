//! What tells whether the fabric carries pod packets bare.
//!
//! A node sends an ICMP echo from the last address of its own block to the last address of a peer's, by the way that
//! bare pod packets would take; the peer's kernel answers by itself. Pods get neither address. So an answer proves both
//! directions, and that a packet of that size fits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{NodeInput, Peer, RouteAction, RouteSpec, tunnel};
use crate::cidr::Cidr;
use crate::cluster::{Carrier, Routing};
use crate::family::Family;

/// How many nodes a node asks where all pod packets are bare anyway: enough to tell a fabric that drops them.
const SAMPLE: usize = 8;

/// What a node asks the fabric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbePlan {
    /// What it asks from, of each family.
    pub own: BTreeMap<Family, IpAddr>,
    /// What it asks, by the block that it stands for.
    pub targets: BTreeMap<Cidr, ProbeTarget>,
}

/// What is asked for one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeTarget {
    /// The address that answers.
    pub at: IpAddr,
    /// The node's own address, to which the way leads.
    pub node_ip: IpAddr,
}

/// The address of a block that probes use: its last. `None` where a pod could have it.
fn address(block: &Cidr) -> Option<IpAddr> {
    (block.family().bits() - block.prefix_len() >= 2).then(|| block.last())
}

/// Whether the fabric is known to carry pods' packets between this node and that one, in the block's family.
pub(super) fn trusted(input: &NodeInput, block: &Cidr, peer: &Peer) -> bool {
    let family = block.family();
    let Some((own, other)) = input.node_ips.get(&family).zip(peer.node_ips.get(&family)) else { return false };
    input.trusted.iter().any(|network| network.contains(*own) && network.contains(*other))
}

/// Where bare packets to a node go.
pub(super) fn bare(input: &NodeInput, node_ip: IpAddr) -> RouteAction {
    if input.beyond.contains(&node_ip) { RouteAction::Fabric(node_ip) } else { RouteAction::Via(node_ip) }
}

/// What to ask, and the routes that it takes.
pub(super) fn plan(
    input: &NodeInput,
    own: &BTreeSet<Cidr>,
    peers: &BTreeMap<Cidr, &Peer>,
) -> (ProbePlan, Vec<RouteSpec>) {
    let mut made = ProbePlan::default();
    let mut routes = Vec::new();
    let route = |address, action| RouteSpec { destination: Cidr::host_range(address), action };
    // Who takes bare packets answers, whatever it sends itself.
    if tunnel::accepted(input).contains(&Carrier::Native) {
        for block in input.own_blocks.iter().filter(|block| own.contains(block)) {
            let has_address = input.node_ips.contains_key(&block.family());
            let free = |own: &IpAddr| input.endpoints.iter().all(|endpoint| !endpoint.addresses.contains(own));
            if let Some(own) = address(block).filter(|own| has_address && free(own)) {
                made.own.entry(block.family()).or_insert(own);
            }
        }
    }
    // Every node answers, those that ask nothing as well.
    routes.extend(made.own.values().map(|own| route(*own, RouteAction::Here)));
    for family in made.own.keys().copied().collect::<Vec<_>>() {
        let first = own.iter().find(|block| block.family() == family);
        // Beginning behind the own block, so that not everybody asks the same few.
        let (before, after): (Vec<_>, Vec<_>) =
            peers.iter().filter(|(block, _)| block.family() == family).partition(|(block, _)| Some(*block) < first);
        let mut sample = 0;
        for (block, peer) in after.into_iter().chain(before) {
            let Some((at, node_ip)) = address(block).zip(peer.node_ips.get(&family)) else { continue };
            let known = trusted(input, block, peer);
            if known && input.routing == Routing::Auto {
                continue;
            }
            let doubtful = input.routing == Routing::Auto || input.beyond.contains(node_ip) && !known;
            if !doubtful && sample == SAMPLE {
                continue;
            }
            sample += usize::from(!doubtful);
            made.targets.insert(*block, ProbeTarget { at, node_ip: *node_ip });
            routes.push(route(at, bare(input, *node_ip)));
        }
    }
    (made, routes)
}
