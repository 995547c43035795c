//! Who is who: each address's number, kept up to date by what changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::hosts::HostMap;
use super::peers::{Key, Span, Spans, TermId, Terms, UNKNOWN};
use super::world::Moment;
use super::{PeerId, Profile, World};

/// Numbers from here on are the data plane's own.
const MOST_PEERS: u32 = 0xffff_0000;
/// Numbers that nobody has are kept until there are so many: who comes again has what it had, and nothing else changes.
const MOST_IDLE: usize = 256;

/// Numbers of keys. A number is never given to others again: while a plan takes another's place, a packet may have been looked up
/// in one and be judged by the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    ids: HashMap<Arc<Key>, PeerId>,
    /// Whom each is about, and how many have it.
    keys: BTreeMap<PeerId, (Arc<Key>, usize)>,
    next: u32,
    idle: usize,
    /// Changes with what numbers there are.
    generation: u64,
}

/// Numbers of addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct PeerTable {
    pub(super) hosts: HostMap,
    pub(super) spans: Arc<BTreeMap<Span, PeerId>>,
    pub(super) numbers: Numbers,
    terms_of_spans: Spans,
    /// What rules can tell of each profile, by its place in the world.
    of_profile: Vec<Option<(Arc<Profile>, Key)>>,
    of_namespace: HashMap<String, Vec<TermId>>,
    /// What they can tell of nodes' addresses, besides.
    of_node: BTreeMap<IpAddr, Vec<TermId>>,
    aliases: BTreeMap<IpAddr, IpAddr>,
    moved: Moment,
    namespaces: Moment,
    /// The last change of nodes that is in it.
    pub(super) nodes: Moment,
    /// Numbers that a kernel uses.
    used: BTreeMap<IpAddr, PeerId>,
}

impl Numbers {
    /// Numbers up to this were given.
    pub(super) const fn highest(&self) -> u32 {
        self.next
    }

    /// What changes with what numbers there are.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// All that are not nobody's.
    pub(super) fn all(&self) -> impl Iterator<Item = (PeerId, &Key)> {
        self.keys.iter().map(|(id, (key, _))| (*id, key.as_ref()))
    }

    /// Whether there is such a number.
    pub(super) fn contains(&self, id: PeerId) -> bool {
        self.keys.contains_key(&id)
    }

    fn give(&mut self, key: &Key, id: PeerId) {
        let key = Arc::new(key.clone());
        self.ids.insert(Arc::clone(&key), id);
        self.keys.insert(id, (key, 0));
        self.idle += 1;
        self.generation += 1;
    }

    /// The number of a key, held once more.
    fn hold(&mut self, key: &Key) -> PeerId {
        if *key == Key::default() {
            return PeerId::NOBODY;
        }
        let id = match self.ids.get(key) {
            Some(id) => *id,
            None => {
                self.next = if self.next + 1 >= MOST_PEERS { 1 } else { self.next + 1 };
                self.give(key, PeerId(self.next));
                PeerId(self.next)
            }
        };
        if let Some((_, count)) = self.keys.get_mut(&id) {
            self.idle -= usize::from(*count == 0);
            *count += 1;
        }
        id
    }

    fn release(&mut self, id: PeerId) {
        if let Some((_, count)) = self.keys.get_mut(&id) {
            *count -= 1;
            self.idle += usize::from(*count == 0);
        }
    }

    /// Numbers that nobody has go, with other changes or when there are many.
    fn settle(&mut self, before: u64) {
        if self.idle == 0 || self.generation == before && self.idle <= MOST_IDLE {
            return;
        }
        let ids = &mut self.ids;
        self.keys.retain(|_, (key, count)| {
            if *count == 0 {
                ids.remove(key);
            }
            *count > 0
        });
        (self.idle, self.generation) = (0, self.generation + 1);
    }
}

impl PeerTable {
    /// Goes on with the numbers that a kernel uses.
    pub(super) fn from_used(used: BTreeMap<IpAddr, PeerId>) -> Self {
        let next = used.values().map(|id| id.0).max().unwrap_or(0);
        Self { numbers: Numbers { next, ..Numbers::default() }, used, ..Self::default() }
    }

