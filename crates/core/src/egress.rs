//! Egress gateways: nodes through which chosen pods leave the cluster, with an address that does not change.
//!
//! Each address of a gateway (one a family, together) is a slot. A slot is at one node at a time; every node works out by
//! itself at which, from the list of nodes and from those that answer, and comes to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::cluster::{ClusterPlan, Finding, Findings, MAX_VNI, syntax};
use crate::family::Family;
use crate::labels::{Labels, Selector};

/// Numbers of slots in a cluster. (One is the next hop's, see `plan`, the last the answers'.)
pub const SLOTS: std::ops::RangeInclusive<u8> = 2..=254;
/// What answers on their way from a gateway to a pod bear for a slot's number.
pub const ANSWERS: u8 = 255;
/// The same of questions whether a gateway is there.
pub const QUESTIONS: u8 = 1;
/// What stands for the slot of a gateway that has none: who is to leave by it is cut.
pub const CUT: u8 = 0;

/// A gateway as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewaySpec {
    /// Namespaces whose pods it is for.
    pub namespaces: Selector,
    /// Pods that it is for, of those.
    pub pods: Selector,
    /// Destinations that it is for; all where there are none.
    pub destinations: Vec<String>,
    /// Nodes that may be it.
    pub nodes: Selector,
    /// Addresses that the far side sees.
    pub addresses: Vec<String>,
}

/// A place for an egress address of each family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// Its number, of [`SLOTS`]; no other slot of the cluster has it.
    pub number: u8,
    /// What the far side sees.
    pub addresses: BTreeMap<Family, IpAddr>,
}

/// A gateway in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gateway {
    /// Its name.
    pub name: String,
    /// Namespaces whose pods it is for.
    pub namespaces: Selector,
    /// Pods that it is for, of those.
    pub pods: Selector,
    /// Destinations that it is for; all where there are none.
    pub destinations: Vec<Cidr>,
    /// Its slots.
    pub slots: Vec<Slot>,
    /// Names of the nodes that may be it.
    pub nodes: BTreeSet<String>,
}

/// What of a spec does not depend on others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Destinations.
    pub destinations: Vec<Cidr>,
    /// Addresses by slot.
    pub slots: Vec<BTreeMap<Family, IpAddr>>,
}

/// Judges a spec by itself and against the cluster's network.
///
/// # Errors
/// Every rule that it breaks.
pub fn judge(spec: &GatewaySpec, cluster: &ClusterPlan) -> Result<Judged, Vec<Finding>> {
    let mut findings = Findings::default();
    let mut destinations = Vec::new();
    for (index, text) in spec.destinations.iter().enumerate() {
        match text.parse() {
            Ok(cidr) => destinations.push(cidr),
            Err(error) => syntax(&format!("destinationCIDRs[{index}]"), &error, &mut findings),
        }
    }
    let slots = judge_addresses(&spec.addresses, cluster, &mut findings);
    if findings.0.is_empty() { Ok(Judged { destinations, slots }) } else { Err(findings.0) }
}

fn judge_addresses(given: &[String], cluster: &ClusterPlan, findings: &mut Findings) -> Vec<BTreeMap<Family, IpAddr>> {
    let count = "egress-ip-count";
    if given.is_empty() {
        findings.add(count, "egressIPs", "there is none", "give one a family, or more");
    }
    let before = findings.0.len();
    let mut by_family: BTreeMap<Family, Vec<IpAddr>> = BTreeMap::new();
    for (index, text) in given.iter().enumerate() {
        let field = format!("egressIPs[{index}]");
        let Ok(address) = text.parse::<IpAddr>() else {
            let reason = format!("{text} is no address");
            findings.add("egress-ip-syntax", field, reason, "write an address, such as 10.224.0.200");
            continue;
        };
        judge_address(&field, address, cluster, findings);
        let list = by_family.entry(Family::of(&address)).or_default();
        if list.contains(&address) {
            findings.add("egress-ip-twice", field, format!("{address} is named twice"), "name each address once");
            continue;
        }
        list.push(address);
    }
    let lengths: BTreeSet<usize> = by_family.values().map(Vec::len).collect();
    // What is wrong with an address has its own finding; this keeps it from causing another about counts.
    if lengths.len() > 1 && findings.0.len() == before {
        let reason = "there is not one of each family for each other";
        findings.add(count, "egressIPs", reason, "give as many IPv4 as IPv6 addresses: they go in pairs");
    }
    in_pairs(&by_family)
}

/// The first of each family, the second of each, and so on.
fn in_pairs(by_family: &BTreeMap<Family, Vec<IpAddr>>) -> Vec<BTreeMap<Family, IpAddr>> {
    let longest = by_family.values().map(Vec::len).max().unwrap_or(0);
    let slot = |index| by_family.iter().filter_map(|(family, list)| Some((*family, *list.get(index)?))).collect();
    (0..longest).map(slot).collect()
}

