//! The ClusterNetwork: which plan is in force.
//!
//! A spec that breaks a rule, or that would leave nodes' blocks outside its pod CIDRs, does not come in force; the last
//! one that did goes on. It is kept in the object's status, so that a restart does not lose it.

use std::collections::{BTreeMap, BTreeSet};

use overlane_api::convert;
use overlane_api::crd::{self, CLUSTER_NETWORK, ClusterNetwork, ClusterNetworkSpec};
use overlane_core::blocks::{Allocator, NodeView, StateView, admit, admit_after};
use overlane_core::cluster::{ClusterPlan, Finding, Routing, RoutingState, Step, validate};
use overlane_core::family::Family;

/// What was found out about the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is in force.
    InForce,
    /// It breaks rules.
    Invalid(Vec<Finding>),
    /// It is sound, but not over the blocks that nodes have.
    Refused(Vec<Finding>),
}

/// The Nodes by name.
type Nodes = BTreeMap<String, Box<NodeView>>;

/// Keeps the plan that is in force.
#[derive(Debug, Default)]
pub struct Gate {
    object: Option<ClusterNetwork>,
    judgement: Option<Judgement>,
    in_force: Option<(ClusterNetworkSpec, ClusterPlan)>,
    routing: Option<RoutingState>,
    /// Nodes that a change of routing waits for.
    behind: BTreeSet<String>,
    /// A node without an address of a family, of each that some lack.
    lacking: BTreeMap<Family, String>,
    stale: bool,
    /// Whether it was said that there is none.
    told: bool,
}

impl Gate {
    /// Learns the object; those of other names count for nothing.
    pub fn upsert(&mut self, object: ClusterNetwork) {
        if object.metadata.name.as_deref() != Some(CLUSTER_NETWORK) {
            tracing::warn!(name = ?object.metadata.name, "a ClusterNetwork that is not named `{CLUSTER_NETWORK}` is ignored");
            return;
        }
        let applied = |object: &ClusterNetwork| {
            object.status.as_ref().and_then(|status| Some((status.applied.clone()?, status.routing.clone())))
        };
        let same = self.object.as_ref().is_some_and(|old| {
            old.spec == object.spec && old.metadata.uid == object.metadata.uid && applied(old) == applied(&object)
        });
        self.stale |= !same;
        self.object = Some(object);
    }

    /// Learns which families some node has no address of, with one such node each.
    pub fn hear_lacking(&mut self, lacking: BTreeMap<Family, String>) {
        self.lacking = lacking;
    }

    /// Has the object judged anew.
    pub const fn look_again(&mut self) {
        self.stale = true;
    }

    /// Learns that the object is gone. What was in force stays: nodes have their blocks.
    pub fn remove(&mut self, name: &str) {
        if name == CLUSTER_NETWORK && self.object.take().is_some() {
            tracing::warn!("the ClusterNetwork was deleted; its last plan stays in force until there is another");
            self.judgement = None;
            self.told = true;
        }
    }

    /// The object as it was last seen.
    pub const fn object(&self) -> Option<&ClusterNetwork> {
        self.object.as_ref()
    }

    /// What was found out about it.
    pub const fn judgement(&self) -> Option<&Judgement> {
        self.judgement.as_ref()
    }

    /// The spec in force.
    pub fn applied(&self) -> Option<&ClusterNetworkSpec> {
        self.in_force.as_ref().map(|(spec, _)| spec)
    }

    /// The plan in force.
    pub fn plan(&self) -> Option<&ClusterPlan> {
        self.in_force.as_ref().map(|(_, plan)| plan)
    }

    /// Judges the spec over the claims and the nodes, if it is new or was refused for claims that may be gone. Gives whether another
    /// plan came in force. Who does not lead goes by what the leader has put in force, where the spec is none.
    pub fn judge(&mut self, alloc: &Allocator, nodes: &Nodes, leads: bool) -> bool {
        let Some(object) = &self.object else {
            if !std::mem::replace(&mut self.told, true) {
                tracing::info!("there is no ClusterNetwork `{CLUSTER_NETWORK}`; waiting for one");
            }
            return false;
        };
        if !self.stale && !matches!(self.judgement, Some(Judgement::Refused(_))) {
            return false;
        }
        self.stale = false;
        let applied = object.status.as_ref().and_then(|status| status.applied.as_ref());
        let kept = applied.filter(|_| self.in_force.is_none() || !leads);
        let told = applied.map(|spec| said(spec, object.status.as_ref().and_then(|status| status.routing.as_ref())));
        // Who has just taken over may have heard late how far the one before has come.
        let farther = |told: &RoutingState| self.routing.as_ref().is_none_or(|own| own.step < told.step);
        if let Some(told) = told.filter(|told| kept.is_some() || farther(told)) {
            self.routing = Some(told);
        }
        let before = self.plan().cloned().or_else(|| kept.and_then(valid));
        let asked = judge(&object.spec, alloc).and_then(|plan| {
            let nodes = nodes.values().map(|node| &**node);
            let mut against = admit_after(before.as_ref(), &plan, alloc, nodes);
            against.extend(self.no_way_back(&plan));
            if against.is_empty() { Ok(plan) } else { Err(Judgement::Refused(against)) }
        });
        let (judgement, plan) = match asked {
            Ok(plan) => {
                let routing = self.routing.get_or_insert_with(|| RoutingState::settled(plan.routing()));
                (Judgement::InForce, Some(with_routing((object.spec.clone(), plan), routing)))
            }
            Err(judgement) => (judgement, None),
        };
        // What was in force stays in force, whatever claims have come of it: without a plan nobody gets a block.
        let plan = plan.or_else(|| kept.and_then(|spec| Some((spec.clone(), valid(spec)?))));
        if self.judgement.as_ref() != Some(&judgement) {
            tell(&judgement);
        }
        self.judgement = Some(judgement);
        let Some(plan) = plan else { return false };
        let changed = self.in_force.as_ref() != Some(&plan);
        self.in_force = Some(plan);
        changed
    }

