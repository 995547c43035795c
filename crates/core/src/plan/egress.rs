//! What becomes of packets that leave the cluster.
//!
//! A destination is inside if pods or nodes have it, if it is not masqueraded, or if the cluster's network calls it
//! internal. Packets for what is inside go as they always do; this is about all others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::gateway::GatewayPlan;
use super::{MasqPlan, NodeInput};
use crate::cidr::{Cidr, outermost};
use crate::cluster::Outbound;
use crate::family::Family;

/// What becomes of packets of this node's pods to destinations that are not inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressPlan {
    /// What is inside. None of these lies in another.
    pub inside: BTreeSet<Cidr>,
    /// Egress gateways, which some pods leave by.
    pub gateways: Option<GatewayPlan>,
    /// What becomes of the rest.
    pub outside: Outside,
}

/// What becomes of packets to destinations that are not inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outside {
    /// They go as any packet of this node.
    #[default]
    AsNode,
    /// They are dropped.
    Dropped,
    /// They go to a next hop.
    NextHops {
        /// The next hop of each family of the cluster; where there is none, packets are answered with "unreachable".
        by: BTreeMap<Family, Option<IpAddr>>,
        /// They bear the pod's address, not the node's.
        keep_pod_address: bool,
    },
}

pub(super) fn plan(
    input: &NodeInput,
    pod_space: &BTreeSet<Cidr>,
    nodes: &BTreeSet<IpAddr>,
    masquerade: Option<&MasqPlan>,
    gateways: Option<GatewayPlan>,
) -> Option<EgressPlan> {
    let outside = match input.outbound {
        Outbound::LoadBalancer => Outside::AsNode,
        // Without next hops the fabric's own routes decide, as those of a cloud do.
        Outbound::UserDefinedRouting if input.egress.next_hops.is_empty() => Outside::AsNode,
        Outbound::UserDefinedRouting => {
            let families: BTreeSet<Family> = input.pod_cidrs.iter().map(Cidr::family).collect();
            let by = families.into_iter().map(|family| (family, input.egress.next_hops.get(&family).copied()));
            Outside::NextHops { by: by.collect(), keep_pod_address: input.egress.keep_pod_address }
        }
        Outbound::NatGateway | Outbound::None => Outside::Dropped,
    };
    if outside == Outside::AsNode && gateways.is_none() {
        return None;
    }
    let left_alone = masquerade.into_iter().flat_map(|masquerade| &masquerade.except);
    let nodes = nodes.iter().map(|address| Cidr::host_range(*address));
    let inside = pod_space.iter().chain(left_alone).chain(&input.egress.internal).copied().chain(nodes);
    Some(EgressPlan { inside: outermost(inside), gateways, outside })
}
