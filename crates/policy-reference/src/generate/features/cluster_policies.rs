//! Features of ClusterNetworkPolicies.

use ipnet::IpNet;

use super::Seen;
use crate::cnp::{Action, EgressPeer, NamespacedPod, ProtocolMatch, Spec, Tier};
use crate::{Cluster, ports};

pub(super) const NAMES: &[&str] = &[
    "cluster-admin-accept",
    "cluster-admin-deny",
    "cluster-admin-pass",
    "cluster-baseline-accept",
    "cluster-baseline-deny",
    "cluster-baseline-pass",
    "cluster-domain-names",
    "cluster-egress",
    "cluster-ingress",
    "cluster-invalid-network",
    "cluster-invalid-port",
    "cluster-invalid-selector",
    "cluster-peer-namespaces",
    "cluster-peer-networks",
    "cluster-peer-nodes",
    "cluster-peer-pods",
    "cluster-peer-unknown",
    "cluster-peers-many",
    "cluster-port-all",
    "cluster-port-named",
    "cluster-port-number",
    "cluster-port-range",
    "cluster-priority-tie",
    "cluster-protocols-absent",
    "cluster-sctp",
    "cluster-subject-namespaces",
    "cluster-subject-pods",
    "cluster-tcp",
    "cluster-udp",
];

pub(super) fn note(seen: &mut Seen, cluster: &Cluster) {
    let places: Vec<_> = cluster.cluster_policies.iter().map(|one| (one.spec.tier, one.spec.priority)).collect();
    seen.note("cluster-priority-tie", (1..places.len()).any(|at| places[..at].contains(&places[at])));
    for policy in &cluster.cluster_policies {
        let spec = &policy.spec;
        note_subject(seen, spec);
        for rule in &spec.ingress {
            let from: Vec<EgressPeer> = rule.from.iter().map(EgressPeer::from).collect();
            seen.note("cluster-ingress", true);
            note_rule(seen, (spec.tier, rule.action), &from, &rule.protocols);
        }
        for rule in &spec.egress {
            seen.note("cluster-egress", true);
            note_rule(seen, (spec.tier, rule.action), &rule.to, &rule.protocols);
        }
    }
}

fn note_subject(seen: &mut Seen, spec: &Spec) {
    seen.note("cluster-subject-namespaces", spec.subject.namespaces.is_some());
    if let Some(namespaces) = &spec.subject.namespaces {
        seen.selector(namespaces, "cluster-invalid-selector");
    }
    if let Some(pods) = &spec.subject.pods {
        note_pods(seen, pods, "cluster-subject-pods");
    }
}

fn note_pods(seen: &mut Seen, pods: &NamespacedPod, name: &'static str) {
    seen.note(name, true);
    seen.selector(&pods.namespace_selector, "cluster-invalid-selector");
    seen.selector(&pods.pod_selector, "cluster-invalid-selector");
}

fn note_rule(seen: &mut Seen, what: (Tier, Action), peers: &[EgressPeer], protocols: &[ProtocolMatch]) {
    let name = match what {
        (Tier::Admin, Action::Accept) => "cluster-admin-accept",
        (Tier::Admin, Action::Deny) => "cluster-admin-deny",
        (Tier::Admin, Action::Pass) => "cluster-admin-pass",
        (Tier::Baseline, Action::Accept) => "cluster-baseline-accept",
        (Tier::Baseline, Action::Deny) => "cluster-baseline-deny",
        (Tier::Baseline, Action::Pass) => "cluster-baseline-pass",
    };
    seen.note(name, true);
    seen.note("cluster-peers-many", peers.len() > 1);
    seen.note("cluster-protocols-absent", protocols.is_empty());
    for peer in peers {
        note_peer(seen, peer);
    }
    for protocol in protocols {
        note_protocol(seen, protocol);
    }
}

fn note_peer(seen: &mut Seen, peer: &EgressPeer) {
    seen.note("cluster-peer-unknown", *peer == EgressPeer::default());
    seen.note("cluster-domain-names", peer.domain_names.is_some());
    seen.note("cluster-peer-namespaces", peer.namespaces.is_some());
    seen.note("cluster-peer-nodes", peer.nodes.is_some());
    for selector in [&peer.namespaces, &peer.nodes].into_iter().flatten() {
        seen.selector(selector, "cluster-invalid-selector");
    }
    if let Some(pods) = &peer.pods {
        note_pods(seen, pods, "cluster-peer-pods");
    }
    for text in peer.networks.iter().flatten() {
        let valid = text.parse::<IpNet>().is_ok();
        seen.note(if valid { "cluster-peer-networks" } else { "cluster-invalid-network" }, true);
    }
}

fn note_protocol(seen: &mut Seen, protocol: &ProtocolMatch) {
    if !ports::valid_of_cluster(protocol) {
        return seen.note("cluster-invalid-port", true);
    }
    seen.note("cluster-tcp", protocol.tcp.is_some());
    seen.note("cluster-udp", protocol.udp.is_some());
    seen.note("cluster-sctp", protocol.sctp.is_some());
    seen.note("cluster-port-named", protocol.destination_named_port.is_some());
    for transport in [&protocol.tcp, &protocol.udp, &protocol.sctp].into_iter().flatten() {
        let port = transport.destination_port.as_ref();
        seen.note("cluster-port-all", port.is_none());
        seen.note("cluster-port-number", port.is_some_and(|port| port.number.is_some()));
        seen.note("cluster-port-range", port.is_some_and(|port| port.range.is_some()));
    }
}
