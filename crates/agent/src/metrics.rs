//! What the agent counts, in Prometheus' terms.
//!
//! Counters and histograms move where things happen; gauges that mirror state are set when somebody asks.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// A CNI call that was served.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    /// `ADD`, `DEL`, `CHECK`, `GC` or `STATUS`.
    pub verb: &'static str,
    /// `ok`, or CNI's error code.
    pub outcome: String,
}

/// Leases in one state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabels {
    /// `wiring`, `active` or `draining`.
    pub state: &'static str,
}

/// Addresses of one block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BlockLabels {
    /// The block as a CIDR.
    pub block: String,
    /// `usable`, `leased`, `draining`, `resting` or `free`.
    pub state: &'static str,
}

/// Something by kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// The kind.
    pub kind: String,
}

/// A named counter of the data path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CounterLabels {
    /// The counter's name in the nft table.
    pub counter: String,
}

/// What a policy made of first packets of flows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct VerdictLabels {
    /// `NetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: &'static str,
    /// The policy's namespace; empty for a ClusterNetworkPolicy.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `allowed`, `denied`, or `audited`: allowed, though the policy would have denied it.
    pub verdict: &'static str,
}

/// A condition of the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    /// The condition's reason.
    pub reason: String,
}

/// Flows of one family and protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FlowLabels {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
}

/// Every metric of the agent.
pub struct Metrics {
    registry: Registry,
    /// Time from a received request to its answer, seconds.
    pub calls: Family<CallLabels, Histogram>,
    /// Leases by state.
    pub leases: Family<StateLabels, Gauge>,
    /// Addresses by block and state.
    pub addresses: Family<BlockLabels, Gauge>,
    /// Things that the audit put right.
    pub repairs: Family<KindLabels, Counter>,
    /// Things that could not be applied; tried again.
    pub failures: Family<KindLabels, Counter>,
    /// Packets that the data path counted under a name, as of the last look.
    pub packets: Family<CounterLabels, Counter>,
    /// ADDs that were undone after their wiring had begun.
    pub undone: Counter,
    /// Leases that were given up because the kernel proved their sandbox gone.
    pub proven_gone: Counter,
    /// Leases whose link somebody removed while its namespace lives, now.
    pub links_missing: Gauge,
    /// Whether other nodes' packets are told by their MACs.
    pub sources_by_mac: Gauge,
    /// Leases of blocks that were given to another node, now; these pods are off the network.
    pub leases_cut: Gauge,
    /// ADDs whose pod was not known to network policy in time: it started cut off.
    pub isolated: Counter,
    /// Flows that were ended because network policy does not allow them any more.
    pub flows_cut: Counter,
    /// Whether the API server is being heard.
    pub api_connected: Gauge,
    /// Whether an ADD would be served.
    pub ready: Gauge,
    /// 1 for the reason that the node is degraded for.
    pub degraded: Family<ReasonLabels, Gauge>,
    /// Ports of the node's address that flows of pods to one destination hold: the most of any destination.
    pub snat_ports: Family<FlowLabels, Gauge>,
    /// Ports of the node's address that flows to one destination can hold.
    pub snat_ports_limit: Gauge,
    /// Flows that the kernel remembers, now.
    pub conntrack_entries: Gauge,
    /// Flows that the kernel can remember.
    pub conntrack_limit: Gauge,
    /// Egress addresses that this node has.
    pub egress_ips: Gauge,
    /// Nodes whose blocks are known.
    pub peers: Gauge,
    /// Time from the word of a change to the end of its application, seconds.
    pub apply: Histogram,
    /// First packets of flows by the policy that decided.
    pub verdicts: Family<VerdictLabels, Counter>,
    /// The same of network policy.
    pub policy_apply: Histogram,
}

fn latency(from: f64, count: u16) -> Histogram {
    Histogram::new((0..count).map(move |n| from * 2_f64.powi(i32::from(n))))
}

