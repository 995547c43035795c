//! From what is known to what the plan is made of. Pure but for the routes that bear witness.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlane_core::cidr::{Cidr, outermost};
use overlane_core::cluster::{ClusterPlan, NetworkPolicy};
use overlane_core::family::Family;
use overlane_core::ipam::{Lease, LeaseKind, LeaseState};
use overlane_core::plan::{EndpointSpec, NodeInput, Peer};
use overlane_datapath::owned;
use overlane_datapath::rtnl::route::{Hop, Route};

use crate::watch::view::View;

/// Blocks that are this node's: those that it was given, and those that its pods hold addresses of although the
/// controller no longer names them. Not those that another node has.
pub fn own_blocks(view: &View, cluster: Option<&ClusterPlan>, leases: &[Lease]) -> BTreeSet<Cidr> {
    let mut own: BTreeSet<Cidr> = view.own.blocks.iter().map(|block| block.cidr).collect();
    for address in leases.iter().flat_map(|lease| lease.addresses.iter().copied()) {
        if own.iter().any(|block| block.contains(address)) {
            continue;
        }
        let known = view.known.iter().copied().find(|block| block.contains(address));
        own.extend(known.or_else(|| around(cluster?, address)));
    }
    own.retain(|block| !view.lost.keys().any(|lost| lost.overlaps(block)));
    own
}

/// The block that an address would have come from.
fn around(cluster: &ClusterPlan, address: IpAddr) -> Option<Cidr> {
    let pool = cluster.pool(Family::of(&address)).filter(|pool| pool.cidr.contains(address))?;
    Cidr::around(address, pool.node_mask).ok()
}

/// Pods that have a network, or are about to.
pub fn endpoints(leases: &[Lease]) -> Vec<EndpointSpec> {
    let live = leases.iter().filter(|l| l.state != LeaseState::Draining && l.kind != LeaseKind::Gateway);
    live.map(|lease| EndpointSpec {
        link: lease.link.clone(),
        foreign_link: lease.kind == LeaseKind::Ipam,
        mac: owned::pod_mac(&lease.link),
        addresses: lease.addresses.clone(),
        ports: lease.ports.clone(),
    })
    .collect()
}

/// Peers that our own routes bear witness of and that the view does not name. Until every source was heard in full a
/// view from file may be older than the kernel, and what it lacks must not be taken away.
pub fn witnessed(routes: &BTreeSet<Route>, view: &View, own: &BTreeSet<Cidr>) -> Vec<Peer> {
    // None of these lies in another, so what a block lies in is right before it.
    let named = outermost(view.peers.iter().flat_map(|peer| peer.blocks.iter().copied()));
    let away = outermost(routes.iter().filter(|route| leads_away(route)).map(|route| route.destination));
    let mut peers = Vec::new();
    for route in routes {
        let block = route.destination;
        // A router says nothing of whose block it is; such routes stay as they are until the view is whole.
        let (Hop::Gateway { gateway: node_ip, onlink: false, .. } | Hop::Tunnel { to: node_ip, .. }) = route.hop else {
            continue;
        };
        // What lies in another block is a probe's.
        let within_named = named.range(..=block).next_back().is_some_and(|named| named.contains_cidr(&block));
        if !away.contains(&block) || within_named || own.iter().any(|own| own.overlaps(&block)) {
            continue;
        }
        peers.push(Peer {
            name: format!("(route to {block})"),
            blocks: vec![block],
            node_ips: BTreeMap::from([(Family::of(&node_ip), node_ip)]),
            mac: None,
        });
    }
    peers
}

fn leads_away(route: &Route) -> bool {
    matches!(route.hop, Hop::Gateway { .. } | Hop::Tunnel { .. })
}

/// Blocks that bare packets are sent to (not by the tunnel's link), and that were sent so when the agent last ran: nobody may lose them because an
/// agent has not asked yet.
pub fn sent_bare(routes: &BTreeSet<Route>, tunnel: Option<u32>) -> BTreeSet<Cidr> {
    let bare = routes.iter().filter(|route| matches!(route.hop, Hop::Gateway { index, .. } if Some(index) != tunnel));
    bare.map(|route| route.destination).filter(|block| block.prefix_len() < block.family().bits()).collect()
}

/// What the plan is made of.
pub fn node_input(
    view: &View,
    cluster: &ClusterPlan,
    node_ips: &BTreeMap<Family, IpAddr>,
    leases: &[Lease],
    witnesses: Vec<Peer>,
) -> NodeInput {
    let mut peers = view.peers.to_vec();
    peers.extend(witnesses);
    NodeInput {
        pod_cidrs: cluster.pod_cidrs().collect(),
        routing: cluster.routing(),
        accept: view.routing.as_ref().map(|routing| routing.accepts.clone()).unwrap_or_default(),
        beyond: BTreeSet::new(),
        passing: BTreeSet::new(),
        trusted: cluster.native_cidrs().to_vec(),
        vxlan: cluster.vxlan(),
        node_ips: node_ips.clone(),
        own_blocks: own_blocks(view, Some(cluster), leases).into_iter().collect(),
        peers,
        endpoints: endpoints(leases),
        masquerade: cluster.masquerade().then(|| view.masq.clone()),
        service_cidrs: cluster.services().to_vec(),
        outbound: cluster.outbound(),
        egress: cluster.egress().clone(),
        policed: cluster.network_policy() == NetworkPolicy::Overlane,
        logs_denied: cluster.network_policy_log(),
        ..NodeInput::default()
    }
}
