//! The rules about what is around a cluster: the networks that nodes are in and reach, how many nodes there are to be, where
//! DNS answers, and names that nodes bear as labels.

use std::net::IpAddr;

use super::ranges::check_meeting;
use super::rules::{Entry, Findings, syntax};
use super::{NodeCidrs, Pool, Routing};
use crate::cidr::{Cidr, CidrError};
use crate::family::Family;
use crate::labels::is_label_value;

/// Most nodes of a cluster (seed 002, "Cluster scale").
pub const MAX_NODES: u64 = 5_000;
/// Addresses of an IPv4 subnet that no node can have: the first and the last, and three that the cloud keeps (seed 000, "IP
/// address planning": 251 nodes in a /24).
const SUBNET_TAKEN: u64 = 5;
/// Longest subnet of a cloud that has an address left for a node.
const SUBNET_LONGEST: u8 = 29;

/// What is around a cluster, as somebody told it. Nothing in it is known to be right; what is empty is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Address ranges of the network that the nodes' subnets are cut from.
    pub vnet_cidrs: Vec<String>,
    /// Subnets that nodes are in.
    pub node_subnets: Vec<String>,
    /// Networks that are peered with the nodes' network.
    pub peered_cidrs: Vec<String>,
    /// Networks on premises that are reached from the nodes' network.
    pub on_prem_cidrs: Vec<String>,
    /// Where the cluster's DNS is to answer; one a family at most.
    pub dns_service_ips: Vec<String>,
    /// How many nodes there are to be.
    pub nodes: Option<u64>,
    /// Names that nodes bear as values of labels, each with what it is the name of.
    pub names: Vec<(String, String)>,
}

/// How many nodes a subnet has addresses for; `u64::MAX` stands for that and more.
#[must_use]
pub fn usable_for_nodes(subnet: &Cidr) -> u64 {
    subnet.address_count().saturating_sub(SUBNET_TAKEN)
}

/// What the cluster itself has, as far as it could be read.
pub(super) struct Inside<'a> {
    pub(super) families: &'a [Family],
    pub(super) pods: &'a [Entry],
    pub(super) services: &'a [Entry],
    pub(super) pools: &'a [Pool],
    pub(super) routing: Routing,
}

pub(super) fn judge(around: &Surroundings, inside: &Inside<'_>, node_cidrs: NodeCidrs, findings: &mut Findings) {
    let vnets = networks("vnetCIDRs", &around.vnet_cidrs, findings);
    let subnets = networks("nodeSubnets", &around.node_subnets, findings);
    let peered = networks("peeredCIDRs", &around.peered_cidrs, findings);
    let on_prem = networks("onPremCIDRs", &around.on_prem_cidrs, findings);
    let outside = [
        ("overlap-node-subnet", &subnets),
        ("overlap-vnet", &vnets),
        ("overlap-peered", &peered),
        ("overlap-on-prem", &on_prem),
    ];
    for (rule, those) in outside {
        let fix = "take a private range that nothing reached from the nodes has: pods would take those hosts for pods";
        check_meeting(rule, inside.pods, those, fix, findings);
        let fix = "take a range that nothing reached from the nodes has: packets to those hosts would be taken for a Service's";
        check_meeting(rule, inside.services, those, fix, findings);
    }
    for (rule, those) in [("overlap-peered", &peered), ("overlap-on-prem", &on_prem)] {
        for these in [&vnets, &subnets] {
            check_meeting(rule, these, those, "one of the two networks must be numbered anew", findings);
        }
    }
    check_meeting("overlap-node-subnet", &subnets, &subnets, "take subnets that have no address in common", findings);
    check_subnets(&subnets, &vnets, inside, findings);
    check_nodes(around.nodes, &subnets, inside, node_cidrs, findings);
    check_dns(&around.dns_service_ips, inside, findings);
    for (what, name) in around.names.iter().filter(|(_, name)| !is_label_value(name)) {
        let fix =
            "take 63 characters or less: letters, digits, \"-\", \"_\" and \".\", a letter or digit first and last";
        findings.add("label-value", what, format!("{name:?} cannot be the value of a node's label"), fix);
    }
}

/// Reads a list of networks; what was meant is plain where bits are set after the prefix.
fn networks(name: &str, given: &[String], findings: &mut Findings) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (index, text) in given.iter().enumerate() {
        let field = format!("{name}[{index}]");
        match text.parse::<Cidr>() {
            Ok(cidr) => entries.push(Entry { field, cidr, default: false }),
            Err(error) => {
                syntax(&field, &error, findings);
                if let CidrError::HostBits { meant, .. } = error {
                    entries.push(Entry { field, cidr: meant, default: false });
                }
            }
        }
    }
    entries
}

