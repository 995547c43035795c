//! Numbers of terms, peers and classes, so that what stays keeps its number from plan to plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::compile::{Class, ClassId, Members, PeerId};
use super::peers::{Key, TermId};
use super::{Direction, NamedPort, Peer, PolicyName};

/// Numbers from here on are the data plane's own.
const MOST_PEERS: u32 = 0xffff_0000;

/// What makes a class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClassKey {
    pub(super) direction: Direction,
    pub(super) policies: Vec<PolicyName>,
    pub(super) ports: BTreeSet<NamedPort>,
}

/// Which numbers a kernel uses already, by whom they are about: a plan that begins anew goes on with them where it can, so that
/// what is right need not be written again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Numbers of peers, by an address of theirs; of a range its first.
    pub peers: BTreeMap<IpAddr, PeerId>,
    /// Classes, by an address of a pod that is in it.
    pub classes: BTreeMap<(Direction, IpAddr), ClassId>,
}

/// Numbers that were given.
///
/// A number of peers is never given to others again, and one of a class not by the next plan: while a plan takes another's place, a
/// packet may have been looked up in one and be judged by the other.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    terms: BTreeMap<Peer, TermId>,
    next_term: TermId,
    peers: HashMap<Key, PeerId>,
    next_peer: u32,
    /// Numbers of peers beyond this are of the present plan alone.
    old_peers: u32,
    classes: BTreeMap<ClassKey, (ClassId, Arc<Class>)>,
    resting: BTreeSet<ClassId>,
    used: Used,
}

impl Ids {
    /// Goes on from what a kernel uses.
    #[must_use]
    pub fn from_used(used: Used) -> Self {
        let next_peer = used.peers.values().map(|id| id.0).max().unwrap_or(0);
        Self { used, next_peer, ..Self::default() }
    }

    /// A class, with its number.
    pub(super) fn class(&self, key: &ClassKey) -> Option<(ClassId, &Arc<Class>)> {
        self.classes.get(key).map(|(id, class)| (*id, class))
    }

    pub(super) fn number_terms<'a>(&mut self, peers: BTreeSet<&'a Peer>) -> BTreeMap<TermId, &'a Peer> {
        self.terms.retain(|peer, _| peers.contains(peer));
        let mut numbered = BTreeMap::new();
        for peer in peers {
            let id = match self.terms.get(peer) {
                Some(id) => *id,
                None => {
                    self.next_term += 1;
                    self.terms.insert(peer.clone(), self.next_term);
                    self.next_term
                }
            };
            numbered.insert(id, peer);
        }
        numbered
    }

    /// Numbers the classes of these pods. One that makes something else of somebody than it did gets another number: what leads to it
    /// is changed at one moment, its own elements are not.
    pub(super) fn number_classes(
        &mut self,
        members: &Members,
        contents: BTreeMap<ClassKey, Arc<Class>>,
        numbers: &[PeerId],
    ) {
        let numbers: BTreeSet<PeerId> = numbers.iter().copied().collect();
        let mut taken: BTreeSet<ClassId> = std::mem::take(&mut self.resting);
        for (key, (id, before)) in std::mem::take(&mut self.classes) {
            taken.insert(id);
            match contents.get(&key).filter(|class| self.stays(&before, class, &numbers)) {
                Some(class) => _ = self.classes.insert(key, (id, Arc::clone(class))),
                None => _ = self.resting.insert(id),
            }
        }
        for (key, class) in contents {
            if self.classes.contains_key(&key) {
                continue;
            }
            let addresses = members.get(&key).into_iter().flatten();
            let used = addresses.filter_map(|address| self.used.classes.get(&(key.direction, *address))).next();
            let id = used.filter(|id| !taken.contains(id)).copied().unwrap_or_else(|| {
                let mut id = ClassId { direction: key.direction, number: 0 };
                while taken.contains(&id) || self.used.classes.values().any(|used| *used == id) {
                    id.number += 1;
                }
                id
            });
            taken.insert(id);
            self.classes.insert(key, (id, class));
        }
        self.used.classes.clear();
    }

    /// Whether a class makes of everybody what it made before; those are left out who have gone or come since.
    fn stays(&self, before: &Class, after: &Class, numbers: &BTreeSet<PeerId>) -> bool {
        let kept = before.verdicts.iter().all(|(peer, verdicts)| match after.verdicts.get(peer) {
            Some(now) => now == verdicts,
            None => !numbers.contains(peer),
        });
        let mut new = after.verdicts.keys().filter(|peer| !before.verdicts.contains_key(peer));
        kept && new.all(|peer| peer.0 > self.old_peers)
    }

    /// Numbers keys; that of nobody is nobody's. `addresses` are those of hosts with their keys' indexes, and `first` gives that of
    /// a span's key.
    pub(super) fn number_peers(
        &mut self,
        keys: &[Key],
        addresses: &[(IpAddr, usize)],
        first: impl Fn(usize) -> Option<IpAddr>,
    ) -> Vec<PeerId> {
        self.old_peers = self.next_peer;
        let mut before = std::mem::take(&mut self.peers);
        let mut used = self.used_by(keys.len(), addresses, first);
        let mut numbers = Vec::with_capacity(keys.len());
        for (index, key) in keys.iter().enumerate() {
            if *key == Key::default() {
                numbers.push(PeerId::NOBODY);
                continue;
            }
            let known = self.peers.get(key).copied().or_else(|| before.remove(key));
            let id = known.or_else(|| used.remove(&index)).unwrap_or_else(|| self.fresh());
            self.peers.insert(key.clone(), id);
            numbers.push(id);
        }
        numbers
    }

    fn fresh(&mut self) -> PeerId {
        self.next_peer = if self.next_peer + 1 >= MOST_PEERS { 1 } else { self.next_peer + 1 };
        PeerId(self.next_peer)
    }

    /// What a kernel uses for keys, each number for one of them.
    fn used_by(
        &mut self,
        keys: usize,
        addresses: &[(IpAddr, usize)],
        first: impl Fn(usize) -> Option<IpAddr>,
    ) -> HashMap<usize, PeerId> {
        let used = std::mem::take(&mut self.used.peers);
        let mut found = HashMap::new();
        if used.is_empty() {
            return found;
        }
        let mut taken = BTreeSet::from([PeerId::NOBODY]);
        let spans = (0..keys).filter_map(|index| Some((first(index)?, index)));
        for (address, index) in addresses.iter().copied().chain(spans) {
            if let Some(id) = used.get(&address).filter(|id| !found.contains_key(&index) && !taken.contains(*id)) {
                taken.insert(*id);
                found.insert(index, *id);
            }
        }
        found
    }
}
