//! The tier of NetworkPolicies.

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};

use crate::connection::{Connection, Direction};
use crate::{peers, ports, selector};

/// Whether the pod's policies allow the packet; nothing if none of them isolates it in this direction.
pub(crate) fn decide(connection: &Connection<'_>) -> Option<bool> {
    let mut decision = None;
    for policy in &connection.cluster.policies {
        if isolates(policy, connection) {
            decision = Some(decision == Some(true) || allows(policy, connection));
        }
    }
    decision
}

/// Whether a policy isolates the pod in this direction.
pub(crate) fn isolates(policy: &NetworkPolicy, connection: &Connection<'_>) -> bool {
    let absent = NetworkPolicySpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&absent);
    policy.metadata.namespace == connection.subject.metadata.namespace
        && directions(spec).contains(&connection.direction.name())
        && selects(spec, connection)
}

fn directions(spec: &NetworkPolicySpec) -> Vec<&str> {
    let given: Vec<&str> = spec.policy_types.iter().flatten().map(String::as_str).collect();
    match (given.is_empty(), egress_rules(spec).is_empty()) {
        (false, _) => given,
        (true, true) => vec!["Ingress"],
        (true, false) => vec!["Ingress", "Egress"],
    }
}

/// A selector that cannot be read selects all pods: whomever it means, they are to be isolated.
fn selects(spec: &NetworkPolicySpec, connection: &Connection<'_>) -> bool {
    spec.pod_selector
        .as_ref()
        .is_none_or(|selector| !selector::valid(selector) || peers::pod_matches(selector, connection.subject))
}

/// Whether one of the rules of a policy that isolates the pod allows the packet.
pub(crate) fn allows(policy: &NetworkPolicy, connection: &Connection<'_>) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let rules = match connection.direction {
        Direction::Ingress => ingress_rules(spec),
        Direction::Egress => egress_rules(spec),
    };
    spec.pod_selector.as_ref().is_none_or(selector::valid) && rules.iter().any(|rule| rule.allows(connection))
}

/// A rule of either direction. Empty lists are those that are absent.
struct Rule<'a> {
    peers: &'a [NetworkPolicyPeer],
    ports: &'a [NetworkPolicyPort],
}

impl Rule<'_> {
    fn allows(&self, connection: &Connection<'_>) -> bool {
        let valid = self.peers.iter().all(peers::valid) && self.ports.iter().all(ports::valid);
        let peer = self.peers.is_empty() || self.peers.iter().any(|peer| peers::matches(peer, connection));
        let port = self.ports.is_empty() || self.ports.iter().any(|port| ports::matches(port, connection));
        valid && peer && port
    }
}

fn ingress_rules(spec: &NetworkPolicySpec) -> Vec<Rule<'_>> {
    let rules = spec.ingress.iter().flatten();
    rules.map(|rule| Rule { peers: list(rule.from.as_ref()), ports: list(rule.ports.as_ref()) }).collect()
}

fn egress_rules(spec: &NetworkPolicySpec) -> Vec<Rule<'_>> {
    let rules = spec.egress.iter().flatten();
    rules.map(|rule| Rule { peers: list(rule.to.as_ref()), ports: list(rule.ports.as_ref()) }).collect()
}

fn list<T>(items: Option<&Vec<T>>) -> &[T] {
    items.map_or(&[], Vec::as_slice)
}