fn check_subnets(subnets: &[Entry], vnets: &[Entry], inside: &Inside<'_>, findings: &mut Findings) {
    for subnet in subnets {
        let family = subnet.cidr.family();
        let known = vnets.iter().any(|vnet| vnet.cidr.family() == family);
        if known && !vnets.iter().any(|vnet| vnet.cidr.contains_cidr(&subnet.cidr)) {
            let reason = format!("{subnet} is in no range of vnetCIDRs");
            findings.add("node-subnet-vnet", &subnet.field, reason, "take a subnet of the nodes' network");
        }
        if family == Family::V4 && subnet.cidr.prefix_len() > SUBNET_LONGEST {
            let reason = format!("{subnet} has no address left for a node: {SUBNET_TAKEN} are taken");
            findings.add("node-subnet-size", &subnet.field, reason, "take a shorter prefix");
        }
    }
    let known = |family: &Family| subnets.iter().any(|subnet| subnet.cidr.family() == *family);
    // A tunnel carries either family over either.
    let asked = !subnets.is_empty() && inside.routing == Routing::Native;
    for family in inside.families.iter().filter(|family| asked && !known(family)) {
        findings.add(
            "node-subnet-family",
            "nodeSubnets",
            format!(
                "no subnet is {family}, of which pods are to have addresses: nodes carry packets in their own family"
            ),
            format!(
                "give the nodes {family} addresses too, take routing vxlan or auto, or leave {family} out of ipFamilies"
            ),
        );
    }
}

fn check_nodes(
    nodes: Option<u64>,
    subnets: &[Entry],
    inside: &Inside<'_>,
    node_cidrs: NodeCidrs,
    findings: &mut Findings,
) {
    let Some(nodes) = nodes else { return };
    if nodes > MAX_NODES {
        let reason = format!("{nodes} nodes are more than {MAX_NODES}");
        findings.add("node-count-limit", "nodes", reason, "spread them over several clusters");
    }
    let blocks = inside.pools.iter().filter(|_| node_cidrs == NodeCidrs::Allocate);
    for pool in blocks.filter(|pool| pool.block_count() < nodes) {
        findings.add(
            "node-count-blocks",
            "nodes",
            format!(
                "{} has blocks of /{} for {} nodes, not for {nodes}",
                pool.cidr,
                pool.node_mask,
                pool.block_count()
            ),
            "take a shorter prefix for the pod CIDR, or smaller blocks",
        );
    }
    for family in inside.families {
        let of_family = subnets.iter().filter(|subnet| subnet.cidr.family() == *family);
        let room = of_family.map(|subnet| usable_for_nodes(&subnet.cidr)).reduce(u64::saturating_add);
        if let Some(room) = room.filter(|room| *room < nodes) {
            let reason = format!("the {family} subnets of nodes have addresses for {room} nodes, not for {nodes}");
            findings.add(
                "node-count-subnet",
                "nodes",
                reason,
                "take a larger subnet, or another one for further pools",
            );
        }
    }
}

/// Where DNS answers: in a range of Services, and not at its first address, which is the API's (seed 000, "IP address
/// planning").
fn check_dns(given: &[String], inside: &Inside<'_>, findings: &mut Findings) {
    let mut seen = Vec::new();
    for (index, text) in given.iter().enumerate() {
        let field = format!("dnsServiceIPs[{index}]");
        let Ok(address) = text.parse::<IpAddr>() else {
            findings.add("dns-service-ip", field, format!("{text:?} is no address"), "write an address");
            continue;
        };
        let family = Family::of(&address);
        if seen.contains(&family) {
            let reason = format!("{address} is the second of {family}");
            findings.add("dns-service-ip", &field, reason, "give one a family");
        }
        seen.push(family);
        if let Some((reason, fix)) = dns_fault(address, inside.services) {
            findings.add("dns-service-ip", field, reason, fix);
        }
    }
}

fn dns_fault(address: IpAddr, services: &[Entry]) -> Option<(String, &'static str)> {
    let Some(range) = services.iter().map(|range| range.cidr).find(|range| range.family() == Family::of(&address))
    else {
        return Some((format!("{address} is of a family that Services have not"), "take an address of a Service CIDR"));
    };
    let higher = "take a higher one, such as the tenth";
    match range.offset_of(address) {
        None => Some((format!("{address} is not in the Service CIDR {range}"), "take an address of that range")),
        Some(0) => Some((format!("{address} is the network's own address"), higher)),
        Some(1) => Some((format!("{address} is the first address of {range}, which is the API server's"), higher)),
        Some(_) if range.family() == Family::V4 && range.last() == address => Some((
            format!("{address} is the last address of {range}, which Services are not given"),
            "take a lower one",
        )),
        Some(_) => None,
    }
}
