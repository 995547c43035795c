//! What is measured, in Prometheus' terms.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use overlane_core::blocks::PoolUse;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Blocks {
    pool: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// All metrics, and what `/healthz` and `/readyz` go by. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    blocks: Family<Blocks, Gauge>,
    nodes: Family<State, Gauge>,
    allocation: Histogram,
    writes: Family<Kind, Counter>,
    conflicts: Family<Kind, Counter>,
    failures: Family<Kind, Counter>,
    leader: Gauge,
    waiting: Gauge,
    slice_delay: Histogram,
    slice_pods: Gauge,
    synced: AtomicBool,
    beat_ms: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("overlane_controller");
        let blocks = Family::<Blocks, Gauge>::default();
        registry.register("blocks", "Blocks by pod CIDR and state: total, used, resting, kept", blocks.clone());
        let nodes = Family::<State, Gauge>::default();
        registry.register("nodes", "Nodes by state: announced, troubled, all", nodes.clone());
        let seconds = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 900.0];
        let allocation = Histogram::new(seconds);
        let help = "Time from the first sight of a Node to the announcement of its blocks";
        registry.register_with_unit("allocation", help, Unit::Seconds, allocation.clone());
        let writes = Family::<Kind, Counter>::default();
        registry.register("writes", "Writes to the API by kind, refused ones included", writes.clone());
        let conflicts = Family::<Kind, Counter>::default();
        registry.register("conflicts", "Actions that the API refused because things had changed", conflicts.clone());
        let failures = Family::<Kind, Counter>::default();
        registry.register("failures", "Actions that failed", failures.clone());
        let leader = Gauge::default();
        registry.register("leader", "Whether this controller acts", leader.clone());
        let waiting = Gauge::default();
        registry.register("queue", "Nodes that wait to be decided about", waiting.clone());
        let seconds = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0];
        let slice_delay = Histogram::new(seconds);
        let help = "Time from what changes a PodSlice to the end of its write";
        registry.register_with_unit("slice_delay", help, Unit::Seconds, slice_delay.clone());
        let slice_pods = Gauge::default();
        registry.register("slice_pods", "Pods that network policies can tell of", slice_pods.clone());
        let (synced, beat_ms) = (AtomicBool::new(false), AtomicU64::new(0));
        let inner = Inner {
            registry,
            blocks,
            nodes,
            allocation,
            writes,
            conflicts,
            failures,
            leader,
            waiting,
            slice_delay,
            slice_pods,
            synced,
            beat_ms,
        };
        Self(Arc::new(inner))
    }

    pub(crate) fn write(&self, kind: &'static str) {
        self.0.writes.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn conflict(&self, kind: &'static str) {
        self.0.conflicts.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn failure(&self, kind: &'static str) {
        self.0.failures.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn allocated(&self, after_ms: u64) {
        #[expect(clippy::cast_precision_loss, reason = "times are far below 2^52 ms")]
        self.0.allocation.observe(after_ms as f64 / 1000.0);
    }

    pub(crate) fn set_leader(&self, leads: bool) {
        self.0.leader.set(i64::from(leads));
    }

    pub(crate) fn slice_written(&self, after: Duration) {
        self.0.slice_delay.observe(after.as_secs_f64());
    }

    pub(crate) fn set_slice_pods(&self, pods: usize) {
        self.0.slice_pods.set(count(pods as u64));
    }

    pub(crate) fn set_queue(&self, waiting: usize) {
        self.0.waiting.set(count(waiting as u64));
    }

    pub(crate) fn set_nodes(&self, all: usize, announced: usize, troubled: usize) {
        for (state, number) in [("all", all), ("announced", announced), ("troubled", troubled)] {
            self.0.nodes.get_or_create(&State { state }).set(count(number as u64));
        }
    }

    pub(crate) fn set_blocks(&self, usage: &[PoolUse]) {
        for pool in usage {
            let counts = [("total", pool.total), ("used", pool.used), ("resting", pool.resting), ("kept", pool.kept)];
            for (state, number) in counts {
                let labels = Blocks { pool: pool.pool.cidr.to_string(), state };
                self.0.blocks.get_or_create(&labels).set(count(number));
            }
        }
    }

    pub(crate) fn set_synced(&self, synced: bool) {
        self.0.synced.store(synced, Ordering::Relaxed);
    }

    /// The main loop is alive.
    pub(crate) fn beat(&self, now_ms: u64) {
        self.0.beat_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether every source was seen whole.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.0.synced.load(Ordering::Relaxed)
    }

    /// Whether this controller acts.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.0.leader.get() != 0
    }

    /// When the main loop was last alive, in milliseconds since the epoch; 0 before it began.
    #[must_use]
    pub fn last_beat_ms(&self) -> u64 {
        self.0.beat_ms.load(Ordering::Relaxed)
    }

    /// All of it as text.
    ///
    /// # Errors
    /// Never, by the library's own words; its type has one.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