    /// Makes it what is so now. `asked` tells whether rules ask the same as before.
    pub(super) fn update(&mut self, world: &World, terms: &Terms, asked: bool) {
        let began = self.numbers.generation;
        let moved = world.moved_since(self.moved).filter(|_| self.moved != Moment::default());
        let anew = moved.is_none();
        let mut stale: Vec<IpAddr> = match moved {
            Some(moved) => moved.into_iter().collect(),
            None => {
                self.of_profile.clear();
                self.hosts.iter().map(|(address, _)| address).collect()
            }
        };
        // Who is known is not unknown: what that is about is about all.
        let unknown = |spans: &Spans| spans.iter().any(|(_, terms)| terms.contains(&UNKNOWN));
        let (before, minded) = (Arc::clone(&self.spans), unknown(&self.terms_of_spans));
        let spans = if asked { None } else { Some(terms.spans()).filter(|spans| *spans != self.terms_of_spans) };
        let other_spans = spans.is_some();
        self.terms_of_spans = spans.unwrap_or_else(|| std::mem::take(&mut self.terms_of_spans));
        if !asked || anew || self.namespaces != world.namespaces_changed() {
            let all = other_spans || anew;
            self.learn_all(world, terms, all, all && (minded || unknown(&self.terms_of_spans)), &mut stale);
        }
        if !asked || self.nodes != world.nodes_changed() {
            stale.extend(self.of_node.keys().chain(self.aliases.keys()));
            self.of_node = of_nodes(world, terms);
            self.aliases.clone_from(world.aliases());
            stale.extend(self.of_node.keys().chain(self.aliases.keys()));
        } else if stale.iter().any(|address| self.of_node.contains_key(address)) {
            stale.extend(self.aliases.keys());
        }
        stale.sort_unstable();
        stale.dedup();
        (self.moved, self.namespaces, self.nodes) = (world.moved(), world.namespaces_changed(), world.nodes_changed());
        self.number(world, terms, &stale, other_spans);
        if other_spans {
            before.values().for_each(|id| self.numbers.release(*id));
        }
        self.hosts.settle();
        self.numbers.settle(began);
    }

    /// Learns what rules can tell of each profile. Addresses of those of which that is something else are stale; of `all` of which it is
    /// anything, where ranges are others; and with `everybody` even those.
    fn learn_all(&mut self, world: &World, terms: &Terms, all: bool, everybody: bool, stale: &mut Vec<IpAddr>) {
        self.of_namespace.clear();
        let kept = std::mem::take(&mut self.of_profile);
        let nothing = Key::default();
        for place in 0..world.places() {
            self.learn(place, world, terms);
            let [now, was] = [&self.of_profile, &kept]
                .map(|all| all.get(place).and_then(Option::as_ref).map_or(&nothing, |(_, key)| key));
            if now != was || everybody || all && (*now != nothing || *was != nothing) {
                stale.extend(world.members(place));
            }
        }
    }

    /// Numbers addresses, and spans where they are others.
    fn number(&mut self, world: &World, terms: &Terms, stale: &[IpAddr], other_spans: bool) {
        let mut keys: Vec<(IpAddr, Option<Key>)> = Vec::new();
        for address in stale {
            let key = self.key(*address, world, terms);
            if key.is_some() || self.hosts.get(address).is_some() {
                keys.push((*address, key));
            }
        }
        let of_span = |terms: &Vec<TermId>| Key { terms: terms.clone(), ports: BTreeSet::new() };
        let used = std::mem::take(&mut self.used);
        if !used.is_empty() {
            let of_spans = self.terms_of_spans.iter().map(|((first, _), terms)| (*first, of_span(terms)));
            let of_hosts = keys.iter().filter_map(|(address, key)| Some((*address, key.clone()?)));
            for (address, key) in of_hosts.chain(of_spans).filter(|(_, key)| *key != Key::default()) {
                let Some(id) = used.get(&address) else { continue };
                if !self.numbers.ids.contains_key(&key) && !self.numbers.keys.contains_key(id) {
                    self.numbers.give(&key, *id);
                }
            }
        }
        let mut left = Vec::new();
        for (address, key) in keys {
            let id = key.map(|key| self.numbers.hold(&key));
            left.extend(self.hosts.get(&address));
            self.hosts.set(address, id);
        }
        if other_spans {
            let numbers = &mut self.numbers;
            let spans = self.terms_of_spans.iter().map(|(span, terms)| (*span, numbers.hold(&of_span(terms))));
            self.spans = Arc::new(spans.collect());
        }
        left.into_iter().for_each(|id| self.numbers.release(id));
    }

