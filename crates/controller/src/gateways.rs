//! The EgressGateways: which specs are in force, under which numbers, and which nodes may be them.
//!
//! A spec that breaks a rule does not come in force; the last one that did goes on. It is kept in the object's status, so
//! that a restart does not lose it. Who is chosen by it is cut as far as it has no slots: those that break rules by now
//! go, the spec itself stays, for without it agents would let its pods out under their nodes' addresses. Only the
//! object's deletion may do that.
//!
//! An address is the oldest gateway's; what is in force does not yield to a node that comes later and has it, too: then
//! any node could end a gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlane_api::convert::{self, ConvertError};
use overlane_api::crd::{EgressGateway, EgressGatewaySpec};
use overlane_core::blocks::{Source, World};
use overlane_core::cluster::{ClusterPlan, Finding, Outbound};
use overlane_core::egress::{self, GatewaySpec, Holder, SLOTS, Slot};
use overlane_core::family::Family;
use overlane_core::labels::{Labels, Selector};

use crate::labels::NodeLabels;
use crate::objects;
use crate::slim::object_ref;

/// What was found out about a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is in force, and there is a node for it.
    InForce,
    /// Its spec breaks rules.
    Invalid(Vec<Finding>),
    /// It is in force, but nothing leaves the cluster.
    OutboundNone,
    /// These are still told of another gateway, whose status has to be written first.
    AddressMoves(Vec<IpAddr>),
    /// So many of its slots have no number.
    NoNumber(usize),
    /// No node may be it.
    NoNodes,
}

/// A gateway as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// What was found out about it.
    pub judgement: Judgement,
    /// The spec in force; who is chosen by it is cut where it has no slots.
    pub applied: Option<EgressGatewaySpec>,
    /// Its slots.
    pub slots: Vec<Slot>,
    /// Names of the nodes that may be it.
    pub nodes: BTreeSet<String>,
}

/// A spec in force.
struct Force {
    spec: EgressGatewaySpec,
    /// What of its addresses keeps the rules.
    slots: Vec<BTreeMap<Family, IpAddr>>,
    /// Its nodes; `None` where nobody can read which.
    nodes: Option<Selector>,
}

/// Keeps the objects, and the Nodes' labels.
#[derive(Debug, Default)]
pub struct Gateways {
    objects: BTreeMap<String, EgressGateway>,
    labels: NodeLabels,
    /// The slots' number that was given last, by whoever led then; after a start, the greatest that was seen.
    last: u8,
    /// What `standings` said last of slots: a status may tell it that nobody has heard of yet.
    promised: BTreeMap<String, Vec<Slot>>,
    stale: bool,
}

impl Gateways {
    /// Learns an object.
    pub fn upsert(&mut self, mut object: EgressGateway, source: Source) {
        // Of no use here, and longer than the rest.
        object.metadata.managed_fields = None;
        object.metadata.annotations = None;
        let name = objects::name(&object.metadata);
        let old = self.objects.get(&name);
        let older = |old: &EgressGateway| object_ref(&object.metadata).is_older_than(&object_ref(&old.metadata));
        if source == Source::News && old.is_some_and(older) {
            return;
        }
        if old.is_some_and(|old| old.metadata.uid != object.metadata.uid) {
            self.promised.remove(&name);
        }
        let promised = self.promised.get(&name).into_iter().flatten().cloned();
        let known: BTreeSet<u8> =
            old.into_iter().flat_map(told_slots).chain(promised).map(|slot| slot.number).collect();
        let fresh = told_slots(&object).into_iter().map(|slot| slot.number);
        // What another leader gave. News come in the order in which numbers were given, a list does not.
        self.last = fresh
            .filter(|number| SLOTS.contains(number) && !known.contains(number))
            .fold(self.last, |last, number| if source == Source::News { number } else { last.max(number) });
        self.stale |= old.is_none_or(|old| {
            old.spec != object.spec || old.status != object.status || old.metadata.uid != object.metadata.uid
        });
        self.objects.insert(name, object);
    }

    /// Learns what a write has made of the object of this version. What a watch has told meanwhile is newer.
    pub fn answered(&mut self, before: Option<&str>, written: EgressGateway) {
        let known = self.objects.get(&objects::name(&written.metadata));
        if known.is_some_and(|known| known.metadata.resource_version.as_deref() == before) {
            self.upsert(written, Source::News);
        }
        // What this one had is free for others.
        self.stale = true;
    }

    /// Learns that an object is gone.
    pub fn remove(&mut self, name: &str, uid: &str) {
        if self.objects.get(name).is_some_and(|known| known.metadata.uid.as_deref() == Some(uid)) {
            self.objects.remove(name);
            self.promised.remove(name);
            self.stale = true;
        }
    }

