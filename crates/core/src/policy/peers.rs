//! What rules ask of the other side: terms, and what is about an address.
//!
//! Two addresses that the same terms of rules are about, and whose pods give the same numbers to the port names that rules ask
//! for, are one to every rule: they have one key. So a data plane looks an address up once, and what follows depends on the
//! key alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::subjects::{Selected, named};
use super::{Action, Direction, NamedPort, Namespaces, Peer, PolicyName, PolicyNode, Profile, Rule, World};
use crate::cidr::{Cidr, outermost};
use crate::family::Family;
use crate::few::Few;

/// The number of a term, which it keeps from plan to plan.
pub(super) type TermId = u32;
/// The term that is about addresses in the pods' space of which nobody has said whose they are.
pub(super) const UNKNOWN: TermId = 0;

/// What rules can tell of an address: which terms are about it, in order, and its ports that they name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) terms: Vec<TermId>,
    pub(super) ports: BTreeSet<NamedPort>,
}

/// Addresses from one to another, of one family.
pub(super) type Span = (IpAddr, IpAddr);

/// Ranges that do not meet, in order, with the terms that are about them.
pub(super) type Spans = Vec<(Span, Vec<TermId>)>;

/// Terms of rules, and the names of ports that rules ask the other side's pod for.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    /// Blocks may share a number.
    ids: BTreeMap<Arc<Peer>, TermId>,
    next: TermId,
    /// What is no block.
    peers: BTreeMap<TermId, Arc<Peer>>,
    names: BTreeSet<String>,
    /// Where it matters that an address may be a pod's which is not known: the pods' space.
    unknown: BTreeSet<Cidr>,
    /// Terms about pods of one namespace by its name, and about those of namespaces with labels.
    of_namespace: HashMap<String, Vec<TermId>>,
    of_labels: Vec<TermId>,
    of_rules: BTreeMap<(Direction, PolicyName), Vec<BTreeSet<TermId>>>,
}

impl Terms {
    /// Those that these classes ask; whether they are others than before.
    pub(super) fn update(&mut self, world: &World, classes: &BTreeMap<u64, Arc<Selected>>) -> bool {
        let asked = asked(classes);
        let rules =
            || asked.iter().flat_map(|((direction, _), rules)| rules.iter().map(move |rule| (*direction, rule)));
        let peers: BTreeSet<&Peer> = rules().flat_map(|(_, rule)| rule.peers.iter().flatten()).collect();
        let sends = rules().filter(|(direction, _)| *direction == Direction::Egress);
        let names: BTreeSet<String> = sends.flat_map(|(_, rule)| named(rule)).map(str::to_owned).collect();
        let minded = rules().map(|(_, rule)| rule).any(minds_unknown);
        let unknown = if minded { world.pod_space().clone() } else { BTreeSet::new() };
        let ids = self.number(peers, &uses_of_blocks(asked.iter().map(|(of, rules)| (*of, *rules))));
        let same = self.ids == ids && self.names == names && self.unknown == unknown;
        if !same {
            (self.ids, self.names, self.unknown) = (ids, names, unknown);
            self.index();
        }
        let of_rule = |rule: &Rule| {
            let known = rule.peers.iter().flatten().filter_map(|peer| self.ids.get(peer).copied());
            known.chain(minds_unknown(rule).then_some(UNKNOWN)).collect()
        };
        let of_rules = |((direction, policy), rules): (&(Direction, &PolicyName), &&[Rule])| {
            ((*direction, (*policy).clone()), rules.iter().map(of_rule).collect())
        };
        self.of_rules = asked.iter().map(of_rules).collect();
        !same
    }

    /// The terms of a policy's rules.
    pub(super) fn of_rules(&self, direction: Direction, policy: &PolicyName) -> &[BTreeSet<TermId>] {
        self.of_rules.get(&(direction, policy.clone())).map(Vec::as_slice).unwrap_or_default()
    }