    /// What rules can tell of an address that is somebody's, unless what they tell of the range that it is in says it all.
    fn key(&mut self, address: IpAddr, world: &World, terms: &Terms) -> Option<Key> {
        let node =
            self.aliases.get(&address).copied().or_else(|| self.of_node.contains_key(&address).then_some(address));
        let here = self.span(address);
        let Some(node) = node else {
            let key = self.of_pod(world.place(address)?, world, terms);
            return self.differing(key, here);
        };
        let mut key = world.place(node).map(|place| self.of_pod(place, world, terms)).unwrap_or_default();
        key.terms.extend(self.of_node.get(&node).into_iter().flatten());
        let there = self.span(node);
        if here == there {
            return self.differing(key, here);
        }
        // It is who its node is, wherever it lies.
        key.terms.extend(self.block_terms(there));
        Some(sorted(key))
    }

    fn span(&self, address: IpAddr) -> Option<usize> {
        let spans = &self.terms_of_spans;
        let at = spans.partition_point(|((_, last), _)| *last < address);
        spans.get(at).is_some_and(|((first, _), _)| *first <= address).then_some(at)
    }

    fn of_span(&self, span: Option<usize>) -> &[TermId] {
        span.and_then(|span| self.terms_of_spans.get(span)).map(|(_, terms)| terms.as_slice()).unwrap_or_default()
    }

    /// What blocks say of a span: who is there is known.
    fn block_terms(&self, span: Option<usize>) -> impl Iterator<Item = TermId> {
        self.of_span(span).iter().copied().filter(|id| *id != UNKNOWN)
    }

    /// The key of somebody who is in a span, unless the span's own says it all.
    fn differing(&self, mut key: Key, span: Option<usize>) -> Option<Key> {
        if key == Key::default() && !self.of_span(span).contains(&UNKNOWN) {
            return None;
        }
        key.terms.extend(self.block_terms(span));
        Some(sorted(key))
    }

    fn of_pod(&mut self, place: usize, world: &World, terms: &Terms) -> Key {
        let known = self.of_profile.get(place).and_then(Option::as_ref);
        if !known.is_some_and(|(profile, _)| world.profile_at(place).is_some_and(|now| Arc::ptr_eq(profile, now))) {
            self.learn(place, world, terms);
        }
        let known = self.of_profile.get(place).and_then(Option::as_ref);
        known.map(|(_, key)| key.clone()).unwrap_or_default()
    }

    fn learn(&mut self, place: usize, world: &World, terms: &Terms) {
        let Some(profile) = world.profile_at(place) else { return };
        if !self.of_namespace.contains_key(&profile.namespace) {
            self.of_namespace.insert(profile.namespace.clone(), terms.about_namespace(&profile.namespace, world));
        }
        let candidates = self.of_namespace.get(&profile.namespace).map(Vec::as_slice).unwrap_or_default();
        let key = terms.about_pod(profile, candidates);
        if self.of_profile.len() <= place {
            self.of_profile.resize(world.places(), None);
        }
        if let Some(slot) = self.of_profile.get_mut(place) {
            *slot = Some((Arc::clone(profile), key));
        }
    }
}

fn sorted(mut key: Key) -> Key {
    key.terms.sort_unstable();
    key.terms.dedup();
    key
}

fn of_nodes(world: &World, terms: &Terms) -> BTreeMap<IpAddr, Vec<TermId>> {
    let mut all: BTreeMap<IpAddr, Vec<TermId>> = BTreeMap::new();
    for node in world.nodes().values() {
        let terms = terms.about_node(node);
        // Nobody is a pod's peer by saying that its address is a node's.
        let is_pods = |address: &&IpAddr| world.pod_space().iter().any(|cidr| cidr.contains(**address));
        for address in node.addresses.iter().filter(|address| !is_pods(address)) {
            all.entry(*address).or_default().extend(&terms);
        }
    }
    all
}
