//! What is known of those that policies speak of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{PolicyNode, Profile};
use crate::cidr::Cidr;
use crate::labels::Labels;

/// How many addresses that came or went are remembered: a plan made longer ago is made anew.
const MOVES: usize = 16_384;

/// A moment in the life of what is known. No two changes have one in common, of whichever world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Moment {
    fn now() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Namespaces, pods by address, nodes. It remembers for a while what changed, so that a plan can be made from the one before.
#[derive(Clone, Debug, Default)]
pub struct World {
    namespaces: BTreeMap<String, Labels>,
    profiles: Vec<Arc<Profile>>,
    /// The addresses of each profile, sorted.
    members: Vec<Vec<IpAddr>>,
    places: BTreeMap<Arc<Profile>, usize>,
    free: Vec<usize>,
    addresses: BTreeMap<IpAddr, usize>,
    nodes: BTreeMap<String, PolicyNode>,
    aliases: BTreeMap<IpAddr, IpAddr>,
    pod_space: BTreeSet<Cidr>,
    moves: VecDeque<(Moment, IpAddr)>,
    moved: Moment,
    namespaces_changed: Moment,
    nodes_changed: Moment,
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        let rest = |world: &Self| (world.nodes.clone(), world.aliases.clone(), world.pod_space.clone());
        let pods = |world: &Self| -> BTreeMap<IpAddr, Option<Profile>> {
            world.addresses.keys().map(|address| (*address, world.profile(*address).cloned())).collect()
        };
        self.namespaces == other.namespaces && rest(self) == rest(other) && pods(self) == pods(other)
    }
}

impl World {
    /// What the pod with an address is like.
    #[must_use]
    pub fn profile(&self, address: IpAddr) -> Option<&Profile> {
        self.profiles.get(*self.addresses.get(&address)?).map(Arc::as_ref)
    }

    /// What pods are like.
    pub fn profiles(&self) -> impl Iterator<Item = &Profile> + Clone {
        self.places.keys().map(Arc::as_ref)
    }

    /// Addresses of pods that have a network of their own and have not ended, by what the pods are like.
    pub fn pods(&self) -> impl Iterator<Item = (&Arc<Profile>, &[IpAddr])> {
        let members = |place: usize| self.members.get(place).map(Vec::as_slice).unwrap_or_default();
        self.places.iter().map(move |(profile, place)| (profile, members(*place)))
    }

    /// Labels of the namespaces.
    #[must_use]
    pub const fn namespaces(&self) -> &BTreeMap<String, Labels> {
        &self.namespaces
    }

    /// Labels of a namespace; one that is not there has none.
    #[must_use]
    pub fn labels_of(&self, namespace: &str) -> &Labels {
        static NONE: Labels = Labels::new();
        self.namespaces.get(namespace).unwrap_or(&NONE)
    }

    /// The nodes by name.
    #[must_use]
    pub const fn nodes(&self) -> &BTreeMap<String, PolicyNode> {
        &self.nodes
    }

    /// What nodes' own packets bear instead of an address of theirs where they come in a tunnel, with that address.
    #[must_use]
    pub const fn aliases(&self) -> &BTreeMap<IpAddr, IpAddr> {
        &self.aliases
    }

    /// Where pods' addresses are. One in it that nobody is known to have may be any pod's; empty where all are known.
    #[must_use]
    pub const fn pod_space(&self) -> &BTreeSet<Cidr> {
        &self.pod_space
    }

    /// These are the namespaces, with their labels.
    pub fn set_namespaces(&mut self, namespaces: &BTreeMap<String, Labels>) {
        if self.namespaces != *namespaces {
            self.namespaces.clone_from(namespaces);
            self.namespaces_changed = Moment::now();
        }
    }

    /// A node is there, is otherwise than before, or is there no more.
    pub fn set_node(&mut self, name: &str, node: Option<PolicyNode>) {
        if self.nodes.get(name) == node.as_ref() {
            return;
        }
        match node {
            Some(node) => _ = self.nodes.insert(name.to_owned(), node),
            None => _ = self.nodes.remove(name),
        }
        self.nodes_changed = Moment::now();
    }

