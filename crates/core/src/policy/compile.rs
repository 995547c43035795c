//! What a node's data plane needs of policy: whose address is what, and what follows for the node's own pods.
//!
//! A packet's other side is looked up by address and becomes a number ([`PeerId`]); a pod of this node is in a class for each
//! direction ([`ClassId`]), with all pods that the same policies select. A class says for each number what is allowed. So what a
//! packet costs does not depend on how many policies, peers or pods there are, and a pod that comes is one entry, whatever
//! selects it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::apply::Match;
use super::ids::{ClassKey, Ids};
use super::peers::{Hosts, Key, Span, TermId, Terms, UNKNOWN};
use super::portset::PortSet;
use super::{Action, Applied, Direction, Namespaces, Outcome, Peer, Policy, PolicyName, PortMatch, Profile, World};
use crate::cidr::Cidr;
use crate::family::Family;
use crate::ports::Protocol;

/// What addresses are to the rules that count on this node. 0 is everybody whom no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// The classes. One that keeps its number from an earlier plan makes of everybody who keeps theirs what it made before: so both
    /// plans can be there at once while one takes the other's place.
    pub classes: BTreeMap<ClassId, Arc<Class>>,
    /// The class that each address of this node's pods is in; `None` where no policy selects the pod in that direction. Of an
    /// address that is not there nothing is known: nothing passes.
    pub pods: BTreeMap<(Direction, IpAddr), Option<ClassId>>,
}

impl PolicyPlan {
    /// The class of a pod's address; `None` where it is in none.
    #[must_use]
    pub fn class(&self, direction: Direction, address: IpAddr) -> Option<ClassId> {
        self.pods.get(&(direction, address)).copied().flatten()
    }

    /// What an address is to the rules.
    #[must_use]
    pub fn peer(&self, address: IpAddr) -> PeerId {
        let highest = Cidr::everything(Family::of(&address)).last();
        let span = self.spans.range(..=(address, highest)).next_back();
        let span = span.filter(|((first, last), _)| *first <= address && address <= *last).map(|(_, id)| *id);
        self.hosts.get(&address).copied().or(span).unwrap_or_default()
    }

    /// Whether the first packet of a flow passes on this node, about a port or what has none.
    #[must_use]
    pub fn passes(&self, from: IpAddr, to: IpAddr, about: Option<(Protocol, u16)>) -> bool {
        let allows = |direction, own, other| {
            self.judged(direction, own, other, about).is_none_or(|(_, outcome)| outcome.allowed)
        };
        from == to || allows(Direction::Egress, from, to) && allows(Direction::Ingress, to, from)
    }

    /// What becomes of the first packet of a flow by the class of one end's pod, and that class; `None` where no policy selects
    /// it.
    #[must_use]
    pub fn judged(
        &self,
        direction: Direction,
        own: IpAddr,
        other: IpAddr,
        about: Option<(Protocol, u16)>,
    ) -> Option<(&Class, &Outcome)> {
        let class = self.class_of(&(direction, own))?;
        let outcomes = class.verdicts.get(&self.peer(other)).or_else(|| class.verdicts.get(&PeerId::NOBODY))?;
        let (outcome, _) = outcomes.iter().find(|(_, ports)| ports.contains(about))?;
        Some((class, outcome))
    }

    fn class_of(&self, pod: &(Direction, IpAddr)) -> Option<&Class> {
        self.classes.get(&self.class(pod.0, pod.1)?).map(Arc::as_ref)
    }

    /// Which flows may be judged otherwise than by an earlier plan.
    #[must_use]
    pub fn changed_since(&self, old: &Self) -> Changed {
        let differs = |pod: &&(Direction, IpAddr)| self.class_of(pod) != old.class_of(pod);
        let hosts = self.hosts.keys().chain(old.hosts.keys());
        Changed {
            pods: self.pods.keys().filter(differs).map(|(_, address)| *address).collect(),
            peers: hosts.filter(|address| self.hosts.get(*address) != old.hosts.get(*address)).copied().collect(),
            all: self.spans != old.spans,
        }
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

/// Which flows may be judged otherwise than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Those of these pods of the node.
    pub pods: BTreeSet<IpAddr>,
    /// Those with these at the other side.
    pub peers: BTreeSet<IpAddr>,
    /// All of them.
    pub all: bool,
}

impl Changed {
    /// Whether none is.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.pods.is_empty() && self.peers.is_empty() && !self.all
    }

