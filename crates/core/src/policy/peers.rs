//! Who is who: addresses grouped by what rules can tell of them.
//!
//! Two addresses that the same terms of rules are about, and whose pods give the same numbers to the port names that rules ask
//! for, are one to every rule: they have one key. So a data plane looks an address up once, and what follows depends on the
//! key alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::{NamedPort, Namespaces, Peer, World};
use crate::cidr::{Cidr, outermost};
use crate::family::Family;

/// The number of a term, which it keeps from plan to plan.
pub(super) type TermId = u32;
/// The term that is about addresses in the pods' space of which nobody has said whose they are.
pub(super) const UNKNOWN: TermId = 0;

/// What rules can tell of an address: which terms are about it, in order, and its ports that they name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) terms: Vec<TermId>,
    pub(super) ports: BTreeSet<NamedPort>,
}

/// Terms of rules, and the names of ports that rules ask the other side's pod for.
#[derive(Debug, Default)]
pub(super) struct Terms<'a> {
    pub(super) peers: BTreeMap<TermId, &'a Peer>,
    pub(super) names: BTreeSet<&'a str>,
    /// Where it matters that an address may be a pod's which is not known: the pods' space.
    pub(super) unknown: BTreeSet<Cidr>,
}

/// Addresses from one to another, of one family.
pub(super) type Span = (IpAddr, IpAddr);

/// Ranges that do not meet, in order, with the terms that are about them.
pub(super) type Spans = Vec<(Span, Vec<TermId>)>;

/// Keys of addresses that are somebody's.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// The keys.
    pub(super) keys: Vec<Key>,
    /// The addresses whose key is not that of the range that they are in, with its index. Sorted.
    pub(super) addresses: Vec<(IpAddr, usize)>,
}

/// Finds keys, each of them once.
struct Finder<'a, 'w> {
    terms: &'a Terms<'a>,
    world: &'w World,
    spans: &'a Spans,
    /// Terms that can be about pods of a namespace.
    of_namespace: HashMap<&'w str, Vec<TermId>>,
    of_profile: HashMap<usize, Key>,
    found: Hosts,
    indexes: HashMap<Key, usize>,
    /// What was found for pods' profiles in spans.
    known: HashMap<(usize, Option<usize>), Option<usize>>,
}

impl<'a> Terms<'a> {
    /// Keys of pods' and nodes' addresses.
    pub(super) fn hosts(&self, world: &World, spans: &Spans) -> Hosts {
        let mut finder = Finder {
            terms: self,
            world,
            spans,
            of_namespace: HashMap::new(),
            of_profile: HashMap::new(),
            found: Hosts::default(),
            indexes: HashMap::new(),
            known: HashMap::new(),
        };
        let nodes = self.nodes(world);
        finder.pods(&nodes);
        finder.nodes(&nodes);
        finder.found.addresses.sort_unstable();
        finder.found
    }

    /// Terms of all other addresses: what blocks are about them.
    pub(super) fn spans(&self) -> Spans {
        Family::ALL.into_iter().flat_map(|family| self.spans_of(family)).collect()
    }

    fn spans_of(&self, family: Family) -> Spans {
        let none = BTreeSet::new();
        let unknown = self.unknown.iter().map(|cidr| (UNKNOWN, cidr, &none));
        let blocks = self.peers.iter().filter_map(|(id, peer)| match peer {
            Peer::Block { cidr, except } => Some((*id, cidr, except)),
            Peer::Pods(_) | Peer::Nodes(_) => None,
        });
        let blocks = unknown.chain(blocks).filter(|(_, cidr, _)| cidr.family() == family);
        // Where anything begins or ends, by the address before which it does; `None` is the end of the family's.
        let mut turns: BTreeMap<Option<IpAddr>, Vec<(TermId, i32)>> = BTreeMap::new();
        let mut turn = |id: TermId, cidr: &Cidr, sign: i32| {
            turns.entry(Some(cidr.network())).or_default().push((id, sign));
            turns.entry(next(cidr.last())).or_default().push((id, -sign));
        };
        for (id, cidr, except) in blocks {
            turn(id, cidr, 1);
            for except in outermost(except.iter().copied()).iter().filter(|e| cidr.contains_cidr(e)) {
                turn(id, except, -1);
            }
        }
        let ends = turns.remove(&None).is_some();
        let mut counts: BTreeMap<TermId, i32> = BTreeMap::new();
        let mut spans: Spans = Vec::new();
        let starts: Vec<IpAddr> = turns.keys().copied().flatten().collect();
        let lasts = starts.iter().skip(1).map(|next| before(*next)).chain([ends.then(|| last_of(family))]);
        for ((start, turns), last) in turns.into_iter().zip(lasts) {
            for (id, sign) in turns {
                *counts.entry(id).or_default() += sign;
            }
            counts.retain(|_, count| *count != 0);
            let terms: Vec<TermId> = counts.iter().filter(|(_, count)| **count > 0).map(|(id, _)| *id).collect();
            let (Some(start), Some(last)) = (start, last) else { continue };
            if terms.is_empty() {
                continue;
            }
            // Those that touch and are alike are one.
            match spans.last_mut() {
                Some(((_, end), same)) if *same == terms && next(*end) == Some(start) => *end = last,
                _ => spans.push(((start, last), terms)),
            }
        }
        spans
    }

