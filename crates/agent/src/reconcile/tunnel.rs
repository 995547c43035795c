//! The tunnel to other nodes.

use overlane_core::plan::NodePlan;
use overlane_datapath::node::{self, AwayRoutes, HeldTunnel, TunnelGround, TunnelKind};

use super::Reconciler;
use super::pass::Outcome;

impl Reconciler {
    /// Of pods' links, and of the tunnel's: what fits into the nodes' packets in whatever they are carried.
    pub(super) fn mtus(&self, plan: &NodePlan) -> (u32, u32) {
        let underlay = self.underlays.values().map(|underlay| underlay.mtu).min().unwrap_or_default();
        let in_tunnel = underlay.saturating_sub(plan.tunnel.as_ref().map_or(0, |tunnel| tunnel.overhead));
        let carries_pods = plan.tunnel.as_ref().is_some_and(|tunnel| tunnel.carries_pods);
        (if carries_pods { in_tunnel } else { underlay }, in_tunnel)
    }

    /// The tunnel's link, if one is planned and there.
    pub(super) fn keep_tunnel(
        &mut self,
        plan: &NodePlan,
        mtu: u32,
        away: AwayRoutes,
        outcome: &mut Outcome,
    ) -> Option<TunnelGround> {
        plan.tunnel.as_ref().filter(|_| !self.underlays.is_empty())?;
        let kind = self.tunnel_kind(outcome)?;
        let held = self.tunnel_held.take();
        match node::keep_tunnel(plan, kind, mtu, away, held.as_ref()) {
            Ok(None) => None,
            Ok(Some(kept)) => {
                if kept.changes > 0 {
                    tracing::debug!(changes = kept.changes, "tunnel");
                }
                for refused in &kept.failed {
                    outcome.failed("write the tunnel", refused);
                }
                if kept.failed.is_empty() && away == AwayRoutes::Planned {
                    self.tunnel_held = Some(HeldTunnel { index: kept.index, neighbours: kept.neighbours });
                }
                Some(TunnelGround { index: kept.index, kind })
            }
            Err(error) => {
                outcome.failed("make the tunnel", &error);
                None
            }
        }
    }

    fn tunnel_kind(&mut self, outcome: &mut Outcome) -> Option<TunnelKind> {
        if self.tunnel_kind.is_none() {
            let found = self.node.config.tunnel.map_or_else(node::tunnel_kind, Ok);
            match found {
                Ok(kind) => {
                    tracing::info!(?kind, "what leads into the tunnel");
                    self.tunnel_kind = Some(kind);
                }
                Err(error) => outcome.failed("find out what the kernel's tunnels can do", &error),
            }
        }
        self.tunnel_kind
    }

    pub(super) fn end_tunnel(&self, outcome: &mut Outcome) {
        match node::end_tunnel() {
            Ok(true) => tracing::info!("the tunnel is not used any more: removed"),
            Ok(false) => {}
            Err(error) => outcome.failed("remove the tunnel", &error),
        }
    }
}
