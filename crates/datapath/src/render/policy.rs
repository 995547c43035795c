//! Network policy as sets and elements: who is who, which class each pod is in, and what a class makes of whom.
//!
//! A packet's other side is looked up by address, first among ranges, then among hosts, and becomes a number in the packet's
//! priority, which nobody reads before the packet leaves. The pod's address leads to the chain of its class, which looks up
//! number, protocol and port, then the number alone; then the same for nobody's number, 0. What is found is a verdict, as a
//! number too: maps to verdicts would be walked through by the kernel with every change. Single ports are not with the ranges:
//! each element that comes to those costs the kernel time in proportion to what is there.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use overlane_core::family::Family;
use overlane_core::policy::{Class, ClassId, Direction, Outcome, PeerId, PolicyPlan, differing};

use super::element::{Data, Key, RawElement, Set, after, digit};
use crate::conntrack::Flow;

/// Allowed.
pub const ALLOW: u32 = 0xffff_0001;
/// Denied.
pub const DENY: u32 = 0xffff_0002;
/// Allowed, where a policy in audit mode would have denied it.
pub const AUDIT: u32 = 0xffff_0003;
/// How long a flow that was cut stays cut after its last packet, seconds.
pub(super) const CUT_SECONDS: u32 = 30;
/// Where numbers begin that are verdicts.
pub(super) const VERDICTS: &str = "ffff:0";

/// A set of policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicySet {
    /// Numbers of addresses that are somebody's.
    Host(Family),
    /// Numbers of other addresses: ranges.
    Span(Family),
    /// The chains of this node's pods, by address.
    Pod(Direction, Family),
    /// This node's pods, as source and destination: what they send themselves.
    Own(Family),
    /// Flows that were cut, as they were opened: what is still on its way must not open them again. They end by themselves.
    Cut(Family),
    /// Verdicts of a class by number, protocol and port.
    Port(ClassId),
    /// The same of ranges of ports.
    Ports(ClassId),
    /// Verdicts of a class by number, for all else.
    Rest(ClassId),
}

/// Where a packet goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// To the chain of a class.
    Class(ClassId),
    /// To the chain of pods that policies select in the other direction alone.
    Half,
    /// Back: no policy is about it.
    Return,
    /// Somewhere that is not ours.
    Strange,
}

/// How many chains there are for classes of each direction. They are alike but for their number; so classes that come and
/// go are elements alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pool {
    /// Of pods that are sent to.
    pub ingress: u32,
    /// Of pods that send.
    pub egress: u32,
}

/// Fewest chains that are made at a time.
const FEWEST: u32 = 8;

impl Pool {
    /// Enough for a plan, with room for some more.
    #[must_use]
    pub fn of(plan: &PolicyPlan) -> Self {
        let needed = |direction| {
            let of_direction = plan.classes.keys().filter(|id| id.direction == direction);
            of_direction.map(|id| id.number + 1).max().unwrap_or(0)
        };
        let room = |needed: u32| if needed == 0 { 0 } else { needed.next_power_of_two().max(FEWEST) };
        Self { ingress: room(needed(Direction::Ingress)), egress: room(needed(Direction::Egress)) }
    }

    /// Enough for both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { ingress: self.ingress.max(other.ingress), egress: self.egress.max(other.egress) }
    }

    /// The pool that chains of these names make.
    pub fn of_chains<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        let mut pool = Self::default();
        for id in names.into_iter().filter_map(|name| class_of_chain(name)) {
            let count = match id.direction {
                Direction::Ingress => &mut pool.ingress,
                Direction::Egress => &mut pool.egress,
            };
            *count = (*count).max(id.number + 1);
        }
        pool
    }

    /// The classes that there are chains for.
    pub fn classes(self) -> impl Iterator<Item = ClassId> {
        let of = |direction, count| (0..count).map(move |number| ClassId { direction, number });
        of(Direction::Ingress, self.ingress).chain(of(Direction::Egress, self.egress))
    }

    /// All sets of policy.
    pub fn sets(self) -> impl Iterator<Item = Set> {
        let of_family = |family| {
            let pods = Direction::ALL.map(|direction| PolicySet::Pod(direction, family));
            let of_family = [PolicySet::Host, PolicySet::Span, PolicySet::Own, PolicySet::Cut].map(|set| set(family));
            of_family.into_iter().chain(pods)
        };
        let of_classes = self.classes().flat_map(PolicySet::of_class);
        Family::ALL.into_iter().flat_map(of_family).chain(of_classes).map(Set::Policy)
    }
}

/// `in` or `out`, as it stands in names.
pub(super) const fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    }
}

