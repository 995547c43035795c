//! Network policies, and what is needed of the cluster to know whom they mean.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use overlane_api::policy::Slice;
use overlane_core::policy::{Policy, PolicyNode, Profile};

use super::item::{Change, Named};
use super::kept::Kept;

/// A node and its pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NodeSlice {
    /// The node.
    pub node: PolicyNode,
    /// Addresses of its pods, by what they are like: pods of many nodes have that in common.
    pub pods: Vec<(Arc<Profile>, Box<[IpAddr]>)>,
}

/// Slices by node.
pub type Slices = BTreeMap<String, Arc<NodeSlice>>;

/// What was heard.
#[derive(Debug, Default)]
pub struct Policies {
    namespaced: Kept<(String, String), Arc<Policy>>,
    cluster: Kept<String, Arc<Policy>>,
    slices: Kept<String, Arc<NodeSlice>>,
    profiles: BTreeSet<Arc<Profile>>,
    /// Slices since profiles that nobody has any more were last forgotten.
    since: usize,
    news: bool,
}

impl Policies {
    /// Whether there are any, so that it matters what pods are like.
    pub fn any(&self) -> bool {
        !self.namespaced.items().is_empty() || !self.cluster.items().is_empty()
    }

    /// Whether all is heard that says what they mean but for pods and namespaces.
    pub fn are_heard(&self) -> bool {
        self.namespaced.heard() && self.cluster.heard() && (!self.any() || self.slices.heard())
    }

    /// They.
    pub fn all(&self) -> Vec<Arc<Policy>> {
        self.namespaced.items().values().chain(self.cluster.items().values()).cloned().collect()
    }

    /// What is known of other nodes.
    pub const fn slices(&self) -> &Slices {
        self.slices.items()
    }

    /// Whether anything came since this was last asked.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Notes that something came which is not kept here.
    pub fn note(&mut self, news: bool) {
        self.news |= news;
    }

    /// Takes a word of NetworkPolicies.
    pub fn take_policy(&mut self, change: Change<((String, String), Arc<Policy>)>) {
        self.news |= self.namespaced.take(change);
    }

    /// The same of ClusterNetworkPolicies.
    pub fn take_cluster_policy(&mut self, change: Change<Named<Arc<Policy>>>) {
        self.news |= self.cluster.take(change);
    }

    /// The same of slices.
    pub fn take_slice(&mut self, change: Change<Named<Box<Slice>>>) {
        let folded = change.map(|(node, slice)| (node, self.fold(*slice)));
        self.news |= self.slices.take(folded);
    }

    /// Slices are not followed any more.
    pub fn forget_slices(&mut self) {
        self.slices.clear();
        self.profiles.clear();
        self.news = true;
    }

    fn fold(&mut self, slice: Slice) -> Arc<NodeSlice> {
        self.since += 1;
        if self.since > 2 * self.slices.items().len() + 100 {
            self.profiles.retain(|profile| Arc::strong_count(profile) > 1);
            self.since = 0;
        }
        let mut addresses: Vec<Vec<IpAddr>> = vec![Vec::new(); slice.profiles.len()];
        for (address, index) in slice.pods {
            if let Some(of) = addresses.get_mut(index) {
                of.push(address);
            }
        }
        let pods = slice.profiles.into_iter().zip(addresses).map(|(profile, addresses)| {
            let profile = match self.profiles.get(&profile) {
                Some(known) => Arc::clone(known),
                None => {
                    let profile = Arc::new(profile);
                    self.profiles.insert(Arc::clone(&profile));
                    profile
                }
            };
            (profile, addresses.into_boxed_slice())
        });
        Arc::new(NodeSlice { node: slice.node, pods: pods.collect() })
    }
}
