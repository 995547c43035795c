//! Why a packet passes or does not, in words of the policies.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::portset::PortSet;
use super::{Applied, Direction, Policy, PolicyName, Tier, World};
use crate::ports::Protocol;

/// Which pod has an address, and where it runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node that it runs on; empty while it has none.
    pub node: String,
}

/// The first packet of a connection, as policy meets it: Services' addresses are translated by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub from: IpAddr,
    /// Where it goes.
    pub to: IpAddr,
    /// The port at the destination; none of a protocol that has no ports, as ICMP.
    pub about: Option<(Protocol, u16)>,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it goes on, on both sides.
    pub allowed: bool,
    /// What each side says whose pod policies are for; nothing of one that is no such pod.
    pub sides: BTreeMap<Direction, SideExplanation>,
}

/// What one side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideExplanation {
    /// The pod.
    pub pod: Endpoint,
    /// Whether the packet goes on.
    pub allowed: bool,
    /// What decided.
    pub why: Why,
    /// The policy in audit mode that would have dropped it.
    pub audited: Option<PolicyName>,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A pod always reaches itself.
    Itself,
    /// A pod and its own node always reach each other.
    OwnNode,
    /// No policy selects the pod in this direction.
    NotSelected,
    /// Policies select the pod, and none decided: what is not decided is allowed.
    Undecided,
    /// A rule.
    Rule {
        /// The policy.
        policy: PolicyName,
        /// The rule's name.
        rule: String,
    },
    /// These NetworkPolicies isolate the pod, and no rule of theirs allows it.
    Isolated {
        /// They, by name.
        by: Vec<PolicyName>,
    },
}

/// Judges a packet. `endpoints` are the pods by address, but for those of the host's network.
#[must_use]
pub fn explain(
    world: &World,
    endpoints: &BTreeMap<IpAddr, Endpoint>,
    policies: &[Arc<Policy>],
    packet: &Packet,
) -> Explanation {
    let mut sides = BTreeMap::new();
    for (direction, own, other) in
        [(Direction::Egress, packet.from, packet.to), (Direction::Ingress, packet.to, packet.from)]
    {
        let Some(pod) = endpoints.get(&own) else { continue };
        let side = |allowed, why, audited| SideExplanation { pod: pod.clone(), allowed, why, audited };
        let itself =
            endpoints.get(&other).is_some_and(|other| (&other.namespace, &other.name) == (&pod.namespace, &pod.name));
        let own_node = world.nodes().get(&pod.node).is_some_and(|node| node.addresses.contains(&other));
        let told = if itself {
            side(true, Why::Itself, None)
        } else if own_node {
            side(true, Why::OwnNode, None)
        } else {
            let (allowed, why, audited) = judge(world, policies, direction, packet);
            side(allowed, why, audited)
        };
        sides.insert(direction, told);
    }
    Explanation { allowed: sides.values().all(|side| side.allowed), sides }
}

fn judge(
    world: &World,
    policies: &[Arc<Policy>],
    direction: Direction,
    packet: &Packet,
) -> (bool, Why, Option<PolicyName>) {
    let (own, other) = match direction {
        Direction::Egress => (packet.from, packet.to),
        Direction::Ingress => (packet.to, packet.from),
    };
    let Some(profile) = world.profile(own) else { return (true, Why::NotSelected, None) };
    let applied = Applied::to(profile, direction, policies.iter().map(Arc::as_ref), world);
    if applied.policies().is_empty() {
        return (true, Why::NotSelected, None);
    }
    let point = PortSet::point(packet.about);
    let outcomes = applied.outcomes(&|peer| peer.is(other, world).into(), world.profile(packet.to));
    let outcome = outcomes.iter().find(|(_, ports)| !ports.and(&point).is_empty()).map(|(outcome, _)| *outcome);
    let Some(outcome) = outcome else { return (true, Why::Undecided, None) };
    let name = |index: usize| applied.policies().get(index).map(|policy| policy.name.clone());
    let rule = outcome.policy.zip(outcome.rule).and_then(|(policy, rule)| {
        let policy = applied.policies().get(policy)?;
        let rule = policy.rules.get(&direction)?.get(rule)?;
        Some(Why::Rule { policy: policy.name.clone(), rule: rule.name.clone() })
    });
    let isolating = || {
        let tier = applied.policies().iter().filter(|policy| policy.name.tier == Tier::Namespace && !policy.audit);
        tier.map(|policy| policy.name.clone()).collect()
    };
    let why = rule.unwrap_or_else(|| if outcome.allowed { Why::Undecided } else { Why::Isolated { by: isolating() } });
    (outcome.allowed, why, outcome.audited.and_then(name))
}
