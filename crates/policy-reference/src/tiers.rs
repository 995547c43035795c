//! The order of tiers, and the two of ClusterNetworkPolicies.

use crate::cnp::{Action, ClusterNetworkPolicy, EgressPeer, ProtocolMatch, Subject, Tier};
use crate::connection::{Connection, Direction};
use crate::{network, peers, ports, selector};

/// Whether policy allows the packet at this end.
pub(crate) fn allowed(connection: &Connection<'_>) -> bool {
    match action(Tier::Admin, connection) {
        Some(Action::Accept) => return true,
        Some(Action::Deny) => return false,
        Some(Action::Pass) | None => {}
    }
    if let Some(decision) = network::decide(connection) {
        return decision;
    }
    action(Tier::Baseline, connection) != Some(Action::Deny)
}

fn action(tier: Tier, connection: &Connection<'_>) -> Option<Action> {
    first_match(tier, connection).map(|(_, action)| action)
}

/// The policy of a tier that decides, and what it does.
pub(crate) fn first_match<'a>(tier: Tier, connection: &Connection<'a>) -> Option<(&'a ClusterNetworkPolicy, Action)> {
    let all = &connection.cluster.cluster_policies;
    let mut policies: Vec<&ClusterNetworkPolicy> = all.iter().filter(|policy| policy.spec.tier == tier).collect();
    policies.sort_by_key(|policy| (policy.spec.priority, policy.metadata.name.as_ref()));
    policies.into_iter().find_map(|policy| Some((policy, decide(policy, connection)?)))
}

/// Whether a policy has a say on this pod in this direction.
pub(crate) fn concerns(policy: &ClusterNetworkPolicy, connection: &Connection<'_>) -> bool {
    let subject = &policy.spec.subject;
    !rules(policy, connection.direction).is_empty() && (!valid_subject(subject) || selects(subject, connection))
}

fn decide(policy: &ClusterNetworkPolicy, connection: &Connection<'_>) -> Option<Action> {
    let rules = rules(policy, connection.direction);
    let subject = &policy.spec.subject;
    if !valid_subject(subject) {
        return rules.iter().find_map(Rule::fail_closed);
    }
    if !selects(subject, connection) {
        return None;
    }
    rules.iter().find_map(|rule| rule.decide(connection))
}

fn valid_subject(subject: &Subject) -> bool {
    match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => selector::valid(namespaces),
        (None, Some(pods)) => peers::valid_pods(pods),
        (Some(_), Some(_)) | (None, None) => false,
    }
}

fn selects(subject: &Subject, connection: &Connection<'_>) -> bool {
    let Connection { cluster, subject: pod, .. } = *connection;
    subject.namespaces.as_ref().is_some_and(|selector| peers::namespace_matches(cluster, selector, pod))
        || subject.pods.as_ref().is_some_and(|pods| peers::namespaced_pod_matches(cluster, pods, pod))
}

/// A rule of either direction.
struct Rule {
    action: Action,
    peers: Vec<EgressPeer>,
    protocols: Vec<ProtocolMatch>,
}

impl Rule {
    fn decide(&self, connection: &Connection<'_>) -> Option<Action> {
        if !self.valid() {
            return self.fail_closed();
        }
        let peer = self.peers.iter().any(|peer| peers::matches_of_cluster(peer, connection));
        let protocol = self.protocols.is_empty()
            || self.protocols.iter().any(|protocol| ports::matches_of_cluster(protocol, connection));
        (peer && protocol).then_some(self.action)
    }

    fn valid(&self) -> bool {
        !self.peers.is_empty()
            && self.peers.iter().all(peers::valid_of_cluster)
            && self.protocols.iter().all(ports::valid_of_cluster)
    }

    /// What a rule that cannot be read does, whatever the packet.
    fn fail_closed(&self) -> Option<Action> {
        (self.action != Action::Accept).then_some(Action::Deny)
    }
}

fn rules(policy: &ClusterNetworkPolicy, direction: Direction) -> Vec<Rule> {
    let spec = &policy.spec;
    match direction {
        Direction::Ingress => spec
            .ingress
            .iter()
            .map(|rule| Rule {
                action: rule.action,
                peers: rule.from.iter().map(EgressPeer::from).collect(),
                protocols: rule.protocols.clone(),
            })
            .collect(),
        Direction::Egress => spec
            .egress
            .iter()
            .map(|rule| Rule { action: rule.action, peers: rule.to.clone(), protocols: rule.protocols.clone() })
            .collect(),
    }
}
