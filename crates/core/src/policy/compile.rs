//! What a node's data plane needs of policy: whose address is what, and what follows for the node's own pods.
//!
//! A packet's other side is looked up by address and becomes a number ([`PeerId`]); a pod of this node is in a class for each
//! direction ([`ClassId`]), with all pods that the same policies select. A class says for each number what is allowed. So what a
//! packet costs does not depend on how many policies, peers or pods there are, and a pod that comes is one entry, whatever
//! selects it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::peers::{Key, Span, Terms};
use super::portset::PortSet;
use super::{Applied, Direction, NamedPort, Outcome, Peer, Policy, PolicyName, PortMatch, Profile, World};
use crate::cidr::Cidr;
use crate::family::Family;

/// What addresses are to the rules that count on this node. 0 is everybody whom no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerId(pub u32);

impl PeerId {
    /// Everybody whom no rule names.
    pub const NOBODY: Self = Self(0);
}

/// Pods of this node that the same policies select in one direction, and whose named ports that these ask for are alike. Counted
/// from 0 in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassId {
    /// The direction.
    pub direction: Direction,
    /// The number.
    pub number: u32,
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPod {
    /// What policies can tell of it.
    pub profile: Profile,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What a class allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// The policies that select its pods, in the order in which they count; outcomes name them by index.
    pub policies: Vec<PolicyName>,
    /// What becomes of packets by the other side. [`PeerId::NOBODY`] is always there; a number that is not there is like it.
    pub verdicts: BTreeMap<PeerId, BTreeMap<Outcome, PortSet>>,
}

/// Policy on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyPlan {
    /// Addresses of pods and nodes that rules name.
    pub hosts: BTreeMap<IpAddr, PeerId>,
    /// Other addresses that rules name: ranges that do not meet. A host's entry counts before these.
    pub spans: BTreeMap<Span, PeerId>,
    /// The classes.
    pub classes: BTreeMap<ClassId, Class>,
    /// Which class each address of this node's pods is in; an address that is not there is not policed in that direction.
    pub pods: BTreeMap<(Direction, IpAddr), ClassId>,
}

impl PolicyPlan {
    /// What an address is to the rules.
    #[must_use]
    pub fn peer(&self, address: IpAddr) -> PeerId {
        let highest = Cidr::everything(Family::of(&address)).last();
        let span = self.spans.range(..=(address, highest)).next_back();
        let span = span.filter(|((first, last), _)| *first <= address && address <= *last).map(|(_, id)| *id);
        self.hosts.get(&address).copied().or(span).unwrap_or_default()
    }

    /// What a class allows a peer, or allows to be sent to it.
    #[must_use]
    pub fn allowed(&self, class: ClassId, peer: PeerId) -> PortSet {
        let Some(class) = self.classes.get(&class) else { return PortSet::all() };
        let outcomes = class.verdicts.get(&peer).or_else(|| class.verdicts.get(&PeerId::NOBODY));
        let allowed = outcomes.into_iter().flatten().filter(|(outcome, _)| outcome.allowed);
        allowed.fold(PortSet::default(), |all, (_, ports)| all.or(ports))
    }
}

/// What makes a class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ClassKey {
    direction: Direction,
    policies: Vec<PolicyName>,
    ports: BTreeSet<NamedPort>,
}

/// What makes a peer, by content.
type PeerKey = (BTreeSet<Peer>, BTreeSet<NamedPort>);

/// Numbers that were given, so that what stays keeps its number from plan to plan. A number is free again once a plan does not
/// use it.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    peers: BTreeMap<PeerKey, PeerId>,
    classes: BTreeMap<ClassKey, ClassId>,
}

/// Plans policy for the pods of one node. `policies` are those of the cluster.
#[must_use]
pub fn compile(world: &World, own: &[OwnPod], policies: &[Policy], ids: &mut Ids) -> PolicyPlan {
    let mut plan = PolicyPlan::default();
    let classes = classes(world, own, policies, ids, &mut plan);
    let rules =
        || classes.iter().flat_map(|(key, (_, applied))| applied.rules().map(move |rule| (key.direction, rule)));
    let peers = rules().flat_map(|(_, rule)| rule.peers.iter().flatten());
    let names = rules().filter(|(direction, _)| *direction == Direction::Egress).flat_map(|(_, rule)| named(rule));
    let terms = Terms::new(peers.collect(), names.collect());

    let spans = terms.spans();
    let hosts = terms.hosts(world, &spans);
    let keys: BTreeSet<Key> = hosts
        .values()
        .cloned()
        .chain(spans.values().map(|terms| Key { terms: terms.clone(), ports: BTreeSet::new() }))
        .collect();
    let numbers = ids.number_peers(&terms, keys);
    let number = |key: &Key| numbers.get(key).copied();
    plan.hosts = hosts.iter().filter_map(|(address, key)| Some((*address, number(key)?))).collect();
    plan.spans = spans
        .into_iter()
        .filter_map(|(span, terms)| Some((span, number(&Key { terms, ports: BTreeSet::new() })?)))
        .collect();
    for (key, (profile, applied)) in &classes {
        let Some(id) = ids.classes.get(key) else { continue };
        let verdicts = verdicts(key.direction, profile, applied, &terms, &numbers);
        plan.classes.insert(*id, Class { policies: key.policies.clone(), verdicts });
    }
    plan
}

