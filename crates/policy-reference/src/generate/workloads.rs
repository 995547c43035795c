//! Namespaces, nodes, and pods in every state.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Namespace, Node, NodeAddress, NodeStatus, Pod, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

use super::{Choices, Size, labels};
use crate::{Cluster, ends};

/// The namespace that pods and policies may be in though there is no object of it.
const ABSENT: &str = "absent";

/// Names of container ports, with their protocol and the numbers that they may have.
const PORTS: [(&str, Option<&str>, [i32; 2]); 5] = [
    ("http", None, [80, 8080]),
    ("metrics", Some("TCP"), [9090, 8080]),
    ("dns", Some("UDP"), [53, 5353]),
    ("dns", Some("TCP"), [53, 5353]),
    ("signal", Some("SCTP"), [3868, 2905]),
];

/// The names that policies may ask for, with a protocol of each; nothing has the last one.
pub(super) const PORT_NAMES: [(&str, Option<&str>); 6] = [
    ("http", None),
    ("metrics", Some("TCP")),
    ("dns", Some("UDP")),
    ("dns", None),
    ("signal", Some("SCTP")),
    ("nothing", None),
];

/// A cluster without policies.
pub(super) fn cluster(choices: &mut Choices, size: Size) -> Cluster {
    let mut cluster = Cluster {
        namespaces: (0..choices.between(1, size.namespaces)).map(|number| namespace(choices, number)).collect(),
        nodes: (0..choices.between(2, size.nodes)).map(|number| node(choices, number)).collect(),
        ..Cluster::default()
    };
    for namespace in namespace_names(&cluster) {
        for _ in 0..choices.between(1, size.pods) {
            add_pod(choices, &mut cluster, &namespace);
        }
    }
    if choices.chance(35) {
        add_pod(choices, &mut cluster, ABSENT);
        add_pod(choices, &mut cluster, ABSENT);
    }
    cluster
}

/// Of all pods, also of those whose namespace has no object; never none.
pub(super) fn namespaces_of_pods(cluster: &Cluster) -> Vec<String> {
    let mut names: Vec<String> = cluster.pods.iter().filter_map(|pod| pod.metadata.namespace.clone()).collect();
    names.sort();
    names.dedup();
    if names.is_empty() { vec![ABSENT.to_owned()] } else { names }
}

fn namespace_names(cluster: &Cluster) -> Vec<String> {
    cluster.namespaces.iter().filter_map(|namespace| namespace.metadata.name.clone()).collect()
}

fn namespace(choices: &mut Choices, number: u64) -> Namespace {
    let name = format!("ns-{number}");
    let mut labels = labels::labels(choices, labels::NAMESPACE, 65);
    labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
    let labels = (!choices.chance(15)).then_some(labels);
    let metadata = ObjectMeta { name: Some(name), labels, ..ObjectMeta::default() };
    Namespace { metadata, ..Namespace::default() }
}

fn node(choices: &mut Choices, number: u64) -> Node {
    let name = format!("node-{number}");
    let last = 10 + number as u8;
    let mut addresses = vec![
        address("Hostname", &name),
        address("InternalIP", &Ipv4Addr::new(172, 18, 0, last).to_string()),
        address("InternalIP", &Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, last.into()).to_string()),
    ];
    if choices.chance(30) {
        addresses.push(address("ExternalIP", &Ipv4Addr::new(192, 0, 2, last).to_string()));
    }
    let labels = Some(labels::labels(choices, labels::NODE, 75));
    Node {
        metadata: ObjectMeta { name: Some(name), labels, ..ObjectMeta::default() },
        status: Some(NodeStatus { addresses: Some(addresses), ..NodeStatus::default() }),
        ..Node::default()
    }
}

fn address(type_: &str, address: &str) -> NodeAddress {
    NodeAddress { type_: type_.to_owned(), address: address.to_owned() }
}

/// What becomes of a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Runs,
    HostNetwork,
    /// Completed, with addresses of its own or with those of a pod that runs.
    Completed,
    Terminating,
    WithoutAddress,
}

