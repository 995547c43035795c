//! Why a packet passes or does not, in words of the policies.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::compile::{OwnPod, PolicyPlan, compile};
use super::{Applied, Direction, Outcome, Policy, PolicyName, Tier, World};
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
    sides(world, endpoints, packet, |direction| judge(world, policies, direction, packet))
}

/// Judges many packets: policies are compiled once, for every pod that there is.
pub struct Judge<'a> {
    world: &'a World,
    endpoints: &'a BTreeMap<IpAddr, Endpoint>,
    policies: BTreeMap<&'a PolicyName, &'a Policy>,
    plan: PolicyPlan,
}

impl<'a> Judge<'a> {
    /// Makes one; `endpoints` as [`explain`] has them.
    #[must_use]
    pub fn new(world: &'a World, endpoints: &'a BTreeMap<IpAddr, Endpoint>, policies: &'a [Arc<Policy>]) -> Self {
        let pods = world.pods().filter(|(_, addresses)| !addresses.is_empty());
        let own =
            pods.map(|(profile, addresses)| OwnPod { profile: Arc::clone(profile), addresses: addresses.to_vec() });
        let plan = compile(world, &own.collect::<Vec<_>>(), policies);
        Self {
            world,
            endpoints,
            policies: policies.iter().map(|policy| (&policy.name, policy.as_ref())).collect(),
            plan,
        }
    }

    /// What the policies come to.
    #[must_use]
    pub const fn plan(&self) -> &PolicyPlan {
        &self.plan
    }

    /// Judges a packet.
    #[must_use]
    pub fn explain(&self, packet: &Packet) -> Explanation {
        sides(self.world, self.endpoints, packet, |direction| {
            let (own, other) = ends(direction, packet);
            match self.plan.judged(direction, own, other, packet.about) {
                Some((class, outcome)) => {
                    let policies = class.policies.iter().filter_map(|name| self.policies.get(name).copied());
                    words(direction, &policies.collect::<Vec<_>>(), outcome)
                }
                None => (true, Why::NotSelected, None),
            }
        })
    }
}

/// Whether a packet goes on by one side's policies, what decided, and the policy in audit mode that would have dropped it.
type Judged = (bool, Why, Option<PolicyName>);

/// The address of the side's pod, and the other.
const fn ends(direction: Direction, packet: &Packet) -> (IpAddr, IpAddr) {
    match direction {
        Direction::Egress => (packet.from, packet.to),
        Direction::Ingress => (packet.to, packet.from),
    }
}

fn sides(
    world: &World,
    endpoints: &BTreeMap<IpAddr, Endpoint>,
    packet: &Packet,
    judged: impl Fn(Direction) -> Judged,
) -> Explanation {
    let mut sides = BTreeMap::new();
    for direction in [Direction::Egress, Direction::Ingress] {
        let (own, other) = ends(direction, packet);
        let Some(pod) = endpoints.get(&own) else { continue };
        let itself =
            endpoints.get(&other).is_some_and(|other| (&other.namespace, &other.name) == (&pod.namespace, &pod.name));
        let own_node = world.nodes().get(&pod.node).is_some_and(|node| node.addresses.contains(&other));
        let (allowed, why, audited) = if itself {
            (true, Why::Itself, None)
        } else if own_node {
            (true, Why::OwnNode, None)
        } else {
            judged(direction)
        };
        sides.insert(direction, SideExplanation { pod: pod.clone(), allowed, why, audited });
    }
    Explanation { allowed: sides.values().all(|side| side.allowed), sides }
}

fn judge(world: &World, policies: &[Arc<Policy>], direction: Direction, packet: &Packet) -> Judged {
    let (own, other) = ends(direction, packet);
    let Some(profile) = world.profile(own) else { return (true, Why::NotSelected, None) };
    let applied = Applied::to(profile, direction, policies.iter().map(Arc::as_ref), world);
    if applied.policies().is_empty() {
        return (true, Why::NotSelected, None);
    }
    let outcomes = applied.outcomes(&|peer| peer.is(other, world).into(), world.profile(packet.to));
    let outcome = outcomes.iter().find(|(_, ports)| ports.contains(packet.about)).map(|(outcome, _)| *outcome);
    outcome.map_or((true, Why::Undecided, None), |outcome| words(direction, applied.policies(), &outcome))
}

/// An outcome in words of the policies that select the pod.
fn words(direction: Direction, policies: &[&Policy], outcome: &Outcome) -> Judged {
    let rule = outcome.policy.zip(outcome.rule).and_then(|(policy, rule)| {
        let policy = policies.get(policy)?;
        let rule = policy.rules.get(&direction)?.get(rule)?;
        Some(Why::Rule { policy: policy.name.clone(), rule: rule.name.clone() })
    });
    let isolating = || {
        let tier = policies.iter().filter(|policy| policy.name.tier == Tier::Namespace && !policy.audit);
        tier.map(|policy| policy.name.clone()).collect()
    };
    let why = rule.unwrap_or_else(|| if outcome.allowed { Why::Undecided } else { Why::Isolated { by: isolating() } });
    let audited = outcome.audited.and_then(|index| policies.get(index)).map(|policy| policy.name.clone());
    (outcome.allowed, why, audited)
}
