//! The cluster's network: what a person asked for, and what it means once it is found valid.
//!
//! [`ClusterSpec`] is raw, [`validate`] is the only way from it to a [`ClusterPlan`], and it tells every finding at
//! once. The rules live in `rules` and `ranges`, each with its number's
//! source.

mod around;
mod change;
mod egress;
mod expand;
mod ranges;
mod rules;

pub use around::{MAX_NODES, Surroundings, usable_for_nodes};
pub use change::{Carrier, RoutingState, Step};
pub use egress::{Egress, EgressSpec};
pub use expand::{Way, expansion, supersets};
pub(crate) use ranges::reserved;
pub(crate) use rules::{Findings, syntax};

use crate::cidr::Cidr;
use crate::family::Family;

/// Fewest pods a node may be asked to run (seed 001, "Maximum pods per node").
pub const MIN_MAX_PODS: u32 = 10;
/// Most pods a node may be asked to run (seed 001, "Maximum pods per node").
pub const MAX_MAX_PODS: u32 = 250;

/// How pod packets cross nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Routing {
    /// A route a node, next hop the node's own address.
    #[default]
    Native,
    /// In VXLAN.
    Vxlan,
    /// Native where a probe shows that the fabric lets pod addresses through, else VXLAN.
    Auto,
}

/// The numbers of a VXLAN (RFC 7348).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vxlan {
    /// The UDP port that nodes listen on.
    pub port: u16,
    /// The network's identifier: 1 to [`MAX_VNI`].
    pub vni: u32,
}

/// The largest VXLAN network identifier: 24 bits (RFC 7348, section 5).
pub const MAX_VNI: u32 = 0x00ff_ffff;

impl Default for Vxlan {
    /// The port that IANA gave to VXLAN, and a VNI that is nobody's default.
    fn default() -> Self {
        Self { port: 4789, vni: 28_534 }
    }
}

/// Who chooses the nodes' blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeCidrs {
    /// Overlane does.
    #[default]
    Allocate,
    /// `node.spec.podCIDRs`, written by somebody else, is taken as it is.
    Adopt,
}

/// How packets leave the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outbound {
    /// By the node's address.
    #[default]
    LoadBalancer,
    /// Through egress gateways.
    NatGateway,
    /// By the next hop that a policy names.
    UserDefinedRouting,
    /// Not at all.
    None,
}

/// Who enforces network policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetworkPolicy {
    /// Overlane does.
    #[default]
    Overlane,
    /// Nobody, as far as Overlane is concerned.
    None,
}

/// The cluster's network as it was asked for. Nothing in it is known to be right.
///
/// Empty lists are filled in: families from the pod CIDRs, or else from the service CIDRs, in their order; with
/// neither, IPv4 then IPv6. CIDRs from the defaults of each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSpec {
    /// `IPv4`, `IPv6` or both, in any case; the first is the primary one.
    pub ip_families: Vec<String>,
    /// One a family, in the families' order.
    pub pod_cidrs: Vec<String>,
    /// One a family, in the families' order.
    pub service_cidrs: Vec<String>,
    /// Prefix length of a node's IPv4 block.
    pub node_mask_v4: u8,
    /// Prefix length of a node's IPv6 block.
    pub node_mask_v6: u8,
    /// Most pods a node runs: [`MIN_MAX_PODS`] to [`MAX_MAX_PODS`].
    pub max_pods: u32,
    /// How pod packets cross nodes.
    pub routing: Routing,
    /// Networks of nodes between which the fabric is known to carry pods' packets.
    pub native_cidrs: Vec<String>,
    /// The tunnel's numbers, where one is used.
    pub vxlan: Vxlan,
    /// Who chooses the nodes' blocks.
    pub node_cidrs: NodeCidrs,
    /// Whether packets that leave the pod CIDRs take the node's address.
    pub masquerade: bool,
    /// How packets leave the cluster.
    pub outbound: Outbound,
    /// Next hops and exceptions of the outbound type.
    pub egress: EgressSpec,
    /// Who enforces network policy.
    pub network_policy: NetworkPolicy,
    /// Whether what network policy drops is logged.
    pub network_policy_log: bool,
}

impl Default for ClusterSpec {
    /// Dual stack, `10.244.0.0/16` and `fd12:3456:789a::/64` for pods, `10.0.0.0/16` and `fd12:3456:789a:1::/108` for
    /// services, `/24` and `/80` a node.
    fn default() -> Self {
        Self {
            ip_families: Vec::new(),
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_mask_v4: 24,
            node_mask_v6: 80,
            max_pods: MAX_MAX_PODS,
            routing: Routing::Native,
            native_cidrs: Vec::new(),
            vxlan: Vxlan::default(),
            node_cidrs: NodeCidrs::Allocate,
            masquerade: true,
            outbound: Outbound::LoadBalancer,
            egress: EgressSpec::default(),
            network_policy: NetworkPolicy::Overlane,
            network_policy_log: false,
        }
    }
}

