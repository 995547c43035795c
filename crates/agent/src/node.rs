//! What every thread of the agent shares, and the few acts that several of them do.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use overlane_core::family::Family;
use overlane_core::ipam::Lease;
use overlane_datapath::pod::Wirer;

use crate::calls::{added, removed, retiring};
use crate::config::Config;
use crate::gate::Gate;
use crate::leaving::{self, Leaving};
use crate::ledger::Ledger;
use crate::members::Members;
use crate::members::MembersError;
use crate::metrics::Metrics;
use crate::pages::Heartbeat;
use crate::policy::Engine;
use crate::reconcile::status::Status;

/// One node's agent.
pub struct Node {
    /// When the agent began.
    pub started: Instant,
    /// The settings.
    pub config: Config,
    /// The machine's boot id.
    pub boot_id: String,
    /// The inode of the node's own network namespace.
    pub host_inode: u64,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The leases.
    pub ledger: Arc<Ledger>,
    /// Makes and ends links.
    pub wirer: Wirer,
    /// The pods' packet-filter elements.
    pub members: Members,
    /// By which gateways pods leave the cluster.
    pub leaving: Leaving,
    /// What network policy says of the pods.
    pub policy: Arc<Engine>,
    /// Whether ADDs are let through.
    pub gate: Gate,
    /// Leases whose links are to be ended.
    pub reaper: Sender<Vec<Lease>>,
    /// The reconciler's signs of life.
    pub reconciler: Heartbeat,
    /// The status has changed.
    pub changed: tokio::sync::Notify,
    status: RwLock<Option<Status>>,
}

/// What a node's agent is made of.
pub struct Parts {
    /// The settings.
    pub config: Config,
    /// The machine's boot id.
    pub boot_id: String,
    /// The inode of the node's own network namespace.
    pub host_inode: u64,
    /// The leases.
    pub ledger: Ledger,
    /// Leases whose links are to be ended.
    pub reaper: Sender<Vec<Lease>>,
}

impl Node {
    /// An agent that has done nothing yet, in the calling thread's namespace.
    pub fn new(parts: Parts) -> Self {
        let Parts { config, boot_id, host_inode, ledger, reaper } = parts;
        let ledger = Arc::new(ledger);
        let policy = Arc::new(Engine::new(&config.node, Arc::clone(&ledger)));
        Self {
            started: Instant::now(),
            config,
            boot_id,
            host_inode,
            members: Members::new(Arc::clone(&policy)),
            policy,
            ledger,
            reaper,
            metrics: Arc::new(Metrics::new()),
            wirer: Wirer::new(),
            leaving: Leaving::default(),
            gate: Gate::default(),
            reconciler: Heartbeat::default(),
            changed: tokio::sync::Notify::new(),
            status: RwLock::default(),
        }
    }

    /// How the node is; `None` before the first pass.
    pub fn status(&self) -> Option<Status> {
        self.status.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how the node is.
    pub fn set_status(&self, status: Status) {
        let mut now = self.status.write().unwrap_or_else(PoisonError::into_inner);
        let before = now.take().unwrap_or_default().problems;
        for (reason, text) in status.problems.difference(&before) {
            tracing::warn!(reason = reason.text(), "{text}");
        }
        for (reason, text) in before.difference(&status.problems) {
            tracing::info!(reason = reason.text(), "over: {text}");
        }
        *now = Some(status);
        drop(now);
        self.changed.notify_one();
    }

    /// Tells the packet filter of a lease: what the pod may send, and by which gateways it leaves.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn admit(&self, lease: &Lease) -> Result<(), MembersError> {
        self.policy.comes();
        let mut changes = added(lease);
        let selection = self.leaving.hold();
        if let Some(selection) = selection.as_deref() {
            changes.extend(leaving::decide(selection, lease));
            return self.members.change(changes);
        }
        drop(selection);
        self.members.change(changes)
    }

    /// Takes leases that drain out of service, and hands them to the reaper. What fails is tried again there: the
    /// link's end takes its routes along.
    pub fn retire(&self, leases: Vec<Lease>) {
        if leases.is_empty() {
            return;
        }
        // Without a table no element was ever written, or those that are will be left out when it is.
        if self.members.table().is_some()
            && let Err(error) = self.members.change(removed(&leases))
        {
            self.metrics.failed("nft-elements");
            tracing::warn!(%error, "take pods' elements away; tried again");
        }
        self.policy.went();
        if let Err(error) = self.wirer.retire(&retiring(&leases)) {
            self.metrics.failed("retire");
            tracing::warn!(%error, "take pods' routes away; they go with the links");
        }
        if self.reaper.send(leases).is_err() {
            tracing::error!("the reaper is gone; leases stay until the agent starts again");
        }
    }

    /// Undoes a lease that a call has in hands.
    pub fn undo(&self, lease: &Lease) {
        if let Err(error) = self.ledger.drain(lease.id) {
            // The reaper tries again: the address stays taken until that is on file.
            tracing::warn!(%error, link = %lease.link, "record the end of a lease");
        }
        self.ledger.leave(lease.id);
        self.retire(vec![lease.clone()]);
    }

    /// Ends a lease that is known to be over and that no call has in hands. Whether it was there.
    pub fn end(&self, id: u64) -> bool {
        match self.ledger.drain_idle(id) {
            Ok(Some(lease)) => {
                self.retire(vec![lease]);
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, lease = id, "record the end of a lease; tried again with the next audit");
                false
            }
        }
    }

    /// The kernel gives a namespace's number to another only after the first is gone: a new lease proves older ones
    /// with its number and another inode to be over.
    pub fn prove_by_newcomer(&self, newcomer: &Lease) {
        for id in self.ledger.outlived_by(newcomer) {
            if self.end(id) {
                self.metrics.proven_gone.inc();
                tracing::info!(lease = id, "freed: the number of its namespace has gone to another");
            }
        }
    }

    /// Whether an ADD would be served; otherwise why not.
    pub fn ready(&self) -> Result<(), String> {
        let env = self.gate.enter()?;
        let mut left: BTreeMap<Family, (u64, Vec<String>)> = BTreeMap::new();
        for usage in self.ledger.usage() {
            let cidr = usage.block.cidr;
            let entry = left.entry(cidr.family()).or_default();
            entry.0 += usage.free + usage.resting + usage.draining;
            entry.1.push(format!("{cidr}: {} usable, {} leased", usage.usable, usage.leased));
        }
        if left.is_empty() {
            return Err("this node has no address block yet".to_owned());
        }
        for (family, (free, blocks)) in &left {
            if *free == 0 && env.families.contains(family) {
                return Err(format!("no {family} address is free in {}", blocks.join("; ")));
            }
        }
        Ok(())
    }
}
