//! What a node's data plane needs of policy: whose address is what, and what follows for the node's own pods.
//!
//! A packet's other side is looked up by address and becomes a number ([`PeerId`]); a pod of this node is in a class for each
//! direction ([`ClassId`]), with all pods that the same policies select. A class says for each number what is allowed. So what a
//! packet costs does not depend on how many policies, peers or pods there are, and a pod that comes is one entry, whatever
//! selects it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::hosts::HostMap;
use super::ids::{ClassIds, Used};
use super::peers::{Key, Span, TermId, Terms, UNKNOWN};
use super::portset::PortSet;
use super::subjects::{Members, Selected, Subjects, named};
use super::table::{Numbers, PeerTable};
use super::{Action, Direction, NamedPort, Outcome, Policy, PolicyName, Profile, Rule, World};
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
    pub profile: Arc<Profile>,
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
    pub hosts: HostMap,
    /// Other addresses that rules name: ranges that do not meet. A host's entry counts before these.
    pub spans: Arc<BTreeMap<Span, PeerId>>,
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
        self.hosts.get(&address).or(span).unwrap_or_default()
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

    fn class_of(&self, pod: &(Direction, IpAddr)) -> Option<&Arc<Class>> {
        self.classes.get(&self.class(pod.0, pod.1)?)
    }

    /// Which flows may be judged otherwise than by an earlier plan.
    #[must_use]
    pub fn changed_since(&self, old: &Self) -> Changed {
        let differs = |pod: &&(Direction, IpAddr)| self.class_of(pod) != old.class_of(pod);
        Changed {
            pods: self.pods.keys().filter(differs).map(|(_, address)| *address).collect(),
            peers: self.hosts.differing(&old.hosts).into_iter().map(|(address, ..)| address).collect(),
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

/// Makes plans, each from the one before: what did not change is not looked at again.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    subjects: Subjects,
    /// What is asked of the other side: by these classes, which may have no pods any more.
    asked: BTreeMap<u64, Arc<Selected>>,
    terms: Terms,
    peers: PeerTable,
    /// Classes by what makes them, of which generation of numbers.
    made: BTreeMap<u64, (ClassId, Arc<Class>)>,
    generation: u64,
    ids: ClassIds,
}

impl Planner {
    /// Goes on from what a kernel uses.
    #[must_use]
    pub fn from_used(used: Used) -> Self {
        Self { peers: PeerTable::from_used(used.peers), ids: ClassIds::from_used(used.classes), ..Self::default() }
    }

    /// Plans policy for the pods of one node. `policies` are those of the cluster.
    pub fn plan(&mut self, world: &World, own: &[OwnPod], policies: &[Arc<Policy>]) -> PolicyPlan {
        self.subjects.learn(world, policies);
        let members = self.subjects.of(world, own);
        let old = self.peers.numbers.highest();
        let asked = self.ask(world, &members);
        self.peers.update(world, &self.terms, asked);
        self.make(&members, old);
        let mut plan = PolicyPlan {
            hosts: self.peers.hosts.clone(),
            spans: Arc::clone(&self.peers.spans),
            ..PolicyPlan::default()
        };
        plan.pods.extend(members.free.iter().map(|pod| (*pod, None)));
        for (serial, (selected, addresses)) in &members.selected {
            let Some((id, class)) = self.made.get(serial) else { continue };
            plan.classes.insert(*id, Arc::clone(class));
            plan.pods.extend(addresses.iter().map(|address| ((selected.key.direction, *address), Some(*id))));
        }
        plan
    }

    /// What is asked of the other side now; whether that is as before. What is asked for pods that went stays until there is more to
    /// do.
    fn ask(&mut self, world: &World, members: &Members) -> bool {
        let all = members.selected.keys().all(|serial| self.asked.contains_key(serial));
        let few = self.asked.len() <= 2 * members.selected.len();
        if all && few && self.peers.nodes == world.nodes_changed() {
            return true;
        }
        self.asked = members.selected.iter().map(|(serial, (selected, _))| (*serial, Arc::clone(selected))).collect();
        !self.terms.update(world, &self.asked)
    }

    /// Makes the classes of these pods; `old` is the highest number of peers of the plan before.
    fn make(&mut self, members: &Members, old: u32) {
        let numbers = &self.peers.numbers;
        let same = self.generation == numbers.generation();
        if same && members.selected.keys().all(|serial| self.made.contains_key(serial)) {
            return;
        }
        let mut keys = None;
        let mut classes = BTreeMap::new();
        for (serial, (selected, _)) in &members.selected {
            let known = self.made.get(serial).filter(|_| same).map(|(_, class)| Arc::clone(class));
            let class = known.unwrap_or_else(|| {
                let verdicts = verdicts(selected, &self.terms, keys.get_or_insert_with(|| Keys::new(numbers)));
                Arc::new(Class { policies: selected.key.policies.clone(), verdicts })
            });
            classes.insert(*serial, class);
        }
        self.generation = numbers.generation();
        self.ids.number(members, &classes, numbers, old);
        let number =
            |(serial, (selected, _)): (&u64, &(Arc<Selected>, _))| Some((*serial, self.ids.get(&selected.key)?));
        self.made = members.selected.iter().filter_map(number).collect();
    }
}

/// Plans policy for the pods of one node, once.
#[must_use]
pub fn compile(world: &World, own: &[OwnPod], policies: &[Arc<Policy>]) -> PolicyPlan {
    Planner::default().plan(world, own, policies)
}

/// Numbers by what they are about.
struct Keys<'k> {
    all: Vec<(&'k Key, PeerId)>,
    of_term: HashMap<TermId, Vec<usize>>,
    with_ports: Vec<usize>,
}

impl<'k> Keys<'k> {
    fn new(numbers: &'k Numbers) -> Self {
        let mut all = Self { all: Vec::new(), of_term: HashMap::new(), with_ports: Vec::new() };
        for (index, (number, key)) in numbers.all().enumerate() {
            all.all.push((key, number));
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
    fn about<'t>(&self, terms: impl Iterator<Item = &'t TermId>, ports: bool) -> BTreeSet<usize> {
        let of_terms = terms.filter_map(|term| self.of_term.get(term)).flatten();
        of_terms.chain(self.with_ports.iter().filter(|_| ports)).copied().collect()
    }
}

/// A rule, by the indexes of its policy and its own.
type Place = (usize, usize);

/// The rules of a class by the terms that they ask.
fn rules_by_term(selected: &Selected, terms: &Terms) -> HashMap<TermId, BTreeSet<Place>> {
    let mut by_term: HashMap<TermId, BTreeSet<Place>> = HashMap::new();
    for (policy, of) in selected.policies.iter().enumerate() {
        for (index, ids) in terms.of_rules(selected.key.direction, &of.name).iter().enumerate() {
            ids.iter().for_each(|id| _ = by_term.entry(*id).or_default().insert((policy, index)));
        }
    }
    by_term
}

/// What a class allows each number; those alone that differ from nobody's.
fn verdicts(selected: &Selected, terms: &Terms, keys: &Keys<'_>) -> BTreeMap<PeerId, BTreeMap<Outcome, PortSet>> {
    let (applied, direction) = (selected.applied(), selected.key.direction);
    let by_term = rules_by_term(selected, terms);
    let asks_names = direction == Direction::Egress && selected.rules().any(|rule| named(rule).next().is_some());
    let outcomes = |seen: &Seen| {
        let action = |place: Place, rule: &Rule| match rule.peers {
            Some(_) if seen.is.contains(&place) => Some(rule.action),
            // What is not sure allows nothing, and denies.
            Some(_) => seen.may_be.contains(&place).then_some(Action::Deny),
            None => Some(rule.action),
        };
        let other = Profile { ports: seen.ports.clone(), ..Profile::default() };
        let destination = if direction == Direction::Ingress { &selected.profile } else { &other };
        applied.outcomes_of(&action, Some(destination))
    };
    let nobody = outcomes(&Seen::default());
    let mut verdicts = BTreeMap::new();
    // Those whom these rules do not tell apart have one outcome.
    let mut known: HashMap<Seen, BTreeMap<Outcome, PortSet>> = HashMap::new();
    for (key, number) in keys.about(by_term.keys(), asks_names).into_iter().filter_map(|index| keys.all.get(index)) {
        let places = |id: &TermId| by_term.get(id).into_iter().flatten().copied();
        let seen = Seen {
            is: key.terms.iter().filter(|id| **id != UNKNOWN).flat_map(places).collect(),
            may_be: key.terms.iter().filter(|id| **id == UNKNOWN).flat_map(places).collect(),
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

/// What a class's rules see of somebody.
#[derive(Default, PartialEq, Eq, Hash)]
struct Seen {
    /// Rules that are about them,
    is: BTreeSet<Place>,
    /// and those that may be.
    may_be: BTreeSet<Place>,
    ports: BTreeSet<NamedPort>,
}