    /// What nodes' own packets bear in a tunnel, and where pods' addresses are.
    pub fn set_ground(&mut self, aliases: &BTreeMap<IpAddr, IpAddr>, pod_space: &BTreeSet<Cidr>) {
        if self.aliases != *aliases || self.pod_space != *pod_space {
            self.aliases.clone_from(aliases);
            self.pod_space.clone_from(pod_space);
            self.nodes_changed = Moment::now();
        }
    }

    /// There are pods like this, with or without addresses.
    pub fn know(&mut self, profile: &Arc<Profile>) -> usize {
        if let Some(place) = self.places.get(profile) {
            return *place;
        }
        let place = self.free.pop().unwrap_or(self.profiles.len());
        if place == self.profiles.len() {
            self.profiles.push(Arc::clone(profile));
            self.members.push(Vec::new());
        } else if let Some(slot) = self.profiles.get_mut(place) {
            *slot = Arc::clone(profile);
        }
        self.places.insert(Arc::clone(profile), place);
        place
    }

    /// A pod like this has an address. Where two are said to have it the later word counts.
    pub fn enter(&mut self, address: IpAddr, profile: &Arc<Profile>) {
        let place = self.know(profile);
        match self.addresses.insert(address, place) {
            Some(before) if before == place => return,
            Some(before) => self.release(before, address),
            None => {}
        }
        if let Some(members) = self.members.get_mut(place)
            && let Err(at) = members.binary_search(&address)
        {
            members.insert(at, address);
        }
        self.note(address);
    }

    /// A pod like this has an address no more. Whether it had.
    pub fn leave(&mut self, address: IpAddr, profile: &Profile) -> bool {
        let place = self.places.get(profile).copied();
        // It is another's by now.
        if place.is_none() || self.addresses.get(&address).copied() != place {
            return false;
        }
        self.addresses.remove(&address);
        place.into_iter().for_each(|place| self.release(place, address));
        self.note(address);
        true
    }

    fn release(&mut self, place: usize, address: IpAddr) {
        let Some(members) = self.members.get_mut(place) else { return };
        if let Ok(at) = members.binary_search(&address) {
            members.remove(at);
        }
        if members.is_empty() {
            *members = Vec::new();
            if let Some(slot) = self.profiles.get_mut(place) {
                self.places.remove(slot);
                *slot = Arc::default();
                self.free.push(place);
            }
        }
    }

    fn note(&mut self, address: IpAddr) {
        self.moved = Moment::now();
        self.moves.push_back((self.moved, address));
        if self.moves.len() > MOVES {
            self.moves.pop_front();
        }
    }

    /// The last change of the namespaces' labels.
    pub(super) const fn namespaces_changed(&self) -> Moment {
        self.namespaces_changed
    }

    /// The last change of nodes, aliases or pod space.
    pub(super) const fn nodes_changed(&self) -> Moment {
        self.nodes_changed
    }

    /// The last moment at which an address came or went.
    pub(super) const fn moved(&self) -> Moment {
        self.moved
    }

    /// Addresses that came or went since a moment of this world; `None` where that is not known any more.
    pub(super) fn moved_since(&self, moment: Moment) -> Option<BTreeSet<IpAddr>> {
        if moment == self.moved {
            return Some(BTreeSet::new());
        }
        let at = self.moves.binary_search_by(|(at, _)| at.cmp(&moment)).ok()?;
        Some(self.moves.range(at + 1..).map(|(_, address)| *address).collect())
    }

    /// Where in [`Self::profile_at`] the profile of an address is.
    pub(super) fn place(&self, address: IpAddr) -> Option<usize> {
        self.addresses.get(&address).copied()
    }

    /// The profile at a place.
    pub(super) fn profile_at(&self, place: usize) -> Option<&Arc<Profile>> {
        self.profiles.get(place)
    }

    /// How many places there are.
    pub(super) const fn places(&self) -> usize {
        self.profiles.len()
    }

    /// Addresses of the profile at a place.
    pub(super) fn members(&self, place: usize) -> &[IpAddr] {
        self.members.get(place).map(Vec::as_slice).unwrap_or_default()
    }
}