    /// Forgets the objects that a full list did not show.
    pub fn retain(&mut self, seen: &BTreeSet<String>) {
        self.objects.retain(|name, _| seen.contains(name));
        self.promised.retain(|name, _| seen.contains(name));
        self.stale = true;
    }

    /// Learns a Node's labels.
    pub fn hear_labels(&mut self, node: &str, labels: &Labels) {
        self.stale |= self.labels.set(node, labels);
    }

    /// Forgets the labels of a Node.
    pub fn forget_labels(&mut self, node: &str) {
        self.labels.remove(node);
        self.stale = true;
    }

    /// Forgets the labels of Nodes that a full list did not show.
    pub fn retain_labels(&mut self, seen: &BTreeSet<String>) {
        self.labels.retain(seen);
        self.stale = true;
    }

    /// Has all of them judged anew: something else that they depend on may have changed.
    pub const fn look_again(&mut self) {
        self.stale = true;
    }

    /// Whether something has changed since the last call that they depend on.
    pub const fn take_stale(&mut self) -> bool {
        std::mem::replace(&mut self.stale, false)
    }

    /// The objects as they were last seen, by name.
    pub const fn objects(&self) -> &BTreeMap<String, EgressGateway> {
        &self.objects
    }

    /// How each is to be, by name.
    pub fn standings(&mut self, plan: &ClusterPlan, world: &World) -> BTreeMap<String, Standing> {
        if self.objects.is_empty() {
            return BTreeMap::new();
        }
        let found = self.found(plan, world);
        let told = self.told();
        let mut wanted: BTreeMap<String, Vec<BTreeMap<Family, IpAddr>>> = BTreeMap::new();
        let mut moving: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        let mut selectors = BTreeMap::new();
        for (name, (force, _)) in &found {
            let Some(force) = force else { continue };
            let elsewhere = |ip: &IpAddr| told.get(ip).is_some_and(|names| names.iter().any(|other| *other != name));
            let (slots, later): (Vec<_>, Vec<_>) =
                force.slots.iter().cloned().partition(|slot| !slot.values().any(elsewhere));
            wanted.insert(name.clone(), slots);
            moving.insert(name.clone(), later.iter().flat_map(BTreeMap::values).copied().filter(elsewhere).collect());
            selectors.extend(force.nodes.iter().map(|nodes| (name.as_str(), nodes)));
        }
        let mut nodes = self.nodes(world, &selectors);
        let mut given: BTreeMap<String, Vec<Slot>> =
            self.objects.iter().map(|(name, object)| (name.clone(), told_slots(object))).collect();
        let told: BTreeSet<u8> = given.values().flatten().map(|slot| slot.number).collect();
        for (name, promised) in std::mem::take(&mut self.promised) {
            // What is told goes before what was only meant to be.
            let open = promised.into_iter().filter(|slot| !told.contains(&slot.number));
            given.entry(name).or_default().extend(open);
        }
        let mut numbered = egress::numbered(&wanted, &given, &mut self.last);
        self.promised.clone_from(&numbered);
        let mut all = BTreeMap::new();
        for (name, (force, findings)) in &found {
            let slots = numbered.remove(name).unwrap_or_default();
            let nodes = nodes.remove(name.as_str()).unwrap_or_default();
            let moving = moving.remove(name).unwrap_or_default();
            let unnumbered = wanted.get(name).map_or(0, Vec::len) - slots.len();
            let judgement = if !findings.is_empty() {
                Judgement::Invalid(findings.clone())
            } else if plan.outbound() == Outbound::None {
                Judgement::OutboundNone
            } else if !moving.is_empty() {
                Judgement::AddressMoves(moving)
            } else if unnumbered > 0 {
                Judgement::NoNumber(unnumbered)
            } else if nodes.is_empty() {
                Judgement::NoNodes
            } else {
                Judgement::InForce
            };
            let applied = force.as_ref().map(|force| force.spec.clone());
            all.insert(name.clone(), Standing { judgement, applied, slots, nodes });
        }
        all
    }

