//! Whom policies can tell apart, kept up to date by what differs: a cluster has 200,000 pods, and a word is about one node's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use overlane_core::cidr::Cidr;
use overlane_core::policy::{Profile, World};

use super::{Ground, View};
use crate::watch::policies::{NodeSlice, Slices};

/// What is known.
#[derive(Default)]
pub(super) struct Known {
    world: World,
    /// Where each profile is in the world, and how many addresses lead there.
    places: BTreeMap<Arc<Profile>, (usize, usize)>,
    free: Vec<usize>,
    slices: Slices,
    blocks: BTreeMap<String, Vec<Cidr>>,
    /// This node's pods.
    own: Vec<(Profile, Vec<IpAddr>)>,
}

impl Known {
    pub(super) const fn world(&self) -> &World {
        &self.world
    }

    /// What the cluster says. This node's own slice is late: its leases tell who is here.
    pub(super) fn see(&mut self, node: &str, view: &View) {
        if self.world.namespaces != view.namespaces {
            self.world.namespaces.clone_from(&view.namespaces);
        }
        let before = std::mem::take(&mut self.slices);
        let blocks = std::mem::replace(&mut self.blocks, view.blocks.clone());
        let changed = |name: &String| {
            let same = match (before.get(name), view.slices.get(name)) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                (old, new) => old.is_none() && new.is_none(),
            };
            !same || blocks.get(name) != view.blocks.get(name)
        };
        let names: BTreeSet<&String> = before.keys().chain(view.slices.keys()).filter(|name| changed(name)).collect();
        let mut left = Vec::new();
        for name in &names {
            if let Some(old) = before.get(*name) {
                self.forget(node, name, old, &mut left);
            }
        }
        let whose = self.whose(&left).into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>();
        for name in names.into_iter().chain(&whose) {
            if let Some(new) = view.slices.get(name) {
                self.learn(node, name, new);
            }
        }
        self.slices.clone_from(&view.slices);
    }

    /// The nodes whose blocks some addresses are in: they may have been theirs already.
    fn whose(&self, addresses: &[IpAddr]) -> BTreeSet<String> {
        let mut nodes = BTreeMap::new();
        for (name, blocks) in self.blocks.iter().filter(|_| !addresses.is_empty()) {
            nodes.extend(blocks.iter().map(|block| (*block, name)));
        }
        let owner = |address: &IpAddr| {
            let around = nodes.range(..=Cidr::host_range(*address)).next_back();
            around.filter(|(block, _)| block.contains(*address)).map(|(_, name)| (*name).clone())
        };
        addresses.iter().filter_map(owner).collect()
    }

    fn forget(&mut self, node: &str, name: &str, slice: &NodeSlice, left: &mut Vec<IpAddr>) {
        self.world.nodes.remove(name);
        if node == name {
            return;
        }
        for (profile, addresses) in &slice.pods {
            for address in addresses {
                if self.leave(*address, profile) {
                    left.push(*address);
                }
            }
        }
    }

    /// Of addresses that are in none of the node's blocks it has nothing to say.
    fn learn(&mut self, node: &str, name: &str, slice: &NodeSlice) {
        self.world.nodes.insert(name.to_owned(), slice.node.clone());
        if node == name {
            return;
        }
        let blocks = self.blocks.get(name).cloned().unwrap_or_default();
        for (profile, addresses) in &slice.pods {
            for address in addresses.iter().filter(|address| blocks.iter().any(|block| block.contains(**address))) {
                self.enter(*address, profile);
            }
        }
    }

    pub(super) fn stand_on(&mut self, ground: &Ground) {
        self.world.aliases.clone_from(&ground.aliases);
        self.world.pod_space.clone_from(&ground.pod_space);
    }

    /// The pods of this node.
    pub(super) fn own(&mut self, own: Vec<(Profile, Vec<IpAddr>)>) {
        if own == self.own {
            return;
        }
        for (profile, addresses) in std::mem::replace(&mut self.own, own.clone()) {
            for address in addresses {
                self.leave(address, &profile);
            }
        }
        for (profile, addresses) in own {
            let profile = Arc::new(profile);
            for address in addresses {
                self.enter(address, &profile);
            }
        }
    }

    fn enter(&mut self, address: IpAddr, profile: &Arc<Profile>) {
        let place = match self.places.get_mut(profile) {
            Some((place, count)) => {
                *count += 1;
                *place
            }
            None => {
                let place = self.free.pop().unwrap_or(self.world.profiles.len());
                if place == self.world.profiles.len() {
                    self.world.profiles.push(Arc::clone(profile));
                } else if let Some(slot) = self.world.profiles.get_mut(place) {
                    *slot = Arc::clone(profile);
                }
                self.places.insert(Arc::clone(profile), (place, 1));
                place
            }
        };
        // An address that two are said to have: the later word counts.
        if let Some(before) = self.world.addresses.insert(address, place) {
            self.release(before);
        }
    }

    /// Whether it was there.
    fn leave(&mut self, address: IpAddr, profile: &Profile) -> bool {
        let place = self.places.get(profile).map(|(place, _)| *place);
        // It is another's by now.
        if place.is_none() || self.world.addresses.get(&address).copied() != place {
            return false;
        }
        self.world.addresses.remove(&address);
        place.into_iter().for_each(|place| self.release(place));
        true
    }

    fn release(&mut self, place: usize) {
        let Some(profile) = self.world.profiles.get(place).cloned() else { return };
        let Some((_, count)) = self.places.get_mut(&profile) else { return };
        *count -= 1;
        if *count == 0 {
            self.places.remove(&profile);
            self.free.push(place);
            if let Some(slot) = self.world.profiles.get_mut(place) {
                *slot = Arc::default();
            }
        }
    }
}
