//! The end of links, behind DEL's answer: several at a time, since the kernel waits a grace period for each deletion
//! request and not for each link.
//!
//! An address is free once the link is gone and no remembered flow names it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use overlane_core::ipam::{Lease, LeaseKind};
use overlane_datapath::conntrack;

use crate::calls::removed;
use crate::node::Node;

/// Most links of one deletion.
const BATCH: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long an address of pure IPAM stays taken after its DEL: main plugins give it back before they take their own
/// link away, some milliseconds later.
const GRACE: Duration = Duration::from_secs(1);

/// Reaps until the process ends. Runs on its own thread.
pub fn run(node: &Arc<Node>, queue: &Receiver<Vec<Lease>>) {
    let mut waiting: Vec<Lease> = Vec::new();
    // In the order in which they are due.
    let mut held: VecDeque<(Instant, Lease)> = VecDeque::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let due = held.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let nap = if waiting.is_empty() { due } else { Some(due.map_or(pause, |due| due.min(pause))) };
        let more = match nap {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(nap) => queue.recv_timeout(nap),
        };
        match more {
            Ok(more) => sort(more, &mut waiting, &mut held),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while waiting.len() < BATCH {
            let Ok(more) = queue.try_recv() else { break };
            sort(more, &mut waiting, &mut held);
        }
        while held.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            waiting.extend(held.pop_front().map(|(_, lease)| lease));
        }
        if waiting.is_empty() {
            continue;
        }
        let rest = waiting.split_off(waiting.len().min(BATCH));
        let failed = reap(node, std::mem::replace(&mut waiting, rest));
        pause = if failed.is_empty() { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        waiting.extend(failed);
    }
}

fn sort(leases: Vec<Lease>, waiting: &mut Vec<Lease>, held: &mut VecDeque<(Instant, Lease)>) {
    for lease in leases {
        match lease.kind {
            LeaseKind::Ipam => held.push_back((Instant::now() + GRACE, lease)),
            LeaseKind::Interface | LeaseKind::Gateway => waiting.push(lease),
        }
    }
}

/// Ends these; gives back those that must be tried again.
fn reap(node: &Node, leases: Vec<Lease>) -> Vec<Lease> {
    let failed = |what: &str, error: &dyn std::error::Error| {
        node.metrics.failed(what);
        tracing::warn!(%error, leases = leases.len(), "{what}; tried again");
    };
    let ours = leases.iter().filter(|lease| lease.kind == LeaseKind::Interface);
    let links: Vec<String> = ours.map(|lease| lease.link.clone()).collect();
    if let Err(error) = node.wirer.reap(&links) {
        failed("end-links", &error);
        return leases;
    }
    // An audit that saw the lease a moment before its DEL may have put its elements back.
    if node.members.table().is_some()
        && let Err(error) = node.members.change(removed(&leases))
    {
        failed("nft-elements", &error);
        return leases;
    }
    let addresses: Vec<IpAddr> = leases.iter().flat_map(|lease| lease.addresses.iter().copied()).collect();
    if let Err(error) = conntrack::forget(&addresses) {
        failed("forget-flows", &error);
        return leases;
    }
    let mut again = Vec::new();
    for lease in leases {
        match node.ledger.free(lease.id) {
            Ok(()) => tracing::debug!(link = %lease.link, addresses = ?lease.addresses, "freed"),
            Err(error) => {
                node.metrics.failed("lease-store");
                tracing::warn!(%error, link = %lease.link, "record that addresses are free; tried again");
                again.push(lease);
            }
        }
    }
    again
}
