//! The ways out of the cluster.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use overlane_core::cidr::{Cidr, outermost};
use overlane_core::plan::{NodeInput, NodePlan, Outside};
use overlane_datapath::conntrack;
use overlane_datapath::netlink::NetlinkError;
use overlane_datapath::node::{self, KeptExits, Surplus, TunnelGround};

use super::Reconciler;
use super::pass::Outcome;
use super::status::Reason;

/// File name in the run dir: the way that flows were last brought to.
const FILE: &str = "egress-way";

/// What decides how a flow leaves; one that began under another goes on as it began unless it is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EgressWay {
    outside: Option<Outside>,
    /// Destinations that it does not speak of, but for nodes, which come and go.
    spared: BTreeSet<Cidr>,
    /// What the next hops had nothing to do with; empty where there are none.
    inside: BTreeSet<Cidr>,
}

/// Destinations of pods that are not outside of the cluster, by the nodes that it has.
fn inside(plan: &NodePlan, spared: &BTreeSet<Cidr>) -> BTreeSet<Cidr> {
    if let Some(egress) = &plan.egress {
        return egress.inside.clone();
    }
    let nodes = plan.nodes.iter().map(|node| node.address).chain(plan.node_ips.values().copied());
    outermost(spared.iter().copied().chain(nodes.map(Cidr::host_range)))
}

impl EgressWay {
    fn of(input: &NodeInput, plan: &NodePlan) -> Self {
        let left_alone = plan.masquerade.iter().flat_map(|masquerade| &masquerade.except);
        let spared = outermost(plan.pod_space.iter().chain(left_alone).chain(&input.egress.internal).copied());
        let outside = plan.egress.as_ref().map(|egress| egress.outside.clone());
        let outside = outside.filter(|outside| *outside != Outside::AsNode);
        // With thousands of nodes it is long.
        let inside = match outside {
            Some(Outside::NextHops { .. }) => inside(plan, &spared),
            _ => BTreeSet::new(),
        };
        Self { outside, spared, inside }
    }

    /// How it is written down; without nodes, whose coming and going changes nobody's way.
    fn words(&self) -> String {
        match &self.outside {
            None => String::new(),
            Some(outside) => format!("{outside:?} but {:?}\n", self.spared),
        }
    }

    /// Forgets flows of pods that would go on by the way before, and no others.
    fn end_flows_of(&self, before: &Self, plan: &NodePlan, pods: &[Cidr]) -> Result<usize, NetlinkError> {
        let mut count = 0;
        if self.outside != before.outside {
            count += match &before.outside {
                // Nothing left.
                Some(Outside::Dropped | Outside::AsNode) => 0,
                Some(Outside::NextHops { .. }) => conntrack::forget_from(pods, &before.inside)?,
                None => conntrack::forget_from(pods, &inside(plan, &self.spared))?,
            };
        }
        if self.outside.is_some() || before.outside.is_some() {
            let moved = outermost(self.spared.symmetric_difference(&before.spared).copied());
            count += conntrack::forget_to(pods, &moved)?;
        }
        Ok(count)
    }
}

impl Reconciler {
    /// Makes what marked packets will need before any is marked.
    pub(super) fn open_exits(
        &self,
        plan: &NodePlan,
        tunnel: Option<TunnelGround>,
        outcome: &mut Outcome,
    ) -> Option<KeptExits> {
        let kept = self.keep_exits(plan, tunnel, Surplus::Kept, outcome)?;
        for address in &kept.not_on_link {
            let text = format!(
                "next hop {address} of packets that leave the cluster is not another host on this node's link: they are \
                 answered with \"unreachable\"; give a next hop on the nodes' network that is no node"
            );
            outcome.problem(Reason::NextHopNotOnLink, text);
        }
        Some(kept)
    }

    /// Ends what no packet is marked for any more, and flows that go on by a way that is closed. `written`: the packet
    /// filter is as planned.
    pub(super) fn close_exits(
        &mut self,
        input: &NodeInput,
        plan: &NodePlan,
        tunnel: Option<TunnelGround>,
        opened: Option<KeptExits>,
        written: bool,
        outcome: &mut Outcome,
    ) {
        let Some(mut kept) = opened.filter(|_| written) else { return };
        if kept.surplus > 0 {
            let Some(more) = self.keep_exits(plan, tunnel, Surplus::Removed, outcome) else { return };
            kept.changes += more.changes;
        }
        let way = EgressWay::of(input, plan);
        let file = self.node.config.run_dir.join(FILE);
        let ended = match &self.egress {
            Some(before) if *before == way => {
                if self.gateways_stay(plan) {
                    self.node.metrics.repaired("way-out", kept.changes);
                }
                return;
            }
            Some(before) => way.end_flows_of(before, plan, &input.own_blocks),
            // Of an agent before this one only its last word is known.
            None if read(&file) == way.words() => Ok(0),
            None => conntrack::forget_from(&input.own_blocks, &inside(plan, &way.spared)),
        };
        let done = ended.map_err(|error| error.to_string()).and_then(|count| {
            if count > 0 {
                tracing::info!(flows = count, "the way out of the cluster changed: flows by the former one were ended");
            }
            write(&file, &way.words()).map_err(|error| format!("write {}: {error}", file.display()))
        });
        match done {
            Ok(()) => self.egress = Some(way),
            Err(error) => outcome.failed("end flows that left the cluster another way", &error),
        }
    }

    /// What pods' packets reach without leaving the cluster.
    pub(super) fn inside(&self, input: &NodeInput, plan: &NodePlan) -> BTreeSet<Cidr> {
        inside(plan, &EgressWay::of(input, plan).spared)
    }

    fn keep_exits(
        &self,
        plan: &NodePlan,
        tunnel: Option<TunnelGround>,
        surplus: Surplus,
        outcome: &mut Outcome,
    ) -> Option<KeptExits> {
        match node::keep_exits(plan, &self.underlays, tunnel, surplus) {
            Ok(kept) => {
                if kept.changes > 0 {
                    tracing::debug!(changes = kept.changes, "ways out of the cluster");
                }
                for refused in &kept.failed {
                    outcome.failed("write the ways out of the cluster", refused);
                }
                Some(kept)
            }
            Err(error) => {
                outcome.failed("read the ways out of the cluster", &error);
                None
            }
        }
    }
}

/// What is on file; nothing where there is none, as on a node whose packets never left another way.
fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

fn write(file: &PathBuf, words: &str) -> std::io::Result<()> {
    if read(file) == words {
        return Ok(());
    }
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, words)?;
    std::fs::rename(&fresh, file)
}