/// The chain of a class.
#[must_use]
pub fn class_chain(id: ClassId) -> String {
    format!("policy_{}_{}", word(id.direction), id.number)
}

/// The class of a chain; `None` if it is none's.
fn class_of_chain(name: &str) -> Option<ClassId> {
    let rest = name.strip_prefix("policy_")?;
    let (direction, number) = match rest.split_once('_')? {
        ("in", number) => (Direction::Ingress, number),
        ("out", number) => (Direction::Egress, number),
        _ => return None,
    };
    Some(ClassId { direction, number: number.parse().ok()? })
}

impl Way {
    /// The chain of pods that policies select in the other direction alone.
    pub(super) const HALF: &'static str = "policy_half";

    /// The chain that it goes to; `None` for back.
    #[must_use]
    pub fn chain(self) -> Option<String> {
        match self {
            Self::Class(id) => Some(class_chain(id)),
            Self::Half => Some(Self::HALF.to_owned()),
            Self::Return | Self::Strange => None,
        }
    }

    /// The way to a chain.
    #[must_use]
    pub fn to(chain: &str) -> Self {
        match class_of_chain(chain) {
            Some(id) => Self::Class(id),
            None if chain == Self::HALF => Self::Half,
            None => Self::Strange,
        }
    }
}

impl PolicySet {
    /// The sets of a class.
    #[must_use]
    pub const fn of_class(id: ClassId) -> [Self; 3] {
        [Self::Port(id), Self::Ports(id), Self::Rest(id)]
    }

    /// How nft declares it.
    pub(super) fn kind(self) -> String {
        let address = |family| if family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
        match self {
            Self::Host(f) => format!("type {} : classid", address(f)),
            Self::Span(f) => format!("type {} : classid; flags interval", address(f)),
            Self::Pod(_, f) => format!("type {} : verdict", address(f)),
            Self::Own(f) => format!("type {0} . {0}", address(f)),
            Self::Cut(f) => format!(
                "type {0} . inet_proto . inet_service . {0} . inet_service; flags dynamic,timeout; timeout {CUT_SECONDS}s",
                address(f)
            ),
            Self::Port(_) => "type classid . inet_proto . inet_service : classid; counter".to_owned(),
            Self::Ports(_) => "type classid . inet_proto . inet_service : classid; flags interval; counter".to_owned(),
            Self::Rest(_) => "type classid : classid; counter".to_owned(),
        }
    }
}

impl fmt::Display for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Host(family) => write!(f, "policy_host{}", digit(family)),
            Self::Span(family) => write!(f, "policy_span{}", digit(family)),
            Self::Pod(direction, family) => write!(f, "policy_{}{}", word(direction), digit(family)),
            Self::Own(family) => write!(f, "policy_own{}", digit(family)),
            Self::Cut(family) => write!(f, "policy_cut{}", digit(family)),
            Self::Port(id) => write!(f, "{}_port", class_chain(id)),
            Self::Ports(id) => write!(f, "{}_ports", class_chain(id)),
            Self::Rest(id) => write!(f, "{}_rest", class_chain(id)),
        }
    }
}

/// All elements that one set has by a plan.
#[must_use]
pub fn of_set(plan: &PolicyPlan, set: PolicySet) -> BTreeSet<RawElement> {
    match set {
        PolicySet::Host(family) => {
            let of_family = plan.hosts.iter().filter(|(address, _)| Family::of(address) == family);
            of_family.map(|(address, id)| host(address, id)).collect()
        }
        PolicySet::Span(family) => {
            let of_family = plan.spans.iter().filter(|((first, _), _)| Family::of(first) == family);
            of_family.flat_map(|(span, id)| range(*span, *id)).collect()
        }
        PolicySet::Pod(direction, family) => {
            let is_one = |(of, address): &&(Direction, IpAddr)| *of == direction && Family::of(address) == family;
            plan.pods.keys().filter(is_one).filter_map(|(_, address)| pod(plan, direction, *address)).collect()
        }
        PolicySet::Own(family) => {
            let addresses = plan.pods.keys().map(|(_, address)| *address);
            addresses.filter(|address| Family::of(address) == family).map(own).collect()
        }
        // No plan's.
        PolicySet::Cut(_) => BTreeSet::new(),
        PolicySet::Port(id) | PolicySet::Ports(id) | PolicySet::Rest(id) => {
            let class = plan.classes.get(&id).into_iter();
            let elements = class.flat_map(|class| verdicts(id, class)).map(|(raw, _)| raw);
            elements.filter(|raw| raw.set == Set::Policy(set)).collect()
        }
    }
}