/// The pod CIDR of a family where none is given (seed 003, `--pod-cidrs`).
#[must_use]
pub const fn default_pod_cidr(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.244.0.0/16",
        Family::V6 => "fd12:3456:789a::/64",
    }
}

/// The service CIDR of a family where none is given (seed 003, `--service-cidrs`).
#[must_use]
pub const fn default_service_cidr(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.0.0.0/16",
        Family::V6 => "fd12:3456:789a:1::/108",
    }
}

/// One rule that the spec breaks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{field}: {reason}; {fix} ({rule})")]
pub struct Finding {
    /// Where, in the words of the custom resource: `podCIDRs[1]`, `maxPods`.
    pub field: String,
    /// Which rule, in kebab case; stays the same from one version to the next.
    pub rule: &'static str,
    /// What is wrong.
    pub reason: String,
    /// What would be right.
    pub fix: String,
}

/// A pod CIDR and how it is cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pool {
    /// The pod CIDR.
    pub cidr: Cidr,
    /// Prefix length of a node's block; never shorter than the pod CIDR's.
    pub node_mask: u8,
}

impl Pool {
    /// How many blocks there are; `u64::MAX` stands for that and more.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        self.cidr.subnet_count(self.node_mask).unwrap_or(0)
    }

    /// The block of that index, counted from 0.
    #[must_use]
    pub fn block(&self, index: u64) -> Option<Cidr> {
        self.cidr.subnet(self.node_mask, index)
    }
}

/// A valid plan. [`validate`] alone makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPlan {
    families: Vec<Family>,
    pools: Vec<Pool>,
    services: Vec<Cidr>,
    max_pods: u32,
    routing: Routing,
    native_cidrs: Vec<Cidr>,
    vxlan: Vxlan,
    node_cidrs: NodeCidrs,
    masquerade: bool,
    outbound: Outbound,
    egress: Egress,
    network_policy: NetworkPolicy,
    network_policy_log: bool,
}

impl ClusterPlan {
    /// The families, the primary one first. One or two, none twice.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// The pod CIDRs with their block sizes, one a family, in the families' order.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// The pool of a family, if the cluster has it.
    #[must_use]
    pub fn pool(&self, family: Family) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.cidr.family() == family)
    }

    /// The pod CIDRs, in the families' order.
    pub fn pod_cidrs(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.pools.iter().map(|pool| pool.cidr)
    }

    /// The service CIDRs, in the families' order.
    #[must_use]
    pub fn services(&self) -> &[Cidr] {
        &self.services
    }

    /// Most pods a node runs.
    #[must_use]
    pub const fn max_pods(&self) -> u32 {
        self.max_pods
    }

    /// How pod packets cross nodes.
    #[must_use]
    pub const fn routing(&self) -> Routing {
        self.routing
    }

    /// The same with another routing, which every other rule leaves open.
    #[must_use]
    pub const fn with_routing(mut self, routing: Routing) -> Self {
        self.routing = routing;
        self
    }

    /// Networks of nodes between which the fabric is known to carry pods' packets.
    #[must_use]
    pub fn native_cidrs(&self) -> &[Cidr] {
        &self.native_cidrs
    }

    /// The tunnel's numbers.
    #[must_use]
    pub const fn vxlan(&self) -> Vxlan {
        self.vxlan
    }

    /// Who chooses the nodes' blocks.
    #[must_use]
    pub const fn node_cidrs(&self) -> NodeCidrs {
        self.node_cidrs
    }

    /// Whether packets that leave the pod CIDRs take the node's address.
    #[must_use]
    pub const fn masquerade(&self) -> bool {
        self.masquerade
    }

    /// How packets leave the cluster.
    #[must_use]
    pub const fn outbound(&self) -> Outbound {
        self.outbound
    }

    /// Next hops and exceptions of the outbound type.
    #[must_use]
    pub const fn egress(&self) -> &Egress {
        &self.egress
    }

    /// Who enforces network policy.
    #[must_use]
    pub const fn network_policy(&self) -> NetworkPolicy {
        self.network_policy
    }

    /// Whether what network policy drops is logged.
    #[must_use]
    pub const fn network_policy_log(&self) -> bool {
        self.network_policy_log
    }

    /// How many nodes get a block in every family; `u64::MAX` stands for that and more.
    #[must_use]
    pub fn node_capacity(&self) -> u64 {
        self.pools.iter().map(Pool::block_count).min().unwrap_or(0)
    }
}

/// Judges a spec by every rule that needs no knowledge of what is around the cluster.
///
/// # Errors
/// Every finding, ordered by field as the custom resource has them.
pub fn validate(spec: &ClusterSpec) -> Result<ClusterPlan, Vec<Finding>> {
    rules::judge(spec, &Surroundings::default())
}

/// Judges a spec by every rule there is.
///
/// # Errors
/// Every finding: those of [`validate`], then those about the surroundings.
pub fn validate_within(spec: &ClusterSpec, surroundings: &Surroundings) -> Result<ClusterPlan, Vec<Finding>> {
    rules::judge(spec, surroundings)
}
