//! The end of links, behind DEL's answer: several at a time, since the kernel waits a grace period for each deletion
//! request and not for each link.
//!
//! An address is free once the link is gone and no remembered flow names it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use overlane_core::ipam::Lease;
use overlane_datapath::conntrack;

use crate::calls::removed;
use crate::node::Node;

/// Most links of one deletion.
const BATCH: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Reaps until the process ends. Runs on its own thread.
pub fn run(node: &Arc<Node>, queue: &Receiver<Vec<Lease>>) {
    let mut waiting: Vec<Lease> = Vec::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let more = if waiting.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(pause)
        };
        match more {
            Ok(more) => waiting.extend(more),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while waiting.len() < BATCH {
            let Ok(more) = queue.try_recv() else { break };
            waiting.extend(more);
        }
        let rest = waiting.split_off(waiting.len().min(BATCH));
        let failed = reap(node, std::mem::replace(&mut waiting, rest));
        pause = if failed.is_empty() { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        waiting.extend(failed);
    }
}

/// Ends these; gives back those that must be tried again.
fn reap(node: &Node, leases: Vec<Lease>) -> Vec<Lease> {
    let failed = |what: &str, error: &dyn std::error::Error| {
        node.metrics.failed(what);
        tracing::warn!(%error, leases = leases.len(), "{what}; tried again");
    };
    let links: Vec<String> = leases.iter().map(|lease| lease.link.clone()).collect();
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
