//! Packets that leave by an egress gateway: this node's part, as one that sends to it, and as one that may be it.
//!
//! The way to the gateway's node is the tunnel, whatever carries packets between pods: the fabric need not know an
//! address that is none of its nodes'. What the tunnel's packets bear for an identifier says which slot they are for, and
//! for answers, that they are answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::tunnel::{self, TunnelPeer};
use super::{NodeInput, Peer, ProbePlan, ProbeTarget, RouteAction, RouteSpec, vtep_mac};
use crate::cidr::{Cidr, outermost};
use crate::cluster::Outbound;
use crate::egress::{self, Gateway};
use crate::family::Family;

/// A slot's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitPlan {
    /// The slot's number, which no other of the cluster has.
    pub number: u8,
    /// What its packets bear for an identifier in the tunnel.
    pub vni: u32,
    /// Destinations that it is for, none of which lies in another; all where there are none.
    pub destinations: BTreeSet<Cidr>,
    /// What the far side sees. Packets of a family without are dropped.
    pub addresses: BTreeMap<Family, IpAddr>,
    /// Where it is.
    pub place: Place,
}

/// Where a slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this node.
    Here,
    /// At another one, by these ways in the tunnel.
    At {
        /// Its name.
        node: String,
        /// The way of each family.
        ways: BTreeMap<Family, TunnelWay>,
    },
    /// None of its nodes answers.
    Nowhere,
}

/// A way in the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelWay {
    /// This node's address, outside.
    pub from: IpAddr,
    /// The other node's.
    pub to: IpAddr,
    /// What the other node's endpoint is known by inside.
    pub next_hop: IpAddr,
}

/// What this node has to do with gateways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayPlan {
    /// The slots, in the order in which they are asked whether a packet is theirs.
    pub exits: Vec<ExitPlan>,
    /// Whether this node may be a gateway of some of them.
    pub gateway: bool,
    /// It does not answer yet when it is asked for one.
    pub hushed: bool,
    /// What packets of each slot that may be at this node bear for an identifier in the tunnel.
    pub taken: BTreeMap<u8, u32>,
    /// The same of answers.
    pub answers: u32,
    /// The same of questions whether a gateway is there.
    pub questions: u32,
    /// Ways of answers, by the block that they go to. Only where this node may be a gateway.
    pub back: BTreeMap<Cidr, TunnelWay>,
    /// Addresses of nodes that answers are taken from.
    pub answer_from: BTreeSet<IpAddr>,
    /// What tells whether gateways are there.
    pub probes: ProbePlan,
    /// Whom each question of those is put to.
    pub asked: BTreeMap<Cidr, String>,
}

/// What of a node's plan the tunnel has to know of gateways.
pub(super) fn peers_of(input: &NodeInput, peers: &BTreeMap<Cidr, &Peer>) -> BTreeSet<Cidr> {
    let all = is_gateway(input);
    let of = |peer: &Peer| input.gateways.iter().any(|gateway| gateway.nodes.contains(&peer.name));
    peers.iter().filter(|(_, peer)| all || of(peer)).map(|(block, _)| *block).collect()
}

fn is_gateway(input: &NodeInput) -> bool {
    input.gateways.iter().any(|gateway| gateway.nodes.contains(&input.name))
}

