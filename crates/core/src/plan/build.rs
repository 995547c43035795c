//! From what a node is told to what its kernel should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::conflict::disputed;
use super::{
    EndpointSpec, MasqConfig, MasqPlan, NodeInput, NodeMember, NodePlan, Note, Peer, PeerMember, PodMember, PortMember,
    RouteAction, RouteSpec,
};
use super::{egress, gateway, probe, tunnel};
use crate::cidr::{Cidr, outermost};
use crate::cluster::{Carrier, Routing};

/// Destinations on the segment itself, by family: whether they are masqueraded is a setting of its own.
const LINK_LOCAL_V4: &str = "169.254.0.0/16";
const LINK_LOCAL_V6: &str = "fe80::/10";

pub(super) fn build(input: &NodeInput) -> NodePlan {
    let mut notes = BTreeSet::new();
    let nodes = nodes(input);
    let own = own_blocks(input, &nodes, &mut notes);
    let peers = peer_blocks(input, &nodes, &mut notes);
    let endpoints = endpoints(input, &nodes, &mut notes);
    let pod_space = pod_space(input, &own, &peers, &endpoints);
    let routed = routed(input, &peers, &mut notes);
    let (probes, probe_routes) = probe::plan(input, &own, &peers);
    let bare = tunnel::accepted(input).contains(&Carrier::Native);
    let sends = |block: &Cidr, peer: &Peer| bare && peer.node_ips.contains_key(&block.family());
    let masquerade = input.masquerade.as_ref().map(|config| masquerade(config, input, &own, &pod_space));
    let tunnel = tunnel::plan(input, &own, &peers);
    let (mut gateways, questions) = gateway::plan(input, &peers).unzip();
    if let (Some(gateways), Some(tunnel)) = (&mut gateways, &tunnel) {
        gateways.probes.own.clone_from(&tunnel.addresses);
    }
    let egress = egress::plan(input, &pod_space, &nodes, masquerade.as_ref(), gateways);
    NodePlan {
        routes: routes(&pod_space, &own, &routed, &endpoints)
            .into_iter()
            .chain(probe_routes)
            .chain(questions.into_iter().flatten())
            .collect(),
        pods: pods(&endpoints),
        delegated: delegated(&endpoints),
        ports: endpoints.iter().flat_map(|endpoint| PortMember::of(&endpoint.ports, &endpoint.addresses)).collect(),
        peers: peers
            .iter()
            .filter(|(block, peer)| sends(block, peer))
            .map(|(block, peer)| PeerMember { block: *block, mac: peer.mac })
            .collect(),
        tunnel,
        probes,
        node_ips: input.node_ips.clone(),
        nodes: if bare { others(input) } else { BTreeSet::new() },
        pod_space,
        masquerade,
        egress,
        service_space: outermost(input.service_cidrs.iter().copied()),
        policed: input.policed,
        logs_denied: input.logs_denied,
        notes,
    }
}

fn nodes(input: &NodeInput) -> BTreeSet<IpAddr> {
    let peers = input.peers.iter().flat_map(|peer| peer.node_ips.values());
    input.node_ips.values().chain(peers).copied().collect()
}

/// What another node's own packets look like. An address that is this node's too is nobody else's.
fn others(input: &NodeInput) -> BTreeSet<NodeMember> {
    let own = |address: &IpAddr| input.node_ips.values().any(|ip| ip == address);
    let of =
        |peer: &Peer| peer.node_ips.values().map(|ip| NodeMember { address: *ip, mac: peer.mac }).collect::<Vec<_>>();
    input.peers.iter().flat_map(of).filter(|node| !own(&node.address)).collect()
}

/// This node's blocks, but for those that cannot be taken.
fn own_blocks(input: &NodeInput, nodes: &BTreeSet<IpAddr>, notes: &mut BTreeSet<Note>) -> BTreeSet<Cidr> {
    let mut own = BTreeSet::new();
    for block in &input.own_blocks {
        // In the tunnel an address of either family will do.
        if input.routing == Routing::Native && !input.node_ips.contains_key(&block.family()) {
            notes.insert(Note::NodeWithoutAddress { block: *block });
        }
        if placed(None, block, input, nodes, notes) {
            own.insert(*block);
        }
    }
    own
}

