//! The one walk through the rules that select a pod.

use std::collections::BTreeMap;

use super::portset::{PortRange, PortSet};
use super::{Action, Direction, Peer, Policy, PortMatch, Profile, Rule, Tier, World};

/// Whether a term of a rule is about the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is.
    Yes,
    /// Whose address it is has not been said yet: it may be. What is not sure allows nothing, and denies.
    Maybe,
    /// It is not.
    No,
}

impl From<bool> for Match {
    fn from(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
}

/// What selects a pod in one direction, in the order in which it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied<'a> {
    direction: Direction,
    /// Admin, NetworkPolicy, Baseline; each by priority and name.
    policies: Vec<&'a Policy>,
}

/// What becomes of a first packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// Whether it goes on.
    pub allowed: bool,
    /// The policy that decided, by its index in [`Applied::policies`]; none where no tier did.
    pub policy: Option<usize>,
    /// Its rule, by index; none where it is isolation that drops.
    pub rule: Option<usize>,
    /// The policy in audit mode that would have dropped it.
    pub audited: Option<usize>,
}

/// What a rule, by the indexes of its policy and its own, does with a peer; nothing if it is not about it.
type ActionOn<'f> = dyn Fn((usize, usize), &Rule) -> Option<Action> + 'f;

impl<'a> Applied<'a> {
    /// Of all policies those that touch the pod.
    #[must_use]
    pub fn to(
        profile: &Profile,
        direction: Direction,
        policies: impl IntoIterator<Item = &'a Policy>,
        world: &World,
    ) -> Self {
        let touches =
            |policy: &&Policy| policy.rules.contains_key(&direction) && policy.subject.selects(profile, world);
        let mut policies: Vec<&Policy> = policies.into_iter().filter(touches).collect();
        policies.sort_by(|a, b| (a.name.tier, a.priority, &a.name).cmp(&(b.name.tier, b.priority, &b.name)));
        Self { direction, policies }
    }

    /// These, in the order in which they count.
    pub(super) const fn of(direction: Direction, policies: Vec<&'a Policy>) -> Self {
        Self { direction, policies }
    }

    /// They, in order.
    #[must_use]
    pub fn policies(&self) -> &[&'a Policy] {
        &self.policies
    }

    /// Their rules, in order.
    pub fn rules(&self) -> impl Iterator<Item = &'a Rule> + '_ {
        self.policies.iter().flat_map(|policy| policy.rules.get(&self.direction).into_iter().flatten())
    }

    /// What becomes of packets to or from one peer, whatever they are about: each thing is in just one of the sets.
    /// `is` says whether the other side is such a peer; `destination` is the pod that the packets go to, if one is known.
    #[must_use]
    pub fn outcomes(&self, is: &dyn Fn(&Peer) -> Match, destination: Option<&Profile>) -> BTreeMap<Outcome, PortSet> {
        self.outcomes_of(&|_, rule| rule.action_on(is), destination)
    }

    /// The same, where it is known what each rule, by the indexes of its policy and its own, does with the peer if it is about it.
    pub(super) fn outcomes_of(
        &self,
        action: &ActionOn<'_>,
        destination: Option<&Profile>,
    ) -> BTreeMap<Outcome, PortSet> {
        let matching = self.matching_of(action, destination);
        let enforced = self.walk(&matching, false);
        if !self.policies.iter().any(|policy| policy.audit) {
            return enforced;
        }
        // What would drop, if those in audit mode did.
        let would = self.walk(&matching, true);
        let mut outcomes = BTreeMap::new();
        for (outcome, ports) in enforced {
            let mut rest = ports.clone();
            let denials = would.iter().filter(|(other, _)| outcome.allowed && !other.allowed);
            for (other, dropped) in denials {
                add(&mut outcomes, Outcome { audited: other.policy, ..outcome }, &ports.and(dropped));
                rest = rest.without(dropped);
            }
            add(&mut outcomes, outcome, &rest);
        }
        outcomes
    }

    /// Whether all that a rule is about is taken by those before it in its tier.
    pub(super) fn taken_before(
        &self,
        matching: &[(usize, usize, Action, PortSet)],
        place: (usize, usize),
        ports: &PortSet,
    ) -> bool {
        let tier = |index: usize| self.policies.get(index).map(|policy| policy.name.tier);
        let mut left = ports.clone();
        for (policy, rule, _, before) in matching {
            if (*policy, *rule) == place {
                break;
            }
            if tier(*policy) <= tier(place.0) {
                left = left.without(before);
            }
        }
        left.is_empty()
    }