fn judge_address(field: &str, address: IpAddr, cluster: &ClusterPlan, findings: &mut Findings) {
    let free = "take a free address of the gateways' network";
    let nobodys = match address {
        IpAddr::V4(ip) => ip.octets()[0] == 0 || ip.octets()[0] >= 224 || ip.is_loopback() || ip.is_link_local(),
        // The first holds the unspecified address, loopback and what stands for an IPv4 address.
        IpAddr::V6(ip) => ip.to_ipv4().is_some() || ip.is_multicast() || ip.is_unicast_link_local(),
    };
    if nobodys {
        findings.add("egress-ip-range", field, format!("{address} is no address that others can answer to"), free);
    }
    let mut ranges = cluster.pod_cidrs().chain(cluster.services().iter().copied());
    if let Some(range) = ranges.find(|range| range.contains(address)) {
        findings.add("egress-ip-range", field, format!("{address} is in {range} of pods or Services"), free);
    }
    if cluster.egress().next_hops.values().any(|hop| *hop == address) {
        let reason = format!("{address} is a next hop of the ClusterNetwork");
        findings.add("egress-ip-taken", field, reason, free);
    }
    let family = Family::of(&address);
    if !cluster.families().contains(&family) {
        let reason = format!("{address} is {family}, which the cluster's pods do not have");
        findings.add("egress-ip-family", field, reason, "leave it out");
    }
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A gateway, which had it first.
    Gateway(String),
    /// A node: it is its own.
    Node(String),
}

/// Judges a spec against who else has its addresses: each is at one place.
pub fn judge_held(spec: &GatewaySpec, holder: impl Fn(&IpAddr) -> Option<Holder>) -> Vec<Finding> {
    let mut findings = Findings::default();
    for (index, text) in spec.addresses.iter().enumerate() {
        let Ok(address) = text.parse::<IpAddr>() else { continue };
        let (reason, fix) = match holder(&address) {
            None => continue,
            Some(Holder::Gateway(name)) => {
                (format!("{address} is the older EgressGateway {name}'s"), "take another, or leave it out there")
            }
            Some(Holder::Node(name)) => {
                (format!("{address} is node {name}'s own"), "take an address of that network that no machine has")
            }
        };
        findings.add("egress-ip-taken", format!("egressIPs[{index}]"), reason, fix);
    }
    findings.0
}

/// What of a spec that was in force may stay: its slots of which each address still keeps the rules, and is nobody
/// else's.
#[must_use]
pub fn lasting(
    spec: &GatewaySpec,
    cluster: &ClusterPlan,
    holder: impl Fn(&IpAddr) -> Option<Holder>,
) -> Vec<BTreeMap<Family, IpAddr>> {
    let mut by_family: BTreeMap<Family, Vec<IpAddr>> = BTreeMap::new();
    for address in spec.addresses.iter().filter_map(|text| text.parse().ok()) {
        let list = by_family.entry(Family::of(&address)).or_default();
        if !list.contains(&address) {
            list.push(address);
        }
    }
    let keeps = |address: &IpAddr| {
        let mut findings = Findings::default();
        judge_address("egressIPs", *address, cluster, &mut findings);
        findings.0.is_empty() && holder(address).is_none()
    };
    // Not one family of a pair alone: all that its pods send has one place, or none.
    in_pairs(&by_family).into_iter().filter(|slot| slot.values().all(keeps)).collect()
}

/// The tunnel's identifier of answers and questions: of 24 bits, never the cluster's own, never 0, and another for each.
#[must_use]
pub const fn vni(of_cluster: u32, number: u8) -> u32 {
    identifier(of_cluster, number, 0)
}

/// The same of a slot's packets. It speaks of the slot's addresses too: a node that has another idea of whose the number
/// is drops them.
#[must_use]
pub fn slot_vni(of_cluster: u32, slot: &Slot) -> u32 {
    let bytes = slot.addresses.values().flat_map(|address| match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    });
    let [low, high, ..] = hash(bytes).to_le_bytes();
    identifier(of_cluster, slot.number, u32::from_be_bytes([0, 0, high & 0x7f, low]))
}

/// Numbers differ in the low 8 bits, whatever is above them; the highest one tells all of them from the cluster's own.
const fn identifier(of_cluster: u32, number: u8, more: u32) -> u32 {
    let vni = (of_cluster ^ 0x0080_0000 ^ (more << 8) ^ number as u32) & MAX_VNI;
    if vni == 0 { 0x100 } else { vni }
}

