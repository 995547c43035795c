//! ClusterNetworkPolicies that the API server takes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::policies::{NUMBERS, RANGES};
use super::{Choices, blocks, labels, workloads};
use crate::Cluster;
use crate::cnp::{
    Action, ClusterNetworkPolicy, EgressPeer, EgressRule, IngressPeer, IngressRule, NamespacedPod, Port, PortRange,
    ProtocolMatch, Spec, Subject, Tier, Transport,
};

/// Few, so that there are ties.
const PRIORITIES: [i32; 5] = [0, 10, 10, 10, 1000];

/// Adds up to `most` of them, in no order.
pub(super) fn add(choices: &mut Choices, cluster: &mut Cluster, most: u64) {
    let count = choices.between(0, most).max(choices.between(0, most));
    for number in 0..count {
        let policy = ClusterNetworkPolicy::new(&format!("policy-{number}"), spec(choices, cluster));
        let at = choices.index(cluster.cluster_policies.len() + 1);
        cluster.cluster_policies.insert(at, policy);
    }
}

fn spec(choices: &mut Choices, cluster: &Cluster) -> Spec {
    Spec {
        tier: if choices.chance(55) { Tier::Admin } else { Tier::Baseline },
        priority: *choices.pick(&PRIORITIES),
        subject: subject(choices),
        ingress: choices.several(0, 3, |choices| IngressRule {
            name: None,
            action: action(choices),
            from: choices.several(1, 2, ingress_peer),
            protocols: protocols(choices),
        }),
        egress: choices.several(0, 3, |choices| EgressRule {
            name: Some("rule".to_owned()),
            action: action(choices),
            to: choices.several(1, 2, |choices| egress_peer(choices, cluster)),
            protocols: protocols(choices),
        }),
    }
}

fn subject(choices: &mut Choices) -> Subject {
    match choices.weighted(&[20, 35, 45]) {
        0 => Subject { namespaces: Some(LabelSelector::default()), pods: None },
        1 => Subject { namespaces: Some(labels::selector(choices, labels::NAMESPACE)), pods: None },
        _ => Subject { namespaces: None, pods: Some(pods(choices)) },
    }
}

fn pods(choices: &mut Choices) -> NamespacedPod {
    NamespacedPod {
        namespace_selector: labels::selector(choices, labels::NAMESPACE),
        pod_selector: labels::selector(choices, labels::POD),
    }
}

fn action(choices: &mut Choices) -> Action {
    [Action::Accept, Action::Deny, Action::Pass][choices.weighted(&[33, 39, 28])]
}

fn ingress_peer(choices: &mut Choices) -> IngressPeer {
    match choices.chance(50) {
        true => IngressPeer { namespaces: Some(labels::selector(choices, labels::NAMESPACE)), pods: None },
        false => IngressPeer { namespaces: None, pods: Some(pods(choices)) },
    }
}

fn egress_peer(choices: &mut Choices, cluster: &Cluster) -> EgressPeer {
    let none = EgressPeer::default();
    match choices.weighted(&[40, 28, 32]) {
        0 => EgressPeer::from(&ingress_peer(choices)),
        1 => EgressPeer { nodes: Some(labels::selector(choices, labels::NODE)), ..none },
        _ => EgressPeer { networks: Some(blocks::networks(choices, cluster)), ..none },
    }
}

fn protocols(choices: &mut Choices) -> Vec<ProtocolMatch> {
    match choices.chance(45) {
        true => Vec::new(),
        false => choices.several(1, 3, protocol),
    }
}

fn protocol(choices: &mut Choices) -> ProtocolMatch {
    let none = ProtocolMatch::default();
    match choices.weighted(&[36, 22, 16, 26]) {
        0 => ProtocolMatch { tcp: Some(transport(choices)), ..none },
        1 => ProtocolMatch { udp: Some(transport(choices)), ..none },
        2 => ProtocolMatch { sctp: Some(transport(choices)), ..none },
        _ => {
            let name = choices.pick(&workloads::PORT_NAMES).0.to_owned();
            ProtocolMatch { destination_named_port: Some(name), ..none }
        }
    }
}

fn transport(choices: &mut Choices) -> Transport {
    let destination_port = match choices.weighted(&[35, 30, 35]) {
        0 => None,
        1 => Some(Port { number: Some(*choices.pick(&NUMBERS)), range: None }),
        _ => Some(Port { number: None, range: Some(range(choices)) }),
    };
    Transport { destination_port }
}

/// One that ascends: the API has no range of a single port.
fn range(choices: &mut Choices) -> PortRange {
    let (start, end) = *choices.pick(&RANGES);
    if start < end { PortRange { start, end } } else { PortRange { start, end: end + 1 } }
}
