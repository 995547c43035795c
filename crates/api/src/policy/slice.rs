//! What agents read of the pods of other nodes.

use std::net::IpAddr;

use overlane_core::policy::{NamedPort, PolicyNode, Profile};

use super::ports;
use crate::crd::{PodSliceProfile, PodSliceSpec};

/// A node and its pods, as policies can tell them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The node.
    pub node: PolicyNode,
    /// What pods are like.
    pub profiles: Vec<Profile>,
    /// Addresses of pods, with the index of what they are like.
    pub pods: Vec<(IpAddr, usize)>,
}

/// What a slice says. What of it means nothing is left out: such a pod is known to nobody.
#[must_use]
pub fn slice(spec: &PodSliceSpec) -> Slice {
    let address = |text: &String| text.parse::<IpAddr>().ok();
    let pods = spec.pods.iter().filter_map(|pod| Some((usize::try_from(pod.profile).ok()?, &pod.ips)));
    let known = pods.filter(|(index, _)| *index < spec.profiles.len());
    Slice {
        node: PolicyNode {
            labels: spec.node_labels.clone(),
            addresses: spec.node_addresses.iter().filter_map(address).collect(),
        },
        profiles: spec.profiles.iter().map(profile).collect(),
        pods: known.flat_map(|(index, ips)| ips.iter().filter_map(address).map(move |ip| (ip, index))).collect(),
    }
}

fn profile(of: &PodSliceProfile) -> Profile {
    let ports = of.ports.iter().filter_map(|port| {
        Some(NamedPort { name: port.name.clone(), protocol: ports::protocol(Some(&port.protocol))?, port: port.port })
    });
    Profile { namespace: of.namespace.clone(), labels: of.labels.clone(), ports: ports.collect() }
}
