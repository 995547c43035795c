//! What another set of policies changes between pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::portset::PortSet;
use super::{ClassId, Direction, PeerId, PolicyPlan};
use crate::family::Family;

/// Two pods between which something changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Who opens connections.
    pub from: IpAddr,
    /// To whom.
    pub to: IpAddr,
    /// What is allowed now and was not.
    pub opened: PortSet,
    /// What was allowed and is not any more.
    pub closed: PortSet,
}

/// What decides between two addresses: each side's class and the other's number.
type Key = (Option<ClassId>, PeerId, Option<ClassId>, PeerId);

/// What a plan allows, remembered by what decides.
struct Allowed<'a> {
    plan: &'a PolicyPlan,
    known: BTreeMap<Key, PortSet>,
}

impl Allowed<'_> {
    fn between(&mut self, from: IpAddr, to: IpAddr) -> &PortSet {
        let plan = self.plan;
        let class = |direction, address| plan.class(direction, address);
        let (sends, takes) = (class(Direction::Egress, from), class(Direction::Ingress, to));
        let (sender, receiver) = (plan.peer(from), plan.peer(to));
        let allowed = |class: Option<ClassId>, peer| class.map_or_else(PortSet::all, |class| plan.allowed(class, peer));
        let key = (sends, receiver, takes, sender);
        self.known.entry(key).or_insert_with(|| allowed(sends, receiver).and(&allowed(takes, sender)))
    }
}

/// Compares two plans, each made for all of these pods. Each pod is given with its addresses; what a pod sends itself is always
/// allowed, and left out.
#[must_use]
pub fn diff(old: &PolicyPlan, new: &PolicyPlan, pods: &[Vec<IpAddr>]) -> Vec<Flip> {
    let (mut old, mut new) =
        (Allowed { plan: old, known: BTreeMap::new() }, Allowed { plan: new, known: BTreeMap::new() });
    let mut flips = Vec::new();
    for (index, from) in pods.iter().enumerate() {
        for (_, to) in pods.iter().enumerate().filter(|(other, _)| *other != index) {
            let alike =
                |from: &IpAddr| to.iter().copied().filter(|to| Family::of(to) == Family::of(from)).collect::<Vec<_>>();
            for (from, to) in from.iter().flat_map(|from| alike(from).into_iter().map(|to| (*from, to))) {
                let (before, after) = (old.between(from, to), new.between(from, to));
                if before != after {
                    flips.push(Flip { from, to, opened: after.without(before), closed: before.without(after) });
                }
            }
        }
    }
    flips
}