/// At which node each slot is, while `answers` says which nodes do.
///
/// Each slot has a home, so that a gateway's slots are spread over its nodes; while that does not answer, it is where
/// fewest are. So a node that goes moves no slot but its own.
#[must_use]
pub fn places(gateway: &Gateway, answers: impl Fn(&str) -> bool) -> BTreeMap<u8, &str> {
    let mut load: BTreeMap<&str, usize> = gateway.nodes.iter().map(|node| (node.as_str(), 0)).collect();
    let mut homes = Vec::new();
    for slot in &gateway.slots {
        let least = load.iter().min_by_key(|(node, count)| (**count, weight(slot.number, node)));
        let Some(home) = least.map(|(node, _)| *node) else { return BTreeMap::new() };
        *load.entry(home).or_default() += 1;
        homes.push((slot.number, home));
    }
    let mut alive: BTreeMap<&str, usize> =
        gateway.nodes.iter().map(String::as_str).filter(|node| answers(node)).map(|node| (node, 0)).collect();
    let mut places = BTreeMap::new();
    for (number, home) in &homes {
        if let Some(count) = alive.get_mut(home) {
            *count += 1;
            places.insert(*number, *home);
        }
    }
    for (number, _) in homes {
        if places.contains_key(&number) {
            continue;
        }
        let least = alive.iter().min_by_key(|(node, count)| (**count, weight(number, node)));
        let Some(node) = least.map(|(node, _)| *node) else { break };
        *alive.entry(node).or_default() += 1;
        places.insert(number, node);
    }
    places
}

/// The slots that a pod leaves by: one of each gateway that is for it, or [`CUT`].
#[must_use]
pub fn slots_of(gateways: &[Gateway], namespace: &Labels, pod: &Labels, name: &str) -> BTreeSet<u8> {
    let chosen = gateways.iter().filter(|gateway| gateway.namespaces.selects(namespace) && gateway.pods.selects(pod));
    let slot = |gateway: &Gateway| {
        let numbers = gateway.slots.iter().map(|slot| slot.number);
        numbers.min_by_key(|number| weight(*number, name)).unwrap_or(CUT)
    };
    chosen.map(slot).collect()
}

/// Where one of many goes first that another does not.
fn weight(number: u8, name: &str) -> u64 {
    hash(std::iter::once(number).chain(name.bytes()))
}

/// FNV-1a with a final mix.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

/// Gives every slot of every gateway a number: those that they have already stay, new ones get the next that are free
/// behind the `last` that was given (0 where none was), which it moves on; behind the greatest comes the least. What is
/// beyond the count of numbers gets none, and is left out.
///
/// A number that another gateway still has is not free, though its slot may be wanted no more: whichever of the two is
/// told first, no number is ever told of two slots. One that nobody has any more comes last: who has not heard of that
/// yet would take the new slot for the old one.
#[must_use]
pub fn numbered(
    wanted: &BTreeMap<String, Vec<BTreeMap<Family, IpAddr>>>,
    given: &BTreeMap<String, Vec<Slot>>,
    last: &mut u8,
) -> BTreeMap<String, Vec<Slot>> {
    let mut taken = BTreeSet::new();
    let mut kept: BTreeMap<(&str, usize), u8> = BTreeMap::new();
    for (name, slots) in wanted {
        let before = given.get(name).map(Vec::as_slice).unwrap_or_default();
        for (index, addresses) in slots.iter().enumerate() {
            // A slot is known by what the far side sees of it.
            let same = |slot: &&Slot| slot.addresses.values().any(|ip| addresses.values().any(|other| other == ip));
            let numbers = before.iter().filter(same).map(|slot| slot.number);
            if let Some(number) = numbers.filter(|number| SLOTS.contains(number)).find(|number| taken.insert(*number)) {
                kept.insert((name.as_str(), index), number);
            }
        }
    }
    let mut holders: BTreeMap<u8, BTreeSet<&str>> = BTreeMap::new();
    for (name, slots) in given {
        for slot in slots {
            holders.entry(slot.number).or_default().insert(name);
        }
    }
    let in_turn = |last: u8| (last.saturating_add(1)..=u8::MAX).chain(0..=last).filter(|number| SLOTS.contains(number));
    let mut all = BTreeMap::new();
    for (name, slots) in wanted {
        let others = |number: &u8| holders.get(number).is_some_and(|names| names.iter().any(|other| other != name));
        let mut of_gateway = Vec::new();
        for (index, addresses) in slots.iter().enumerate() {
            let known = kept.get(&(name.as_str(), index)).copied();
            let free = || {
                let fits = |number: &u8| !taken.contains(number) && !others(number);
                // What the gateway itself gives up serves where there is nothing else.
                let unheard = in_turn(*last).find(|number| fits(number) && !holders.contains_key(number));
                unheard.or_else(|| in_turn(*last).find(fits))
            };
            let Some(number) = known.or_else(free) else { continue };
            taken.insert(number);
            if known.is_none() {
                *last = number;
            }
            of_gateway.push(Slot { number, addresses: addresses.clone() });
        }
        all.insert(name.clone(), of_gateway);
    }
    all
}
