//! Flows that began under an earlier plan, judged by the one in force: by the direction in which they were opened.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use overlane_core::policy::{Changed, PolicyPlan};
use overlane_core::ports::Protocol;
use overlane_datapath::conntrack::{self, Flow};
use overlane_datapath::nft::Table;
use overlane_datapath::node;

/// Most flows that are remembered as cut; those beyond are cut by the kernel's clock alone.
const MOST: usize = 10_000;
const UDP: u8 = 17;

/// What was judged.
#[derive(Default)]
pub(super) struct Judge {
    plan: Option<Arc<PolicyPlan>>,
    /// Flows that are kept cut.
    cut: BTreeSet<Flow>,
}

impl Judge {
    /// Judges by a plan that is in force; gives how many flows were ended.
    pub(super) fn judge(&mut self, table: &Table, plan: &Arc<PolicyPlan>) -> anyhow::Result<usize> {
        if self.plan.as_ref().is_some_and(|judged| Arc::ptr_eq(judged, plan)) {
            return Ok(0);
        }
        let (open, cut): (BTreeSet<Flow>, _) =
            std::mem::take(&mut self.cut).into_iter().partition(|flow| passes(plan, flow));
        self.cut = cut;
        if !open.is_empty() {
            table.cut(&[], &open.into_iter().collect::<Vec<_>>()).context("let flows pass again")?;
        }
        let changed =
            self.plan.as_ref().map_or(Changed { all: true, ..Changed::default() }, |old| plan.changed_since(old));
        let ended = if changed.is_nothing() || plan.classes.is_empty() { 0 } else { self.end(table, plan, &changed)? };
        self.plan = Some(Arc::clone(plan));
        Ok(ended)
    }

    fn end(&mut self, table: &Table, plan: &PolicyPlan, changed: &Changed) -> anyhow::Result<usize> {
        // A pod and its own node always reach each other.
        let node: BTreeSet<IpAddr> = node::addresses().context("read the node's addresses")?;
        let is_nodes = |flow: &Flow| node.contains(&flow.from) || node.contains(&flow.to);
        let doomed = |flow: &Flow| changed.concerns(flow.from, flow.to) && !is_nodes(flow) && !passes(plan, flow);
        let doomed = conntrack::flows_that(doomed).context("read the flows")?;
        if doomed.flows().is_empty() {
            return Ok(0);
        }
        let cut: Vec<Flow> = doomed.flows().iter().filter(|flow| flow.protocol == UDP).copied().collect();
        table.cut(&cut, &[]).context("cut flows")?;
        self.cut.extend(cut.into_iter().take(MOST.saturating_sub(self.cut.len())));
        doomed.end().context("end flows")
    }
}

fn passes(plan: &PolicyPlan, flow: &Flow) -> bool {
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.number() == flow.protocol);
    plan.passes(flow.from, flow.to, protocol.map(|protocol| (protocol, flow.to_port)))
}