/// This node's part, and the routes of its questions.
pub(super) fn plan(input: &NodeInput, peers: &BTreeMap<Cidr, &Peer>) -> Option<(GatewayPlan, Vec<RouteSpec>)> {
    if input.gateways.is_empty() {
        return None;
    }
    let ways = ways(input, peers);
    let mut made = GatewayPlan {
        gateway: is_gateway(input),
        hushed: input.hushed && is_gateway(input),
        answers: egress::vni(input.vxlan.vni, egress::ANSWERS),
        questions: egress::vni(input.vxlan.vni, egress::QUESTIONS),
        ..GatewayPlan::default()
    };
    let named: BTreeSet<&str> = input.gateways.iter().flat_map(|gateway| &gateway.nodes).map(String::as_str).collect();
    let leaves = input.outbound != Outbound::None;
    // By name, and what is for some destinations before what is for all.
    let mut gateways: Vec<&Gateway> = input.gateways.iter().collect();
    gateways.sort_by_key(|gateway| (gateway.destinations.is_empty(), gateway.name.as_str()));
    for gateway in gateways {
        let answers = |node: &str| !input.silent.contains(node) && (node == input.name || ways.contains_key(node));
        let places = if leaves { egress::places(gateway, answers) } else { BTreeMap::new() };
        for slot in &gateway.slots {
            let place = match places.get(&slot.number) {
                Some(node) if *node == input.name => Place::Here,
                Some(node) => Place::At {
                    node: (*node).to_owned(),
                    ways: ways
                        .get(node)
                        .map(|all| all.iter().map(|(f, (_, way))| (*f, *way)).collect())
                        .unwrap_or_default(),
                },
                None => Place::Nowhere,
            };
            let vni = egress::slot_vni(input.vxlan.vni, slot);
            if gateway.nodes.contains(&input.name) {
                made.taken.insert(slot.number, vni);
            }
            made.exits.push(ExitPlan {
                number: slot.number,
                vni,
                destinations: outermost(gateway.destinations.iter().copied()),
                addresses: slot.addresses.clone(),
                place,
            });
        }
    }
    made.exits.extend(cut(input));
    for peer in peers.values().filter(|peer| named.contains(peer.name.as_str())) {
        made.answer_from.extend(peer.node_ips.values());
    }
    if made.gateway {
        made.back = peers.iter().filter_map(|(block, peer)| Some((*block, way(input, block, peer)?))).collect();
    }
    if made.gateway || input.asks_gateways {
        ask(&mut made, &named, &ways);
    }
    let routes = routes(&made, &ways);
    Some((made, routes))
}

/// Gateways without a slot: what they are for goes nowhere.
fn cut(input: &NodeInput) -> Option<ExitPlan> {
    let all: Vec<&Gateway> = input.gateways.iter().filter(|gateway| gateway.slots.is_empty()).collect();
    let everything = all.iter().any(|gateway| gateway.destinations.is_empty());
    let destinations = all.iter().flat_map(|gateway| gateway.destinations.iter().copied());
    (!all.is_empty()).then(|| ExitPlan {
        number: egress::CUT,
        vni: 0,
        destinations: if everything { BTreeSet::new() } else { outermost(destinations) },
        addresses: BTreeMap::new(),
        place: Place::Nowhere,
    })
}

/// One question a node, by its first family.
fn ask(made: &mut GatewayPlan, named: &BTreeSet<&str>, ways: &Ways<'_>) {
    for (node, all) in ways.iter().filter(|(node, _)| named.contains(*node)) {
        let Some((block, way)) = all.values().next() else { continue };
        let at = block.network();
        made.probes.targets.insert(Cidr::host_range(at), ProbeTarget { at, node_ip: way.to });
        made.asked.insert(Cidr::host_range(at), (*node).to_owned());
    }
}

/// Of each node, by family, the block that its endpoint is known by and the way there.
type Ways<'a> = BTreeMap<&'a str, BTreeMap<Family, (Cidr, TunnelWay)>>;

fn ways<'a>(input: &NodeInput, peers: &BTreeMap<Cidr, &'a Peer>) -> Ways<'a> {
    let mut ways = Ways::new();
    for (block, peer) in peers {
        // What a node's own packets bear is the first address of the block that it was given first.
        let first = peer.blocks.iter().find(|other| other.family() == block.family() && peers.contains_key(*other));
        if first == Some(block)
            && let Some(way) = way(input, block, peer)
        {
            ways.entry(peer.name.as_str()).or_default().insert(block.family(), (*block, way));
        }
    }
    ways
}

fn way(input: &NodeInput, block: &Cidr, peer: &Peer) -> Option<TunnelWay> {
    let (from, to) = tunnel::between(&input.node_ips, &peer.node_ips)?;
    let next_hop = TunnelPeer { block: *block, mac: vtep_mac(&peer.node_ips)? }.next_hop();
    Some(TunnelWay { from, to, next_hop })
}

/// Routes of the questions and their answers: both go in the tunnel, under an identifier that only nodes take which know of
/// gateways.
fn routes(made: &GatewayPlan, ways: &Ways<'_>) -> Vec<RouteSpec> {
    let asked = |(block, _): &&(Cidr, TunnelWay)| made.asked.contains_key(&Cidr::host_range(block.network()));
    let wanted = ways.values().flat_map(BTreeMap::values).filter(|way| made.gateway || asked(way));
    let route = |(block, way): &(Cidr, TunnelWay)| RouteSpec {
        destination: Cidr::host_range(block.network()),
        action: RouteAction::Tunnel { from: way.from, to: way.to },
    };
    wanted.map(route).collect()
}
