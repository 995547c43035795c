//! The PodSlices: what network policies can tell of each node's pods, for the agents of others.
//!
//! There is one for each Node, also for one without pods: agents take a slice for each Node as the whole. It is written at
//! once when what it says is not so any more, for that is when policies come to count for a pod, and only then. Pods are
//! folded to what is told of them as they are heard; replicas have that in common.
//!
//! This is the pure part: what was heard comes in, what is to be written comes out. [`Slicer`] does it.

mod pods;
mod run;
mod seen;
mod wanted;
mod write;

pub use pods::PodFact;
pub use run::Slicer;
pub use seen::{Digester, SeenSlice, SlimSlice};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlane_api::crd::PodSliceSpec;
use overlane_core::blocks::{ObjectRef, Source};
use overlane_core::policy::PolicyNode;

use crate::labels::NodeLabels;
use pods::Pods;

/// What is to be done about the slice of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// There is none.
    Create(PodSliceSpec),
    /// It says something else.
    Replace(PodSliceSpec, ObjectRef),
    /// There is no such node, or nobody is to read slices.
    Delete(ObjectRef),
}

/// What is known of pods, nodes and slices.
#[derive(Debug, Default)]
pub struct Slices {
    digester: Digester,
    /// Whether anybody is to read slices.
    wanted: bool,
    pods: Pods,
    labels: NodeLabels,
    nodes: BTreeMap<String, Box<[IpAddr]>>,
    /// What the API has.
    told: BTreeMap<String, SeenSlice>,
    /// Digests of what it is to have, of nodes that nothing was heard of since.
    made: BTreeMap<String, u64>,
    touched: BTreeSet<String>,
}

impl Slices {
    /// What slices are compared by.
    pub const fn digester(&self) -> &Digester {
        &self.digester
    }

    /// Learns whether there are to be slices. Without, nothing is kept of pods.
    pub fn set_wanted(&mut self, wanted: bool) {
        if !wanted {
            self.pods = Pods::default();
        }
        self.wanted = wanted;
        self.touch_all();
    }

    /// Has all slices looked at.
    pub fn touch_all(&mut self) {
        self.made.clear();
        self.touched.extend(self.nodes.keys().chain(self.told.keys()).cloned());
    }

    /// The nodes whose slices may not be as they are to be.
    pub fn take_touched(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.touched)
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// How many pods are told of.
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// Learns what is told of a Pod.
    pub fn hear_pod(&mut self, fact: PodFact) {
        let touched = self.pods.set(fact);
        self.touch(touched);
    }

    /// Learns that nothing is told of a Pod any more.
    pub fn forget_pod(&mut self, key: &str) {
        let touched = self.pods.remove(key);
        self.touch(touched);
    }

    /// A full list of Pods begins.
    pub const fn list_pods(&mut self) {
        self.pods.begin_list();
    }

    /// It ends: what it did not show is gone.
    pub fn pods_listed(&mut self) {
        let touched = self.pods.end_list();
        self.touch(touched);
    }

    /// Learns a Node.
    pub fn hear_node(&mut self, name: &str, node: &PolicyNode) {
        let others = self.labels.set(name, &node.labels);
        let same = self.nodes.get(name).is_some_and(|known| known.iter().eq(&node.addresses));
        if others || !same {
            self.nodes.insert(name.to_owned(), node.addresses.iter().copied().collect());
            self.touch([name.into()]);
        }
    }

    /// Forgets a Node.
    pub fn forget_node(&mut self, name: &str) {
        self.labels.remove(name);
        if self.nodes.remove(name).is_some() {
            self.touch([name.into()]);
        }
    }

    /// Forgets the Nodes that a full list did not show.
    pub fn retain_nodes(&mut self, seen: &BTreeSet<String>) {
        let gone: Vec<String> = self.nodes.keys().filter(|name| !seen.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.forget_node(name));
    }

    /// Learns what the API has.
    pub fn hear_slice(&mut self, slice: SeenSlice, source: Source) {
        let known = self.told.get(&slice.node);
        if source == Source::News && known.is_some_and(|known| slice.object.is_older_than(&known.object)) {
            return;
        }
        self.touched.insert(slice.node.clone());
        self.told.insert(slice.node.clone(), slice);
    }

    /// Learns that the API has it no more; with a UID, that it has not this one.
    pub fn forget_slice(&mut self, node: &str, uid: &str) {
        if self.told.get(node).is_some_and(|known| uid.is_empty() || known.object.uid == uid) {
            self.told.remove(node);
            self.touched.insert(node.to_owned());
        }
    }

    /// Forgets the slices that a full list did not show.
    pub fn retain_slices(&mut self, seen: &BTreeSet<String>) {
        let gone: Vec<String> = self.told.keys().filter(|node| !seen.contains(*node)).cloned().collect();
        gone.iter().for_each(|node| self.forget_slice(node, ""));
    }

    /// What is to be done about the slice of a node; `None` where it is as it is to be.
    pub fn change(&mut self, node: &str) -> Option<Change> {
        let told = self.told.get(node);
        let Some(addresses) = self.nodes.get(node).filter(|_| self.wanted) else {
            return told.map(|told| Change::Delete(told.object.clone()));
        };
        let made = self.made.get(node);
        if told.is_some_and(|told| told.digest.is_some() && told.digest.as_ref() == made) {
            return None;
        }
        let spec = wanted::spec(self.labels.of(node), addresses, self.pods.of(node));
        let digest = self.digester.digest(&spec);
        if let Some(digest) = digest {
            self.made.insert(node.to_owned(), digest);
        }
        match told {
            None => Some(Change::Create(spec)),
            Some(told) if told.digest.is_some() && told.digest == digest => None,
            Some(told) => Some(Change::Replace(spec, told.object.clone())),
        }
    }

    fn touch(&mut self, nodes: impl IntoIterator<Item = std::sync::Arc<str>>) {
        for node in nodes {
            self.made.remove(&*node);
            self.touched.insert(node.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
