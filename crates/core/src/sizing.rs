//! What a cluster that is wished for needs: which CIDRs, how many nodes and pods fit, when that runs out, where it can grow,
//! and what speaks for which way.
//!
//! Nothing here is a rule of its own about addresses: those are in [`cluster`](crate::cluster), and each finding of theirs is
//! one of the plan's.

mod advice;
mod growth;
mod proposal;
mod space;

pub use advice::{Advice, Fabric, Model};
pub use growth::{Growth, MONTHS_MAX};
use proposal::Proposal;
pub use space::Taken;

use std::net::IpAddr;

use crate::cidr::{Cidr, CidrError};
use crate::cluster::{
    ClusterPlan, ClusterSpec, Finding, MAX_NODES, NodeCidrs, Routing, Surroundings, supersets, usable_for_nodes,
    validate_within,
};
use crate::family::Family;

/// Ports of one address that flows to one destination can have: 1024 to 65535.
pub const SNAT_PORTS: u64 = 65_535 - 1_024 + 1;

/// Nodes that are wished for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolWish {
    /// Its name.
    pub name: String,
    /// Nodes now.
    pub nodes: u64,
    /// How it grows.
    pub growth: Growth,
}

/// A cluster that is wished for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The network, as far as it is settled: CIDRs that are left out are proposed.
    pub spec: ClusterSpec,
    /// What is around it. Its number of nodes is the pools'.
    pub around: Surroundings,
    /// The nodes.
    pub pools: Vec<PoolWish>,
    /// How many months the plan has to hold, at most [`MONTHS_MAX`].
    pub months: u32,
    /// Nodes beyond those that are wished for, while others are replaced.
    pub surge: u64,
    /// How packets are to cross nodes, where that is settled; the spec's routing is not looked at.
    pub routing: Option<Routing>,
    /// Hosts outside must reach pods by the pods' own addresses.
    pub direct: bool,
    /// Of a hundred packets of pods, how many leave the cluster; `None` where that is not known.
    pub leaving: Option<u32>,
    /// Flows that a pod has at once to its busiest destination outside; `None` where that is not known.
    pub flows: Option<u64>,
    /// Addresses that all nodes share on their way out, such as a load balancer's; `None` where each has its own.
    pub outbound_ips: Option<u64>,
    /// What carries packets between nodes.
    pub fabric: Fabric,
}

/// The pod CIDR of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpace {
    /// The pod CIDR.
    pub cidr: Cidr,
    /// Nobody asked for it: it is free, and proposed.
    pub proposed: bool,
    /// Prefix length of a node's block.
    pub node_mask: u8,
    /// How many blocks there are: nodes at most.
    pub blocks: u64,
    /// How many pods fit, with the pods a node that were asked for; `u64::MAX` stands for that and more.
    pub pods: u64,
    /// The month in which a node gets no block, counted from 0, which is now; `None` if that is beyond [`MONTHS_MAX`], or if
    /// there are blocks for the largest cluster.
    pub runs_out: Option<u32>,
    /// What it can become, the smallest first, up to the first that is more than all nodes can use.
    pub expansions: Vec<Expansion>,
}

/// A larger range with the same base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// The range.
    pub cidr: Cidr,
    /// How many blocks there are then.
    pub blocks: u64,
    /// The month in which that runs out.
    pub runs_out: Option<u32>,
    /// What has addresses of it already; nothing if it is free.
    pub in_the_way: Vec<Taken>,
}

/// Addresses of nodes, of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpace {
    /// The family.
    pub family: Family,
    /// How many nodes the subnets have addresses for; `None` where no subnet of this family was told.
    pub room: Option<u64>,
    /// The month in which a node gets no address.
    pub runs_out: Option<u32>,
    /// The longest prefix of a subnet for all nodes there will be.
    pub prefix_len: u8,
    /// A free place for it in the nodes' network; `None` where there is none, or nothing is known of that network.
    pub place: Option<Cidr>,
}

/// Ports for flows that leave the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatPorts {
    /// Flows that the pods of a full node have to one destination at once.
    pub flows: u64,
    /// Ports that a node has for them.
    pub ports: u64,
}