/// The classes of the node's pods, with one pod of each, and who is in them.
fn classes<'a>(
    world: &World,
    own: &[OwnPod],
    policies: &'a [Policy],
    ids: &mut Ids,
    plan: &mut PolicyPlan,
) -> BTreeMap<ClassKey, (Profile, Applied<'a>)> {
    let mut profiles: BTreeMap<&Profile, Vec<IpAddr>> = BTreeMap::new();
    for pod in own {
        profiles.entry(&pod.profile).or_default().extend(&pod.addresses);
    }
    let mut classes = BTreeMap::new();
    let mut members: Vec<(ClassKey, Vec<IpAddr>)> = Vec::new();
    for (profile, addresses) in profiles {
        for direction in Direction::ALL {
            let applied = Applied::to(profile, direction, policies, world);
            if applied.policies().is_empty() {
                continue;
            }
            let asked: BTreeSet<&str> = match direction {
                Direction::Ingress => applied.rules().flat_map(named).collect(),
                Direction::Egress => BTreeSet::new(),
            };
            let key = ClassKey {
                direction,
                policies: applied.policies().iter().map(|policy| policy.name.clone()).collect(),
                ports: profile.ports.iter().filter(|port| asked.contains(port.name.as_str())).cloned().collect(),
            };
            members.push((key.clone(), addresses.clone()));
            classes.entry(key).or_insert_with(|| (profile.clone(), applied));
        }
    }
    ids.number_classes(classes.keys());
    for (key, addresses) in members {
        if let Some(id) = ids.classes.get(&key) {
            plan.pods.extend(addresses.into_iter().map(|address| ((key.direction, address), *id)));
        }
    }
    classes
}

/// What a class allows each number; those alone that differ from nobody's.
fn verdicts(
    direction: Direction,
    profile: &Profile,
    applied: &Applied<'_>,
    terms: &Terms<'_>,
    numbers: &BTreeMap<Key, PeerId>,
) -> BTreeMap<PeerId, BTreeMap<Outcome, PortSet>> {
    let own: BTreeSet<&Peer> = applied.rules().flat_map(|rule| rule.peers.iter().flatten()).collect();
    let own_terms: BTreeSet<usize> =
        terms.peers.iter().enumerate().filter(|(_, peer)| own.contains(**peer)).map(|(index, _)| index).collect();
    let asks_names = direction == Direction::Egress && applied.rules().any(|rule| named(rule).next().is_some());
    let outcomes = |key: &Key| {
        let peers: BTreeSet<&Peer> = key.terms.iter().filter_map(|index| terms.peers.get(*index).copied()).collect();
        let other = Profile { ports: key.ports.clone(), ..Profile::default() };
        let destination = if direction == Direction::Ingress { profile } else { &other };
        applied.outcomes(&|peer| peers.contains(peer), Some(destination))
    };
    let nobody = outcomes(&Key::default());
    let mut verdicts = BTreeMap::new();
    // Those who differ in what these rules do not ask have one outcome.
    let mut known: BTreeMap<Key, BTreeMap<Outcome, PortSet>> = BTreeMap::new();
    for (key, number) in numbers {
        let seen = Key {
            terms: key.terms.intersection(&own_terms).copied().collect(),
            ports: if asks_names { key.ports.clone() } else { BTreeSet::new() },
        };
        if seen == Key::default() {
            continue;
        }
        let outcomes = known.entry(seen).or_insert_with_key(&outcomes);
        if *outcomes != nobody {
            verdicts.insert(*number, outcomes.clone());
        }
    }
    verdicts.insert(PeerId::NOBODY, nobody);
    verdicts
}

/// Names of ports that a rule asks for.
fn named(rule: &super::Rule) -> impl Iterator<Item = &str> {
    rule.ports.iter().flatten().filter_map(|port| match port {
        PortMatch::Named(_, name) => Some(name.as_str()),
        PortMatch::Range(..) => None,
    })
}

impl Ids {
    fn number_classes<'k>(&mut self, keys: impl Iterator<Item = &'k ClassKey>) {
        let mut before = std::mem::take(&mut self.classes);
        let (kept, fresh): (Vec<_>, Vec<_>) =
            keys.map(|key| (key, before.remove(key))).partition(|(_, id)| id.is_some());
        self.classes = kept.into_iter().filter_map(|(key, id)| Some((key.clone(), id?))).collect();
        for direction in Direction::ALL {
            let taken: BTreeSet<u32> =
                self.classes.values().filter(|id| id.direction == direction).map(|id| id.number).collect();
            let free = (0..).filter(|number| !taken.contains(number));
            let new = fresh.iter().filter(|(key, _)| key.direction == direction);
            let given: Vec<_> =
                new.zip(free).map(|((key, _), number)| ((*key).clone(), ClassId { direction, number })).collect();
            self.classes.extend(given);
        }
    }

    /// Numbers of keys, but for the key of nobody.
    fn number_peers(&mut self, terms: &Terms<'_>, keys: BTreeSet<Key>) -> BTreeMap<Key, PeerId> {
        let content = |key: &Key| -> PeerKey {
            let peers = key.terms.iter().filter_map(|index| terms.peers.get(*index).map(|peer| (*peer).clone()));
            (peers.collect(), key.ports.clone())
        };
        let mut before = std::mem::take(&mut self.peers);
        let mut numbers = BTreeMap::new();
        let mut fresh = Vec::new();
        for key in keys.into_iter().filter(|key| *key != Key::default()) {
            let content = content(&key);
            match before.remove(&content) {
                Some(id) => {
                    self.peers.insert(content, id);
                    numbers.insert(key, id);
                }
                None => fresh.push((key, content)),
            }
        }
        let taken: BTreeSet<PeerId> = self.peers.values().copied().collect();
        let free = (1..).map(PeerId).filter(|id| !taken.contains(id));
        for ((key, content), id) in fresh.into_iter().zip(free) {
            self.peers.insert(content, id);
            numbers.insert(key, id);
        }
        numbers
    }
}
