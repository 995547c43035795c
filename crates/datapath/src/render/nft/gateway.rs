//! What leaves by egress gateways: marked with its slot's number where it begins, carried in the tunnel under an identifier
//! of the slot's own, translated at the slot's node, and the answers back the same way.
//!
//! Absence denies here as well: a pod of which it is not known by which slots it leaves sends nothing out; a packet whose
//! slot is at no node, or that comes to a node which the slot is not at, is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlane_core::cidr::Cidr;
use overlane_core::egress::ANSWERS;
use overlane_core::family::Family;
use overlane_core::plan::{ExitPlan, GatewayPlan, NodePlan, Place};

use super::{Chain, digit, protocol, source_in};
use crate::owned::{MARK_MASK, NEXT_HOP_EXIT, NFT_PRIORITY_OFFSET, TUNNEL_LINK, exit_mark, slot_zone};
use crate::render::element::Set;

/// Of TCP: packets that are not the first of a connection.
const LATER: &str = "tcp flags & (fin | syn | rst | ack) != syn";

/// The sets that it takes.
pub(super) fn sets(plan: &GatewayPlan, family: Family) -> BTreeSet<Set> {
    let exits = plan.exits.iter().map(|exit| Set::Exit(family, exit.number));
    exits.chain([Set::Decided(family), Set::Gateway(family)]).collect()
}

/// A packet has the mark of an exit.
pub(super) fn has_mark(number: u8) -> String {
    format!("meta mark & {MARK_MASK:#010x} == {:#010x}", exit_mark(number))
}

/// Gives a packet the mark of an exit.
pub(super) fn set_mark(number: u8) -> String {
    format!("meta mark set meta mark & {:#010x} | {:#010x}", !MARK_MASK, exit_mark(number))
}

fn gateways(node: &NodePlan) -> Option<&GatewayPlan> {
    node.egress.as_ref().and_then(|egress| egress.gateways.as_ref())
}

/// The slots that are at this node, by family.
fn here(plan: &GatewayPlan) -> impl Iterator<Item = (&ExitPlan, Family, IpAddr)> {
    let here = plan.exits.iter().filter(|exit| exit.place == Place::Here);
    here.flat_map(|exit| exit.addresses.iter().map(move |(family, address)| (exit, *family, *address)))
}

/// What of an exit's packets says that they are its own, for each family that it can be for.
fn own(exit: &ExitPlan) -> impl Iterator<Item = (Family, String)> + '_ {
    Family::ALL.into_iter().filter_map(|family| {
        let (ip, set) = (protocol(family), Set::Exit(family, exit.number));
        let to = match exit.destinations.iter().filter(|cidr| cidr.family() == family).collect::<Vec<_>>().as_slice() {
            [] if exit.destinations.is_empty() => String::new(),
            [] => return None,
            [one] => format!(" {ip} daddr {one}"),
            many => {
                format!(" {ip} daddr {{ {} }}", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
        };
        Some((family, format!("{ip} saddr @{set}{to}")))
    })
}

/// First packets of flows that leave, at the pod's node. A connection that has lost its slot's node ends.
pub(super) fn leaves(plan: &GatewayPlan, primary: &BTreeMap<Family, String>) -> Vec<String> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        let (ip, set) = (protocol(family), Set::Decided(family));
        rules.push(format!(
            "{ip} saddr != @{set} counter name no_way_out drop comment \"gateway: not known yet how it leaves\""
        ));
    }
    for exit in &plan.exits {
        for (family, own) in own(exit) {
            rules.push(format!(
                "{own} ct state new {LATER} reject with tcp reset comment \"gateway: what was another's connection ends\""
            ));
            let link = match &exit.place {
                Place::Here => primary.get(&family).map(String::as_str),
                Place::At { .. } => Some(TUNNEL_LINK),
                Place::Nowhere => None,
            };
            if let Some(link) = link.filter(|_| exit.addresses.contains_key(&family)) {
                let mark = has_mark(exit.number);
                rules.push(format!("{own} {mark} oifname \"{link}\" return comment \"gateway: on its way\""));
            }
            rules.push(format!("{own} counter name no_way_out drop comment \"gateway: no other way\""));
        }
    }
    rules
}

/// Answers to what was translated here, before they are routed.
pub(super) fn answers(plan: &GatewayPlan) -> Vec<String> {
    let rule = |(_, family, address): (&ExitPlan, Family, IpAddr)| {
        let (ip, mark) = (protocol(family), set_mark(ANSWERS));
        format!(
            "ct direction reply ct reply {ip} daddr {address} {mark} return comment \"gateway: answers go back in the tunnel\""
        )
    };
    here(plan).map(rule).collect()
}

