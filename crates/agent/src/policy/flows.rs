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

/// Most flows that are kept cut: the kernel's set has room for 65,535. Those beyond are ended alone.
const MOST: usize = 40_000;
/// Protocols with ports, but for TCP: UDP, SCTP, UDP-Lite.
const CUT: [u8; 3] = [17, 132, 136];

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
        if self.plan.is_none() || self.cut.len() > MOST / 2 {
            // An earlier agent's, and not those that have ended.
            self.cut = table.kept_cut().context("read the flows that are cut")?;
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
        let cut = doomed.flows().iter().filter(|flow| CUT.contains(&flow.protocol)).copied();
        let cut: Vec<Flow> = cut.take(MOST.saturating_sub(self.cut.len())).collect();
        match table.cut(&cut, &[]) {
            Ok(()) => self.cut.extend(cut),
            Err(error) => tracing::warn!(%error, "keep flows cut; they are ended all the same"),
        }
        doomed.end().context("end flows")
    }
}

fn passes(plan: &PolicyPlan, flow: &Flow) -> bool {
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.number() == flow.protocol);
    plan.passes(flow.from, flow.to, protocol.map(|protocol| (protocol, flow.to_port)))
}
