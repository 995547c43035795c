//! What an API server does not let through, or what only a newer one would.
//!
//! The rest of a rule that is spoilt would match much, so that it shows whether the rule is left out as a whole.

use k8s_openapi::api::networking::v1::{
    NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Choices, blocks, labels};
use crate::Cluster;
use crate::cnp::{
    Action, ClusterNetworkPolicy, EgressPeer, EgressRule, IngressPeer, IngressRule, Port, PortRange, ProtocolMatch,
    Transport,
};

/// The ways to spoil a NetworkPolicy.
const WAYS: u64 = 6;
/// The ways to spoil a ClusterNetworkPolicy.
const CLUSTER_WAYS: u64 = 5;

/// Adds, each way with some chance, a rule that is invalid to a policy, or makes its selector so.
pub(super) fn network_policies(choices: &mut Choices, cluster: &mut Cluster) {
    for way in 0..WAYS {
        let at = choices.index(cluster.policies.len());
        if !choices.chance(34) {
            continue;
        }
        let rule = spoilt_rule(choices, cluster, way);
        if let Some(spec) = cluster.policies.get_mut(at).and_then(|policy| policy.spec.as_mut()) {
            spoil(choices, spec, rule);
        }
    }
}

fn spoil(choices: &mut Choices, spec: &mut NetworkPolicySpec, rule: Option<(NetworkPolicyPeer, NetworkPolicyPort)>) {
    let Some((peer, port)) = rule else {
        spec.pod_selector = Some(labels::bad_selector(choices, labels::POD));
        return;
    };
    let peers = Some(vec![peer, everyone()]);
    let ports = Some(vec![port, NetworkPolicyPort { port: None, end_port: None, protocol: None }]);
    // An egress rule where there was none would change whom a policy without types isolates.
    if choices.chance(50) && spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
        spec.egress.get_or_insert_default().push(NetworkPolicyEgressRule { to: peers, ports });
    } else {
        spec.ingress.get_or_insert_default().push(NetworkPolicyIngressRule { from: peers, ports });
    }
}

fn everyone() -> NetworkPolicyPeer {
    NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() }
}

/// A peer and a port of which one is invalid; nothing where the selector is to be.
fn spoilt_rule(choices: &mut Choices, cluster: &Cluster, way: u64) -> Option<(NetworkPolicyPeer, NetworkPolicyPort)> {
    let any = NetworkPolicyPort { port: None, end_port: None, protocol: Some("UDP".to_owned()) };
    let none = NetworkPolicyPeer::default();
    Some(match way {
        0 => return None,
        1 => (NetworkPolicyPeer { ip_block: Some(blocks::bad_block(choices, cluster)), ..none }, any),
        2 => (NetworkPolicyPeer { pod_selector: Some(labels::bad_selector(choices, labels::POD)), ..none }, any),
        3 => (everyone(), NetworkPolicyPort { port: Some(IntOrString::Int(8080)), end_port: Some(8079), ..any }),
        4 => {
            let port = Some(IntOrString::String("http".to_owned()));
            (everyone(), NetworkPolicyPort { port, end_port: Some(9090), ..any })
        }
        _ => (everyone(), NetworkPolicyPort { protocol: Some("QUIC".to_owned()), ..any }),
    })
}

/// Adds, each way with some chance, a rule that is invalid to a policy.
pub(super) fn cluster_policies(choices: &mut Choices, cluster: &mut Cluster) {
    for way in 0..CLUSTER_WAYS {
        let at = choices.index(cluster.cluster_policies.len());
        if !choices.chance(34) {
            continue;
        }
        let (peer, protocol) = spoilt_cluster_rule(choices, cluster, way);
        if let Some(policy) = cluster.cluster_policies.get_mut(at) {
            spoil_cluster(choices, policy, peer, protocol);
        }
    }
}

fn spoil_cluster(choices: &mut Choices, policy: &mut ClusterNetworkPolicy, peer: EgressPeer, protocol: ProtocolMatch) {
    let everyone = EgressPeer { namespaces: Some(LabelSelector::default()), ..EgressPeer::default() };
    let action = [Action::Accept, Action::Deny, Action::Pass][choices.weighted(&[60, 20, 20])];
    let protocols = vec![protocol];
    let only_egress = peer.networks.is_some() || peer.domain_names.is_some();
    if only_egress || choices.chance(50) {
        let at = choices.index(policy.spec.egress.len() + 1);
        let rule = EgressRule { name: None, action, to: vec![everyone, peer], protocols };
        policy.spec.egress.insert(at, rule);
    } else {
        let at = choices.index(policy.spec.ingress.len() + 1);
        let from = vec![ingress_form(&everyone), ingress_form(&peer)];
        policy.spec.ingress.insert(at, IngressRule { name: None, action, from, protocols });
    }
}

fn ingress_form(peer: &EgressPeer) -> IngressPeer {
    IngressPeer { namespaces: peer.namespaces.clone(), pods: peer.pods.clone() }
}

/// A peer and a protocol of which one is invalid.
fn spoilt_cluster_rule(choices: &mut Choices, cluster: &Cluster, way: u64) -> (EgressPeer, ProtocolMatch) {
    let tcp = ProtocolMatch { tcp: Some(Transport::default()), ..ProtocolMatch::default() };
    let none = EgressPeer::default();
    match way {
        0 => (none, tcp),
        1 => (EgressPeer { domain_names: Some(vec!["*.example.org".to_owned()]), ..none }, tcp),
        2 => (EgressPeer { networks: Some(vec![blocks::bad_cidr(choices, cluster)]), ..none }, tcp),
        3 => (EgressPeer { namespaces: Some(labels::bad_selector(choices, labels::NAMESPACE)), ..none }, tcp),
        _ => {
            let namespaces = Some(LabelSelector::default());
            let ports = *choices.pick(&[None, Some(PortRange { start: 9090, end: 80 })]);
            let port =
                ports.map(|range| Transport { destination_port: Some(Port { number: None, range: Some(range) }) });
            (EgressPeer { namespaces, ..none }, ProtocolMatch { tcp: port, ..ProtocolMatch::default() })
        }
    }
}
