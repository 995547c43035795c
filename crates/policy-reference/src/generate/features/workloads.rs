//! Features of namespaces, nodes and pods.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerPort, Pod};

use super::Seen;
use crate::{Cluster, ends, ports};

pub(super) const NAMES: &[&str] = &[
    "namespace-absent",
    "namespace-without-labels",
    "node-external-address",
    "pod-being-deleted",
    "pod-completed",
    "pod-completed-address-again-in-use",
    "pod-dual-stack",
    "pod-host-network",
    "pod-of-one-family-v4",
    "pod-of-one-family-v6",
    "pod-without-address",
    "pod-without-labels",
    "port-name-of-init-container-that-ends",
    "port-name-of-sidecar",
    "port-name-of-two-numbers",
    "port-name-of-two-protocols",
];

pub(super) fn note(seen: &mut Seen, cluster: &Cluster) {
    seen.note("namespace-without-labels", cluster.namespaces.iter().any(|one| one.metadata.labels.is_none()));
    seen.note("node-external-address", cluster.nodes.iter().any(|node| ends::node_addresses(node).len() > 2));
    for pod in &cluster.pods {
        note_pod(seen, cluster, pod);
        note_ports(seen, pod);
    }
}

fn note_pod(seen: &mut Seen, cluster: &Cluster, pod: &Pod) {
    let addresses = ends::pod_addresses(pod);
    let known = |pod: &Pod| cluster.namespaces.iter().any(|one| one.metadata.name == pod.metadata.namespace);
    let used = |address: &IpAddr| ends::pod_at(cluster, *address).is_some();
    seen.note("pod-completed", ends::completed(pod));
    seen.note("pod-completed-address-again-in-use", ends::completed(pod) && addresses.iter().any(used));
    seen.note("pod-host-network", ends::host_network(pod));
    if ends::subject_to_policy(pod) {
        seen.note("namespace-absent", !known(pod));
        seen.note("pod-being-deleted", pod.metadata.deletion_timestamp.is_some());
        seen.note("pod-without-labels", pod.metadata.labels.is_none());
        seen.note("pod-without-address", addresses.is_empty());
        seen.note("pod-dual-stack", addresses.len() == 2);
        seen.note("pod-of-one-family-v4", addresses.len() == 1 && addresses.iter().all(IpAddr::is_ipv4));
        seen.note("pod-of-one-family-v6", addresses.len() == 1 && addresses.iter().all(IpAddr::is_ipv6));
    }
}

fn note_ports(seen: &mut Seen, pod: &Pod) {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    for container in init.filter(|container| container.ports.is_some()) {
        let stays = container.restart_policy.is_some();
        seen.note(if stays { "port-name-of-sidecar" } else { "port-name-of-init-container-that-ends" }, true);
    }
    let named: Vec<&ContainerPort> =
        ports::container_ports(pod).into_iter().filter(|port| port.name.is_some()).collect();
    let pairs = || named.iter().flat_map(|one| named.iter().map(move |other| (one, other)));
    let same = |one: &ContainerPort, other: &ContainerPort| one.name == other.name;
    seen.note(
        "port-name-of-two-protocols",
        pairs().any(|(one, other)| same(one, other) && one.protocol != other.protocol),
    );
    seen.note(
        "port-name-of-two-numbers",
        pairs().any(|(one, other)| {
            same(one, other) && one.protocol == other.protocol && one.container_port != other.container_port
        }),
    );
}