impl Metrics {
    /// Registers every metric.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("overlane");
        let calls = Family::new_with_constructor((|| latency(0.000_25, 16)) as fn() -> Histogram);
        let metrics = Self {
            calls,
            leases: Family::default(),
            addresses: Family::default(),
            repairs: Family::default(),
            failures: Family::default(),
            packets: Family::default(),
            undone: Counter::default(),
            proven_gone: Counter::default(),
            links_missing: Gauge::default(),
            sources_by_mac: Gauge::default(),
            leases_cut: Gauge::default(),
            isolated: Counter::default(),
            flows_cut: Counter::default(),
            api_connected: Gauge::default(),
            ready: Gauge::default(),
            degraded: Family::default(),
            snat_ports: Family::default(),
            snat_ports_limit: Gauge::default(),
            conntrack_entries: Gauge::default(),
            conntrack_limit: Gauge::default(),
            egress_ips: Gauge::default(),
            peers: Gauge::default(),
            apply: latency(0.001, 14),
            verdicts: Family::default(),
            policy_apply: latency(0.001, 14),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register("cni_duration_seconds", "Request received to answer, by verb and outcome", metrics.calls.clone());
        r.register("leases", "Leases by state", metrics.leases.clone());
        r.register("addresses", "Addresses by block and state", metrics.addresses.clone());
        r.register("repairs", "Things that drifted and were put right, by kind", metrics.repairs.clone());
        r.register("failures", "Things that could not be applied, by kind", metrics.failures.clone());
        r.register("packets", "Packets that the data path counted, by counter", metrics.packets.clone());
        r.register("adds_undone", "ADDs undone after their wiring had begun", metrics.undone.clone());
        r.register("leases_proven_gone", "Leases given up on the kernel's word", metrics.proven_gone.clone());
        let help = "Whether other nodes' packets are told by their MACs: the nodes' segment is seen to keep them";
        r.register("sources_by_mac", help, metrics.sources_by_mac.clone());
        r.register("links_missing", "Links removed by hand in living namespaces", metrics.links_missing.clone());
        r.register("leases_cut", "Leases of blocks that another node was given", metrics.leases_cut.clone());
        r.register("flows_cut", "Flows that network policy ended", metrics.flows_cut.clone());
        let help = "ADDs whose pod network policy did not know in time";
        r.register("pods_isolated", help, metrics.isolated.clone());
        r.register("api_connected", "1 while the API server is heard", metrics.api_connected.clone());
        r.register("ready", "1 while an ADD would be served", metrics.ready.clone());
        r.register("degraded", "1 for the reason that the node is degraded for", metrics.degraded.clone());
        let help =
            "Ports of the node's address that flows of pods to one destination hold, the most of any destination";
        r.register("snat_ports_used", help, metrics.snat_ports.clone());
        let help = "Ports of the node's address that flows to one destination can hold";
        r.register("snat_ports_limit", help, metrics.snat_ports_limit.clone());
        r.register("conntrack_entries", "Flows that the kernel remembers", metrics.conntrack_entries.clone());
        r.register("conntrack_limit", "Flows that the kernel can remember", metrics.conntrack_limit.clone());
        r.register("egress_ips", "Egress addresses that this node has", metrics.egress_ips.clone());
        r.register("peers", "Nodes whose blocks are known", metrics.peers.clone());
        r.register("apply_duration_seconds", "Word of a change to its application", metrics.apply.clone());
        let help = "First packets of flows by the policy that decided";
        r.register("policy_verdicts", help, metrics.verdicts.clone());
        let help = "Word of a change to network policy to its being in force";
        r.register("policy_apply_duration_seconds", help, metrics.policy_apply.clone());
        Self { registry, ..metrics }
    }

    /// Counts one repair.
    pub fn repaired(&self, kind: &str, count: usize) {
        if count > 0 {
            self.repairs.get_or_create(&KindLabels { kind: kind.to_owned() }).inc_by(count as u64);
        }
    }

    /// Counts one failure.
    pub fn failed(&self, kind: &str) {
        self.failures.get_or_create(&KindLabels { kind: kind.to_owned() }).inc();
    }

    /// Notes how a call went.
    pub fn served(&self, verb: &'static str, outcome: String, since: Instant) {
        self.calls.get_or_create(&CallLabels { verb, outcome }).observe(since.elapsed().as_secs_f64());
    }

    /// The text that a scrape gets.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