    fn nodes(&self, world: &World) -> BTreeMap<IpAddr, BTreeSet<TermId>> {
        let selectors: Vec<_> = self
            .peers
            .iter()
            .filter_map(|(id, peer)| match peer {
                Peer::Nodes(selector) => Some((*id, selector)),
                Peer::Pods(_) | Peer::Block { .. } => None,
            })
            .collect();
        let mut all: BTreeMap<IpAddr, BTreeSet<TermId>> = BTreeMap::new();
        for node in world.nodes.values() {
            let terms: Vec<TermId> =
                selectors.iter().filter(|(_, selector)| selector.selects(&node.labels)).map(|(id, _)| *id).collect();
            // Nobody is a pod's peer by saying that its address is a node's.
            let is_pods = |address: &&IpAddr| world.pod_space.iter().any(|cidr| cidr.contains(**address));
            for address in node.addresses.iter().filter(|address| !is_pods(address)) {
                all.entry(*address).or_default().extend(&terms);
            }
        }
        all
    }
}

impl<'w> Finder<'_, 'w> {
    fn pods(&mut self, nodes: &BTreeMap<IpAddr, BTreeSet<TermId>>) {
        let (world, spans) = (self.world, self.spans);
        let mut at = 0;
        for (address, profile) in &world.addresses {
            while spans.get(at).is_some_and(|((_, last), _)| last < address) {
                at += 1;
            }
            if nodes.contains_key(address) || world.aliases.contains_key(address) {
                continue;
            }
            let span = spans.get(at).is_some_and(|((first, _), _)| first <= address).then_some(at);
            let index = match self.known.get(&(*profile, span)) {
                Some(known) => *known,
                None => {
                    let own = self.of_profile(*profile).clone();
                    let index = self.differing(own, span);
                    self.known.insert((*profile, span), index);
                    index
                }
            };
            self.found.addresses.extend(index.map(|index| (*address, index)));
        }
    }

    /// Nodes, and what their packets bear elsewhere.
    fn nodes(&mut self, nodes: &BTreeMap<IpAddr, BTreeSet<TermId>>) {
        let world = self.world;
        let own = nodes.keys().map(|address| (*address, *address));
        let aliases = world.aliases.iter().map(|(alias, address)| (*alias, *address));
        for (alias, address) in own.chain(aliases) {
            let mut key = match world.addresses.get(&address) {
                Some(profile) => self.of_profile(*profile).clone(),
                None => Key::default(),
            };
            key.terms.extend(nodes.get(&address).into_iter().flatten());
            let (here, there) = (self.span(alias), self.span(address));
            if here != there {
                // It is who its node is, wherever it lies.
                key.terms.extend(there.into_iter().flat_map(|span| self.block_terms(span)));
                let index = self.index(key);
                self.found.addresses.push((alias, index));
                continue;
            }
            if let Some(index) = self.differing(key, here) {
                self.found.addresses.push((alias, index));
            }
        }
    }

    fn span(&self, address: IpAddr) -> Option<usize> {
        let at = self.spans.partition_point(|((_, last), _)| *last < address);
        self.spans.get(at).is_some_and(|((first, _), _)| *first <= address).then_some(at)
    }

    /// What blocks say of a span: who is there is known.
    fn block_terms(&self, span: usize) -> impl Iterator<Item = TermId> {
        let terms = self.spans.get(span).map(|(_, terms)| terms.clone()).unwrap_or_default();
        terms.into_iter().filter(|id| *id != UNKNOWN)
    }

    /// The key of somebody who is in a span, unless the span's own says it all.
    fn differing(&mut self, mut key: Key, span: Option<usize>) -> Option<usize> {
        let of_span = span.and_then(|span| self.spans.get(span)).map(|(_, terms)| terms.as_slice()).unwrap_or_default();
        if key.ports.is_empty() && key.terms.is_empty() && !of_span.contains(&UNKNOWN) {
            return None;
        }
        key.terms.extend(span.into_iter().flat_map(|span| self.block_terms(span)));
        Some(self.index(key))
    }

    fn index(&mut self, mut key: Key) -> usize {
        key.terms.sort_unstable();
        key.terms.dedup();
        let keys = &mut self.found.keys;
        *self.indexes.entry(key).or_insert_with_key(|key| {
            keys.push(key.clone());
            keys.len() - 1
        })
    }

    fn of_profile(&mut self, index: usize) -> &Key {
        let (terms, world) = (self.terms, self.world);
        let of_namespace = &mut self.of_namespace;
        self.of_profile.entry(index).or_insert_with(|| {
            let Some(profile) = world.profiles.get(index) else { return Key::default() };
            let candidates = of_namespace
                .entry(profile.namespace.as_str())
                .or_insert_with(|| terms.of_namespace(&profile.namespace, world));
            let is = |id: &&TermId| match terms.peers.get(*id) {
                Some(Peer::Pods(pods)) => pods.pods.selects(&profile.labels),
                _ => false,
            };
            Key {
                terms: candidates.iter().filter(is).copied().collect(),
                ports: profile.ports.iter().filter(|port| terms.names.contains(port.name.as_str())).cloned().collect(),
            }
        })
    }
}

impl Terms<'_> {
    /// Terms that are about pods of a namespace, if their labels are right.
    fn of_namespace(&self, namespace: &str, world: &World) -> Vec<TermId> {
        let is = |peer: &Peer| match peer {
            Peer::Pods(pods) => match &pods.namespaces {
                Namespaces::Named(name) => name == namespace,
                Namespaces::Labelled(selector) => selector.selects(world.labels_of(namespace)),
            },
            Peer::Nodes(_) | Peer::Block { .. } => false,
        };
        self.peers.iter().filter(|(_, peer)| is(peer)).map(|(id, _)| *id).collect()
    }
}

fn last_of(family: Family) -> IpAddr {
    Cidr::everything(family).last()
}

/// The address behind; none behind the family's last.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    }
}

/// The address in front; none in front of the family's first.
fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(ip) => ip.to_bits().checked_sub(1).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_sub(1).map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    }
}
