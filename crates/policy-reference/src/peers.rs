//! The other end of a packet: by CIDR, by pod, by namespace, by node.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::cnp::{EgressPeer, NamespacedPod};
use crate::connection::Connection;
use crate::{Cluster, ends, selector};

/// Whether a peer of a NetworkPolicy is one that the API takes.
pub(crate) fn valid(peer: &NetworkPolicyPeer) -> bool {
    let selectors = [&peer.pod_selector, &peer.namespace_selector];
    match &peer.ip_block {
        Some(block) => valid_block(block) && selectors.iter().all(|selector| selector.is_none()),
        None => {
            selectors.iter().any(|selector| selector.is_some())
                && selectors.iter().all(|selector| selector.as_ref().is_none_or(selector::valid))
        }
    }
}

/// Whether a valid peer of a NetworkPolicy is the other end.
pub(crate) fn matches(peer: &NetworkPolicyPeer, connection: &Connection<'_>) -> bool {
    if let Some(block) = &peer.ip_block {
        return in_block(block, connection.peer);
    }
    let Some(pod) = connection.peer_pod else { return false };
    let namespace = match &peer.namespace_selector {
        Some(selector) => namespace_matches(connection.cluster, selector, pod),
        None => pod.metadata.namespace == connection.subject.metadata.namespace,
    };
    namespace && peer.pod_selector.as_ref().is_none_or(|selector| pod_matches(selector, pod))
}

fn valid_block(block: &IPBlock) -> bool {
    let Ok(cidr) = block.cidr.parse::<IpNet>() else { return false };
    block.except.iter().flatten().all(|text| text.parse::<IpNet>().is_ok_and(|except| cidr.contains(&except)))
}

fn in_block(block: &IPBlock, address: IpAddr) -> bool {
    in_cidr(&block.cidr, address) && !block.except.iter().flatten().any(|except| in_cidr(except, address))
}

fn in_cidr(text: &str, address: IpAddr) -> bool {
    text.parse::<IpNet>().is_ok_and(|cidr| cidr.contains(&address))
}

/// Whether a peer of a ClusterNetworkPolicy is one that the API takes, and that is supported here.
pub(crate) fn valid_of_cluster(peer: &EgressPeer) -> bool {
    let networks = peer.networks.as_deref().unwrap_or_default();
    let domains = peer.domain_names.as_deref().unwrap_or_default();
    let set = [peer.namespaces.is_some(), peer.pods.is_some(), peer.nodes.is_some(), !networks.is_empty()];
    set.iter().filter(|set| **set).count() == 1
        && domains.is_empty()
        && peer.namespaces.as_ref().is_none_or(selector::valid)
        && peer.pods.as_ref().is_none_or(valid_pods)
        && peer.nodes.as_ref().is_none_or(selector::valid)
        && networks.iter().all(|text| text.parse::<IpNet>().is_ok())
}

/// Whether a valid peer of a ClusterNetworkPolicy is the other end.
pub(crate) fn matches_of_cluster(peer: &EgressPeer, connection: &Connection<'_>) -> bool {
    let Connection { cluster, peer: address, peer_pod, .. } = *connection;
    let namespaces = |selector: &LabelSelector| peer_pod.is_some_and(|pod| namespace_matches(cluster, selector, pod));
    let pods = |pods: &NamespacedPod| peer_pod.is_some_and(|pod| namespaced_pod_matches(cluster, pods, pod));
    peer.namespaces.as_ref().is_some_and(namespaces)
        || peer.pods.as_ref().is_some_and(pods)
        || peer.nodes.as_ref().is_some_and(|selector| node_matches(cluster, selector, address))
        || peer.networks.iter().flatten().any(|text| in_cidr(text, address))
}

pub(crate) fn valid_pods(pods: &NamespacedPod) -> bool {
    selector::valid(&pods.namespace_selector) && selector::valid(&pods.pod_selector)
}

pub(crate) fn namespaced_pod_matches(cluster: &Cluster, pods: &NamespacedPod, pod: &Pod) -> bool {
    namespace_matches(cluster, &pods.namespace_selector, pod) && pod_matches(&pods.pod_selector, pod)
}

pub(crate) fn namespace_matches(cluster: &Cluster, selector: &LabelSelector, pod: &Pod) -> bool {
    selector::matches(selector, ends::namespace_labels(cluster, pod))
}

pub(crate) fn pod_matches(selector: &LabelSelector, pod: &Pod) -> bool {
    selector::matches(selector, pod.metadata.labels.as_ref())
}

fn node_matches(cluster: &Cluster, selector: &LabelSelector, address: IpAddr) -> bool {
    cluster.nodes.iter().any(|node| {
        selector::matches(selector, node.metadata.labels.as_ref()) && ends::node_addresses(node).contains(&address)
    })
}
