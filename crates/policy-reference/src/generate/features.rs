//! What of all that policy can say a cluster uses.

mod cluster_policies;
mod policies;
mod workloads;

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::connection::{Connection, Direction};
use crate::{Cluster, Packet, ends, network, selector, tiers};

/// All that [`features`] can name.
pub const FEATURES: &[&[&str]] = &[SELECTORS, workloads::NAMES, policies::NAMES, cluster_policies::NAMES];

const SELECTORS: &[&str] = &[
    "selector-and",
    "selector-does-not-exist",
    "selector-empty",
    "selector-exists",
    "selector-in",
    "selector-in-many",
    "selector-labels",
    "selector-not-in",
    "selector-not-in-many",
];

/// The names of the features that a cluster uses.
#[must_use]
pub fn features(cluster: &Cluster) -> BTreeSet<&'static str> {
    let mut seen = Seen::default();
    workloads::note(&mut seen, cluster);
    policies::note(&mut seen, cluster);
    cluster_policies::note(&mut seen, cluster);
    seen.0
}

/// The names of the features of what is about a packet: of the pods and nodes at its ends, and of the policies that select
/// one of these pods in its direction. Pods without an address are about every packet.
#[must_use]
pub fn features_about(cluster: &Cluster, packet: &Packet) -> BTreeSet<&'static str> {
    let ends: Vec<Connection<'_>> = [Direction::Egress, Direction::Ingress]
        .into_iter()
        .filter_map(|direction| Connection::at(cluster, packet, direction))
        .collect();
    let mut about = cluster.clone();
    let concerned = [packet.from, packet.to];
    about.pods.retain(|pod| {
        let addresses = ends::pod_addresses(pod);
        addresses.is_empty() || addresses.iter().any(|address| concerned.contains(address))
    });
    about.nodes.retain(|node| ends::node_addresses(node).iter().any(|address| concerned.contains(address)));
    let pods = &about.pods;
    about.namespaces.retain(|one| pods.iter().any(|pod| pod.metadata.namespace == one.metadata.name));
    about.policies.retain(|policy| ends.iter().any(|end| network::isolates(policy, end)));
    about.cluster_policies.retain(|policy| ends.iter().any(|end| tiers::concerns(policy, end)));
    features(&about)
}

#[derive(Default)]
struct Seen(BTreeSet<&'static str>);

impl Seen {
    fn note(&mut self, name: &'static str, used: bool) {
        if used {
            self.0.insert(name);
        }
    }

    /// Notes what a selector has; an invalid one only as that.
    fn selector(&mut self, selector: &LabelSelector, invalid: &'static str) {
        if !selector::valid(selector) {
            return self.note(invalid, true);
        }
        let labels = selector.match_labels.as_ref().map_or(0, |labels| labels.len());
        let expressions = selector.match_expressions.as_deref().unwrap_or_default();
        self.note("selector-empty", labels + expressions.len() == 0);
        self.note("selector-labels", labels > 0);
        self.note("selector-and", labels + expressions.len() > 1);
        for requirement in expressions {
            let many = requirement.values.as_ref().is_some_and(|values| values.len() > 1);
            let name = match (requirement.operator.as_str(), many) {
                ("In", false) => "selector-in",
                ("In", true) => "selector-in-many",
                ("NotIn", false) => "selector-not-in",
                ("NotIn", true) => "selector-not-in-many",
                ("Exists", _) => "selector-exists",
                _ => "selector-does-not-exist",
            };
            self.note(name, true);
        }
    }
}