fn add_pod(choices: &mut Choices, cluster: &mut Cluster, namespace: &str) {
    const FATES: [Fate; 5] = [Fate::Runs, Fate::HostNetwork, Fate::Completed, Fate::Terminating, Fate::WithoutAddress];
    let fate = FATES[choices.weighted(&[70, 8, 8, 9, 5])];
    let number = cluster.pods.len() as u16;
    let on = choices.index(cluster.nodes.len());
    let addresses = match fate {
        Fate::HostNetwork => ends::node_addresses(&cluster.nodes[on]).into_iter().take(2).collect(),
        Fate::WithoutAddress => Vec::new(),
        Fate::Completed if choices.chance(60) => addresses_of_another(choices, cluster),
        Fate::Runs | Fate::Completed | Fate::Terminating => own_addresses(choices, on as u16, number),
    };
    let labels = (!choices.chance(8)).then(|| labels::labels(choices, labels::POD, 80));
    let pod = Pod {
        metadata: ObjectMeta {
            name: Some(format!("pod-{number}")),
            namespace: Some(namespace.to_owned()),
            labels,
            deletion_timestamp: (fate == Fate::Terminating).then_some(Time(Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            node_name: cluster.nodes[on].metadata.name.clone(),
            host_network: (fate == Fate::HostNetwork).then_some(true),
            ..containers(choices)
        }),
        status: Some(status(choices, fate, &addresses)),
    };
    // Anywhere in the list, so that a completed pod may come before the one that has its address now.
    let at = choices.index(cluster.pods.len() + 1);
    cluster.pods.insert(at, pod);
}

fn status(choices: &mut Choices, fate: Fate, addresses: &[IpAddr]) -> PodStatus {
    let phase = match fate {
        Fate::Completed => *choices.pick(&["Succeeded", "Failed"]),
        Fate::WithoutAddress => "Pending",
        Fate::Runs | Fate::HostNetwork | Fate::Terminating => "Running",
    };
    let ips: Vec<PodIP> = addresses.iter().map(|address| PodIP { ip: address.to_string() }).collect();
    PodStatus {
        phase: Some(phase.to_owned()),
        pod_ip: addresses.first().map(IpAddr::to_string),
        pod_ips: (!ips.is_empty()).then_some(ips),
        ..PodStatus::default()
    }
}

/// Mostly of both families, never another pod's.
fn own_addresses(choices: &mut Choices, node: u16, number: u16) -> Vec<IpAddr> {
    let [high, low] = (number + 1).to_be_bytes();
    let v4 = IpAddr::from(Ipv4Addr::new(10, node as u8 + 10, high, low));
    let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0x10, node, 0, 0, 0, 0, number + 1));
    match choices.weighted(&[70, 15, 15]) {
        0 => vec![v4, v6],
        1 => vec![v4],
        _ => vec![v6],
    }
}

fn addresses_of_another(choices: &mut Choices, cluster: &Cluster) -> Vec<IpAddr> {
    let running: Vec<&Pod> = cluster.pods.iter().filter(|pod| ends::subject_to_policy(pod)).collect();
    choices.pick_any(&running).map(|pod| ends::pod_addresses(pod)).unwrap_or_default()
}

/// Containers of a pod, with ports of their own.
pub(super) fn containers(choices: &mut Choices) -> PodSpec {
    let main = Container { name: "main".to_owned(), ports: some_ports(choices, 45), ..Container::default() };
    let second = Container { name: "second".to_owned(), ports: some_ports(choices, 15), ..Container::default() };
    let init = Container {
        name: "init".to_owned(),
        ports: some_ports(choices, 40),
        restart_policy: choices.chance(50).then(|| "Always".to_owned()),
        ..Container::default()
    };
    PodSpec { containers: vec![main, second], init_containers: Some(vec![init]), ..PodSpec::default() }
}

/// Ports of different names, as one container must have them.
fn some_ports(choices: &mut Choices, percent: u64) -> Option<Vec<ContainerPort>> {
    let mut ports: Vec<ContainerPort> = Vec::new();
    for (name, protocol, numbers) in PORTS {
        let taken = ports.iter().any(|port| port.name.as_deref() == Some(name));
        if !taken && choices.chance(percent) {
            ports.push(ContainerPort {
                name: (!choices.chance(10)).then(|| name.to_owned()),
                protocol: protocol.map(str::to_owned),
                container_port: *choices.pick(&numbers),
                ..ContainerPort::default()
            });
        }
    }
    (!ports.is_empty()).then_some(ports)
}
