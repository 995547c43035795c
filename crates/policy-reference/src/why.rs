//! What decides about a packet, in words, for a test that found others of another mind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cnp::{Action, Tier};
use crate::connection::{Connection, Direction};
use crate::{Cluster, Packet, ends, network, tiers};

/// A line an end: who it is, what decides there, and how.
#[must_use]
pub fn why(cluster: &Cluster, packet: &Packet) -> Vec<String> {
    let line = |direction, address| {
        let told = match Connection::at(cluster, packet, direction) {
            None => format!("{address} is no pod subject to policy: allowed"),
            Some(connection) => {
                format!("{} ({address}): {}", name(&connection.subject.metadata), decision(&connection))
            }
        };
        format!("{}: {told}", Direction::name(direction))
    };
    vec![line(Direction::Egress, packet.from), line(Direction::Ingress, packet.to)]
}

fn decision(connection: &Connection<'_>) -> String {
    if ends::always_allowed(connection.cluster, connection.subject, connection.peer) {
        return "itself, or its own node: allowed".to_owned();
    }
    let mut told = Vec::new();
    if let Some(action) = of_tier(Tier::Admin, connection, &mut told)
        && action != Action::Pass
    {
        return told.join("; ");
    }
    let isolating = connection.cluster.policies.iter().filter(|policy| network::isolates(policy, connection));
    let names: Vec<String> = isolating
        .map(|policy| {
            let word = if network::allows(policy, connection) { "allows" } else { "does not" };
            format!("NetworkPolicy {} {word}", name(&policy.metadata))
        })
        .collect();
    if !names.is_empty() {
        told.push(format!("isolated: {}", names.join(", ")));
    } else if of_tier(Tier::Baseline, connection, &mut told).is_none() {
        told.push("nothing else decides: allowed".to_owned());
    }
    told.join("; ")
}

fn of_tier(tier: Tier, connection: &Connection<'_>, told: &mut Vec<String>) -> Option<Action> {
    let (policy, action) = tiers::first_match(tier, connection)?;
    told.push(format!("ClusterNetworkPolicy {} ({tier:?}): {action:?}", name(&policy.metadata)));
    Some(action)
}

fn name(metadata: &ObjectMeta) -> String {
    let name = metadata.name.as_deref().unwrap_or_default();
    metadata.namespace.as_ref().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}
