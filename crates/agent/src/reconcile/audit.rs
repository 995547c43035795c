//! The audit of what no plan compares: the packet filter as a whole, and the host's side of each pod's link.

use std::fmt::Display;

use overlane_core::ipam::{LeaseKind, LeaseState};
use overlane_datapath::pod::Fault;

use crate::calls::pod_spec;
use crate::node::Node;
use crate::proof;

/// Looks at everything and repairs it.
pub fn run(node: &Node, mut failed: impl FnMut(&str, &dyn Display)) {
    if let Some(table) = node.members.table() {
        match table.audit() {
            Ok(found) => {
                node.metrics.repaired("nft-structure", usize::from(found.structure));
                node.metrics.repaired("nft-element", found.missing + found.surplus);
                if found != overlane_datapath::nft::Audit::default() {
                    tracing::warn!(?found, "the packet filter had drifted");
                }
            }
            Err(error) => failed("audit the packet filter", &error),
        }
    }
    match proof::missing(node) {
        Ok(count) => _ = node.metrics.links_missing.set(i64::try_from(count).unwrap_or(i64::MAX)),
        Err(error) => failed("list pod links", &error),
    }
    pods(node, &mut failed);
}

fn pods(node: &Node, failed: &mut impl FnMut(&str, &dyn Display)) {
    let env = node.gate.env();
    if env.mtu == 0 {
        return;
    }
    for lease in node.ledger.idle() {
        let ours = lease.kind == LeaseKind::Interface;
        if !ours || lease.state != LeaseState::Active || env.cut.contains_key(&lease.link) {
            continue;
        }
        let spec = pod_spec(&lease, &env);
        let faults = match node.wirer.check_host(&spec) {
            Ok(faults) => faults,
            Err(error) => return failed("look at a pod's link", &error),
        };
        // An MTU follows the underlay's for new pods only; a link that is gone is judged elsewhere.
        let faults: Vec<&Fault> =
            faults.iter().filter(|f| !matches!(f, Fault::NoLink { .. } | Fault::Mtu { .. })).collect();
        if faults.is_empty() || !node.ledger.is_settled(&lease.link) {
            continue;
        }
        match node.wirer.repair_host(&spec) {
            Ok(()) => {
                for fault in faults {
                    node.metrics.repaired(kind(fault), 1);
                    tracing::warn!(attachment = %lease.attachment, "repaired: {fault}");
                }
            }
            Err(error) => failed("repair a pod's link", &error),
        }
    }
}

fn kind(fault: &Fault) -> &'static str {
    match fault {
        Fault::Neighbour { .. } => "neighbour",
        Fault::Route { .. } => "route",
        Fault::Address { .. } => "address",
        Fault::Limit { .. } => "limit",
        _ => "link",
    }
}
