//! From a lease to what the kernel is asked for.

use std::net::IpAddr;

use overlane_core::ipam::{Lease, LeaseKind};
use overlane_core::plan::{PodElement, PodMember, PortMember};
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
        from_loopback: PortMember::of(&lease.ports, &lease.addresses).any(|port| is_for_loopback(&port)),
        bandwidth: lease.bandwidth,
        prefsrc: env.node_ips.clone(),
    }
}

/// Whether the node's own programs reach the port by 127.0.0.1. (There is no such way for `::1`: the kernel lets no
/// packet with that source leave `lo`.)
fn is_for_loopback(port: &PortMember) -> bool {
    port.address.is_ipv4() && port.host_ip.is_none_or(|ip| ip.is_loopback())
}

/// What the packet filter holds of the pod: what it may send, and which of the node's ports lead to it.
pub fn pod_elements(lease: &Lease) -> Vec<PodElement> {
    match lease.kind {
        LeaseKind::Interface => {}
        LeaseKind::Ipam => return lease.addresses.iter().copied().map(PodElement::Delegated).collect(),
        // The node's own packets are not looked at.
        LeaseKind::Gateway => return Vec::new(),
    }
    let mac = owned::pod_mac(&lease.link);
    let source = |address: &IpAddr| PodMember { link: lease.link.clone(), mac, address: *address };
    let sources = lease.addresses.iter().map(source).map(PodElement::Source);
    sources.chain(PortMember::of(&lease.ports, &lease.addresses).map(PodElement::Port)).collect()
}

/// The pod's elements as they come.
pub fn added(lease: &Lease) -> Vec<PodChange> {
    pod_elements(lease).into_iter().map(PodChange::Add).collect()
}

/// The pods' elements as they go.
pub fn removed(leases: &[Lease]) -> Vec<PodChange> {
    leases.iter().flat_map(pod_elements).map(PodChange::Remove).collect()
}

/// The pods' links, those that are ours, as they go out of service.
pub fn retiring(leases: &[Lease]) -> Vec<Retiring> {
    let ours = leases.iter().filter(|lease| lease.kind == LeaseKind::Interface);
    ours.map(|lease| Retiring { link: lease.link.clone(), addresses: lease.addresses.clone() }).collect()
}
