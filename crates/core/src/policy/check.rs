//! What policies are probably not meant to say, with the pods that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::apply::Match;
use super::peers::uses_of_blocks;
use super::subjects::named;
use super::{Applied, Direction, NamedPort, Peer, Policy, PolicyName, Profile, Rule, World};

/// Something that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The policy.
    pub policy: PolicyName,
    /// What it is.
    pub doubt: Doubt,
}

/// What is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// There is no pod that it selects.
    SelectsNothing,
    /// There is nobody whom a rule means.
    MeansNobody {
        /// The direction.
        direction: Direction,
        /// The rule's name.
        rule: String,
    },
    /// All that a rule is about is decided before it.
    Shadowed {
        /// The direction.
        direction: Direction,
        /// The rule's name.
        rule: String,
        /// The policies that decide it.
        by: BTreeSet<PolicyName>,
    },
    /// Another policy of the same priority says otherwise of the same packets.
    Contradicts {
        /// The direction.
        direction: Direction,
        /// The other policy, whose name comes after this one's, so that it gives way.
        other: PolicyName,
    },
}

/// Where a rule is: its policy, and its index in that.
type Place = (PolicyName, usize);

/// What rules did for all pods and peers that there are.
#[derive(Default)]
struct Seen {
    decided: BTreeSet<Place>,
    /// Policies whose rules took what a rule is about.
    taken: BTreeMap<Place, BTreeSet<PolicyName>>,
    contradictions: BTreeSet<(PolicyName, PolicyName)>,
}

/// Looks at all policies together.
#[must_use]
pub fn check(world: &World, policies: &[Arc<Policy>]) -> Vec<Finding> {
    let policies = &few_blocks(policies);
    let mut findings = Vec::new();
    for policy in policies {
        if !world.profiles().any(|profile| policy.subject.selects(profile, world)) {
            findings.push(Finding { policy: policy.name.clone(), doubt: Doubt::SelectsNothing });
        }
    }
    for direction in Direction::ALL {
        let seen = look(world, policies, direction);
        for (policy, other) in &seen.contradictions {
            let doubt = Doubt::Contradicts { direction, other: other.clone() };
            findings.push(Finding { policy: policy.clone(), doubt });
        }
        for policy in policies {
            for (index, rule) in policy.rules.get(&direction).into_iter().flatten().enumerate() {
                let place = (policy.name.clone(), index);
                let name = rule.name.clone();
                let doubt = if !rule.peers.as_ref().is_none_or(|peers| peers.iter().any(|peer| is_anybody(peer, world)))
                {
                    Doubt::MeansNobody { direction, rule: name }
                } else {
                    match seen.taken.get(&place).filter(|_| !seen.decided.contains(&place)) {
                        Some(by) => Doubt::Shadowed { direction, rule: name, by: by.clone() },
                        None => continue,
                    }
                };
                findings.push(Finding { policy: policy.name.clone(), doubt });
            }
        }
    }
    findings.sort();
    findings
}

/// The same policies with one block for all that the same rules have: of each it is asked what becomes of who is in it alone,
/// which is the same. A list of blocks may have tens of thousands.
fn few_blocks(policies: &[Arc<Policy>]) -> Vec<Arc<Policy>> {
    let rules = policies.iter().enumerate().flat_map(|(policy, of)| {
        of.rules.iter().map(move |(direction, rules)| ((policy, *direction), rules.as_slice()))
    });
    let places = uses_of_blocks(rules);
    let mut alike = BTreeMap::new();
    for (block, places) in &places {
        alike.entry(places).or_insert(*block);
    }
    let kept: BTreeSet<&Peer> = alike.into_values().collect();
    let keep = |peer: &&Peer| !matches!(peer, Peer::Block { .. }) || kept.contains(peer);
    let rule = |rule: &Rule| Rule {
        peers: rule.peers.as_ref().map(|peers| peers.iter().filter(keep).cloned().collect()),
        name: rule.name.clone(),
        action: rule.action,
        ports: rule.ports.clone(),
    };
    let rules = |of: &Policy| of.rules.iter().map(|(to, rules)| (*to, rules.iter().map(rule).collect())).collect();
    let policy = |of: &Arc<Policy>| Policy {
        rules: rules(of),
        name: of.name.clone(),
        priority: of.priority,
        subject: of.subject.clone(),
        audit: of.audit,
    };
    policies.iter().map(policy).map(Arc::new).collect()
}

