//! Listens to the kernel: ends leases whose sandbox is proven gone, and tells the reconciler that something changed.
//!
//! The kernel takes a namespace's number back before it removes the namespace's links (`cleanup_net` in
//! net/core/net_namespace.c), so that at a link's end the number already tells whether a person removed the link or
//! its namespace went.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use overlane_core::ipam::{LeaseKind, LeaseState};
use overlane_datapath::events::{Event, Watcher};
use overlane_datapath::netlink::NetlinkError;

use crate::links::pod_links;
use crate::node::Node;
use crate::reconcile::Wake;
use crate::takeover::prove;
use crate::tombstones::Graveyard;

/// How often the tombstones are looked at.
const GRAVEYARD: Duration = Duration::from_secs(3);

/// Listens until the process ends. Runs on its own thread.
pub fn run(node: &Arc<Node>, mut watcher: Watcher, mut graveyard: Graveyard, wake: &Sender<Wake>) {
    let mut looked = Instant::now();
    loop {
        let events = match watcher.wait(GRAVEYARD) {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(%error, "listen to the kernel");
                std::thread::sleep(Duration::from_millis(200));
                match Watcher::open() {
                    Ok(fresh) => watcher = fresh,
                    Err(error) => tracing::error!(%error, "listen to the kernel again"),
                }
                std::collections::BTreeSet::from([Event::Lost])
            }
        };
        for event in &events {
            judge(node, event);
        }
        if !events.is_empty() && wake.send(Wake::Kernel(events)).is_err() {
            return;
        }
        if looked.elapsed() >= GRAVEYARD {
            graveyard.honour(node);
            looked = Instant::now();
        }
    }
}

fn judge(node: &Node, event: &Event) {
    match event {
        Event::LinkGone { name, ours: true } => {
            let lease = node.ledger.by_link(name).filter(|lease| lease.state == LeaseState::Active);
            let Some(lease) = lease else { return };
            if !prove(node, &lease) && node.ledger.is_settled(name) {
                tracing::warn!(link = %name, attachment = %lease.attachment, "a pod's link was removed while its namespace lives; the lease stays");
            }
        }
        Event::NetnsGone { nsid } => {
            let named: Vec<_> =
                node.ledger.idle().into_iter().filter(|lease| lease.netns.nsid == Some(*nsid)).collect();
            if named.is_empty() {
                return;
            }
            // Links that are still there go in a moment, and are judged then.
            match pod_links() {
                Ok(links) => {
                    // A link that another plugin made is not looked for: the namespace's end is the whole proof.
                    for lease in named.iter().filter(|l| l.state == LeaseState::Active && !links.contains_key(&l.link))
                    {
                        prove(node, lease);
                    }
                }
                Err(error) => tracing::warn!(%error, "list pod links"),
            }
        }
        Event::Lost => {
            if let Err(error) = missing(node) {
                tracing::warn!(%error, "list pod links");
            }
        }
        _ => {}
    }
}

/// Judges every lease whose link is not there; gives how many of them stay.
pub fn missing(node: &Node) -> Result<usize, NetlinkError> {
    // Leases first: a link that comes after the list was read is not taken for missing.
    let leases = node.ledger.idle();
    let links = pod_links()?;
    let gone = leases.iter().filter(|l| l.state == LeaseState::Active && !links.contains_key(&l.link));
    // Every lease may be judged by its namespace, but only one with a link of ours can miss it.
    Ok(gone.filter(|lease| !prove(node, lease) && lease.kind == LeaseKind::Interface).count())
}