/// The other nodes' blocks, but for those that cannot be taken.
fn peer_blocks<'a>(
    input: &'a NodeInput,
    nodes: &BTreeSet<IpAddr>,
    notes: &mut BTreeSet<Note>,
) -> BTreeMap<Cidr, &'a Peer> {
    let disputed = disputed(&input.own_blocks, &input.peers, notes);
    let mut blocks = BTreeMap::new();
    for (index, peer) in input.peers.iter().enumerate() {
        for block in &peer.blocks {
            if !disputed.contains(&(index, *block)) && placed(Some(&peer.name), block, input, nodes, notes) {
                blocks.insert(*block, peer);
            }
        }
    }
    blocks
}

/// Whether a block may be where it is. Inside the pod CIDRs it always may.
fn placed(
    node: Option<&str>,
    block: &Cidr,
    input: &NodeInput,
    nodes: &BTreeSet<IpAddr>,
    notes: &mut BTreeSet<Note>,
) -> bool {
    if input.pod_cidrs.iter().any(|pod_cidr| pod_cidr.contains_cidr(block)) {
        return true;
    }
    let node = node.map(str::to_owned);
    if let Some(inside) = swallowed(block, input, nodes) {
        notes.insert(Note::TooWide { node, block: *block, inside });
        return false;
    }
    notes.insert(Note::OutsidePodCidrs { node, block: *block });
    true
}

/// A pod CIDR or node's address inside a block that is not inside a pod CIDR itself.
fn swallowed(block: &Cidr, input: &NodeInput, nodes: &BTreeSet<IpAddr>) -> Option<Cidr> {
    if input.pod_cidrs.iter().any(|pod_cidr| pod_cidr.contains_cidr(block)) {
        return None;
    }
    let pod_cidr = input.pod_cidrs.iter().find(|pod_cidr| block.contains_cidr(pod_cidr)).copied();
    let address = || nodes.range(block.network()..=block.last()).next().copied();
    pod_cidr.or_else(|| address().map(Cidr::host_range))
}

/// The pods that this node may keep.
fn endpoints<'a>(input: &'a NodeInput, nodes: &BTreeSet<IpAddr>, notes: &mut BTreeSet<Note>) -> Vec<&'a EndpointSpec> {
    let mut kept = Vec::new();
    for endpoint in &input.endpoints {
        match endpoint.addresses.iter().find_map(|address| Some((*address, taker(*address, input, nodes)?))) {
            Some((address, peer)) => {
                let (link, peer) = (endpoint.link.clone(), peer.name.clone());
                notes.insert(Note::PodOfPeer { link, address, peer });
            }
            None => kept.push(endpoint),
        }
    }
    kept
}

/// The other node that an address was given to. An address in one of this node's blocks was not, and a block that
/// nobody can be given proves nothing.
fn taker<'a>(address: IpAddr, input: &'a NodeInput, nodes: &BTreeSet<IpAddr>) -> Option<&'a Peer> {
    if input.own_blocks.iter().any(|block| block.contains(address)) {
        return None;
    }
    let given = |block: &Cidr| block.contains(address) && swallowed(block, input, nodes).is_none();
    input.peers.iter().find(|peer| peer.blocks.iter().any(given))
}

/// The pod CIDRs and whatever of pods lies outside them.
fn pod_space(
    input: &NodeInput,
    own: &BTreeSet<Cidr>,
    peers: &BTreeMap<Cidr, &Peer>,
    endpoints: &[&EndpointSpec],
) -> BTreeSet<Cidr> {
    let hosts = endpoints.iter().flat_map(|endpoint| &endpoint.addresses).map(|address| Cidr::host_range(*address));
    outermost(input.pod_cidrs.iter().chain(own).chain(peers.keys()).copied().chain(hosts))
}