    /// Whether a flow may be.
    #[must_use]
    pub fn concerns(&self, from: IpAddr, to: IpAddr) -> bool {
        self.all || [from, to].iter().any(|end| self.pods.contains(end) || self.peers.contains(end))
    }
}

/// Policies by the namespaces whose pods they may be for.
#[derive(Default)]
struct Index<'a> {
    named: HashMap<&'a str, Vec<&'a Policy>>,
    all: Vec<&'a Policy>,
}

impl<'a> Index<'a> {
    fn new(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut index = Self::default();
        for policy in policies {
            match &policy.subject.namespaces {
                Namespaces::Named(name) => index.named.entry(name).or_default().push(policy),
                Namespaces::Labelled(_) => index.all.push(policy),
            }
        }
        index
    }

    fn of(&self, namespace: &str) -> impl Iterator<Item = &'a Policy> + '_ {
        self.named.get(namespace).into_iter().flatten().chain(&self.all).copied()
    }
}

/// Plans policy for the pods of one node. `policies` are those of the cluster.
#[must_use]
pub fn compile<'a>(
    world: &World,
    own: &[OwnPod],
    policies: impl IntoIterator<Item = &'a Policy>,
    ids: &mut Ids,
) -> PolicyPlan {
    let mut plan = PolicyPlan::default();
    let (classes, members) = classes(world, own, &Index::new(policies), &mut plan);
    let terms = terms(world, &classes, ids);
    let spans = terms.spans();
    let Hosts { mut keys, addresses } = terms.hosts(world, &spans);
    let hosts = keys.len();
    keys.extend(spans.iter().map(|(_, terms)| Key { terms: terms.clone(), ports: BTreeSet::new() }));
    let hint = |index: usize| match index.checked_sub(hosts) {
        Some(span) => spans.get(span).map(|((first, _), _)| *first),
        None => None,
    };
    let numbers = ids.number_peers(&keys, &addresses, hint);
    let number = |index: usize| numbers.get(index).copied().unwrap_or_default();
    plan.hosts = addresses.iter().map(|(address, index)| (*address, number(*index))).collect();
    plan.spans = spans.iter().enumerate().map(|(index, (span, _))| (*span, number(hosts + index))).collect();
    let keys = Keys::new(&keys, &numbers);
    let contents = classes.iter().map(|(key, (profile, applied))| {
        let verdicts = verdicts(key.direction, profile, applied, &terms, &keys);
        (key.clone(), Arc::new(Class { policies: key.policies.clone(), verdicts }))
    });
    ids.number_classes(&members, contents.collect(), &numbers);
    for (key, addresses) in members {
        let Some((id, class)) = ids.class(&key) else { continue };
        plan.classes.insert(id, Arc::clone(class));
        plan.pods.extend(addresses.into_iter().map(|address| ((key.direction, address), Some(id))));
    }
    plan
}

/// Pods of classes, by address.
pub(super) type Members = BTreeMap<ClassKey, Vec<IpAddr>>;

/// The classes of the node's pods, with one pod of each, and who is in them; in the plan, who is in none.
fn classes<'a, 'p>(
    world: &World,
    own: &'p [OwnPod],
    policies: &Index<'a>,
    plan: &mut PolicyPlan,
) -> (BTreeMap<ClassKey, (&'p Profile, Applied<'a>)>, Members) {
    let mut profiles: BTreeMap<&Profile, Vec<IpAddr>> = BTreeMap::new();
    for pod in own {
        profiles.entry(&pod.profile).or_default().extend(&pod.addresses);
    }
    let mut classes = BTreeMap::new();
    let mut members = Members::new();
    for (profile, addresses) in profiles {
        for direction in Direction::ALL {
            let applied = Applied::to(profile, direction, policies.of(&profile.namespace), world);
            if applied.policies().is_empty() {
                plan.pods.extend(addresses.iter().map(|address| ((direction, *address), None)));
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
            members.entry(key.clone()).or_default().extend(&addresses);
            classes.entry(key).or_insert_with(|| (profile, applied));
        }
    }
    (classes, members)
}

/// What the rules of these classes ask of the other side.
fn terms<'a>(world: &World, classes: &BTreeMap<ClassKey, (&Profile, Applied<'a>)>, ids: &mut Ids) -> Terms<'a> {
    let rules =
        || classes.iter().flat_map(|(key, (_, applied))| applied.rules().map(move |rule| (key.direction, rule)));
    let peers: BTreeSet<&Peer> = rules().flat_map(|(_, rule)| rule.peers.iter().flatten()).collect();
    let names = rules().filter(|(direction, _)| *direction == Direction::Egress).flat_map(|(_, rule)| named(rule));
    let unknown: BTreeSet<Cidr> =
        if rules().any(|(_, rule)| minds_unknown(rule)) { world.pod_space.clone() } else { BTreeSet::new() };
    Terms { peers: ids.number_terms(peers), names: names.collect(), unknown }
}