    /// Why nodes that are routed otherwise cannot be routed natively: their pods would lose each other.
    fn no_way_back(&self, plan: &ClusterPlan) -> Option<Finding> {
        let leaves = self.routing.as_ref().is_some_and(|routing| routing.sends != Routing::Native);
        if !leaves || plan.routing() != Routing::Native {
            return None;
        }
        let (family, node) = plan.families().iter().find_map(|family| self.lacking.get_key_value(family))?;
        Some(Finding {
            field: "routing".to_owned(),
            rule: "native-families",
            reason: format!("node {node} has no {family} address that others could route its {family} pods to"),
            fix: "give every node an address of each family, or stay with vxlan or auto".to_owned(),
        })
    }

    /// Goes on with a change of routing: of the leader, where every node does what is in force. Gives whether another
    /// plan came in force.
    pub fn step<'a>(&mut self, nodes: impl IntoIterator<Item = &'a StateView>) -> bool {
        let (Some(object), Some(Judgement::InForce), Some(routing)) = (&self.object, &self.judgement, &self.routing)
        else {
            return false;
        };
        let wanted = convert::core_routing(object.spec.routing);
        let says = nodes.into_iter().map(|state| (state.node.as_str(), state.routing.as_ref()));
        self.behind.clear();
        match routing.step(wanted, says) {
            Step::Settled => false,
            Step::Wait(behind) => {
                self.behind = behind;
                false
            }
            Step::Go(next) => {
                tracing::info!(sends = ?next.sends, accepts = ?next.accepts, "the nodes' routing");
                self.in_force = self.in_force.take().map(|plan| with_routing(plan, &next));
                self.routing = Some(next);
                true
            }
        }
    }

    /// How pod packets cross nodes, by what is in force.
    pub const fn routing(&self) -> Option<&RoutingState> {
        self.routing.as_ref()
    }

    /// Nodes that a change of routing waits for.
    pub const fn behind(&self) -> &BTreeSet<String> {
        &self.behind
    }
}

/// What a status says of the routing; one of an older version says less.
fn said(applied: &ClusterNetworkSpec, routing: Option<&crd::RoutingState>) -> RoutingState {
    let sends = convert::core_routing(applied.routing);
    let told = routing.map(convert::routing_state).filter(|told| told.sends == sends);
    told.unwrap_or_else(|| RoutingState::settled(sends))
}

/// A spec and its plan as far as they are in force: a routing comes in force step by step.
fn with_routing(
    (spec, plan): (ClusterNetworkSpec, ClusterPlan),
    routing: &RoutingState,
) -> (ClusterNetworkSpec, ClusterPlan) {
    let spec = ClusterNetworkSpec { routing: convert::routing(routing.sends), ..spec };
    (spec, plan.with_routing(routing.sends))
}

fn valid(spec: &ClusterNetworkSpec) -> Option<ClusterPlan> {
    validate(&convert::cluster_spec(spec)).ok()
}

fn judge(spec: &ClusterNetworkSpec, alloc: &Allocator) -> Result<ClusterPlan, Judgement> {
    let plan = validate(&convert::cluster_spec(spec)).map_err(Judgement::Invalid)?;
    let against = admit(&plan, alloc.claims());
    if against.is_empty() { Ok(plan) } else { Err(Judgement::Refused(against)) }
}