    /// Numbers terms; those that were there keep theirs. Blocks that the same rules have are one: a list has tens of thousands.
    fn number(&mut self, peers: BTreeSet<&Peer>, uses: &BTreeMap<&Peer, Vec<Use<'_>>>) -> BTreeMap<Arc<Peer>, TermId> {
        let (mut ids, mut taken, mut of_uses) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        for peer in peers {
            let before = self.ids.get_key_value(peer);
            let alike = uses.get(peer).and_then(|uses| of_uses.get(uses).copied());
            let kept = before.map(|(_, id)| *id).filter(|id| !taken.contains(id));
            let id = alike.or(kept).unwrap_or_else(|| {
                self.next += 1;
                self.next
            });
            taken.insert(id);
            if let Some(uses) = uses.get(peer) {
                of_uses.insert(uses, id);
            }
            ids.insert(before.map_or_else(|| Arc::new(peer.clone()), |(peer, _)| Arc::clone(peer)), id);
        }
        ids
    }

    fn index(&mut self) {
        let blocks = |peer: &Arc<Peer>| matches!(peer.as_ref(), Peer::Block { .. });
        let others = self.ids.iter().filter(|(peer, _)| !blocks(peer));
        self.peers = others.map(|(peer, id)| (*id, Arc::clone(peer))).collect();
        self.of_namespace.clear();
        self.of_labels.clear();
        for (id, peer) in &self.peers {
            match peer.as_ref() {
                Peer::Pods(pods) => match &pods.namespaces {
                    Namespaces::Named(name) => self.of_namespace.entry(name.clone()).or_default().push(*id),
                    Namespaces::Labelled(_) => self.of_labels.push(*id),
                },
                Peer::Nodes(_) | Peer::Block { .. } => {}
            }
        }
    }

    /// What a term asks.
    pub(super) fn peer(&self, id: TermId) -> Option<&Peer> {
        self.peers.get(&id).map(Arc::as_ref)
    }

    /// Terms that are about pods of a namespace, if their own labels are right.
    pub(super) fn about_namespace(&self, namespace: &str, world: &World) -> Vec<TermId> {
        let is = |id: &&TermId| match self.peer(**id) {
            Some(Peer::Pods(pods)) => match &pods.namespaces {
                Namespaces::Labelled(selector) => selector.selects(world.labels_of(namespace)),
                Namespaces::Named(_) => false,
            },
            _ => false,
        };
        let named = self.of_namespace.get(namespace).into_iter().flatten();
        named.chain(self.of_labels.iter().filter(is)).copied().collect()
    }

    /// What can be told of a pod, wherever it is; `candidates` are the terms that are about its namespace.
    pub(super) fn about_pod(&self, profile: &Profile, candidates: &[TermId]) -> Key {
        let is = |id: &&TermId| match self.peer(**id) {
            Some(Peer::Pods(pods)) => pods.pods.selects(&profile.labels),
            _ => false,
        };
        let mut terms: Vec<TermId> = candidates.iter().filter(is).copied().collect();
        terms.sort_unstable();
        let ports = profile.ports.iter().filter(|port| self.names.contains(port.name.as_str())).cloned().collect();
        Key { terms, ports }
    }

    /// What can be told of a node, wherever it is.
    pub(super) fn about_node(&self, node: &PolicyNode) -> Vec<TermId> {
        let is = |peer: &Peer| matches!(peer, Peer::Nodes(selector) if selector.selects(&node.labels));
        self.peers.iter().filter(|(_, peer)| is(peer)).map(|(id, _)| *id).collect()
    }

    /// Terms of all other addresses: what blocks are about them.
    pub(super) fn spans(&self) -> Spans {
        Family::ALL.into_iter().flat_map(|family| self.spans_of(family)).collect()
    }