/// What leads from one plan to another.
#[derive(Debug, Default)]
pub struct Difference {
    /// What goes.
    pub remove: BTreeSet<RawElement>,
    /// What comes.
    pub add: BTreeSet<RawElement>,
}

/// A difference, in the order in which it is to be made.
#[derive(Debug, Default)]
pub struct Stages {
    /// Comes first.
    pub before: Vec<RawElement>,
    /// Goes then,
    pub remove: Vec<RawElement>,
    /// and comes, at one moment.
    pub add: Vec<RawElement>,
    /// Goes last.
    pub after: Vec<RawElement>,
}

impl Difference {
    /// Of two plans.
    #[must_use]
    pub fn of(old: &PolicyPlan, new: &PolicyPlan) -> Self {
        let mut all = Self::default();
        for (address, before, after) in old.hosts.differing(&new.hosts) {
            all.change(before.map(|id| host(address, id)), after.map(|id| host(address, id)));
        }
        if !Arc::ptr_eq(&old.spans, &new.spans) {
            for (span, before, after) in differing(old.spans.iter(), new.spans.iter()) {
                let of = |id: Option<&PeerId>| id.into_iter().flat_map(|id| range(*span, *id)).collect::<Vec<_>>();
                all.change(of(before), of(after));
            }
        }
        let addresses: BTreeSet<IpAddr> = old.pods.keys().chain(new.pods.keys()).map(|(_, address)| *address).collect();
        for address in addresses {
            for direction in Direction::ALL {
                let (before, after) = (pod(old, direction, address), pod(new, direction, address));
                if before != after {
                    all.change(before, after);
                }
            }
            let (before, after) =
                (known(old, address).then(|| own(address)), known(new, address).then(|| own(address)));
            if before != after {
                all.change(before, after);
            }
        }
        for (id, before, after) in differing(old.classes.iter(), new.classes.iter()) {
            all.change_class(*id, before.map(Arc::as_ref), after.map(Arc::as_ref));
        }
        all
    }

    /// What does it without a moment in between: first what nothing leads to yet, then, at one moment, what leads where, then what
    /// nothing leads to any more. Maps of several kinds do not change at one moment, even in one transaction: the kernel shows
    /// elements of ranges with several parts only once all others are there.
    #[must_use]
    pub fn stages(self) -> Stages {
        let of_class = |raw: &RawElement| match raw.set {
            Set::Policy(set) => matches!(set, PolicySet::Port(_) | PolicySet::Ports(_) | PolicySet::Rest(_)),
            _ => false,
        };
        let place = |raw: &RawElement| (raw.set, raw.key);
        let (going, coming): (BTreeSet<_>, BTreeSet<_>) =
            (self.remove.iter().map(place).collect(), self.add.iter().map(place).collect());
        let first = |raw: &RawElement| of_class(raw) && !going.contains(&place(raw));
        let last = |raw: &RawElement| of_class(raw) && !coming.contains(&place(raw));
        let (before, add) = self.add.into_iter().partition(first);
        let (after, remove) = self.remove.into_iter().partition(last);
        Stages { before, remove, add, after }
    }

    fn change(&mut self, before: impl IntoIterator<Item = RawElement>, after: impl IntoIterator<Item = RawElement>) {
        self.remove.extend(before);
        self.add.extend(after);
    }

    fn change_class(&mut self, id: ClassId, before: Option<&Class>, after: Option<&Class>) {
        let raw = |class: Option<&Class>| -> BTreeSet<RawElement> {
            class.into_iter().flat_map(|class| verdicts(id, class)).map(|(raw, _)| raw).collect()
        };
        let (before, after) = (raw(before), raw(after));
        self.change(before.difference(&after).copied(), after.difference(&before).copied());
    }
}

fn host(address: IpAddr, id: PeerId) -> RawElement {
    let set = Set::Policy(PolicySet::Host(Family::of(&address)));
    RawElement::new(set, Key::EMPTY.address(address)).leading_to(number(id.0))
}

fn number(number: u32) -> Data {
    Data::Value(Key::EMPTY.part(&number.to_ne_bytes()))
}

fn range((first, last): (IpAddr, IpAddr), id: PeerId) -> impl Iterator<Item = RawElement> {
    let set = Set::Policy(PolicySet::Span(Family::of(&first)));
    let start = RawElement::new(set, Key::EMPTY.address(first)).leading_to(number(id.0));
    // A range up to the last address has no end.
    let end =
        after(last).map(|address| RawElement { start: false, ..RawElement::new(set, Key::EMPTY.address(address)) });
    std::iter::once(start).chain(end)
}

fn known(plan: &PolicyPlan, address: IpAddr) -> bool {
    plan.pods.contains_key(&(Direction::Ingress, address))
}

