//! Protocols and destination ports, by number and by name.

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicyPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::Protocol;
use crate::cnp::{Port, ProtocolMatch, Transport};
use crate::connection::Connection;

const PORTS: std::ops::RangeInclusive<i32> = 1..=65535;

/// Whether a port of a NetworkPolicy is one that the API takes.
pub(crate) fn valid(port: &NetworkPolicyPort) -> bool {
    let known = matches!(protocol_of(port), "TCP" | "UDP" | "SCTP");
    let in_order = match (&port.port, port.end_port) {
        (Some(IntOrString::Int(first)), Some(last)) => PORTS.contains(first) && PORTS.contains(&last) && last >= *first,
        (Some(IntOrString::Int(number)), None) => PORTS.contains(number),
        (Some(IntOrString::String(_)) | None, end) => end.is_none(),
    };
    known && in_order
}

/// Whether a valid port of a NetworkPolicy is the packet's.
pub(crate) fn matches(port: &NetworkPolicyPort, connection: &Connection<'_>) -> bool {
    let number = i32::from(connection.port);
    connection.protocol.name() == Some(protocol_of(port))
        && match &port.port {
            None => true,
            Some(IntOrString::Int(first)) => (*first..=port.end_port.unwrap_or(*first)).contains(&number),
            Some(IntOrString::String(name)) => named(name, connection),
        }
}

fn protocol_of(port: &NetworkPolicyPort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// Whether a protocol of a ClusterNetworkPolicy is one that the API takes.
pub(crate) fn valid_of_cluster(protocol: &ProtocolMatch) -> bool {
    let transports = [&protocol.tcp, &protocol.udp, &protocol.sctp];
    let set = transports.iter().filter(|transport| transport.is_some()).count();
    set + usize::from(name_of(protocol).is_some()) == 1
        && transports.into_iter().flatten().all(|transport| transport.destination_port.as_ref().is_none_or(valid_port))
}

fn valid_port(port: &Port) -> bool {
    match (port.number, &port.range) {
        (Some(number), None) => PORTS.contains(&number),
        (None, Some(range)) => PORTS.contains(&range.start) && PORTS.contains(&range.end) && range.start < range.end,
        (Some(_), Some(_)) | (None, None) => false,
    }
}

/// Whether a valid protocol of a ClusterNetworkPolicy is the packet's.
pub(crate) fn matches_of_cluster(protocol: &ProtocolMatch, connection: &Connection<'_>) -> bool {
    let is = |transport: &Option<Transport>, of: Protocol| {
        connection.protocol == of && transport.as_ref().is_some_and(|transport| numbered(transport, connection.port))
    };
    is(&protocol.tcp, Protocol::Tcp)
        || is(&protocol.udp, Protocol::Udp)
        || is(&protocol.sctp, Protocol::Sctp)
        || name_of(protocol).is_some_and(|name| named(name, connection))
}

fn numbered(transport: &Transport, number: u16) -> bool {
    let number = i32::from(number);
    transport.destination_port.as_ref().is_none_or(|port| {
        port.number == Some(number)
            || port.range.as_ref().is_some_and(|range| (range.start..=range.end).contains(&number))
    })
}

fn name_of(protocol: &ProtocolMatch) -> Option<&str> {
    protocol.destination_named_port.as_deref().filter(|name| !name.is_empty())
}

/// Whether the destination is a pod that has, under this name, a port of the packet's protocol and number.
fn named(name: &str, connection: &Connection<'_>) -> bool {
    let Some(pod) = connection.destination() else { return false };
    container_ports(pod).iter().any(|port| {
        port.name.as_deref() == Some(name)
            && Some(port.protocol.as_deref().unwrap_or("TCP")) == connection.protocol.name()
            && port.container_port == i32::from(connection.port)
    })
}

/// Those of containers that run as long as the pod does.
pub(crate) fn container_ports(pod: &Pod) -> Vec<&ContainerPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(stays);
    spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()).collect()
}
