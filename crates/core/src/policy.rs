//! Network policy: what may reach a pod, and what a pod may reach.
//!
//! The sources are the Kubernetes API's NetworkPolicy (`networking.k8s.io/v1`) and ClusterNetworkPolicy
//! (`policy.networking.k8s.io/v1alpha2`). What selects a pod in one direction is put in the order in which it counts
//! ([`Applied`]); one walk through it says what becomes of the first packet of a connection, and by which policy
//! ([`Applied::outcomes`]). The data plane's plan ([`compile`]) and the explanation for people ([`explain`]) are both made of
//! that walk: there is no second evaluator.
//!
//! Tiers are walked in the order Admin, NetworkPolicy, Baseline. In the tiers of ClusterNetworkPolicies the first rule that
//! matches counts, by priority, then name, then place in the object. In the NetworkPolicy tier a pod that any policy selects
//! is isolated: allowed is what one of their rules allows, and nothing else. What no tier decides is allowed.

mod apply;
mod check;
mod compile;
mod diff;
mod explain;
mod hosts;
mod ids;
mod peers;
pub mod portset;
mod subjects;
mod table;
mod world;

pub use apply::{Applied, Match, Outcome};
pub use check::{Doubt, Finding, check};
pub use compile::{Changed, Class, ClassId, OwnPod, PeerId, Planner, PolicyPlan, compile};
pub use diff::{Flip, diff};
pub use explain::{Endpoint, Explanation, Judge, Packet, SideExplanation, Why, explain};
pub use hosts::{HostMap, differing};
pub use ids::Used;
pub use world::World;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::few::Few;
use crate::labels::{Labels, Selector};
use crate::ports::Protocol;

/// Which way a connection is opened, seen from the pod that a policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// What policies are grouped by; the first that decides counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// ClusterNetworkPolicies that nobody overrides.
    Admin,
    /// NetworkPolicies.
    Namespace,
    /// ClusterNetworkPolicies for pods that no NetworkPolicy selects.
    Baseline,
}

/// Which object a policy is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// Its tier, which tells the kind too.
    pub tier: Tier,
    /// Its namespace; empty for a ClusterNetworkPolicy.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tier {
            Tier::Namespace => write!(f, "NetworkPolicy {}/{}", self.namespace, self.name),
            Tier::Admin => write!(f, "ClusterNetworkPolicy {} (Admin)", self.name),
            Tier::Baseline => write!(f, "ClusterNetworkPolicy {} (Baseline)", self.name),
        }
    }
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It is allowed. Of NetworkPolicies' rules all do that.
    Accept,
    /// It is dropped.
    Deny,
    /// The next tier decides.
    Pass,
}

/// A policy as it counts. What cannot be understood of an object was made closed where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which object it is.
    pub name: PolicyName,
    /// Lower goes first in its tier; 0 to 1000, of ClusterNetworkPolicies alone.
    pub priority: u16,
    /// The pods that it is for.
    pub subject: PodSelector,
    /// Its rules in order. A direction that is not there is not touched; one without rules isolates, in the NetworkPolicy
    /// tier.
    pub rules: BTreeMap<Direction, Vec<Rule>>,
    /// It drops nothing, but what it would have dropped is logged.
    pub audit: bool,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// How people find it: the name that it has, or its place in the object, as `ingress[2]`.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Who the other side has to be; anybody without.
    pub peers: Option<Few<Peer>>,
    /// What it is about; everything without.
    pub ports: Option<Few<PortMatch>>,
}

/// Pods by their labels and those of their namespaces. Pods of the host's network are never meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodSelector {
    /// The namespaces.
    pub namespaces: Namespaces,
    /// The pods in them.
    pub pods: Selector,
}

/// Namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespaces {
    /// The one of this name.
    Named(String),
    /// Those with such labels.
    Labelled(Selector),
}

/// Who may be at the other side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Pods.
    Pods(PodSelector),
    /// Nodes with such labels, by their addresses.
    Nodes(Selector),
    /// Addresses, whoever has them.
    Block {
        /// These,
        cidr: Cidr,
        /// but for those.
        except: Few<Cidr>,
    },
}

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortMatch {
    /// A protocol's ports from one to another.
    Range(Protocol, u16, u16),
    /// The port that the pod at the destination gives this name, of this protocol (of any without).
    Named(Option<Protocol>, String),
}

/// A port of a pod that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// What policies can tell of a pod; replicas have one in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Profile {
    /// The pod's namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
    /// Its ports that have names.
    pub ports: BTreeSet<NamedPort>,
}

/// What policies can tell of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyNode {
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, of both families.
    pub addresses: BTreeSet<IpAddr>,
}

impl PodSelector {
    /// Whether a pod is meant.
    #[must_use]
    pub fn selects(&self, profile: &Profile, world: &World) -> bool {
        let in_namespace = match &self.namespaces {
            Namespaces::Named(name) => *name == profile.namespace,
            Namespaces::Labelled(selector) => selector.selects(world.labels_of(&profile.namespace)),
        };
        in_namespace && self.pods.selects(&profile.labels)
    }
}

impl Peer {
    /// Whether an address is meant.
    #[must_use]
    pub fn is(&self, address: IpAddr, world: &World) -> bool {
        match self {
            Self::Pods(pods) => world.profile(address).is_some_and(|profile| pods.selects(profile, world)),
            Self::Nodes(selector) => {
                world.nodes().values().any(|node| node.addresses.contains(&address) && selector.selects(&node.labels))
            }
            Self::Block { cidr, except } => {
                cidr.contains(address) && !except.iter().any(|except| except.contains(address))
            }
        }
    }
}