/// What pods send by a slot.
pub(super) fn exits(plan: &GatewayPlan) -> Vec<String> {
    let mut rules = Vec::new();
    for exit in &plan.exits {
        for (_, own) in own(exit).filter(|(family, _)| exit.addresses.contains_key(family)) {
            rules.push(format!("{own} {} return comment \"gateway: slot {}\"", set_mark(exit.number), exit.number));
        }
    }
    rules
}

/// What comes out of the tunnel for a slot of this node, and leaves here.
pub(super) fn forwarded(plan: &GatewayPlan) -> Option<String> {
    plan.gateway.then(|| {
        format!("iifname \"{TUNNEL_LINK}\" meta mark & {MARK_MASK:#010x} != 0 goto from_exit comment \"gateway: what leaves here\"")
    })
}

/// Outer packets of slots and of answers, by their identifiers. `own` is the cluster's.
pub(super) fn vtep_in(plan: &GatewayPlan, own: u32) -> Vec<String> {
    let rule = |(number, vni): (&u8, &u32)| {
        format!("@th,96,24 == {vni} {} comment \"gateway: slot {number}\"", set_mark(*number))
    };
    let mut rules: Vec<String> = plan.taken.iter().map(rule).collect();
    for family in Family::ALL {
        let (ip, set) = (protocol(family), Set::Gateway(family));
        rules.push(format!(
            "@th,96,24 == {} {ip} saddr @{set} {} comment \"gateway: answers\"",
            plan.answers,
            set_mark(ANSWERS)
        ));
    }
    rules.push(format!(
        "meta mark & {MARK_MASK:#010x} == 0 @th,96,24 != {{ {own}, {} }} counter name forged drop comment \"tunnel: another network's\"",
        plan.questions
    ));
    rules
}

/// Answers out of the tunnel have a check of their own: who sends them is outside. What is for a slot belongs to flows of
/// that slot alone: one that the pod began by another has another's translation.
pub(super) fn before(plan: &GatewayPlan) -> Vec<String> {
    let zones = format!(
        "iifname \"{TUNNEL_LINK}\" meta mark & {MARK_MASK:#010x} != 0 jump slot_zones comment \"gateway: flows of a slot\""
    );
    let answers = format!(
        "iifname \"{TUNNEL_LINK}\" {} goto from_gateway comment \"source check: answers from outside\"",
        has_mark(ANSWERS)
    );
    let zones = plan.gateway.then_some(zones);
    [answers].into_iter().chain(zones).collect()
}

/// Ports of the node are none of an egress address.
pub(super) fn no_ports(plan: &GatewayPlan) -> Vec<String> {
    let rule = |(_, family, address): (&ExitPlan, Family, IpAddr)| {
        format!("{} daddr {address} return comment \"host ports: not of egress addresses\"", protocol(family))
    };
    here(plan).map(rule).collect()
}

/// What goes into the tunnel to a gateway keeps the pod's address as far as there.
pub(super) fn unmasqueraded() -> String {
    format!("oifname \"{TUNNEL_LINK}\" return comment \"masquerade: a gateway's work\"")
}

/// The chains.
pub(super) fn chains(plan: &GatewayPlan, node: &NodePlan, primary: &BTreeMap<Family, String>) -> Vec<Chain> {
    let mut chains = vec![from_gateway(&node.pod_space), exit_done(node, primary)];
    if plan.gateway {
        chains.extend([from_exit(plan, primary), translate(plan, primary), gateway_in(plan), slot_zones(plan)]);
    }
    chains
}

fn from_gateway(pod_space: &BTreeSet<Cidr>) -> Chain {
    let pods = source_in(pod_space);
    let rules = pods.map(|pods| format!("{pods} counter name forged drop comment \"source check: no pod is outside\""));
    Chain { name: "from_gateway", hook: None, rules: rules.collect() }
}