    /// Rules that are about this peer, as indexes of policy and rule, with what they are about.
    pub(super) fn matching(
        &self,
        is: &dyn Fn(&Peer) -> Match,
        destination: Option<&Profile>,
    ) -> Vec<(usize, usize, Action, PortSet)> {
        self.matching_of(&|_, rule| rule.action_on(is), destination)
    }

    fn matching_of(
        &self,
        action: &ActionOn<'_>,
        destination: Option<&Profile>,
    ) -> Vec<(usize, usize, Action, PortSet)> {
        let mut matching = Vec::new();
        for (policy, of) in self.policies.iter().enumerate() {
            for (index, rule) in of.rules.get(&self.direction).into_iter().flatten().enumerate() {
                if let Some(action) = action((policy, index), rule) {
                    matching.push((policy, index, action, ports(rule, destination)));
                }
            }
        }
        matching
    }

    fn walk(&self, matching: &[(usize, usize, Action, PortSet)], audit: bool) -> BTreeMap<Outcome, PortSet> {
        let counts = |policy: usize| self.policies.get(policy).filter(|policy| audit || !policy.audit);
        let mut outcomes = BTreeMap::new();
        let mut open = PortSet::all();
        for tier in [Tier::Admin, Tier::Namespace, Tier::Baseline] {
            let mut passed = PortSet::default();
            for (policy, rule, action, ports) in matching {
                if counts(*policy).is_none_or(|policy| policy.name.tier != tier) {
                    continue;
                }
                let taken = open.and(ports);
                open = open.without(&taken);
                match action {
                    Action::Pass => passed = passed.or(&taken),
                    Action::Accept | Action::Deny => {
                        let (policy, rule, allowed) = (Some(*policy), Some(*rule), *action == Action::Accept);
                        add(&mut outcomes, Outcome { allowed, policy, rule, audited: None }, &taken);
                    }
                }
            }
            let isolating = (0..self.policies.len())
                .find(|index| tier == Tier::Namespace && counts(*index).is_some_and(|policy| policy.name.tier == tier));
            if isolating.is_some() {
                add(&mut outcomes, Outcome { allowed: false, policy: isolating, rule: None, audited: None }, &open);
                return outcomes;
            }
            open = open.or(&passed);
        }
        add(&mut outcomes, Outcome { allowed: true, policy: None, rule: None, audited: None }, &open);
        outcomes
    }
}

impl Rule {
    /// What it does with who is at the other side, if it is about them.
    fn action_on(&self, is: &dyn Fn(&Peer) -> Match) -> Option<Action> {
        let Some(peers) = &self.peers else { return Some(self.action) };
        let mut maybe = false;
        for peer in peers {
            match is(peer) {
                Match::Yes => return Some(self.action),
                Match::Maybe => maybe = true,
                Match::No => {}
            }
        }
        (maybe && self.action != Action::Accept).then_some(Action::Deny)
    }
}

fn add(outcomes: &mut BTreeMap<Outcome, PortSet>, outcome: Outcome, ports: &PortSet) {
    if !ports.is_empty() {
        let all = outcomes.entry(outcome).or_default();
        *all = all.or(ports);
    }
}

/// What a rule is about, where packets go to this pod.
fn ports(rule: &Rule, destination: Option<&Profile>) -> PortSet {
    let Some(matches) = &rule.ports else { return PortSet::all() };
    let named = destination.map(|profile| &profile.ports);
    let ranges = matches.iter().flat_map(|one| match one {
        PortMatch::Range(protocol, first, last) => {
            vec![PortRange { protocol: *protocol, first: *first, last: *last }]
        }
        PortMatch::Named(protocol, name) => {
            let is =
                |port: &&super::NamedPort| port.name == *name && protocol.is_none_or(|asked| asked == port.protocol);
            let ports = named.into_iter().flatten().filter(is);
            ports.map(|port| PortRange { protocol: port.protocol, first: port.port, last: port.port }).collect()
        }
    });
    ranges.collect()
}