fn tell(judgement: &Judgement) {
    match judgement {
        Judgement::InForce => tracing::info!("the ClusterNetwork is in force"),
        Judgement::Invalid(findings) | Judgement::Refused(findings) => {
            for finding in findings {
                tracing::error!(
                    field = finding.field,
                    rule = finding.rule,
                    "ClusterNetwork: {}; {}",
                    finding.reason,
                    finding.fix
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a standby that goes back to an older plan when it takes over.
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use overlane_api::crd::ClusterNetworkStatus;

    use super::*;

    fn spec(pod_cidr: &str) -> ClusterNetworkSpec {
        ClusterNetworkSpec { pod_cidrs: vec![pod_cidr.to_owned()], ..ClusterNetworkSpec::default() }
    }

    fn object(asked: &ClusterNetworkSpec, applied: Option<&ClusterNetworkSpec>) -> ClusterNetwork {
        let mut object = ClusterNetwork::new(CLUSTER_NETWORK, asked.clone());
        object.status = Some(ClusterNetworkStatus { applied: applied.cloned(), ..ClusterNetworkStatus::default() });
        object
    }

    #[test]
    fn a_standby_follows_what_the_leader_has_put_in_force() {
        let (first, larger, bad) = (spec("10.244.0.0/16"), spec("10.244.0.0/14"), spec("10.244.0.1/16"));
        let alloc = Allocator::default();
        let mut gate = Gate::default();
        gate.upsert(object(&first, None));
        assert!(gate.judge(&alloc, &Nodes::new(), false));
        // It never saw the larger one as a spec.
        gate.upsert(object(&bad, Some(&larger)));
        assert!(gate.judge(&alloc, &Nodes::new(), false));
        assert_eq!(gate.applied(), Some(&larger));
        gate.look_again();
        assert!(!gate.judge(&alloc, &Nodes::new(), true), "nor does it change its mind when it takes over");
        assert_eq!(gate.applied(), Some(&larger));
        // Who leads knows what it has put in force.
        gate.upsert(object(&bad, Some(&first)));
        assert!(!gate.judge(&alloc, &Nodes::new(), true));
        assert_eq!(gate.applied(), Some(&larger));
    }

    #[test]
    fn nodes_are_in_no_pod_cidr() {
        let node = NodeView {
            name: "node-7".to_owned(),
            addresses: vec!["10.244.200.7".parse().unwrap()],
            ..NodeView::default()
        };
        let nodes = Nodes::from([(node.name.clone(), Box::new(node))]);
        let (alloc, mut gate) = (Allocator::default(), Gate::default());
        gate.upsert(object(&spec("10.244.0.0/16"), None));
        assert!(!gate.judge(&alloc, &nodes, true), "from the first");
        gate.upsert(object(&spec("10.244.0.0/18"), None));
        assert!(gate.judge(&alloc, &nodes, true));
        gate.upsert(object(&spec("10.244.0.0/16"), None));
        assert!(!gate.judge(&alloc, &nodes, true), "nor by growth");
        let Some(Judgement::Refused(findings)) = gate.judgement() else { panic!("{:?}", gate.judgement()) };
        assert!(findings[0].rule == "overlap-node" && findings[0].reason.contains("node-7"), "{findings:?}");
        // What is in force stays, whoever comes.
        let mut gate = Gate::default();
        gate.upsert(object(&spec("10.244.0.0/16"), Some(&spec("10.244.0.0/16"))));
        assert!(gate.judge(&alloc, &nodes, true));
        assert_eq!(gate.judgement(), Some(&Judgement::InForce));
    }

    #[test]
    fn nodes_that_lack_a_family_are_not_left_without_their_tunnel() {
        let asked = |routing| ClusterNetworkSpec { routing, ..spec("10.244.0.0/16") };
        let alloc = Allocator::default();
        let mut gate = Gate::default();
        gate.upsert(object(&asked(crd::Routing::Vxlan), None));
        assert!(gate.judge(&alloc, &Nodes::new(), true));
        gate.hear_lacking([(Family::V4, "node-7".to_owned())].into());
        gate.upsert(object(&asked(crd::Routing::Native), None));
        assert!(!gate.judge(&alloc, &Nodes::new(), true));
        let Some(Judgement::Refused(findings)) = gate.judgement() else { panic!("{:?}", gate.judgement()) };
        assert!(findings[0].rule == "native-families" && findings[0].reason.contains("node-7"), "{findings:?}");
        // What is left as it was, and what does not ask for the family, is no matter.
        gate.upsert(object(&asked(crd::Routing::Auto), None));
        gate.judge(&alloc, &Nodes::new(), true);
        assert_eq!(gate.judgement(), Some(&Judgement::InForce));
        gate.hear_lacking([(Family::V6, "node-7".to_owned())].into());
        gate.upsert(object(&asked(crd::Routing::Native), None));
        gate.judge(&alloc, &Nodes::new(), true);
        assert_eq!(gate.judgement(), Some(&Judgement::InForce));
        // Refused once, it is looked at again.
        gate.upsert(object(&asked(crd::Routing::Vxlan), None));
        gate.judge(&alloc, &Nodes::new(), true);
        gate.hear_lacking([(Family::V4, "node-7".to_owned())].into());
        gate.upsert(object(&asked(crd::Routing::Native), None));
        gate.judge(&alloc, &Nodes::new(), true);
        assert!(matches!(gate.judgement(), Some(Judgement::Refused(_))));
        gate.hear_lacking(BTreeMap::new());
        gate.judge(&alloc, &Nodes::new(), true);
        assert_eq!(gate.judgement(), Some(&Judgement::InForce));
    }
}
