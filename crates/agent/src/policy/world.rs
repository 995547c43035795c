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
    slices: Slices,
    blocks: BTreeMap<String, Vec<Cidr>>,
    /// This node's pods.
    own: BTreeMap<IpAddr, Arc<Profile>>,
}

impl Known {
    pub(super) const fn world(&self) -> &World {
        &self.world
    }

    /// What the cluster says. This node's own slice is late: its leases tell who is here.
    pub(super) fn see(&mut self, node: &str, view: &View) {
        self.world.set_namespaces(&view.namespaces);
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
            self.world.set_node(name, view.slices.get(*name).map(|slice| slice.node.clone()));
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
        if node == name {
            return;
        }
        for (profile, addresses) in &slice.pods {
            for address in addresses {
                if self.world.leave(*address, profile) {
                    left.push(*address);
                }
            }
        }
    }

    /// Of addresses that are in none of the node's blocks it has nothing to say.
    fn learn(&mut self, node: &str, name: &str, slice: &NodeSlice) {
        if node == name {
            return;
        }
        let blocks = self.blocks.get(name).cloned().unwrap_or_default();
        for (profile, addresses) in &slice.pods {
            for address in addresses.iter().filter(|address| blocks.iter().any(|block| block.contains(**address))) {
                self.world.enter(*address, profile);
            }
        }
    }

    pub(super) fn stand_on(&mut self, ground: &Ground) {
        self.world.set_ground(&ground.aliases, &ground.pod_space);
    }

    /// The pods of this node.
    pub(super) fn own(&mut self, own: &[(Arc<Profile>, Vec<IpAddr>)]) {
        let now: BTreeMap<IpAddr, &Arc<Profile>> = own
            .iter()
            .flat_map(|(profile, addresses)| addresses.iter().map(move |address| (*address, profile)))
            .collect();
        let gone = |(address, profile): (&IpAddr, &Arc<Profile>)| now.get(address).is_none_or(|now| *now != profile);
        let gone: Vec<IpAddr> = self.own.iter().filter(|entry| gone(*entry)).map(|(address, _)| *address).collect();
        for address in gone {
            if let Some(profile) = self.own.remove(&address) {
                self.world.leave(address, &profile);
            }
        }
        for (address, profile) in now {
            // Another's word may have come in between.
            if self.own.get(&address) != Some(profile) || self.world.profile(address) != Some(profile.as_ref()) {
                self.world.enter(address, profile);
                self.own.insert(address, Arc::clone(profile));
            }
        }
    }
}
