//! What is told of pods, kept small: there may be 200,000.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use overlane_api::policy::profile;
use overlane_core::policy::Profile;

/// What policies can tell of a Pod, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFact {
    /// Its namespace and name.
    pub key: String,
    /// Its node.
    pub node: String,
    /// What it is like.
    pub profile: Profile,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl PodFact {
    /// `None` of a Pod that is on no node, or that policies never tell of.
    pub fn of(pod: &Pod) -> Option<Self> {
        let node = pod.spec.as_ref()?.node_name.clone().filter(|node| !node.is_empty())?;
        let (profile, addresses) = profile(pod)?;
        Some(Self { key: Self::key(pod), node, profile, addresses })
    }

    /// A Pod's namespace and name.
    pub fn key(pod: &Pod) -> String {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        format!("{namespace}/{}", pod.metadata.name.as_deref().unwrap_or_default())
    }
}

#[derive(Debug)]
struct Known {
    node: Arc<str>,
    profile: Arc<Profile>,
    addresses: Box<[IpAddr]>,
    /// The list that it was last heard of in or after.
    list: u32,
}

/// Pods by key and by node. What pods have in common is kept once.
#[derive(Debug, Default)]
pub struct Pods {
    all: BTreeMap<Arc<str>, Known>,
    of_node: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    profiles: BTreeSet<Arc<Profile>>,
    list: u32,
}

impl Pods {
    /// Learns a pod. Gives the nodes whose pods are others by it.
    pub fn set(&mut self, fact: PodFact) -> Vec<Arc<str>> {
        let list = self.list;
        if let Some(known) = self.all.get_mut(fact.key.as_str()) {
            known.list = list;
            if (&*known.node, &*known.profile, &*known.addresses) == (&fact.node, &fact.profile, &fact.addresses) {
                return Vec::new();
            }
        }
        let mut touched: Vec<Arc<str>> = self.remove(&fact.key).into_iter().collect();
        let (key, node) = (Arc::<str>::from(fact.key), self.node(&fact.node));
        let (profile, addresses) = (self.profile(fact.profile), fact.addresses.into());
        self.of_node.entry(Arc::clone(&node)).or_default().insert(Arc::clone(&key));
        self.all.insert(key, Known { node: Arc::clone(&node), profile, addresses, list });
        if touched.first() != Some(&node) {
            touched.push(node);
        }
        touched
    }

    /// Forgets a pod. Gives its node, if it was known.
    pub fn remove(&mut self, key: &str) -> Option<Arc<str>> {
        let Known { node, profile, .. } = self.all.remove(key)?;
        if let Some(pods) = self.of_node.get_mut(&node) {
            pods.remove(key);
            if pods.is_empty() {
                self.of_node.remove(&node);
            }
        }
        // This one, and the set's own.
        if Arc::strong_count(&profile) == 2 {
            self.profiles.remove(&profile);
        }
        Some(node)
    }

    /// A full list begins.
    pub const fn begin_list(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// It ends: forgets what it did not show. Gives the nodes of these.
    pub fn end_list(&mut self) -> Vec<Arc<str>> {
        let gone = self.all.iter().filter(|(_, known)| known.list != self.list);
        let gone: Vec<Arc<str>> = gone.map(|(key, _)| Arc::clone(key)).collect();
        gone.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// The pods of a node: what each is like, and its addresses.
    pub fn of(&self, node: &str) -> impl Iterator<Item = (&Profile, &[IpAddr])> {
        let keys = self.of_node.get(node).into_iter().flatten();
        keys.filter_map(|key| self.all.get(key)).map(|known| (&*known.profile, &*known.addresses))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    fn node(&self, name: &str) -> Arc<str> {
        self.of_node.get_key_value(name).map_or_else(|| name.into(), |(known, _)| Arc::clone(known))
    }

    fn profile(&mut self, profile: Profile) -> Arc<Profile> {
        if let Some(known) = self.profiles.get(&profile) {
            return Arc::clone(known);
        }
        let profile = Arc::new(profile);
        self.profiles.insert(Arc::clone(&profile));
        profile
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: what is kept of pods that are no more, which grows with every pod that ever was.

    use super::*;

    fn fact(key: &str, node: &str, app: &str) -> PodFact {
        let labels = [("app".to_owned(), app.to_owned())].into();
        let profile = Profile { namespace: "shop".to_owned(), labels, ..Profile::default() };
        let last: u8 = key.bytes().fold(0, |sum, byte| sum.wrapping_add(byte));
        PodFact { key: key.to_owned(), node: node.to_owned(), profile, addresses: vec![[10, 0, 0, last].into()] }
    }

    fn names(touched: Vec<Arc<str>>) -> Vec<String> {
        touched.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn kept_once_and_let_go_with_the_last() {
        let mut pods = Pods::default();
        assert_eq!(names(pods.set(fact("shop/a", "n1", "web"))), ["n1"]);
        assert_eq!(names(pods.set(fact("shop/b", "n2", "web"))), ["n2"]);
        assert_eq!(names(pods.set(fact("shop/b", "n2", "web"))), [""; 0], "nothing new");
        assert_eq!((pods.len(), pods.profiles.len()), (2, 1));
        assert_eq!(names(pods.set(fact("shop/b", "n2", "db"))), ["n2"]);
        assert_eq!(names(pods.set(fact("shop/b", "n1", "db"))), ["n2", "n1"], "it was made again elsewhere");
        assert_eq!((pods.profiles.len(), pods.of_node.len(), pods.of("n1").count()), (2, 1, 2));
        assert_eq!(pods.remove("shop/a").as_deref(), Some("n1"));
        assert_eq!(pods.remove("shop/a"), None);
        pods.remove("shop/b");
        assert!(pods.all.is_empty() && pods.of_node.is_empty() && pods.profiles.is_empty());
    }

    #[test]
    fn what_a_list_does_not_show_is_gone() {
        let mut pods = Pods::default();
        for key in ["shop/a", "shop/b", "shop/c"] {
            pods.set(fact(key, "n1", "web"));
        }
        pods.begin_list();
        pods.set(fact("shop/a", "n1", "web"));
        pods.set(fact("shop/c", "n2", "web"));
        assert_eq!(pods.len(), 3, "not before its end");
        assert_eq!(names(pods.end_list()), ["n1"]);
        assert_eq!((pods.len(), pods.of("n1").count(), pods.of("n2").count()), (2, 1, 1));
    }
}