/// What came of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// The network, with what was left out filled in.
    pub spec: ClusterSpec,
    /// What is around it, with an address for DNS.
    pub around: Surroundings,
    /// The plan, if no rule of the network is broken.
    pub plan: Option<ClusterPlan>,
    /// Nodes now, and at the end of the plan's months.
    pub nodes: (u64, u64),
    /// Pods' addresses, one a family.
    pub pods: Vec<PodSpace>,
    /// Services' ranges, and whether they are proposed.
    pub services: Vec<(Cidr, bool)>,
    /// Nodes' addresses, one a family.
    pub subnets: Vec<NodeSpace>,
    /// Ports for what leaves, if it was told how much that is.
    pub snat: Option<SnatPorts>,
    /// Which model fits.
    pub model: Advice<Model>,
    /// How packets cross nodes.
    pub routing: Advice<Routing>,
    /// What has address space around here, for a drawing.
    pub taken: Vec<Taken>,
    /// Every rule that is broken.
    pub findings: Vec<Finding>,
}

/// Makes a plan of a wish.
#[must_use]
pub fn size(wish: &Wish) -> Sizing {
    let months = wish.months.min(MONTHS_MAX);
    let pools: Vec<(u64, Growth)> = wish.pools.iter().map(|pool| (pool.nodes, pool.growth)).collect();
    let nodes = (growth::nodes_after(&pools, 0), growth::nodes_after(&pools, months));
    let wanted = nodes.1.saturating_add(wish.surge).min(MAX_NODES);
    let Proposal { mut spec, mut around, taken, pods: proposed_pods, services: proposed_services } =
        proposal::of(wish, wanted);
    let routing = advice::routing(wish);
    spec.routing = routing.choice;
    // The largest cluster has none to spare.
    let spare = MAX_NODES.saturating_sub(nodes.0).min(wish.surge);
    around.nodes = Some(nodes.0.saturating_add(spare));
    let (plan, mut findings) = match validate_within(&spec, &around) {
        Ok(plan) => (Some(plan), Vec::new()),
        Err(findings) => (None, findings),
    };
    let demand = Demand { pools: &pools, surge: wish.surge, months };
    let pods: Vec<PodSpace> =
        parsed(&spec.pod_cidrs).map(|cidr| demand.pod_space(cidr, proposed_pods, &spec, &taken)).collect();
    let families: Vec<Family> = pods.iter().map(|space| space.cidr.family()).collect();
    let subnets: Vec<NodeSpace> =
        families.iter().map(|family| demand.node_space(*family, wanted, &around, &taken)).collect();
    let snat = wish.flows.map(|flows| snat(flows, wanted, wish, &spec));
    demand.judge(&pods, &subnets, snat, &spec, &mut findings);
    let model = advice::model(wish, nodes.1, spec.max_pods);
    let services = parsed(&spec.service_cidrs).map(|cidr| (cidr, proposed_services)).collect();
    Sizing { spec, around, plan, nodes, pods, services, subnets, snat, model, routing, taken, findings }
}

fn parsed(texts: &[String]) -> impl Iterator<Item = Cidr> + '_ {
    let meant = |text: &String| match text.parse::<Cidr>() {
        Ok(cidr) | Err(CidrError::HostBits { meant: cidr, .. }) => Some(cidr),
        Err(_) => None,
    };
    texts.iter().filter_map(meant)
}

/// Flows of a node with as many pods as it may have, and the ports for them: its own, or its share of those of all.
fn snat(flows: u64, nodes: u64, wish: &Wish, spec: &ClusterSpec) -> SnatPorts {
    let share = |ips: u64| ips.saturating_mul(SNAT_PORTS) / nodes.max(1);
    let ports = wish.outbound_ips.map_or(SNAT_PORTS, |ips| share(ips).min(SNAT_PORTS));
    SnatPorts { flows: flows.saturating_mul(spec.max_pods.into()), ports }
}

/// What nodes ask for over time.
struct Demand<'a> {
    pools: &'a [(u64, Growth)],
    surge: u64,
    months: u32,
}