/// Behind all translation. The outer packet is routed by no mark. A flow that began by another way has that way's
/// translation, or none, until it is ended: its packets must not be seen outside.
fn exit_done(node: &NodePlan, primary: &BTreeMap<Family, String>) -> Chain {
    let mark = format!("meta mark & {MARK_MASK:#010x}");
    let mut rules = vec![
        format!("oifname \"{TUNNEL_LINK}\" {mark} == 0 return comment \"gateway: other packets\""),
        format!(
            "oifname \"{TUNNEL_LINK}\" meta mark set meta mark & {:#010x} return comment \"gateway: in the tunnel\"",
            !MARK_MASK
        ),
    ];
    for (exit, family, address) in gateways(node).into_iter().flat_map(here) {
        let Some(link) = primary.get(&family) else { continue };
        rules.push(format!(
            "oifname \"{link}\" {} {} saddr != {address} counter name no_way_out drop comment \"gateway: another way's flow\"",
            has_mark(exit.number),
            protocol(family)
        ));
    }
    let next_hop = exit_mark(NEXT_HOP_EXIT);
    rules.extend(source_in(&node.pod_space).map(|pods| {
        format!("{mark} != {{ 0, {next_hop:#010x} }} {pods} counter name no_way_out drop comment \"gateway: another way's flow\"")
    }));
    let links: BTreeSet<&String> = primary.values().collect();
    for (link, family) in links.iter().flat_map(|link| Family::ALL.map(|family| (link, family))) {
        let (ip, inside) = (protocol(family), Set::Inside(family));
        let pods = source_in(&node.pod_space).filter(|pods| pods.starts_with(&format!("{ip} ")));
        rules.extend(pods.filter(|_| node.masquerade.is_some()).map(|pods| {
            format!(
                "oifname \"{link}\" {mark} == 0 {pods} {ip} daddr != @{inside} counter name no_way_out drop comment \"gateway: another way's flow\""
            )
        }));
    }
    let hook = Some("type filter hook postrouting priority 150; policy accept;".to_owned());
    Chain { name: "exit_done", hook, rules }
}

/// First packets of flows. The slot may be at another node by now.
fn from_exit(plan: &GatewayPlan, primary: &BTreeMap<Family, String>) -> Chain {
    let mut rules = Vec::new();
    for (exit, family, _) in here(plan) {
        let Some(link) = primary.get(&family) else { continue };
        let own = format!("{} meta nfproto ipv{} oifname \"{link}\"", has_mark(exit.number), digit(family));
        rules.push(format!("{own} {LATER} counter name invalid drop comment \"gateway: another's connection\""));
        rules.push(format!("{own} return comment \"gateway: leaves here\""));
    }
    rules.push("counter name no_way_out drop comment \"gateway: not here\"".to_owned());
    Chain { name: "from_exit", hook: None, rules }
}

/// Before anybody's masquerade: of a flow's translations the first counts.
fn translate(plan: &GatewayPlan, primary: &BTreeMap<Family, String>) -> Chain {
    let mut rules = Vec::new();
    for (exit, family, address) in here(plan) {
        let Some(link) = primary.get(&family) else { continue };
        rules.push(format!(
            "{} meta nfproto ipv{} oifname \"{link}\" snat {} to {address} fully-random comment \"gateway: as slot {}\"",
            has_mark(exit.number),
            digit(family),
            protocol(family),
            exit.number
        ));
    }
    let before = NFT_PRIORITY_OFFSET.unsigned_abs() + 1;
    let hook = Some(format!("type nat hook postrouting priority srcnat - {before}; policy accept;"));
    Chain { name: "gateway_out", hook, rules }
}

/// Nothing begins from outside, by a Service's port neither: before anybody translates. What belongs to a connection that
/// another node had ends. (Neighbour discovery belongs to no flow and passes.)
fn gateway_in(plan: &GatewayPlan) -> Chain {
    let mut rules = Vec::new();
    for (_, family, address) in here(plan) {
        let own = format!("{} daddr {address} ct state {{ new, invalid }}", protocol(family));
        rules.push(format!("{own} {LATER} reject with tcp reset comment \"gateway: another's connection ends\""));
        rules.push(format!("{own} counter name no_way_in drop comment \"gateway: no way in\""));
    }
    if plan.hushed {
        for asks in ["icmp type echo-request", "icmpv6 type echo-request"] {
            rules.push(format!("iifname \"{TUNNEL_LINK}\" {asks} drop comment \"gateway: not ready\""));
        }
    }
    let hook = Some("type filter hook prerouting priority -150; policy accept;".to_owned());
    Chain { name: "gateway_in", hook, rules }
}

fn slot_zones(plan: &GatewayPlan) -> Chain {
    let rule = |number: &u8| {
        format!(
            "{} ct original zone set {} return comment \"gateway: slot {number}\"",
            has_mark(*number),
            slot_zone(*number)
        )
    };
    Chain { name: "slot_zones", hook: None, rules: plan.taken.keys().map(rule).collect() }
}
