//! Features of NetworkPolicies.

use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use ipnet::IpNet;

use super::Seen;
use crate::{Cluster, peers, ports, selector};

pub(super) const NAMES: &[&str] = &[
    "block-all",
    "block-except",
    "block-except-all",
    "block-with-host-bits",
    "block-v4",
    "block-v6",
    "invalid-block",
    "invalid-end-port",
    "invalid-end-port-of-name",
    "invalid-peer-selector",
    "invalid-pod-selector",
    "invalid-protocol",
    "peer-block",
    "peer-both-selectors",
    "peer-namespaces",
    "peer-pods",
    "peers-absent",
    "peers-empty",
    "peers-many",
    "pod-selector-absent",
    "pod-selector-empty",
    "pod-selector-some",
    "policies-two-of-a-namespace",
    "port-absent",
    "port-named",
    "port-number",
    "port-range",
    "port-range-of-one",
    "port-sctp",
    "port-udp",
    "port-without-protocol",
    "ports-absent",
    "ports-empty",
    "rule-all",
    "types-absent",
    "types-absent-egress",
    "types-both",
    "types-egress",
    "types-empty",
    "types-ingress",
    "types-ingress-despite-egress-rules",
    "types-without-rules",
];

pub(super) fn note(seen: &mut Seen, cluster: &Cluster) {
    let namespaces: Vec<_> = cluster.policies.iter().map(|policy| &policy.metadata.namespace).collect();
    let twice = (1..namespaces.len()).any(|at| namespaces[..at].contains(&namespaces[at]));
    seen.note("policies-two-of-a-namespace", twice);
    for spec in cluster.policies.iter().filter_map(|policy| policy.spec.as_ref()) {
        note_spec(seen, spec);
        for rule in spec.ingress.iter().flatten() {
            note_rule(seen, rule.from.as_deref(), rule.ports.as_deref());
        }
        for rule in spec.egress.iter().flatten() {
            note_rule(seen, rule.to.as_deref(), rule.ports.as_deref());
        }
    }
}

fn note_spec(seen: &mut Seen, spec: &NetworkPolicySpec) {
    let ingress = spec.ingress.as_ref().is_some_and(|rules| !rules.is_empty());
    let egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let types: Option<Vec<&str>> = spec.policy_types.as_ref().map(|types| types.iter().map(String::as_str).collect());
    let (name, without_rules) = match types.as_deref() {
        None if egress => ("types-absent-egress", !ingress),
        None => ("types-absent", !ingress),
        Some([]) => ("types-empty", !ingress),
        Some(["Ingress"]) if egress => ("types-ingress-despite-egress-rules", !ingress),
        Some(["Ingress"]) => ("types-ingress", !ingress),
        Some(["Egress"]) => ("types-egress", !egress),
        Some(_) => ("types-both", !ingress || !egress),
    };
    seen.note(name, true);
    seen.note("types-without-rules", without_rules);
    seen.note("pod-selector-absent", spec.pod_selector.is_none());
    if let Some(pods) = &spec.pod_selector {
        let empty = pods.match_labels.is_none() && pods.match_expressions.is_none();
        seen.note(if empty { "pod-selector-empty" } else { "pod-selector-some" }, selector::valid(pods));
        seen.selector(pods, "invalid-pod-selector");
    }
}

fn note_rule(seen: &mut Seen, peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) {
    seen.note("peers-absent", peers.is_none());
    seen.note("peers-empty", peers.is_some_and(<[_]>::is_empty));
    seen.note("peers-many", peers.is_some_and(|peers| peers.len() > 1));
    seen.note("ports-absent", ports.is_none());
    seen.note("ports-empty", ports.is_some_and(<[_]>::is_empty));
    seen.note("rule-all", peers.is_none() && ports.is_none());
    for peer in peers.unwrap_or_default() {
        note_peer(seen, peer);
    }
    for port in ports.unwrap_or_default() {
        note_port(seen, port);
    }
}

fn note_peer(seen: &mut Seen, peer: &NetworkPolicyPeer) {
    for selector in [&peer.pod_selector, &peer.namespace_selector].into_iter().flatten() {
        seen.selector(selector, "invalid-peer-selector");
    }
    if !peers::valid(peer) {
        return seen.note("invalid-block", peer.ip_block.is_some());
    }
    let (pods, namespaces) = (peer.pod_selector.is_some(), peer.namespace_selector.is_some());
    seen.note("peer-pods", pods && !namespaces);
    seen.note("peer-namespaces", namespaces && !pods);
    seen.note("peer-both-selectors", namespaces && pods);
    seen.note("peer-block", peer.ip_block.is_some());
    if let Some(block) = &peer.ip_block {
        note_block(seen, block);
    }
}

fn note_block(seen: &mut Seen, block: &IPBlock) {
    let Ok(cidr) = block.cidr.parse::<IpNet>() else { return };
    let except: Vec<IpNet> = block.except.iter().flatten().filter_map(|text| text.parse().ok()).collect();
    seen.note(if cidr.addr().is_ipv4() { "block-v4" } else { "block-v6" }, true);
    seen.note("block-all", cidr.prefix_len() == 0);
    seen.note("block-with-host-bits", cidr != cidr.trunc());
    seen.note("block-except", !except.is_empty());
    seen.note("block-except-all", IpNet::aggregate(&except).contains(&cidr.trunc()));
}

fn note_port(seen: &mut Seen, port: &NetworkPolicyPort) {
    if !ports::valid(port) {
        let known = matches!(port.protocol.as_deref(), None | Some("TCP" | "UDP" | "SCTP"));
        let named = matches!(port.port, Some(IntOrString::String(_)));
        seen.note("invalid-protocol", !known);
        seen.note("invalid-end-port", known && !named);
        return seen.note("invalid-end-port-of-name", known && named);
    }
    seen.note("port-without-protocol", port.protocol.is_none());
    seen.note("port-udp", port.protocol.as_deref() == Some("UDP"));
    seen.note("port-sctp", port.protocol.as_deref() == Some("SCTP"));
    match (&port.port, port.end_port) {
        (None, _) => seen.note("port-absent", true),
        (Some(IntOrString::String(_)), _) => seen.note("port-named", true),
        (Some(IntOrString::Int(_)), None) => seen.note("port-number", true),
        (Some(IntOrString::Int(first)), Some(last)) if *first == last => seen.note("port-range-of-one", true),
        (Some(IntOrString::Int(_)), Some(_)) => seen.note("port-range", true),
    }
}
