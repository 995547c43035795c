//! NetworkPolicies that the API server takes.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Choices, blocks, labels, workloads};
use crate::Cluster;

/// Ports that rules name.
pub(super) const NUMBERS: [i32; 7] = [80, 53, 8080, 9090, 3868, 443, 5353];
/// Ranges that rules name: the second and third meet, the last ones reach to the ends.
pub(super) const RANGES: [(i32, i32); 7] =
    [(50, 80), (8000, 8079), (8080, 9090), (80, 80), (3000, 5353), (1, 1023), (1024, 65535)];

/// Adds up to `most` of them.
pub(super) fn add(choices: &mut Choices, cluster: &mut Cluster, most: u64) {
    let namespaces = workloads::namespaces_of_pods(cluster);
    for number in 0..choices.between(0, most) {
        let namespace = choices.pick(&namespaces).clone();
        let spec = Some(spec(choices, cluster));
        let name = Some(format!("policy-{number}"));
        let metadata = ObjectMeta { name, namespace: Some(namespace), ..ObjectMeta::default() };
        cluster.policies.push(NetworkPolicy { metadata, spec });
    }
}

fn spec(choices: &mut Choices, cluster: &Cluster) -> NetworkPolicySpec {
    let pod_selector = match choices.weighted(&[12, 18, 70]) {
        0 => None,
        1 => Some(LabelSelector::default()),
        _ => Some(labels::selector(choices, labels::POD)),
    };
    let types: Option<&[&str]> = match choices.weighted(&[24, 8, 27, 15, 26]) {
        0 => None,
        1 => Some(&[]),
        2 => Some(&["Ingress"]),
        3 => Some(&["Egress"]),
        _ => Some(&["Ingress", "Egress"]),
    };
    let ingress = choices.several(0, 3, |choices| {
        let (from, ports) = rule(choices, cluster);
        NetworkPolicyIngressRule { from, ports }
    });
    let egress = choices.several(0, 3, |choices| {
        let (to, ports) = rule(choices, cluster);
        NetworkPolicyEgressRule { to, ports }
    });
    NetworkPolicySpec {
        pod_selector,
        policy_types: types.map(|types| types.iter().map(|name| (*name).to_owned()).collect()),
        ingress: unless_absent(choices, ingress),
        egress: unless_absent(choices, egress),
    }
}

/// An empty list may as well be absent.
fn unless_absent<T>(choices: &mut Choices, list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty() || choices.chance(50)).then_some(list)
}

type Lists = (Option<Vec<NetworkPolicyPeer>>, Option<Vec<NetworkPolicyPort>>);

fn rule(choices: &mut Choices, cluster: &Cluster) -> Lists {
    let peers = match choices.weighted(&[10, 5, 85]) {
        0 => None,
        1 => Some(Vec::new()),
        _ => Some(choices.several(1, 3, |choices| peer(choices, cluster))),
    };
    let ports = match choices.weighted(&[30, 7, 63]) {
        0 => None,
        1 => Some(Vec::new()),
        _ => Some(choices.several(1, 3, port)),
    };
    (peers, ports)
}

fn peer(choices: &mut Choices, cluster: &Cluster) -> NetworkPolicyPeer {
    let kind = choices.weighted(&[20, 22, 20, 38]);
    if kind == 3 {
        return NetworkPolicyPeer { ip_block: Some(blocks::block(choices, cluster)), ..NetworkPolicyPeer::default() };
    }
    NetworkPolicyPeer {
        pod_selector: (kind != 1).then(|| labels::selector(choices, labels::POD)),
        namespace_selector: (kind != 0).then(|| labels::selector(choices, labels::NAMESPACE)),
        ip_block: None,
    }
}

fn port(choices: &mut Choices) -> NetworkPolicyPort {
    let mut protocol = [None, Some("TCP"), Some("UDP"), Some("SCTP")][choices.weighted(&[35, 20, 28, 17])];
    let (port, end_port) = match choices.weighted(&[13, 23, 34, 30]) {
        0 => (None, None),
        1 => (Some(IntOrString::Int(*choices.pick(&NUMBERS))), None),
        2 => {
            let (name, usual) = *choices.pick(&workloads::PORT_NAMES);
            if choices.chance(65) {
                protocol = usual;
            }
            (Some(IntOrString::String(name.to_owned())), None)
        }
        _ => {
            let (first, last) = *choices.pick(&RANGES);
            (Some(IntOrString::Int(first)), Some(last))
        }
    };
    NetworkPolicyPort { port, end_port, protocol: protocol.map(str::to_owned) }
}
