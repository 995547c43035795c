//! Network policies of the API, and what `core` makes of them.
//!
//! An object that means nothing in part is never open for it: what a fault touches allows nothing, and denies what it would have
//! passed on. The faults are told beside it.

mod cluster;
mod cluster_types;
mod namespaced;
mod objects;
mod ports;
pub mod recording;
mod slice;

pub use cluster::cluster_policy;
pub use cluster_types::{
    ClusterNetworkPolicy, ClusterNetworkPolicySpec, CnpAction, CnpNamespacedPod, CnpPeer, CnpPort, CnpPortRange,
    CnpProtocol, CnpRule, CnpStatus, CnpSubject, CnpTier, CnpTransport,
};
pub use namespaced::network_policy;
pub use objects::{Objects, Understood};
pub use slice::{Slice, slice};

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use overlane_core::cidr::{Cidr, CidrError};
use overlane_core::labels::Selector;
use overlane_core::policy::{NamedPort, Namespaces, PodSelector, Policy, PolicyNode, Profile};
use overlane_core::ports::Protocol;

use crate::convert::{ConvertError, selector};

/// Set to `audit`, a policy drops nothing: what it would have dropped is logged.
pub const MODE_ANNOTATION: &str = "overlane.io/mode";

/// A policy as it counts, and what of its object means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The policy.
    pub policy: Policy,
    /// What means nothing, and was made closed.
    pub faults: Vec<ConvertError>,
}

/// What policies can tell of a pod; `None` of one that they never tell: of the host's network, ended, or without an address.
#[must_use]
pub fn profile(pod: &Pod) -> Option<(Profile, Vec<std::net::IpAddr>)> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if spec.host_network == Some(true) || ended {
        return None;
    }
    let addresses = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok());
    let addresses: Vec<_> = addresses.chain(status.pod_ip.iter().filter_map(|ip| ip.parse().ok())).collect();
    let mut seen = BTreeSet::new();
    let addresses: Vec<_> = addresses.into_iter().filter(|address| seen.insert(*address)).collect();
    if addresses.is_empty() {
        return None;
    }
    let profile = Profile {
        namespace: pod.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ports: named_ports(pod),
    };
    Some((profile, addresses))
}

/// A pod's ports that have names.
#[must_use]
pub fn named_ports(pod: &Pod) -> BTreeSet<NamedPort> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let side_cars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(side_cars).flat_map(|container| container.ports.iter().flatten());
    let named = ports.filter_map(|port| {
        let protocol = ports::protocol(port.protocol.as_deref())?;
        Some(NamedPort { name: port.name.clone()?, protocol, port: u16::try_from(port.container_port).ok()? })
    });
    named.collect()
}

/// What policies can tell of a node.
#[must_use]
pub fn node(node: &Node) -> PolicyNode {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    PolicyNode {
        labels: node.metadata.labels.clone().unwrap_or_default(),
        addresses: addresses.filter_map(|address| address.address.parse().ok()).collect(),
    }
}

fn is_audited(annotations: Option<&BTreeMap<String, String>>) -> bool {
    annotations.and_then(|all| all.get(MODE_ANNOTATION)).is_some_and(|mode| mode == "audit")
}

/// A CIDR as the API takes it: bits behind the prefix mean nothing.
fn cidr(field: &str, text: &str) -> Result<Cidr, ConvertError> {
    match text.parse() {
        Ok(cidr) => Ok(cidr),
        Err(CidrError::HostBits { meant, .. }) => Ok(meant),
        Err(cause) => Err(ConvertError::Cidr { field: field.to_owned(), cause }),
    }
}

fn pods_of(field: &str, namespaces: Namespaces, pods: Option<&LabelSelector>) -> Result<PodSelector, ConvertError> {
    let pods = pods.map_or_else(|| Ok(Selector::default()), |pods| selector(&format!("{field}.podSelector"), pods))?;
    Ok(PodSelector { namespaces, pods })
}

fn protocol(field: &str, text: Option<&str>) -> Result<Protocol, ConvertError> {
    ports::protocol(text).ok_or_else(|| ConvertError::Port {
        field: format!("{field}.protocol"),
        given: text.unwrap_or_default().to_owned(),
        expected: "TCP, UDP or SCTP",
    })
}