fn own(address: IpAddr) -> RawElement {
    RawElement::new(Set::Policy(PolicySet::Own(Family::of(&address))), Key::EMPTY.address(address).address(address))
}

fn pod(plan: &PolicyPlan, direction: Direction, address: IpAddr) -> Option<RawElement> {
    let other = Direction::ALL.into_iter().find(|other| *other != direction)?;
    let way = match plan.pods.get(&(direction, address))? {
        Some(id) => Way::Class(*id),
        None if plan.class(other, address).is_some() => Way::Half,
        None => Way::Return,
    };
    let set = Set::Policy(PolicySet::Pod(direction, Family::of(&address)));
    Some(RawElement::new(set, Key::EMPTY.address(address)).leading_to(Data::Verdict(way)))
}

const fn code(outcome: &Outcome) -> u32 {
    match outcome {
        Outcome { allowed: false, .. } => DENY,
        Outcome { audited: Some(_), .. } => AUDIT,
        Outcome { .. } => ALLOW,
    }
}

/// Verdicts for all that is not [`ports`].
fn rest(id: ClassId, class: &Class) -> impl Iterator<Item = (RawElement, Outcome)> + '_ {
    class.verdicts.iter().filter_map(move |(peer, outcomes)| {
        let (outcome, _) = outcomes.iter().find(|(_, ports)| ports.has_rest())?;
        let set = Set::Policy(PolicySet::Rest(id));
        let key = Key::EMPTY.part(&peer.0.to_ne_bytes());
        Some((RawElement::new(set, key).leading_to(number(code(outcome))), *outcome))
    })
}

/// Verdicts for ports.
fn ports(id: ClassId, class: &Class) -> Vec<(RawElement, Outcome)> {
    let mut all = Vec::new();
    for (peer, outcomes) in &class.verdicts {
        for (outcome, ports) in outcomes.iter().filter(|(_, ports)| !ports.has_rest()) {
            all.extend(ports.ports().map(|range| {
                let key = |peer: [u8; 4], port: u16| {
                    Key::EMPTY.part(&peer).part(&[range.protocol.number()]).part(&port.to_be_bytes())
                };
                let verdict = number(code(outcome));
                if range.first == range.last {
                    let set = Set::Policy(PolicySet::Port(id));
                    return (
                        RawElement::new(set, key(peer.0.to_ne_bytes(), range.first)).leading_to(verdict),
                        *outcome,
                    );
                }
                // Ranges of what has several parts are compared byte by byte.
                let key = |port| key(peer.0.to_be_bytes(), port);
                let element = RawElement::new(Set::Policy(PolicySet::Ports(id)), key(range.first)).leading_to(verdict);
                (RawElement { end: key(range.last), ..element }, *outcome)
            }));
        }
    }
    all
}

/// What a class makes of whom, each with why.
pub fn verdicts(id: ClassId, class: &Class) -> impl Iterator<Item = (RawElement, Outcome)> + '_ {
    ports(id, class).into_iter().chain(rest(id, class))
}

/// A flow that is kept cut.
#[must_use]
pub fn cut(flow: &Flow) -> RawElement {
    let set = Set::Policy(PolicySet::Cut(Family::of(&flow.from)));
    let key = Key::EMPTY.address(flow.from).part(&[flow.protocol]).part(&flow.from_port.to_be_bytes());
    RawElement::new(set, key.address(flow.to).part(&flow.to_port.to_be_bytes()))
}

/// The flow that an element keeps cut.
#[must_use]
pub fn flow_of(raw: &RawElement) -> Option<Flow> {
    let mut bytes = raw.key.bytes();
    let length = if bytes.len() == 4 + 4 + 4 + 4 + 4 { 4 } else { 16 };
    let mut part = |length: usize| {
        let (part, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        Some(part)
    };
    let address = |part: &[u8]| match part.len() {
        4 => <[u8; 4]>::try_from(part).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(part).ok().map(IpAddr::from),
    };
    let port = |part: &[u8]| Some(u16::from_be_bytes(part.get(..2)?.try_into().ok()?));
    let from = address(part(length)?)?;
    let protocol = *part(4)?.first()?;
    let from_port = port(part(4)?)?;
    let to = address(part(length)?)?;
    Some(Flow { protocol, from, from_port, to, to_port: port(part(4)?)? })
}

/// Whom a number that a kernel holds is about: what stands in the packet's priority.
#[must_use]
pub fn peer_of(data: &Data) -> Option<PeerId> {
    match data {
        Data::Value(key) => key.bytes().try_into().ok().map(u32::from_ne_bytes).map(PeerId),
        Data::Verdict(_) => None,
    }
}
