//! From ClusterNetworkPolicy to `core`. What is not known fails closed, as its project asks: an Accept matches nothing, a Deny
//! or a Pass denies everything.

use std::collections::{BTreeMap, BTreeSet};

use overlane_core::few::Few;
use overlane_core::labels::Selector;
use overlane_core::policy::{
    Action, Direction, Namespaces, Peer, PodSelector, Policy, PolicyName, PortMatch, Rule, Tier,
};
use overlane_core::ports::Protocol;

use super::{
    ClusterNetworkPolicy, CnpAction, CnpNamespacedPod, CnpPeer, CnpPort, CnpProtocol, CnpRule, CnpSubject, CnpTier,
    Converted, cidr, is_audited, ports,
};
use crate::convert::{ConvertError, selector};

/// A ClusterNetworkPolicy as it counts.
#[must_use]
pub fn cluster_policy(object: &ClusterNetworkPolicy) -> Converted {
    let spec = &object.spec;
    let mut faults = Vec::new();
    // Whom it was meant for is not known: every pod, and no rule of it is understood.
    let meant = subject(&spec.subject).map_err(|fault| faults.push(fault)).ok();
    let known = meant.is_some();
    let everybody = PodSelector { namespaces: Namespaces::Labelled(Selector::default()), pods: Selector::default() };
    let mut rules = BTreeMap::new();
    for (direction, list) in [(Direction::Ingress, &spec.ingress), (Direction::Egress, &spec.egress)] {
        let mut good = Vec::new();
        for (index, given) in list.iter().enumerate() {
            match rule(direction, index, given) {
                Ok(rule) if known => good.push(rule),
                Ok(_) => good.extend(closed(direction, index, given)),
                Err(fault) => {
                    faults.push(fault);
                    good.extend(closed(direction, index, given));
                }
            }
        }
        // Without rules it does not touch the direction.
        if !good.is_empty() {
            rules.insert(direction, good);
        }
    }
    let tier = match spec.tier {
        CnpTier::Admin => Tier::Admin,
        CnpTier::Baseline => Tier::Baseline,
    };
    let name = object.metadata.name.clone().unwrap_or_default();
    let name = PolicyName { tier, namespace: String::new(), name };
    let audit = is_audited(object.metadata.annotations.as_ref());
    let priority = u16::try_from(spec.priority.clamp(0, 1000)).unwrap_or_default();
    let subject = meant.unwrap_or(everybody);
    Converted { policy: Policy { name, priority, subject, rules, audit }, faults }
}

fn subject(given: &CnpSubject) -> Result<PodSelector, ConvertError> {
    match (&given.namespaces, &given.pods) {
        (Some(asked), None) => {
            let namespaces = Namespaces::Labelled(selector("spec.subject.namespaces", asked)?);
            Ok(PodSelector { namespaces, pods: Selector::default() })
        }
        (None, Some(pods)) => namespaced("spec.subject.pods", pods),
        _ => Err(ConvertError::Peer { field: "spec.subject".to_owned() }),
    }
}

fn namespaced(field: &str, given: &CnpNamespacedPod) -> Result<PodSelector, ConvertError> {
    Ok(PodSelector {
        namespaces: Namespaces::Labelled(selector(&format!("{field}.namespaceSelector"), &given.namespace_selector)?),
        pods: selector(&format!("{field}.podSelector"), &given.pod_selector)?,
    })
}

fn name(direction: Direction, index: usize, given: &CnpRule) -> String {
    if given.name.is_empty() { format!("{direction}[{index}]") } else { given.name.clone() }
}

/// What a rule means that cannot be understood.
fn closed(direction: Direction, index: usize, given: &CnpRule) -> Option<Rule> {
    let name = name(direction, index, given);
    (given.action != CnpAction::Accept).then_some(Rule { name, action: Action::Deny, peers: None, ports: None })
}