impl Demand<'_> {
    fn runs_out(&self, room: u64) -> Option<u32> {
        growth::runs_out(self.pools, self.surge, room)
    }

    fn pod_space(&self, cidr: Cidr, proposed: bool, spec: &ClusterSpec, taken: &[Taken]) -> PodSpace {
        let node_mask = if cidr.family() == Family::V4 { spec.node_mask_v4 } else { spec.node_mask_v6 };
        let blocks_of = |cidr: &Cidr| cidr.subnet_count(node_mask).unwrap_or(0);
        let blocks = blocks_of(&cidr);
        let others: Vec<Taken> = taken.iter().filter(|taken| taken.cidr != cidr).cloned().collect();
        let mut expansions = Vec::new();
        for larger in supersets(&cidr) {
            let room = blocks_of(&larger);
            let in_the_way = space::in_the_way(&larger, &others);
            expansions.push(Expansion { cidr: larger, blocks: room, runs_out: self.runs_out(room), in_the_way });
            if room >= MAX_NODES {
                break;
            }
        }
        // What is enough for the largest cluster need not grow.
        let enough = blocks >= MAX_NODES;
        if enough {
            expansions.clear();
        }
        let runs_out = self.runs_out(blocks).filter(|_| !enough);
        let pods = blocks.saturating_mul(spec.max_pods.into());
        PodSpace { cidr, proposed, node_mask, blocks, pods, runs_out, expansions }
    }

    fn node_space(&self, family: Family, wanted: u64, around: &Surroundings, taken: &[Taken]) -> NodeSpace {
        let of_family = |cidr: &Cidr| cidr.family() == family;
        let subnets = parsed(&around.node_subnets).filter(of_family);
        let room = subnets.map(|subnet| usable_for_nodes(&subnet)).reduce(u64::saturating_add);
        // Clouds have IPv6 subnets of /64 alone.
        let prefix_len = match family {
            Family::V4 => (0..=29).rev().find(|length| fits(*length, wanted)).unwrap_or(0),
            Family::V6 => 64,
        };
        let inner: Vec<Taken> = taken.iter().filter(|taken| taken.what != "VNet").cloned().collect();
        let mut vnets = parsed(&around.vnet_cidrs).filter(of_family);
        let place = vnets.find_map(|vnet| space::free_in(&vnet, prefix_len, &inner));
        NodeSpace { family, room, runs_out: room.and_then(|room| self.runs_out(room)), prefix_len, place }
    }

    /// What is good now and is not for all the months.
    fn judge(
        &self,
        pods: &[PodSpace],
        subnets: &[NodeSpace],
        snat: Option<SnatPorts>,
        spec: &ClusterSpec,
        findings: &mut Vec<Finding>,
    ) {
        let mut add = |field: &str, rule, reason: String, fix: String| {
            findings.push(Finding { field: field.to_owned(), rule, reason, fix });
        };
        let within = |month: Option<u32>| month.filter(|month| (1..=self.months).contains(month));
        for space in pods.iter().filter(|_| spec.node_cidrs == NodeCidrs::Allocate) {
            let Some(month) = within(space.runs_out) else { continue };
            let holds =
                |expansion: &&Expansion| expansion.in_the_way.is_empty() && within(expansion.runs_out).is_none();
            let fix = match space.expansions.iter().find(holds) {
                Some(larger) => format!("begin with {} or a larger one, or expand to it before", larger.cidr),
                None => "take a larger range at another place, or smaller blocks".to_owned(),
            };
            let reason = format!("{} has {} blocks, and nodes want more in month {month}", space.cidr, space.blocks);
            add("podCIDRs", "pod-cidr-runs-out", reason, fix);
        }
        for space in subnets {
            let (Some(month), Some(room)) = (within(space.runs_out), space.room) else { continue };
            let reason = format!(
                "the {} subnets have addresses for {room} nodes, and more are wanted in month {month}",
                space.family
            );
            let fix = format!("take a subnet of /{}, or another one for further pools", space.prefix_len);
            add("nodeSubnets", "node-subnet-runs-out", reason, fix);
        }
        if let Some(month) = within(self.runs_out(MAX_NODES)) {
            let reason = format!("more than {MAX_NODES} nodes are wanted in month {month}");
            add("nodes", "node-count-limit", reason, "spread them over several clusters".to_owned());
        }
        if let Some(SnatPorts { flows, ports }) = snat.filter(|snat| snat.flows > snat.ports) {
            let reason =
                format!("a full node has {flows} flows to its busiest destination at once, and {ports} ports for them");
            let fix = "run fewer pods a node, have them keep and share connections, or give the way out more addresses";
            add("flows", "snat-ports", reason, fix.to_owned());
        }
    }
}

/// Whether an IPv4 subnet of that length has addresses for so many nodes.
fn fits(prefix_len: u8, nodes: u64) -> bool {
    let any = IpAddr::from([0, 0, 0, 0]);
    Cidr::new(any, prefix_len).is_ok_and(|subnet| usable_for_nodes(&subnet) >= nodes)
}
