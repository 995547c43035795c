//! Whose an address is at this moment, kept up to date while flows are recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::ResourceExt as _;
use overlane_api::policy::recording::{FlowProtocol, RecordedNode, RecordedPod, RecordedPort};
use overlane_api::policy::{node, profile};
use overlane_core::family::Family;

/// A pod as it was at some time, by its place in [`Names::pod`].
pub type PodId = usize;

/// Pods, nodes and namespaces.
#[derive(Debug, Default)]
pub struct Names {
    /// Every state of every pod that an address was said of.
    states: Vec<RecordedPod>,
    addresses: BTreeMap<IpAddr, PodId>,
    /// What is known of a pod, by namespace and name.
    pods: BTreeMap<(String, String), (PodId, Vec<IpAddr>)>,
    /// Pods that a list has shown so far.
    listed: BTreeSet<(String, String)>,
    nodes: BTreeMap<String, RecordedNode>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl Names {
    /// The pod that has an address.
    pub fn at(&self, address: IpAddr) -> Option<PodId> {
        self.addresses.get(&address).copied()
    }

    /// A pod as it was.
    pub fn pod(&self, id: PodId) -> Option<&RecordedPod> {
        self.states.get(id)
    }

    /// The nodes.
    pub const fn nodes(&self) -> &BTreeMap<String, RecordedNode> {
        &self.nodes
    }

    /// The namespaces' labels.
    pub const fn namespaces(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.namespaces
    }

    /// Families that pods have addresses of.
    pub fn families(&self) -> BTreeSet<Family> {
        self.addresses.keys().map(Family::of).collect()
    }

    /// Learns a pod; gives the addresses that are its own from now on, and were not.
    pub fn hear(&mut self, pod: &Pod) -> Vec<(IpAddr, PodId)> {
        let key = key(pod);
        self.listed.insert(key.clone());
        // What policies never tell has nobody's address, or its node's.
        let Some((profile, addresses)) = profile(pod) else {
            self.gone(&key);
            return Vec::new();
        };
        let ports = profile.ports.into_iter().map(|port| RecordedPort {
            name: port.name,
            protocol: FlowProtocol(port.protocol.number()),
            port: port.port,
        });
        let state = RecordedPod {
            namespace: profile.namespace,
            name: key.1.clone(),
            workload: workload(pod),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            labels: profile.labels,
            ports: ports.collect(),
        };
        let known = self.pods.get(&key).map(|(id, _)| *id).filter(|id| self.pod(*id) == Some(&state));
        let id = known.unwrap_or_else(|| {
            self.states.push(state);
            self.states.len() - 1
        });
        let before = self.gone(&key);
        self.addresses.extend(addresses.iter().map(|address| (*address, id)));
        let new = addresses.iter().filter(|address| !before.contains(address)).map(|address| (*address, id)).collect();
        self.pods.insert(key, (id, addresses));
        new
    }

    /// Learns that a pod is gone.
    pub fn forget(&mut self, pod: &Pod) {
        self.gone(&key(pod));
    }

    /// A whole list of pods begins.
    pub fn list_begins(&mut self) {
        self.listed.clear();
    }

    /// It has ended: what it did not show is gone.
    pub fn list_ends(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        let gone: Vec<_> = self.pods.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        for key in gone {
            self.gone(&key);
        }
    }

    /// Learns a node. One that is gone stays known.
    pub fn hear_node(&mut self, object: &Node) {
        let told = node(object);
        let known = RecordedNode { labels: told.labels, addresses: told.addresses.into_iter().collect() };
        self.nodes.insert(object.name_any(), known);
    }

    /// Learns a namespace.
    pub fn hear_namespace(&mut self, object: &Namespace) {
        self.namespaces.insert(object.name_any(), object.metadata.labels.clone().unwrap_or_default());
    }

    /// Takes a pod's addresses away, but for those that are another's by now.
    fn gone(&mut self, key: &(String, String)) -> Vec<IpAddr> {
        let Some((id, addresses)) = self.pods.remove(key) else { return Vec::new() };
        for address in &addresses {
            if self.addresses.get(address) == Some(&id) {
                self.addresses.remove(address);
            }
        }
        addresses
    }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.namespace().unwrap_or_else(|| "default".to_owned()), pod.name_any())
}

/// What made the pod, by the name that its manifest has: of a ReplicaSet that a Deployment made, the Deployment's.
fn workload(pod: &Pod) -> Option<String> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let hash = pod.labels().get("pod-template-hash").filter(|_| owner.kind == "ReplicaSet");
    let made = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    Some(made.unwrap_or(&owner.name).to_owned())
}