fn rule(direction: Direction, index: usize, given: &CnpRule) -> Result<Rule, ConvertError> {
    let field = format!("spec.{direction}[{index}]");
    let list = if direction == Direction::Ingress { &given.from } else { &given.to };
    let mut peers = BTreeSet::new();
    for (index, one) in list.iter().enumerate() {
        peers.extend(peer(direction, &format!("{field}.peers[{index}]"), one)?);
    }
    if peers.is_empty() {
        return Err(ConvertError::Peer { field });
    }
    let about = (!given.protocols.is_empty()).then_some(&given.protocols).map(|list| {
        list.iter().enumerate().map(|(index, one)| protocol(&format!("{field}.protocols[{index}]"), one)).collect()
    });
    let ports: Option<Few<PortMatch>> = about.transpose()?;
    let action = match given.action {
        CnpAction::Accept => Action::Accept,
        CnpAction::Deny => Action::Deny,
        CnpAction::Pass => Action::Pass,
    };
    Ok(Rule { name: name(direction, index, given), action, peers: Some(peers.into()), ports })
}

fn peer(direction: Direction, field: &str, given: &CnpPeer) -> Result<BTreeSet<Peer>, ConvertError> {
    let unknown = || ConvertError::Peer { field: field.to_owned() };
    let networks = (!given.networks.is_empty()).then_some(&given.networks);
    match (&given.namespaces, &given.pods, &given.nodes, networks) {
        (Some(asked), None, None, None) => {
            let namespaces = Namespaces::Labelled(selector(&format!("{field}.namespaces"), asked)?);
            Ok([Peer::Pods(PodSelector { namespaces, pods: Selector::default() })].into())
        }
        (None, Some(pods), None, None) => Ok([Peer::Pods(namespaced(&format!("{field}.pods"), pods)?)].into()),
        // Of egress rules alone.
        _ if direction == Direction::Ingress => Err(unknown()),
        (None, None, Some(nodes), None) => Ok([Peer::Nodes(selector(&format!("{field}.nodes"), nodes)?)].into()),
        (None, None, None, Some(networks)) => {
            let block = |(index, text): (usize, &String)| {
                let cidr = cidr(&format!("{field}.networks[{index}]"), text)?;
                Ok(Peer::Block { cidr, except: Few::default() })
            };
            networks.iter().enumerate().map(block).collect()
        }
        _ => Err(unknown()),
    }
}

fn protocol(field: &str, given: &CnpProtocol) -> Result<PortMatch, ConvertError> {
    let transports = [(Protocol::Tcp, &given.tcp), (Protocol::Udp, &given.udp), (Protocol::Sctp, &given.sctp)];
    let mut set = transports.into_iter().filter_map(|(protocol, transport)| Some((protocol, transport.as_ref()?)));
    let name = &given.destination_named_port;
    match (set.next(), set.next(), name.is_empty()) {
        (Some((protocol, transport)), None, true) => port(field, protocol, transport.destination_port.as_ref()),
        (None, None, false) => ports::named(&format!("{field}.destinationNamedPort"), None, name),
        _ => {
            let (given, expected) = (String::new(), "one of tcp, udp, sctp and destinationNamedPort");
            Err(ConvertError::Port { field: field.to_owned(), given, expected })
        }
    }
}

fn port(field: &str, protocol: Protocol, given: Option<&CnpPort>) -> Result<PortMatch, ConvertError> {
    match given {
        None => Ok(PortMatch::Range(protocol, 0, u16::MAX)),
        Some(CnpPort { number: Some(number), range: None }) => ports::range(field, protocol, *number, *number),
        Some(CnpPort { number: None, range: Some(range) }) if range.start != range.end => {
            ports::range(field, protocol, range.start, range.end)
        }
        Some(_) => {
            let (given, expected) = (String::new(), "one of number and range, which has a start below its end");
            Err(ConvertError::Port { field: format!("{field}.destinationPort"), given, expected })
        }
    }
}