/// Whether there is anybody whom a term means. Of blocks nobody can tell: who is outside is not known.
fn is_anybody(peer: &Peer, world: &World) -> bool {
    match peer {
        Peer::Pods(pods) => world.profiles().any(|profile| pods.selects(profile, world)),
        Peer::Nodes(selector) => world.nodes().values().any(|node| selector.selects(&node.labels)),
        Peer::Block { .. } => true,
    }
}

fn look(world: &World, policies: &[Arc<Policy>], direction: Direction) -> Seen {
    let mut seen = Seen::default();
    // Pods that the same policies select are alike but for names of ports.
    let mut known = BTreeSet::new();
    for profile in world.profiles() {
        let applied = Applied::to(profile, direction, policies.iter().map(Arc::as_ref), world);
        let names: Vec<&PolicyName> = applied.policies().iter().map(|policy| &policy.name).collect();
        if applied.policies().is_empty() || !known.insert((names.clone(), profile.ports.clone())) {
            continue;
        }
        let terms: BTreeSet<&Peer> = applied.rules().flat_map(|rule| rule.peers.iter().flatten()).collect();
        let names = applied.rules().filter(|_| direction == Direction::Egress).flat_map(named);
        let asked: BTreeSet<&str> = names.collect();
        let ports = |of: &Profile| of.ports.iter().filter(|port| asked.contains(port.name.as_str())).cloned().collect();
        // What the other side can be: somebody who is there, or an address of a block alone. Those of whom the rules ask nothing
        // else are one.
        let peers = world.profiles().map(|other| {
            let is = |peer: &Peer| matches!(peer, Peer::Pods(pods) if pods.selects(other, world));
            (terms.iter().copied().filter(|peer| is(peer)).collect::<BTreeSet<_>>(), ports(other))
        });
        let nodes = world.nodes().values().map(|node| {
            let is = |peer: &Peer| matches!(peer, Peer::Nodes(selector) if selector.selects(&node.labels));
            (terms.iter().copied().filter(|peer| is(peer)).collect(), BTreeSet::new())
        });
        let blocks = terms.iter().filter(|peer| matches!(peer, Peer::Block { .. }));
        let blocks = blocks.map(|peer| ([*peer].into(), BTreeSet::new()));
        let sides: BTreeSet<(BTreeSet<&Peer>, BTreeSet<NamedPort>)> =
            peers.chain(nodes).chain(blocks).chain([(BTreeSet::new(), BTreeSet::new())]).collect();
        for (is, ports) in sides {
            let other = Profile { ports, ..Profile::default() };
            let destination = if direction == Direction::Ingress { profile } else { &other };
            seen.note(&applied, &|peer| is.contains(peer).into(), destination);
        }
    }
    seen
}

impl Seen {
    fn note(&mut self, applied: &Applied<'_>, is: &dyn Fn(&Peer) -> Match, destination: &Profile) {
        let name = |index: usize| applied.policies().get(index).map(|policy| policy.name.clone());
        let outcomes = applied.outcomes(is, Some(destination));
        let matching = applied.matching(is, Some(destination));
        for (policy, rule, action, ports) in &matching {
            let Some(place) = name(*policy).map(|name| (name, *rule)) else { continue };
            // What passes decides by letting others decide.
            let decides = *action == super::Action::Pass && !applied.taken_before(&matching, (*policy, *rule), ports);
            let by = outcomes.iter().filter(|(_, taken)| !taken.and(ports).is_empty());
            for (outcome, _) in by {
                if (outcome.policy, outcome.rule) == (Some(*policy), Some(*rule)) {
                    self.decided.insert(place.clone());
                } else {
                    self.taken.entry(place.clone()).or_default().extend(outcome.policy.and_then(name));
                }
            }
            if decides {
                self.decided.insert(place);
            }
        }
        for (one, _, action, ports) in &matching {
            for (two, _, other, more) in matching.iter().filter(|(two, ..)| two > one) {
                let (Some(a), Some(b)) = (applied.policies().get(*one), applied.policies().get(*two)) else { continue };
                let alike = (a.name.tier, a.priority) == (b.name.tier, b.priority);
                if alike && action != other && !ports.and(more).is_empty() {
                    self.contradictions.insert((a.name.clone(), b.name.clone()));
                }
            }
        }
    }
}
