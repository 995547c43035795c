//! NetworkPolicy, `networking.k8s.io/v1`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use overlane_core::labels::Selector;
use overlane_core::policy::{Action, Direction, Namespaces, Peer, PodSelector, Policy, PolicyName, Rule, Tier};

use super::{Converted, cidr, is_audited, pods_of, ports};
use crate::convert::{ConvertError, selector};

/// A NetworkPolicy as it counts. A rule with a fault allows nothing. Where it is the selector of pods that has one, all pods of
/// the namespace are isolated, and nothing is allowed: its rules were not meant for all of them.
#[must_use]
pub fn network_policy(object: &NetworkPolicy) -> Converted {
    let empty = NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let namespace = object.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let mut faults = Vec::new();
    let named = Namespaces::Named(namespace.clone());
    let selected = pods_of("spec", named.clone(), spec.pod_selector.as_ref()).map_err(|fault| faults.push(fault)).ok();
    let closed = selected.is_none();
    let subject = selected.unwrap_or_else(|| PodSelector { namespaces: named, pods: Selector::default() });
    let mut rules = BTreeMap::new();
    for direction in directions(spec, &mut faults) {
        // Of each rule the peers, and what it is about.
        let list: Vec<(_, _)> = match direction {
            Direction::Ingress => spec.ingress.iter().flatten().map(|rule| (&rule.from, &rule.ports)).collect(),
            Direction::Egress => spec.egress.iter().flatten().map(|rule| (&rule.to, &rule.ports)).collect(),
        };
        let mut good = Vec::new();
        for (index, (peers, ports)) in list.into_iter().enumerate() {
            let place = format!("{direction}[{index}]");
            match rule(&place, &namespace, peers.as_deref(), ports.as_deref()) {
                Ok(rule) => good.push(rule),
                Err(fault) => faults.push(fault),
            }
        }
        rules.insert(direction, if closed { Vec::new() } else { good });
    }
    let name = object.metadata.name.clone().unwrap_or_default();
    let audit = is_audited(object.metadata.annotations.as_ref());
    let name = PolicyName { tier: Tier::Namespace, namespace, name };
    Converted { policy: Policy { name, priority: 0, subject, rules, audit }, faults }
}

/// Which directions it isolates pods in. A type that is not known says nothing of what it would have closed: both are.
fn directions(spec: &NetworkPolicySpec, faults: &mut Vec<ConvertError>) -> BTreeSet<Direction> {
    let mut directions = BTreeSet::new();
    for given in spec.policy_types.iter().flatten() {
        match given.as_str() {
            "Ingress" => _ = directions.insert(Direction::Ingress),
            "Egress" => _ = directions.insert(Direction::Egress),
            _ => {
                let (field, expected) = ("spec.policyTypes".to_owned(), "Ingress or Egress");
                faults.push(ConvertError::Port { field, given: given.clone(), expected });
                directions.extend(Direction::ALL);
            }
        }
    }
    if directions.is_empty() {
        directions.insert(Direction::Ingress);
        directions.extend(spec.egress.as_ref().filter(|rules| !rules.is_empty()).map(|_| Direction::Egress));
    }
    directions
}

fn rule(
    place: &str,
    namespace: &str,
    peers: Option<&[NetworkPolicyPeer]>,
    about: Option<&[NetworkPolicyPort]>,
) -> Result<Rule, ConvertError> {
    let field = format!("spec.{place}");
    let peers = peers.filter(|peers| !peers.is_empty()).map(|peers| {
        peers.iter().enumerate().map(|(index, one)| peer(&format!("{field}.peers[{index}]"), namespace, one)).collect()
    });
    let about = about.filter(|ports| !ports.is_empty()).map(|list| {
        list.iter().enumerate().map(|(index, one)| ports::port(&format!("{field}.ports[{index}]"), one)).collect()
    });
    let (peers, ports) = (peers.transpose()?, about.transpose()?);
    Ok(Rule { name: place.to_owned(), action: Action::Accept, peers, ports })
}

fn peer(field: &str, namespace: &str, peer: &NetworkPolicyPeer) -> Result<Peer, ConvertError> {
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match &peer.ip_block {
        Some(given) if !selects => block(&format!("{field}.ipBlock"), given),
        None if selects => {
            let namespaces = match &peer.namespace_selector {
                Some(asked) => Namespaces::Labelled(selector(&format!("{field}.namespaceSelector"), asked)?),
                None => Namespaces::Named(namespace.to_owned()),
            };
            Ok(Peer::Pods(pods_of(field, namespaces, peer.pod_selector.as_ref())?))
        }
        _ => Err(ConvertError::Peer { field: field.to_owned() }),
    }
}

fn block(field: &str, given: &IPBlock) -> Result<Peer, ConvertError> {
    let around = cidr(&format!("{field}.cidr"), &given.cidr)?;
    let mut except = BTreeSet::new();
    for (index, text) in given.except.iter().flatten().enumerate() {
        let field = format!("{field}.except[{index}]");
        let inner = cidr(&field, text)?;
        if !around.contains_cidr(&inner) {
            return Err(ConvertError::Except { field, given: inner, around });
        }
        except.insert(inner);
    }
    Ok(Peer::Block { cidr: around, except: except.into() })
}