    fn spans_of(&self, family: Family) -> Spans {
        let none = Few::default();
        let unknown = self.unknown.iter().map(|cidr| (UNKNOWN, cidr, &none));
        let blocks = self.ids.iter().filter_map(|(peer, id)| match peer.as_ref() {
            Peer::Block { cidr, except } => Some((*id, cidr, except)),
            Peer::Pods(_) | Peer::Nodes(_) => None,
        });
        let blocks = unknown.chain(blocks).filter(|(_, cidr, _)| cidr.family() == family);
        // Where anything begins or ends, by the address before which it does; `None` is the end of the family's.
        let mut turns: BTreeMap<Option<IpAddr>, Vec<(TermId, i32)>> = BTreeMap::new();
        let mut turn = |id: TermId, cidr: &Cidr, sign: i32| {
            turns.entry(Some(cidr.network())).or_default().push((id, sign));
            turns.entry(next(cidr.last())).or_default().push((id, -sign));
        };
        for (id, cidr, except) in blocks {
            turn(id, cidr, 1);
            for except in outermost(except.iter().copied()).iter().filter(|e| cidr.contains_cidr(e)) {
                turn(id, except, -1);
            }
        }
        let ends = turns.remove(&None).is_some();
        let mut counts: BTreeMap<TermId, i32> = BTreeMap::new();
        let mut spans: Spans = Vec::new();
        let starts: Vec<IpAddr> = turns.keys().copied().flatten().collect();
        let lasts = starts.iter().skip(1).map(|next| before(*next)).chain([ends.then(|| last_of(family))]);
        for ((start, turns), last) in turns.into_iter().zip(lasts) {
            for (id, sign) in turns {
                *counts.entry(id).or_default() += sign;
            }
            counts.retain(|_, count| *count != 0);
            let terms: Vec<TermId> = counts.iter().filter(|(_, count)| **count > 0).map(|(id, _)| *id).collect();
            let (Some(start), Some(last)) = (start, last) else { continue };
            if terms.is_empty() {
                continue;
            }
            // Those that touch and are alike are one.
            match spans.last_mut() {
                Some(((_, end), same)) if *same == terms && next(*end) == Some(start) => *end = last,
                _ => spans.push(((start, last), terms)),
            }
        }
        spans
    }
}

/// The rules of policies, each once however many classes have them.
type Asked<'a> = BTreeMap<(Direction, &'a PolicyName), &'a [Rule]>;
/// Where a rule is: its direction and policy, and its place there.
type Use<'a> = ((Direction, &'a PolicyName), usize);

fn asked(classes: &BTreeMap<u64, Arc<Selected>>) -> Asked<'_> {
    let mut asked = Asked::new();
    for class in classes.values() {
        for policy in &class.policies {
            let rules = policy.rules.get(&class.key.direction).map(Vec::as_slice);
            asked.insert((class.key.direction, &policy.name), rules.unwrap_or_default());
        }
    }
    asked
}

/// The rules that have each block, by where their list is and their place in it.
pub(super) fn uses_of_blocks<'a, L: Copy>(
    lists: impl Iterator<Item = (L, &'a [Rule])>,
) -> BTreeMap<&'a Peer, Vec<(L, usize)>> {
    let mut uses: BTreeMap<&Peer, Vec<(L, usize)>> = BTreeMap::new();
    for (list, rules) in lists {
        for (place, rule) in rules.iter().enumerate() {
            let blocks = rule.peers.iter().flatten().filter(|peer| matches!(peer, Peer::Block { .. }));
            blocks.for_each(|block| uses.entry(block).or_default().push((list, place)));
        }
    }
    uses
}

/// Whether a rule does something else than to allow to pods: to them it matters that an address may be such a pod's.
pub(super) fn minds_unknown(rule: &Rule) -> bool {
    rule.action != Action::Accept && rule.peers.iter().flatten().any(|peer| matches!(peer, Peer::Pods(_)))
}

fn last_of(family: Family) -> IpAddr {
    Cidr::everything(family).last()
}

/// The address behind; none behind the family's last.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    }
}

/// The address in front; none in front of the family's first.
fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(ip) => ip.to_bits().checked_sub(1).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_sub(1).map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    }
}