/// The blocks that get a route, and where it leads.
fn routed(input: &NodeInput, peers: &BTreeMap<Cidr, &Peer>, notes: &mut BTreeSet<Note>) -> BTreeMap<Cidr, RouteAction> {
    let mut routed = BTreeMap::new();
    let tunnelled = tunnel::accepted(input).contains(&Carrier::Vxlan);
    let beyond = |block: &Cidr, peer: &Peer| {
        peer.node_ips.get(&block.family()).is_none_or(|node_ip| input.beyond.contains(node_ip))
    };
    for (block, peer) in peers {
        let passes = input.passing.contains(block) || probe::trusted(input, block, peer);
        let bare = || {
            let address = *peer.node_ips.get(&block.family())?;
            // By a router only where that is known to lead to the block; else the note says what is missing.
            Some(if passes { probe::bare(input, address) } else { RouteAction::Via(address) })
        };
        let tunnel =
            || tunnel::between(&input.node_ips, &peer.node_ips).map(|(from, to)| RouteAction::Tunnel { from, to });
        let action = match input.routing {
            // By a router only what has answered; until then in the tunnel, where that is still taken.
            Routing::Native if !passes && tunnelled && beyond(block, peer) => tunnel(),
            Routing::Native => bare(),
            Routing::Vxlan => tunnel(),
            Routing::Auto => bare().filter(|_| passes).or_else(tunnel),
        };
        match action {
            Some(action) => _ = routed.insert(*block, action),
            None if input.routing == Routing::Native => {
                notes.insert(Note::PeerWithoutAddress { peer: peer.name.clone(), block: *block });
            }
            None => {
                notes.insert(Note::PeerOutOfReach { peer: peer.name.clone(), block: *block });
            }
        }
    }
    routed
}

fn routes(
    pod_space: &BTreeSet<Cidr>,
    own: &BTreeSet<Cidr>,
    routed: &BTreeMap<Cidr, RouteAction>,
    endpoints: &[&EndpointSpec],
) -> BTreeSet<RouteSpec> {
    // Nothing that is meant for a pod leaves by the default route, and what is meant for a free address of this node
    // does not go round between it and the router.
    let nowhere = pod_space.union(own).map(|cidr| RouteSpec { destination: *cidr, action: RouteAction::Unreachable });
    let away = routed.iter().map(|(block, action)| RouteSpec { destination: *block, action: action.clone() });
    let here = endpoints.iter().filter(|endpoint| !endpoint.foreign_link).flat_map(|endpoint| {
        endpoint.addresses.iter().map(|address| RouteSpec {
            destination: Cidr::host_range(*address),
            action: RouteAction::Local { link: endpoint.link.clone() },
        })
    });
    nowhere.chain(away).chain(here).collect()
}

fn pods(endpoints: &[&EndpointSpec]) -> BTreeSet<PodMember> {
    let of = |endpoint: &EndpointSpec, address: &IpAddr| PodMember {
        link: endpoint.link.clone(),
        mac: endpoint.mac,
        address: *address,
    };
    let ours = endpoints.iter().filter(|endpoint| !endpoint.foreign_link);
    ours.flat_map(|endpoint| endpoint.addresses.iter().map(|address| of(endpoint, address))).collect()
}

fn delegated(endpoints: &[&EndpointSpec]) -> BTreeSet<IpAddr> {
    let foreign = endpoints.iter().filter(|endpoint| endpoint.foreign_link);
    foreign.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
}

fn masquerade(config: &MasqConfig, input: &NodeInput, own: &BTreeSet<Cidr>, pod_space: &BTreeSet<Cidr>) -> MasqPlan {
    let link_local = [(config.masq_link_local, LINK_LOCAL_V4), (config.masq_link_local_ipv6, LINK_LOCAL_V6)];
    let left_alone =
        link_local.iter().filter(|(masquerade, _)| !masquerade).filter_map(|(_, range)| range.parse().ok());
    MasqPlan {
        sources: outermost(own.iter().copied()),
        except: outermost(pod_space.iter().chain(&config.non_masquerade).copied().chain(left_alone)),
        node_ips: input.node_ips.clone(),
    }
}