    /// Of each, the spec in force, and what is wrong with the one that was asked for. The oldest has what it names.
    fn found(&self, plan: &ClusterPlan, world: &World) -> BTreeMap<String, (Option<Force>, Vec<Finding>)> {
        let of_nodes = self.nodes_addresses(world);
        let mut held: BTreeMap<IpAddr, Holder> = BTreeMap::new();
        let mut by_age: Vec<(&String, &EgressGateway)> = self.objects.iter().collect();
        by_age.sort_by_key(|(name, object)| (object.metadata.creation_timestamp.as_ref().map(|time| time.0), *name));
        let mut found = BTreeMap::new();
        for (name, object) in by_age {
            let asked = judge(&object.spec, plan, |ip| held.get(ip).or_else(|| of_nodes.get(ip)).cloned());
            let (force, findings) = match asked {
                Ok(force) => (Some(force), Vec::new()),
                Err(findings) => {
                    let told = told_slots(object);
                    let has = |ip: &IpAddr| told.iter().any(|slot| slot.addresses.values().any(|told| told == ip));
                    // A node's are those only that are not in force.
                    let holder = |ip: &IpAddr| held.get(ip).or_else(|| of_nodes.get(ip).filter(|_| !has(ip))).cloned();
                    let before = object.status.as_ref().and_then(|status| status.applied.as_ref());
                    (before.map(|spec| what_stays(spec, plan, holder)), findings)
                }
            };
            let addresses = force.iter().flat_map(|force| &force.slots).flat_map(BTreeMap::values);
            held.extend(addresses.map(|ip| (*ip, Holder::Gateway(name.clone()))));
            found.insert(name.clone(), (force, findings));
        }
        found
    }

    /// Who of the nodes has an address that a gateway names.
    fn nodes_addresses(&self, world: &World) -> BTreeMap<IpAddr, Holder> {
        let applied = self.objects.values().filter_map(|object| object.status.as_ref()?.applied.as_ref());
        let specs = self.objects.values().map(|object| &object.spec).chain(applied);
        let named: BTreeSet<IpAddr> =
            specs.flat_map(|spec| &spec.egress_ips).filter_map(|text| text.parse().ok()).collect();
        let own = world.nodes().values().flat_map(|node| node.addresses.iter().map(|ip| (*ip, &node.name)));
        own.filter(|(ip, _)| named.contains(ip)).map(|(ip, node)| (ip, Holder::Node(node.clone()))).collect()
    }

    /// Which gateways the statuses tell to have an address.
    fn told(&self) -> BTreeMap<IpAddr, BTreeSet<&String>> {
        let mut told: BTreeMap<IpAddr, BTreeSet<&String>> = BTreeMap::new();
        for (name, object) in &self.objects {
            for ip in told_slots(object).iter().flat_map(|slot| slot.addresses.values()) {
                told.entry(*ip).or_default().insert(name);
            }
        }
        told
    }

    /// The nodes that each selects, of those that have blocks.
    fn nodes<'a>(
        &self,
        world: &World,
        selectors: &BTreeMap<&'a str, &Selector>,
    ) -> BTreeMap<&'a str, BTreeSet<String>> {
        let mut chosen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        if selectors.is_empty() {
            return chosen;
        }
        let served = world.configs().values().filter(|config| config.blocks().next().is_some());
        for node in served.map(|config| &config.node).filter(|node| world.nodes().contains_key(*node)) {
            let labels = self.labels.of(node);
            for (gateway, _) in selectors.iter().filter(|(_, selector)| selector.selects(&labels)) {
                chosen.entry(*gateway).or_default().insert(node.clone());
            }
        }
        chosen
    }
}

/// Judges a spec by itself, against the cluster's network, and against who has its addresses.
fn judge(
    spec: &EgressGatewaySpec,
    plan: &ClusterPlan,
    holder: impl Fn(&IpAddr) -> Option<Holder>,
) -> Result<Force, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut read = |field: &str, labels| {
        convert::selector(field, labels).unwrap_or_else(|error| {
            let (field, reason) = match error {
                ConvertError::Selector { field, given } => (field, format!("`{given}` means nothing")),
                other => (field.to_owned(), other.to_string()),
            };
            let fix = "give In and NotIn values, Exists and DoesNotExist none".to_owned();
            findings.push(Finding { field, rule: "selector", reason, fix });
            Selector::default()
        })
    };
    let raw = GatewaySpec {
        namespaces: read("namespaceSelector", &spec.namespace_selector),
        pods: read("podSelector", &spec.pod_selector),
        destinations: spec.destination_cidrs.clone(),
        nodes: read("nodeSelector", &spec.node_selector),
        addresses: spec.egress_ips.clone(),
    };
    let judged = egress::judge(&raw, plan);
    let held = egress::judge_held(&raw, holder);
    match judged {
        Ok(judged) if findings.is_empty() && held.is_empty() => {
            Ok(Force { spec: spec.clone(), slots: judged.slots, nodes: Some(raw.nodes) })
        }
        judged => {
            findings.extend(judged.err().into_iter().flatten().chain(held));
            Err(findings)
        }
    }
}

