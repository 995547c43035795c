//! Random clusters, with everything in them that policy can say or stumble over, and packets to judge there.
//!
//! The same seed gives the same cluster and the same packets. Left out is what the API does not decide: two pods that
//! count with one address, an `except` that is the whole of its block, a CNP rule without peers or with a range of one
//! port, a subject that is invalid.

mod blocks;
mod choices;
mod cluster_policies;
mod dress;
mod features;
mod labels;
mod packets;
mod policies;
mod spoil;
mod workloads;

pub use self::choices::Choices;
pub use self::dress::{containers, dress};
pub use self::features::{FEATURES, features, features_about};
pub use self::packets::packets;

use std::net::IpAddr;

use crate::{Cluster, ends};

/// The most that there may be of each in a cluster. There is always a namespace, two nodes and a pod per namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Namespaces that have an object.
    pub namespaces: u64,
    /// Nodes; 2 to 200.
    pub nodes: u64,
    /// Pods in each namespace.
    pub pods: u64,
    /// NetworkPolicies.
    pub policies: u64,
    /// ClusterNetworkPolicies.
    pub cluster_policies: u64,
}

impl Default for Size {
    fn default() -> Self {
        Self { namespaces: 4, nodes: 4, pods: 6, policies: 8, cluster_policies: 5 }
    }
}

/// Makes a cluster.
#[must_use]
pub fn cluster(seed: u64, size: Size) -> Cluster {
    let mut choices = Choices::new(seed);
    let mut cluster = workloads::cluster(&mut choices, size);
    policies::add(&mut choices, &mut cluster, size.policies);
    cluster_policies::add(&mut choices, &mut cluster, size.cluster_policies);
    spoil::network_policies(&mut choices, &mut cluster);
    spoil::cluster_policies(&mut choices, &mut cluster);
    cluster
}

/// Addresses outside every cluster, some of them close to each other.
pub const OUTSIDE: [IpAddr; 7] = [
    IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 5)),
    IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 77)),
    IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9)),
    IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 9)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 8)),
];

/// Of all pods that count, whether subject to policy or not.
fn pods_addresses(cluster: &Cluster) -> Vec<IpAddr> {
    let counting = cluster.pods.iter().filter(|pod| ends::subject_to_policy(pod));
    counting.flat_map(ends::pod_addresses).collect()
}

fn nodes_addresses(cluster: &Cluster) -> Vec<IpAddr> {
    cluster.nodes.iter().flat_map(ends::node_addresses).collect()
}
