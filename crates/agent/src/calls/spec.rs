//! From a lease to what the kernel is asked for.

use overlane_core::ipam::Lease;
use overlane_core::plan::PodMember;
use overlane_datapath::nft::PodChange;
use overlane_datapath::owned;
use overlane_datapath::pod::{PodSpec, Retiring};

use crate::gate::Env;

/// The pod's network, whole.
pub fn pod_spec(lease: &Lease, env: &Env) -> PodSpec {
    let (namespace, name) = lease.pod.as_ref().map_or(("", ""), |pod| (pod.namespace.as_str(), pod.name.as_str()));
    PodSpec {
        link: lease.link.clone(),
        alias: owned::pod_alias(namespace, name, &lease.attachment.container_id),
        ifname: lease.attachment.ifname.clone(),
        mac: owned::pod_mac(&lease.link),
        mtu: env.mtu,
        addresses: lease.addresses.clone(),
        prefsrc: env.node_ips.clone(),
    }
}

/// What the pod may send.
pub fn pod_members(lease: &Lease) -> Vec<PodMember> {
    let mac = owned::pod_mac(&lease.link);
    lease.addresses.iter().map(|address| PodMember { link: lease.link.clone(), mac, address: *address }).collect()
}

/// The pod's elements as they come.
pub fn added(lease: &Lease) -> Vec<PodChange> {
    pod_members(lease).into_iter().map(PodChange::Add).collect()
}

/// The pods' elements as they go.
pub fn removed(leases: &[Lease]) -> Vec<PodChange> {
    leases.iter().flat_map(pod_members).map(PodChange::Remove).collect()
}

/// The pods' links as they go out of service.
pub fn retiring(leases: &[Lease]) -> Vec<Retiring> {
    leases.iter().map(|lease| Retiring { link: lease.link.clone(), addresses: lease.addresses.clone() }).collect()
}