/// What goes on of a spec that was in force when another one is asked for that breaks rules. The spec itself always does.
fn what_stays(spec: &EgressGatewaySpec, plan: &ClusterPlan, holder: impl Fn(&IpAddr) -> Option<Holder>) -> Force {
    let raw = convert::gateway_spec(spec).ok();
    let slots = raw.as_ref().map(|raw| egress::lasting(raw, plan, holder)).unwrap_or_default();
    Force { spec: spec.clone(), slots, nodes: raw.map(|raw| raw.nodes) }
}

/// The slots that a status tells; what a hand has spoilt is left out.
fn told_slots(object: &EgressGateway) -> Vec<Slot> {
    let slots = object.status.iter().flat_map(|status| &status.slots);
    let addresses = |texts: &[String]| {
        let parsed = texts.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        parsed.map(|ip| (Family::of(&ip), ip)).collect()
    };
    slots.map(|slot| Slot { number: slot.number, addresses: addresses(&slot.egress_ips) }).collect()
}

#[cfg(test)]
mod tests {
    //! Must catch: a number that a write without an answer may have told, and another gateway's status tells next.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use overlane_api::crd::{EgressGatewayStatus, EgressSlot};
    use overlane_core::cluster::{ClusterSpec, validate};

    use super::*;

    fn object(name: &str, version: u64, told: &[(u8, &str)]) -> EgressGateway {
        let address = format!("10.224.0.{}", 200 + usize::from(name.as_bytes()[0] - b'a'));
        let spec = EgressGatewaySpec { egress_ips: vec![address], ..EgressGatewaySpec::default() };
        let mut object = EgressGateway::new(name, spec);
        object.metadata.uid = Some(format!("{name}-{}", version / 100));
        object.metadata.resource_version = Some(version.to_string());
        let slot = |(number, ip): &(u8, &str)| EgressSlot { number: *number, egress_ips: vec![(*ip).to_owned()] };
        let slots = told.iter().map(slot).collect();
        object.status = Some(EgressGatewayStatus { slots, ..EgressGatewayStatus::default() });
        object
    }

    fn numbers(gateways: &mut Gateways) -> Vec<(String, Vec<u8>)> {
        let plan = validate(&ClusterSpec::default()).unwrap();
        let standings = gateways.standings(&plan, &World::default());
        let numbers = |standing: Standing| standing.slots.iter().map(|slot| slot.number).collect();
        standings.into_iter().map(|(name, standing)| (name, numbers(standing))).collect()
    }

    fn expected(all: &[(&str, u8)]) -> Vec<(String, Vec<u8>)> {
        all.iter().map(|(name, number)| ((*name).to_owned(), vec![*number])).collect()
    }

    #[test]
    fn what_was_promised_stays_until_it_is_told() {
        let mut gateways = Gateways::default();
        gateways.upsert(object("c", 101, &[]), Source::List);
        assert_eq!(numbers(&mut gateways), expected(&[("c", 2)]));
        assert_eq!(numbers(&mut gateways), expected(&[("c", 2)]), "a write that failed costs no number");
        gateways.upsert(object("b", 102, &[]), Source::News);
        assert_eq!(numbers(&mut gateways), expected(&[("b", 3), ("c", 2)]));
        // Heard late, and no step back.
        gateways.upsert(object("c", 103, &[(2, "10.224.0.202")]), Source::News);
        gateways.upsert(object("a", 104, &[]), Source::News);
        assert_eq!(numbers(&mut gateways), expected(&[("a", 4), ("b", 3), ("c", 2)]));
        // Another leader has done otherwise meanwhile.
        gateways.upsert(object("a", 105, &[(9, "10.224.0.200")]), Source::News);
        gateways.upsert(object("d", 106, &[(3, "10.224.0.203")]), Source::News);
        gateways.remove("c", "c-1");
        gateways.upsert(object("e", 107, &[]), Source::News);
        assert_eq!(numbers(&mut gateways), expected(&[("a", 9), ("b", 5), ("d", 3), ("e", 6)]));
        // Another object of the same name.
        gateways.upsert(object("e", 201, &[]), Source::News);
        assert_eq!(numbers(&mut gateways), expected(&[("a", 9), ("b", 5), ("d", 3), ("e", 7)]));
    }

    #[test]
    fn a_start_goes_on_behind_the_greatest_that_is_told() {
        let mut gateways = Gateways::default();
        for (name, number) in [("a", 7), ("b", 31), ("c", 5), ("d", 255)] {
            let address = format!("10.224.0.{}", 200 + usize::from(name.as_bytes()[0] - b'a'));
            gateways.upsert(object(name, 101, &[(number, &address)]), Source::List);
        }
        gateways.upsert(object("e", 102, &[]), Source::List);
        let all = [("a", 7), ("b", 31), ("c", 5), ("d", 32), ("e", 33)];
        assert_eq!(numbers(&mut gateways), expected(&all));
    }
}
