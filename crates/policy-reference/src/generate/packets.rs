//! Packets to judge in a cluster.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicyPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Choices, OUTSIDE, nodes_addresses, pods_addresses};
use crate::cnp::{Port, ProtocolMatch, Transport};
use crate::{Cluster, Packet, Protocol, ends, ports};

/// Makes packets that policies of this cluster may treat differently.
#[must_use]
pub fn packets(cluster: &Cluster, seed: u64, count: usize) -> Vec<Packet> {
    let mut choices = Choices::new(seed);
    let world = World::of(cluster);
    (0..count).map(|_| world.packet(&mut choices)).collect()
}

/// What packets are made of.
struct World<'a> {
    cluster: &'a Cluster,
    pods: Vec<IpAddr>,
    nodes: Vec<IpAddr>,
    /// Also addresses of pods that have completed.
    outside: Vec<IpAddr>,
    /// Those that rules name, and the ones beside them.
    ports: Vec<(Protocol, u16)>,
}

impl<'a> World<'a> {
    fn of(cluster: &'a Cluster) -> Self {
        let gone = cluster.pods.iter().filter(|pod| ends::completed(pod)).flat_map(ends::pod_addresses);
        Self {
            cluster,
            pods: pods_addresses(cluster),
            nodes: nodes_addresses(cluster),
            outside: OUTSIDE.into_iter().chain(gone).collect(),
            ports: ports_named(cluster),
        }
    }

    fn packet(&self, choices: &mut Choices) -> Packet {
        let (from, to) = self.ends(choices);
        let (protocol, port) = self.port(choices, to);
        Packet { from, to, protocol, port }
    }

    fn ends(&self, choices: &mut Choices) -> (IpAddr, IpAddr) {
        let pod = *choices.pick_any(&self.pods).unwrap_or(choices.pick(&OUTSIDE));
        let kind = choices.weighted(&[50, 3, 3, 3, 13, 5, 8, 15]);
        let other = match kind {
            0 => beside(choices, &self.pods, pod),
            1 => pod,
            2 | 3 => beside(choices, &self.own_node(pod), pod),
            4 | 5 => beside(choices, &self.nodes, pod),
            _ => beside(choices, &self.outside, pod),
        };
        if matches!(kind, 3 | 5 | 6) { (other, pod) } else { (pod, other) }
    }

    fn own_node(&self, address: IpAddr) -> Vec<IpAddr> {
        let node = ends::pod_at(self.cluster, address).and_then(|pod| ends::node_of(self.cluster, pod));
        node.map(ends::node_addresses).unwrap_or_default()
    }

    /// Mostly one that the destination has a name for or that a rule asks for, at times with another protocol.
    fn port(&self, choices: &mut Choices, to: IpAddr) -> (Protocol, u16) {
        const PROTOCOLS: [Protocol; 4] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp];
        let open = ends::pod_at(self.cluster, to).map(open_ports).unwrap_or_default();
        let any = (PROTOCOLS[choices.weighted(&[50, 25, 15, 10])], choices.between(1, 65535) as u16);
        let chosen = match choices.weighted(&[35, 53, 12]) {
            0 => choices.pick_any(&open),
            1 => choices.pick_any(&self.ports),
            _ => None,
        };
        let (mut protocol, port) = *chosen.unwrap_or(&any);
        if choices.chance(25) {
            protocol = *choices.pick(&PROTOCOLS);
        }
        (protocol, if protocol == Protocol::Icmp { 0 } else { port })
    }
}

/// One of these addresses that is of the same family as another; one from outside if there is none.
fn beside(choices: &mut Choices, addresses: &[IpAddr], other: IpAddr) -> IpAddr {
    let of_family = |all: &[IpAddr]| -> Vec<IpAddr> {
        all.iter().copied().filter(|address| address.is_ipv4() == other.is_ipv4()).collect()
    };
    let outside = of_family(&OUTSIDE);
    *choices.pick_any(&of_family(addresses)).unwrap_or(choices.pick(&outside))
}

/// Those of all containers, also of ones that have ended.
fn open_ports(pod: &Pod) -> Vec<(Protocol, u16)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let ended = spec.init_containers.iter().flatten().flat_map(|container| container.ports.iter().flatten());
    let ports = ports::container_ports(pod).into_iter().chain(ended);
    ports.filter_map(|port| known(port.protocol.as_deref(), port.container_port)).collect()
}

/// A port of a packet, if the API's is one.
fn known(protocol: Option<&str>, port: i32) -> Option<(Protocol, u16)> {
    let protocol = match protocol.unwrap_or("TCP") {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return None,
    };
    u16::try_from(port).ok().filter(|port| *port > 0).map(|port| (protocol, port))
}

fn ports_named(cluster: &Cluster) -> Vec<(Protocol, u16)> {
    let rules = policy_ports(cluster).into_iter().chain(cluster_policy_ports(cluster));
    let beside = rules.flat_map(|(protocol, port)| [port - 1, port, port, port + 1].map(|port| (protocol, port)));
    beside.filter_map(|(protocol, port)| known(Some(protocol), port)).collect()
}

fn policy_ports(cluster: &Cluster) -> Vec<(&str, i32)> {
    let specs = || cluster.policies.iter().filter_map(|policy| policy.spec.as_ref());
    let ingress = specs().flat_map(|spec| spec.ingress.iter().flatten()).flat_map(|rule| rule.ports.iter().flatten());
    let egress = specs().flat_map(|spec| spec.egress.iter().flatten()).flat_map(|rule| rule.ports.iter().flatten());
    ingress.chain(egress).flat_map(numbers).collect()
}

fn numbers(port: &NetworkPolicyPort) -> Vec<(&str, i32)> {
    let first = match port.port {
        Some(IntOrString::Int(number)) => Some(number),
        Some(IntOrString::String(_)) | None => None,
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    first.into_iter().chain(port.end_port).map(|number| (protocol, number)).collect()
}

fn cluster_policy_ports(cluster: &Cluster) -> Vec<(&str, i32)> {
    let specs = || cluster.cluster_policies.iter().map(|policy| &policy.spec);
    let ingress = specs().flat_map(|spec| &spec.ingress).flat_map(|rule| &rule.protocols);
    let egress = specs().flat_map(|spec| &spec.egress).flat_map(|rule| &rule.protocols);
    ingress.chain(egress).flat_map(cluster_numbers).collect()
}

fn cluster_numbers(protocol: &ProtocolMatch) -> Vec<(&'static str, i32)> {
    let transports = [("TCP", &protocol.tcp), ("UDP", &protocol.udp), ("SCTP", &protocol.sctp)];
    let port =
        |transport: &Option<Transport>| transport.as_ref().and_then(|transport| transport.destination_port.clone());
    let numbers = |port: Port| [port.number, port.range.map(|range| range.start), port.range.map(|range| range.end)];
    let all =
        |(name, transport)| port(transport).into_iter().flat_map(numbers).flatten().map(move |number| (name, number));
    transports.into_iter().flat_map(all).collect()
}
