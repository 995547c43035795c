//! A start: what an earlier agent left is taken over, its running pods untouched.
//!
//! The store says which leases there are; the kernel says which of them still have a pod. Where the store is not whole,
//! links count as witnesses too, and nothing is removed for being unknown.

use overlane_core::ipam::{Ipam, Lease, LeaseState};
use overlane_datapath::netlink::NetlinkError;
use overlane_datapath::pod;

use crate::ledger::Ledger;
use crate::links::{limits_without_link, pod_links};
use crate::node::Node;
use crate::store::log::LogError;
use crate::store::{Found, Report, Store};
use crate::witness;

/// Opens the store and says what was found.
pub fn open(dir: &std::path::Path, boot_id: &str, cool_down_ms: u64) -> Result<(Ledger, Report), LogError> {
    let mut ipam = Ipam::new(Vec::new(), cool_down_ms);
    let (store, report) = Store::open(dir, boot_id, &mut ipam)?;
    tell(dir, &report, &ipam);
    Ok((Ledger::new(ipam, store), report))
}

fn tell(dir: &std::path::Path, report: &Report, ipam: &Ipam) {
    let file = dir.join(crate::store::FILE);
    let leases = ipam.leases().count();
    match report.found {
        Found::Nothing => tracing::info!(file = %file.display(), "no leases on file"),
        Found::OtherBoot => tracing::info!(file = %file.display(), "the leases on file ended with an earlier boot"),
        Found::Ours => tracing::info!(file = %file.display(), leases, "leases taken over"),
    }
    if report.torn > 0 {
        tracing::info!(bytes = report.torn, "an unfinished last record was cut off");
    }
    let aside = report.aside.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    for damage in &report.damage {
        tracing::error!(file = %file.display(), aside, "the lease store is damaged: {damage}");
    }
    for (line, conflict) in &report.conflicts {
        tracing::error!(file = %file.display(), aside, line, "the lease store contradicts itself: {conflict}");
    }
}

/// What the node's condition says of the store, if it was damaged.
pub fn fault(report: &Report) -> Option<String> {
    let first = report.damage.first().map(ToString::to_string);
    let first =
        first.or_else(|| report.conflicts.first().map(|(line, conflict)| format!("line {line}: {conflict}")))?;
    let aside = report.aside.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    Some(format!("the lease store was damaged ({first}); it is kept as {aside}, leases were completed from the kernel"))
}

/// Makes leases and kernel agree before the first call is served. The caller has taken the events' subscription, so
/// that nothing falls between.
pub fn reconcile(node: &Node, report: &Report) -> Result<(), NetlinkError> {
    let links = pod_links()?;
    let unknown: Vec<_> = links.values().filter(|link| node.ledger.by_link(&link.name).is_none()).collect();
    if report.intact() {
        let names: Vec<String> = unknown.iter().map(|link| link.name.clone()).collect();
        if !names.is_empty() {
            tracing::info!(links = ?names, "remove links of ours that no lease names");
            node.metrics.repaired("orphan-link", names.len());
            node.wirer.reap(&names)?;
        }
    } else if !unknown.is_empty() {
        let addresses = witness::addresses()?;
        for link in unknown {
            adopt(node, link, addresses.get(&link.index).map_or(&[][..], Vec::as_slice));
        }
    }
    let limits = limits_without_link()?;
    if !limits.is_empty() {
        tracing::info!(links = ?limits, "remove what limited links that are gone");
        node.wirer.reap(&limits)?;
    }
    for lease in node.ledger.leases() {
        settle(node, &lease, links.contains_key(&lease.link));
    }
    Ok(())
}

fn adopt(node: &Node, link: &overlane_datapath::rtnl::link::Link, addresses: &[std::net::IpAddr]) {
    let lease = witness::lease(link, addresses, node.ledger.fresh_id(), 0);
    let Some(lease) = lease.filter(|lease| !lease.addresses.is_empty()) else {
        tracing::warn!(link = %link.name, alias = ?link.alias, "a link of ours that no lease names says too little; left alone");
        return;
    };
    tracing::warn!(link = %lease.link, attachment = %lease.attachment, addresses = ?lease.addresses, "a lease that the store had lost is taken from the kernel");
    if let Err(error) = node.ledger.restore(lease) {
        tracing::error!(%error, link = %link.name, "take a lease from the kernel");
    }
}

fn settle(node: &Node, lease: &Lease, linked: bool) {
    match lease.state {
        // Nobody has its answer, and nobody will.
        LeaseState::Wiring => {
            tracing::info!(attachment = %lease.attachment, link = %lease.link, "undo an ADD that an earlier agent began");
            node.end(lease.id);
        }
        LeaseState::Draining => node.retire(vec![lease.clone()]),
        LeaseState::Active if linked => {}
        LeaseState::Active => {
            prove(node, lease);
        }
    }
}

/// Ends a lease whose link is gone, or another plugin's, if the kernel says that its namespace is gone too. Whether it
/// was ended.
pub fn prove(node: &Node, lease: &Lease) -> bool {
    let Some(nsid) = lease.netns.nsid else { return false };
    match pod::is_alive(nsid) {
        Ok(true) => false,
        Ok(false) => {
            let ended = node.end(lease.id);
            if ended {
                node.metrics.proven_gone.inc();
                tracing::info!(attachment = %lease.attachment, addresses = ?lease.addresses, "freed: its namespace is gone");
            }
            ended
        }
        Err(error) => {
            tracing::warn!(%error, nsid, "ask whether a namespace lives");
            false
        }
    }
}
