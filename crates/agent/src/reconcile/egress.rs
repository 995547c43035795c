//! The ways out of the cluster.

use std::collections::BTreeSet;

use overlane_core::cidr::Cidr;
use overlane_core::plan::{EgressPlan, NodeInput, NodePlan, Outside};
use overlane_datapath::node::{self, KeptExits, Surplus};
use overlane_datapath::{conntrack, nft};

use super::Reconciler;
use super::pass::Outcome;
use super::status::Reason;

/// What decides how a flow leaves; one that began under another goes on as it began unless it is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EgressWay {
    outside: Option<Outside>,
    /// Destinations that it does not speak of.
    spared: BTreeSet<Cidr>,
}

impl EgressWay {
    /// Whether flows that began under the one before may not go on.
    fn closes(&self, before: &Self) -> bool {
        self.outside != before.outside || (self.outside.is_some() && !before.spared.is_subset(&self.spared))
    }
}

impl Reconciler {
    /// Makes what marked packets will need before any is marked.
    pub(super) fn open_exits(&self, plan: &NodePlan, outcome: &mut Outcome) -> Option<KeptExits> {
        let kept = self.keep_exits(plan.egress.as_ref(), Surplus::Kept, outcome)?;
        for address in &kept.not_on_link {
            let text = format!(
                "next hop {address} of packets that leave the cluster is not on this node's link: they are answered with \
                 \"unreachable\"; give a next hop on the nodes' network"
            );
            outcome.problem(Reason::NextHopNotOnLink, text);
        }
        Some(kept)
    }

    /// Ends what no packet is marked for any more, and flows that go on by a way that is closed.
    pub(super) fn close_exits(
        &mut self,
        input: &NodeInput,
        plan: &NodePlan,
        opened: Option<KeptExits>,
        filter: Option<nft::Applied>,
        outcome: &mut Outcome,
    ) {
        let (Some(mut kept), Some(filter)) = (opened, filter) else { return };
        if kept.surplus > 0 {
            let Some(more) = self.keep_exits(plan.egress.as_ref(), Surplus::Removed, outcome) else { return };
            kept.changes += more.changes;
        }
        let outside = plan.egress.as_ref().map(|egress| egress.outside.clone());
        let unmasqueraded = input.masquerade.iter().flat_map(|config| &config.non_masquerade);
        let spared = input.egress.internal.iter().chain(unmasqueraded).copied().collect();
        let way = EgressWay { outside, spared };
        let changed = match &self.egress {
            Some(before) => way.closes(before),
            // How it was before this agent began is seen by what it had to write.
            None => kept.changes > 0 || (filter.structure && way.outside.is_some()),
        };
        if changed && let Err(error) = self.forget_leaving(input, plan) {
            outcome.failed("end flows that left the cluster another way", &error);
            return;
        }
        self.egress = Some(way);
    }

    fn keep_exits(&self, plan: Option<&EgressPlan>, surplus: Surplus, outcome: &mut Outcome) -> Option<KeptExits> {
        match node::keep_exits(plan, &self.underlays, surplus) {
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

    /// Where nothing is special any more, all that leaves the pods' space is forgotten.
    fn forget_leaving(
        &self,
        input: &NodeInput,
        plan: &NodePlan,
    ) -> Result<(), overlane_datapath::netlink::NetlinkError> {
        let inside = plan.egress.as_ref().map_or(&plan.pod_space, |egress| &egress.inside);
        let own: Vec<Cidr> = input.own_blocks.clone();
        let count = conntrack::forget_from(&own, inside)?;
        tracing::info!(flows = count, "the way out of the cluster changed: flows by the former one were ended");
        Ok(())
    }
}
