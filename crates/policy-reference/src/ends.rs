//! Whose an address is, and what is allowed whatever policies say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::Cluster;

/// The pod subject to policy that has this address.
pub(crate) fn pod_at(cluster: &Cluster, address: IpAddr) -> Option<&Pod> {
    cluster.pods.iter().find(|pod| subject_to_policy(pod) && pod_addresses(pod).contains(&address))
}

/// Neither completed nor of the host's network.
pub(crate) fn subject_to_policy(pod: &Pod) -> bool {
    !completed(pod) && !host_network(pod)
}

pub(crate) fn completed(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Succeeded") || phase == Some("Failed")
}

pub(crate) fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}

pub(crate) fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let addresses = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    addresses.filter_map(|address| address.ip.parse().ok()).collect()
}

/// Those of any type; a host name is no address.
pub(crate) fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses.filter_map(|address| address.address.parse().ok()).collect()
}

/// The node that a pod runs on.
pub(crate) fn node_of<'a>(cluster: &'a Cluster, pod: &Pod) -> Option<&'a Node> {
    let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref())?;
    cluster.nodes.iter().find(|node| node.metadata.name.as_ref() == Some(name))
}

/// A pod may always talk to itself, and with the node that it runs on.
pub(crate) fn always_allowed(cluster: &Cluster, pod: &Pod, peer: IpAddr) -> bool {
    pod_addresses(pod).contains(&peer) || node_of(cluster, pod).is_some_and(|node| node_addresses(node).contains(&peer))
}

/// The labels of the Namespace object that a pod is in.
pub(crate) fn namespace_labels<'a>(cluster: &'a Cluster, pod: &Pod) -> Option<&'a BTreeMap<String, String>> {
    let found = cluster.namespaces.iter().find(|namespace| namespace.metadata.name == pod.metadata.namespace);
    found.and_then(|namespace| namespace.metadata.labels.as_ref())
}
