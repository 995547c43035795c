//! The tunnel's part of the packet filter.
//!
//! Two checks bind a packet to the node that sent it: outside, the node's address, its Ethernet address where the segment
//! keeps that, and the Ethernet source inside; inside, that Ethernet source and the block of the inner address. So nobody but a node speaks in the tunnel, and each node for its
//! own blocks alone.

use std::collections::BTreeSet;

use overlane_core::cluster::Vxlan;
use overlane_core::family::Family;
use overlane_core::plan::{NodePlan, TunnelPlan};

use super::{Chain, block_of_source, digit, gateway, hook, protocol, source_in};
use crate::owned::{POD_LINK_PREFIX, TUNNEL_LINK};
use crate::render::element::{INNER_SOURCE, Set};

/// What goes before the checks of bare packets: what comes out of the tunnel has checks of its own, and outer packets
/// are no flows.
pub(super) fn before(tunnel: &TunnelPlan, plan: &NodePlan) -> Vec<String> {
    let gateways = plan.egress.as_ref().and_then(|egress| egress.gateways.as_ref());
    let mut rules: Vec<String> = gateways.into_iter().flat_map(gateway::before).collect();
    rules.push(format!("iifname \"{TUNNEL_LINK}\" goto from_tunnel comment \"source check: out of the tunnel\""));
    rules.extend(plan.node_ips.iter().map(|(family, address)| {
        let (ip, port) = (protocol(*family), tunnel.vxlan.port);
        format!("udp dport {port} {ip} daddr {address} notrack return comment \"tunnel: outer packets are no flows\"")
    }));
    rules
}

/// Packets of the tunnel are its nodes' own: what a pod sends to another node's end of it would bear this node's address there.
pub(super) fn no_forgery(tunnel: &TunnelPlan) -> Vec<String> {
    let rule = |family| {
        let (ip, set, port) = (protocol(family), Set::Outer(family), tunnel.vxlan.port);
        format!("udp dport {port} {ip} daddr @{set} counter name forged drop comment \"tunnel: no pod speaks in it\"")
    };
    Family::ALL.into_iter().map(rule).collect()
}

/// What is sent on into the tunnel.
pub(super) fn forwarded() -> String {
    format!("oifname \"{TUNNEL_LINK}\" goto to_tunnel comment \"no way in: what reaches pods of other nodes\"")
}

/// The chains.
pub(super) fn chains(tunnel: &TunnelPlan, plan: &NodePlan) -> Vec<Chain> {
    vec![
        from_tunnel(tunnel),
        to_tunnel(plan),
        vtep_in(tunnel, plan),
        vtep_out(tunnel, plan),
        tunnel_names(tunnel, plan),
    ]
}

fn from_tunnel(tunnel: &TunnelPlan) -> Chain {
    let masks: BTreeSet<_> = tunnel.peers.iter().map(|peer| (peer.block.family(), peer.block.prefix_len())).collect();
    let mut rules: Vec<String> = masks
        .iter()
        .map(|(family, prefix_len)| {
            format!(
                "{} . ether saddr @{} return comment \"source check: a peer's block and endpoint\"",
                block_of_source(*family, *prefix_len),
                Set::Tunnel(*family, *prefix_len)
            )
        })
        .collect();
    rules.push("counter name forged drop comment \"source check: no peer has this address in the tunnel\"".to_owned());
    Chain { name: "from_tunnel", hook: None, rules }
}

/// Beyond the tunnel a packet counts as this node's: what comes here from elsewhere ends here, unless it was translated.
fn to_tunnel(plan: &NodePlan) -> Chain {
    let mut rules = vec!["ct status dnat return comment \"no way in: translated on this node\"".to_owned()];
    rules.extend(source_in(&plan.pod_space).map(|source| format!("{source} return comment \"no way in: pods\"")));
    rules.push("counter name no_way_in drop comment \"no way in: all else\"".to_owned());
    Chain { name: "to_tunnel", hook: None, rules }
}

/// Outer packets for this node, wherever they come from: a pod may send to the port as well.
fn vtep_in(tunnel: &TunnelPlan, plan: &NodePlan) -> Chain {
    let Vxlan { port, vni } = tunnel.vxlan;
    let mut rules = vec![
        // The rule on the port matches no packet that is not UDP.
        "meta l4proto != udp return comment \"tunnel: other packets\"".to_owned(),
        format!("udp dport != {port} return comment \"tunnel: other packets\""),
    ];
    // The link itself takes every identifier.
    match plan.egress.as_ref().and_then(|egress| egress.gateways.as_ref()) {
        Some(gateways) => rules.extend(gateway::vtep_in(gateways, vni)),
        None => {
            rules.push(format!("@th,96,24 != {vni} counter name forged drop comment \"tunnel: another network's\""));
        }
    }
    for family in Family::ALL {
        let ip = protocol(family);
        for (more, set) in [("ether saddr . ", Set::Vtep(family)), ("", Set::VtepAnyMac(family))] {
            rules.push(format!(
                "{ip} saddr . {more}{INNER_SOURCE} @{set} return comment \"tunnel: from a node of this cluster\""
            ));
        }
    }
    rules.push("counter name forged drop comment \"tunnel: from nobody who belongs in it\"".to_owned());
    Chain { name: "vtep_in", hook: hook("filter", "input", "raw"), rules }
}

fn vtep_out(tunnel: &TunnelPlan, plan: &NodePlan) -> Chain {
    let rules = plan.node_ips.iter().map(|(family, address)| {
        let (ip, port) = (protocol(*family), tunnel.vxlan.port);
        format!("udp dport {port} {ip} saddr {address} notrack comment \"tunnel: outer packets are no flows\"")
    });
    Chain { name: "vtep_out", hook: hook("filter", "output", "raw"), rules: rules.collect() }
}

/// A node's own packets to pods of other nodes bear an address of its block, so that the answers come back in the tunnel;
/// the pod sees the node's address.
fn tunnel_names(tunnel: &TunnelPlan, plan: &NodePlan) -> Chain {
    let mut rules: Vec<String> = source_in(&plan.pod_space)
        .map(|source| format!("oifname \"{TUNNEL_LINK}\" {source} return comment \"tunnel: pods are who they are\""))
        .collect();
    for (family, address) in &tunnel.addresses {
        let (ip, digit) = (protocol(*family), digit(*family));
        rules.push(format!(
            "oifname \"{TUNNEL_LINK}\" meta nfproto ipv{digit} snat {ip} to {address} comment \"tunnel: answers come back in it\""
        ));
    }
    for family in Family::ALL {
        let (ip, set) = (protocol(family), Set::NodeName(family));
        rules.push(format!(
            "oifname \"{POD_LINK_PREFIX}*\" snat {ip} to {ip} saddr map @{set} comment \"tunnel: pods see the node's address\""
        ));
    }
    Chain { name: "tunnel_names", hook: hook("nat", "postrouting", "srcnat"), rules }
}
