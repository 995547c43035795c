//! A firewall's rules, cut down to one space of packets: those that mean none of it are gone, and of the others only
//! what divides it is left.

use crate::family::Family;
use crate::firewall::{Action, Chain, ChainId, Dimension, Firewall, LabelId, RangeSet, Rule, Space};

/// A rule of a program.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) label: LabelId,
    pub(super) action: Action,
    pub(super) opaque: bool,
    /// What it asks for, where that is not all of the space: surely meant, possibly meant.
    asks: Vec<Ask>,
}

#[derive(Debug)]
struct Ask {
    dimension: Dimension,
    sure: RangeSet,
    possible: RangeSet,
}

/// How a rule meets a piece.
#[derive(Debug)]
pub(super) enum Meets {
    /// It means none of it.
    Not,
    /// It means all of it.
    Surely,
    /// It may mean all of it.
    Perhaps,
    /// It may mean what is in the set, and none of the rest.
    Part(Dimension, RangeSet),
    /// It means what is in the set, and may mean the rest.
    Certain(Dimension, RangeSet),
}

/// All chains of a firewall.
#[derive(Debug)]
pub(super) struct Program {
    chains: Vec<Vec<Step>>,
    policies: Vec<Option<(Action, LabelId)>>,
}

impl Program {
    pub(super) fn new(firewall: &Firewall, family: Family, space: &Space) -> Self {
        let steps = |chain: &Chain| {
            let rules = chain.rules.iter().filter(|rule| rule.family == family);
            rules.filter_map(|rule| Step::new(rule, space)).collect()
        };
        Self {
            chains: firewall.chains.iter().map(steps).collect(),
            policies: firewall.chains.iter().map(|chain| chain.policy).collect(),
        }
    }

    pub(super) fn step(&self, chain: ChainId, at: usize) -> Option<&Step> {
        self.chains.get(chain)?.get(at)
    }

    pub(super) fn policy(&self, chain: ChainId) -> Option<(Action, LabelId)> {
        self.policies.get(chain).copied().flatten()
    }

    pub(super) fn has(&self, chain: ChainId) -> bool {
        chain < self.chains.len()
    }
}

impl Step {
    fn new(rule: &Rule, space: &Space) -> Option<Self> {
        let mut asks = Vec::new();
        // In one order for all rules: pieces come out alike.
        for dimension in Dimension::ALL {
            let Some(span) = rule.spans.get(&dimension) else { continue };
            let all = space.of(dimension);
            let possible = span.thinkable().and(all);
            if possible.is_empty() {
                return None;
            }
            let sure = span.certain().and(all);
            if sure != *all {
                asks.push(Ask { dimension, sure, possible });
            }
        }
        Some(Self { label: rule.label, action: rule.action, opaque: rule.opaque, asks })
    }

    /// How it meets a piece; costs steps.
    pub(super) fn meets(&self, space: &Space, steps: &mut u64) -> Meets {
        let ranges = |ask: &Ask| ask.possible.ranges().len() + space.of(ask.dimension).ranges().len();
        let cost = 1 + self.asks.iter().map(ranges).sum::<usize>();
        *steps = steps.saturating_sub(u64::try_from(cost).unwrap_or(u64::MAX));
        if self.asks.iter().any(|ask| ask.possible.is_disjoint(space.of(ask.dimension))) {
            return Meets::Not;
        }
        if let Some(ask) = self.asks.iter().find(|ask| !ask.possible.covers(space.of(ask.dimension))) {
            return Meets::Part(ask.dimension, ask.possible.clone());
        }
        if self.opaque {
            return Meets::Perhaps;
        }
        let doubtful = self.asks.iter().find(|ask| !ask.sure.covers(space.of(ask.dimension)));
        match doubtful {
            None => Meets::Surely,
            Some(ask) if ask.sure.is_disjoint(space.of(ask.dimension)) => Meets::Perhaps,
            Some(ask) => Meets::Certain(ask.dimension, ask.sure.clone()),
        }
    }
}
