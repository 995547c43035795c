//! How many flows there are, against how many there can be.

use std::collections::BTreeSet;
use std::net::IpAddr;

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_datapath::netlink::NetlinkError;
use overlane_datapath::{conntrack, sysctl};

use super::status::{Problem, Reason};
use crate::metrics::{FlowLabels, Metrics};

/// Ports that a flow's translation chooses from, unless it came from a port below 1024: 1024 to 65535
/// (`nf_nat_l4proto_unique_tuple`).
const PORTS: u32 = 65_535 - 1_024 + 1;
/// Of a hundred: so much of what there is in use is a problem.
const SCARCE: u32 = 80;

/// Counts them, those of `pods` by destination, and says what is nearly used up. A walk through the kernel's whole table.
pub(super) fn look(
    metrics: &Metrics,
    pods: &[Cidr],
    addresses: &BTreeSet<IpAddr>,
) -> Result<BTreeSet<Problem>, NetlinkError> {
    let mut scarce = BTreeSet::new();
    metrics.snat_ports_limit.set(i64::from(PORTS));
    metrics.snat_ports.clear();
    for found in conntrack::busiest(pods, addresses)? {
        let protocol = if found.protocol == 6 { "tcp" } else { "udp" };
        let labels = FlowLabels { family: Family::of(&found.to.ip()).to_string(), protocol };
        metrics.snat_ports.get_or_create(&labels).set(i64::from(found.flows));
        if is_scarce(found.flows, PORTS) {
            let text = format!(
                "flows of pods to {}/{protocol} hold {} % and more of the {PORTS} ports of the node's address: spread the \
                 pods over more nodes, or have them keep connections",
                found.to,
                tens(found.flows, PORTS)
            );
            scarce.insert((Reason::SnatPortsScarce, text));
        }
    }
    // A kernel without these counts nothing.
    let read = |key: &str| sysctl::read(&format!("net/netfilter/{key}")).ok()?.parse::<u32>().ok();
    if let Some((entries, limit)) = read("nf_conntrack_count").zip(read("nf_conntrack_max")) {
        metrics.conntrack_entries.set(i64::from(entries));
        metrics.conntrack_limit.set(i64::from(limit));
        if limit > 0 && is_scarce(entries, limit) {
            let text = format!(
                "of {limit} flows that the kernel can remember {} % and more are there: raise \
                 net.netfilter.nf_conntrack_max",
                tens(entries, limit)
            );
            scarce.insert((Reason::ConntrackScarce, text));
        }
    }
    Ok(scarce)
}

/// How many of a hundred, in tens: a message that changes with every flow would be written each time.
fn tens(used: u32, of: u32) -> u64 {
    u64::from(used) * 10 / u64::from(of).max(1) * 10
}

fn is_scarce(used: u32, of: u32) -> bool {
    u64::from(used) * 100 >= u64::from(of) * u64::from(SCARCE)
}

#[cfg(test)]
mod tests {
    //! Must catch: a shortage that is told when everything is gone.

    use super::*;

    #[test]
    fn told_before_it_hurts() {
        assert!(!is_scarce(51_000, PORTS) && is_scarce(52_000, PORTS) && is_scarce(u32::MAX, u32::MAX));
    }
}