/// Whether a rule does something else than to allow to pods: to them it matters that an address may be such a pod's.
fn minds_unknown(rule: &super::Rule) -> bool {
    rule.action != Action::Accept && rule.peers.iter().flatten().any(|peer| matches!(peer, Peer::Pods(_)))
}

/// Numbers by what they are about.
struct Keys<'k> {
    all: Vec<(&'k Key, PeerId)>,
    of_term: HashMap<TermId, Vec<usize>>,
    with_ports: Vec<usize>,
}

impl<'k> Keys<'k> {
    fn new(keys: &'k [Key], numbers: &[PeerId]) -> Self {
        let mut all = Self { all: Vec::with_capacity(keys.len()), of_term: HashMap::new(), with_ports: Vec::new() };
        let mut seen = BTreeSet::new();
        for (key, number) in keys.iter().zip(numbers) {
            if *number == PeerId::NOBODY || !seen.insert(*number) {
                continue;
            }
            let index = all.all.len();
            all.all.push((key, *number));
            for term in &key.terms {
                all.of_term.entry(*term).or_default().push(index);
            }
            if !key.ports.is_empty() {
                all.with_ports.push(index);
            }
        }
        all
    }

    /// Those that one of the terms is about, and where ports matter those that have any.
    fn about(&self, terms: &BTreeSet<TermId>, ports: bool) -> BTreeSet<usize> {
        let of_terms = terms.iter().filter_map(|term| self.of_term.get(term)).flatten();
        of_terms.chain(self.with_ports.iter().filter(|_| ports)).copied().collect()
    }
}

/// What a class allows each number; those alone that differ from nobody's.
fn verdicts(
    direction: Direction,
    profile: &Profile,
    applied: &Applied<'_>,
    terms: &Terms<'_>,
    keys: &Keys<'_>,
) -> BTreeMap<PeerId, BTreeMap<Outcome, PortSet>> {
    let own: BTreeSet<&Peer> = applied.rules().flat_map(|rule| rule.peers.iter().flatten()).collect();
    let mut own_terms: BTreeSet<TermId> =
        terms.peers.iter().filter(|(_, peer)| own.contains(*peer)).map(|(id, _)| *id).collect();
    if applied.rules().any(minds_unknown) {
        own_terms.insert(UNKNOWN);
    }
    let asks_names = direction == Direction::Egress && applied.rules().any(|rule| named(rule).next().is_some());
    let outcomes = |key: &Key| {
        let peers: BTreeSet<&Peer> = key.terms.iter().filter_map(|id| terms.peers.get(id).copied()).collect();
        let unknown = key.terms.contains(&UNKNOWN);
        let is = |peer: &Peer| match peer {
            _ if peers.contains(peer) => Match::Yes,
            Peer::Pods(_) if unknown => Match::Maybe,
            _ => Match::No,
        };
        let other = Profile { ports: key.ports.clone(), ..Profile::default() };
        let destination = if direction == Direction::Ingress { profile } else { &other };
        applied.outcomes(&is, Some(destination))
    };
    let nobody = outcomes(&Key::default());
    let mut verdicts = BTreeMap::new();
    // Those who differ in what these rules do not ask have one outcome.
    let mut known: HashMap<Key, BTreeMap<Outcome, PortSet>> = HashMap::new();
    for (key, number) in keys.about(&own_terms, asks_names).into_iter().filter_map(|index| keys.all.get(index)) {
        let seen = Key {
            terms: key.terms.iter().filter(|id| own_terms.contains(id)).copied().collect(),
            ports: if asks_names { key.ports.clone() } else { BTreeSet::new() },
        };
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
