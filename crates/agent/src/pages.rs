//! What the HTTP pages show of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use overlane_core::ipam::{LeaseKind, LeaseState};
use overlane_core::policy::Tier;
use overlane_daemon::pages::Pages;
use overlane_datapath::node::Segment;
use overlane_datapath::render::element::RawElement;
use serde_json::{Value, json};

use crate::clock;
use crate::metrics::{BlockLabels, CounterLabels, ReasonLabels, StateLabels, VerdictLabels};
use crate::node::Node;

/// When a thread last said that it lives.
#[derive(Debug, Default)]
pub struct Heartbeat(AtomicU64);

impl Heartbeat {
    /// How long silence is taken for work, milliseconds.
    const PATIENCE_MS: u64 = 120_000;

    /// The thread lives.
    pub fn beat(&self) {
        self.0.store(clock::boot_ms(), Ordering::Relaxed);
    }

    fn silent_ms(&self) -> u64 {
        clock::boot_ms().saturating_sub(self.0.load(Ordering::Relaxed))
    }
}

/// The pages of one node.
pub struct NodePages {
    /// The node.
    pub node: Arc<Node>,
    started: OnceLock<u64>,
    /// What each verdict's counter was at the last look.
    verdicts: Mutex<BTreeMap<RawElement, u64>>,
    /// Verdicts that were told of then.
    labels: Mutex<BTreeSet<VerdictLabels>>,
}

impl NodePages {
    /// Pages of `node`.
    pub fn new(node: Arc<Node>) -> Self {
        let started = OnceLock::from(clock::boot_ms());
        Self { node, started, verdicts: Mutex::default(), labels: Mutex::default() }
    }

    fn count_leases(&self) {
        let metrics = &self.node.metrics;
        let mut counts = [("wiring", 0), ("active", 0), ("draining", 0)];
        for lease in self.node.ledger.leases() {
            let slot = match lease.state {
                LeaseState::Wiring => 0,
                LeaseState::Active => 1,
                LeaseState::Draining => 2,
            };
            counts[slot].1 += 1;
        }
        for (state, count) in counts {
            metrics.leases.get_or_create(&StateLabels { state }).set(count);
        }
        metrics.addresses.clear();
        for usage in self.node.ledger.usage() {
            let numbers = [
                ("usable", usage.usable),
                ("leased", usage.leased),
                ("draining", usage.draining),
                ("resting", usage.resting),
                ("free", usage.free),
            ];
            for (state, count) in numbers {
                let labels = BlockLabels { block: usage.block.cidr.to_string(), state };
                metrics.addresses.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    /// Counters end with the element that they are of: what came since the last look is added up.
    fn count_verdicts(&self) {
        let Some(table) = self.node.members.table() else { return };
        let verdicts = match table.verdicts() {
            Ok(verdicts) => verdicts,
            Err(error) => {
                tracing::warn!(%error, "read the verdicts of network policy");
                return;
            }
        };
        let mut seen = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *seen);
        let mut told = BTreeSet::new();
        for verdict in verdicts {
            let (outcome, policy) = (verdict.outcome, verdict.policy);
            let labels = VerdictLabels {
                kind: if policy.tier == Tier::Namespace { "NetworkPolicy" } else { "ClusterNetworkPolicy" },
                namespace: policy.namespace,
                name: policy.name,
                direction: verdict.direction.to_string(),
                verdict: match (outcome.allowed, outcome.audited) {
                    (false, _) => "denied",
                    (true, Some(_)) => "audited",
                    (true, None) => "allowed",
                },
            };
            let known = before.get(&verdict.element).copied().filter(|known| *known <= verdict.packets).unwrap_or(0);
            self.node.metrics.verdicts.get_or_create(&labels).inc_by(verdict.packets - known);
            told.insert(labels);
            seen.insert(verdict.element, verdict.packets);
        }
        // Policies come and go, for years.
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in labels.difference(&told) {
            self.node.metrics.verdicts.remove(gone);
        }
        *labels = told;
    }

    fn count_packets(&self) {
        let Some(table) = self.node.members.table() else { return };
        match table.counters() {
            Ok(counters) => {
                for (counter, (packets, _)) in counters {
                    let shown = self.node.metrics.packets.get_or_create(&CounterLabels { counter });
                    shown.inner().store(packets, Ordering::Relaxed);
                }
            }
            Err(error) => tracing::warn!(%error, "read the packet filter's counters"),
        }
    }
}

impl Pages for NodePages {
    fn metrics(&self) -> anyhow::Result<String> {
        self.count_leases();
        self.count_packets();
        self.count_verdicts();
        let metrics = &self.node.metrics;
        metrics.ready.set(i64::from(self.node.ready().is_ok()));
        metrics.degraded.clear();
        let status = self.node.status().unwrap_or_default();
        metrics.sources_by_mac.set(i64::from(status.segment == Segment::KeepsMacs));
        for (reason, _) in status.problems {
            metrics.degraded.get_or_create(&ReasonLabels { reason: reason.text().to_owned() }).set(1);
        }
        Ok(metrics.text()?)
    }

    fn state(&self) -> Option<Value> {
        let node = &self.node;
        let status = node.status().unwrap_or_default();
        let env = node.gate.env();
        let leases: Vec<Value> = node
            .ledger
            .leases()
            .iter()
            .map(|lease| {
                json!({
                    "id": lease.id,
                    "containerId": lease.attachment.container_id,
                    "ifname": lease.attachment.ifname,
                    "network": lease.network,
                    "pod": lease.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)),
                    "addresses": lease.addresses,
                    "kind": format!("{:?}", lease.kind).to_lowercase(),
                    "link": (lease.kind == LeaseKind::Interface).then_some(&lease.link),
                    "nsid": lease.netns.nsid,
                    "netnsInode": lease.netns.inode,
                    "netnsPath": lease.netns.path,
                    "state": format!("{:?}", lease.state).to_lowercase(),
                    "cutOffFor": env.cut.get(&lease.link),
                })
            })
            .collect();
        let blocks: Vec<Value> = node
            .ledger
            .usage()
            .iter()
            .map(|usage| {
                json!({
                    "block": usage.block.cidr.to_string(),
                    "pair": usage.block.pair,
                    "usable": usage.usable,
                    "leased": usage.leased,
                    "draining": usage.draining,
                    "resting": usage.resting,
                    "free": usage.free,
                })
            })
            .collect();
        Some(json!({
            "node": node.config.node,
            "lab": node.config.lab,
            "version": env!("CARGO_PKG_VERSION"),
            "bootId": node.boot_id,
            "upMs": self.started.get().map(|at| clock::boot_ms().saturating_sub(*at)),
            "ready": node.ready().err().map_or(json!(true), |reason| json!(reason)),
            "degraded": status.problems.iter().map(|(reason, text)| json!({"reason": reason.text(), "message": text})).collect::<Vec<_>>(),
            "segment": status.segment.text(),
            "nodeIPs": env.node_ips.values().collect::<Vec<_>>(),
            "podMTU": env.mtu,
            "heldBlocks": status.held.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "blocks": blocks,
            "leases": leases,
        }))
    }

    fn ready(&self) -> Result<(), String> {
        self.node.ready()
    }

    fn healthy(&self) -> Result<(), String> {
        let silent = self.node.reconciler.silent_ms();
        if silent < Heartbeat::PATIENCE_MS {
            return Ok(());
        }
        Err(format!("the reconciler has been silent for {} s", silent / 1000))
    }
}
