//! Follows packets through chains, many at once: all that rules so far treat alike are one piece, which is divided where
//! a rule tells some of it from the rest.
//!
//! A rule that may match, because of something that nobody understood, leaves a doubt: the piece goes on as if it did not
//! match, and the doubt says what would have become of it. Where the end is the same, the doubt does not matter.

mod program;
mod walk;

use std::collections::BTreeMap;
use std::fmt;

use self::program::Program;
use self::walk::Walk;
use super::show::Example;
use super::{Action, Firewall, Flow, LabelId, Rule, Space};

/// How often rules are held against pieces, ranges counted, before the rest is given up.
///
/// Real rules need some thousands; a thousand rules made so that every one crosses every other would need more than any machine has.
const MOST_STEPS: u64 = 20_000_000;

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// All pass.
    Passes,
    /// Of some it is not known.
    CannotTell,
    /// Some are dropped.
    Blocked,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passes => "passes",
            Self::CannotTell => "cannot-tell",
            Self::Blocked => "blocked",
        })
    }
}

/// Why packets do not surely pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decider {
    /// A rule: it drops them, or what of it was not understood could decide.
    Rule(LabelId),
    /// The rules lead nowhere that is known: chains that lead into each other, or no chain for such packets.
    Endless,
    /// There are more ways through the rules than were followed.
    TooMany,
}

/// A reason, with packets that it holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What becomes of them: blocked or not known.
    pub verdict: Verdict,
    /// Why.
    pub decider: Decider,
    /// Packets: all that it decides, or some of them.
    pub example: Example,
}

/// What was found out about a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The flow.
    pub flow: Flow,
    /// The worst that becomes of any of its packets.
    pub verdict: Verdict,
    /// Why: every reason, the worst first, then in the rules' order; nothing where all pass.
    pub causes: Vec<Cause>,
}

/// Judges flows, one by one.
#[must_use]
pub fn judge(firewall: &Firewall, flows: &[Flow]) -> Vec<Judged> {
    let mut steps = MOST_STEPS;
    flows.iter().map(|flow| judge_flow(firewall, flow, &mut steps)).collect()
}

/// Packets that the rules treat alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The packets.
    pub space: Space,
    /// What becomes of all of them.
    pub verdict: Verdict,
}

/// A flow's packets as the rules divide them: every packet is in one cell.
#[must_use]
pub fn cells(firewall: &Firewall, flow: &Flow) -> Vec<Cell> {
    let mut ends = Ends { cells: Some(Vec::new()), ..Ends::default() };
    ends.fill(firewall, flow, &mut MOST_STEPS.clone());
    ends.cells.unwrap_or_default()
}

/// Rules of the chains that a flow begins in that may drop some of it, were they asked.
#[must_use]
pub fn denying(firewall: &Firewall, flow: &Flow) -> Vec<LabelId> {
    let path = firewall.paths.get(&flow.crossing()).map(Vec::as_slice).unwrap_or_default();
    let spaces = flow.spaces();
    let may_mean = |rule: &Rule| {
        let may = |space: &Space| rule.spans.iter().all(|(of, span)| !span.thinkable().is_disjoint(space.of(*of)));
        rule.action == Action::Deny && rule.family == flow.family() && spaces.iter().any(may)
    };
    let rules = path.iter().filter_map(|chain| firewall.chains.get(*chain)).flat_map(|chain| &chain.rules);
    rules.filter(|rule| may_mean(rule)).map(|rule| rule.label).collect()
}

fn judge_flow(firewall: &Firewall, flow: &Flow, steps: &mut u64) -> Judged {
    let mut ends = Ends::default();
    ends.fill(firewall, flow, steps);
    ends.judged(flow)
}

/// Ends that packets came to.
#[derive(Default)]
struct Ends {
    /// All of them, where somebody asked.
    cells: Option<Vec<Cell>>,
    /// Those that did not pass.
    causes: BTreeMap<(std::cmp::Reverse<Verdict>, Decider), Vec<Space>>,
}

impl Ends {
    fn fill(&mut self, firewall: &Firewall, flow: &Flow, steps: &mut u64) {
        let path = firewall.paths.get(&flow.crossing()).map(Vec::as_slice).unwrap_or_default();
        for space in flow.spaces() {
            let program = Program::new(firewall, flow.family(), &space);
            Walk::new(&program, path, steps, self).follow(space);
        }
    }

    fn pass(&mut self, space: Space) {
        if let Some(cells) = &mut self.cells {
            cells.push(Cell { space, verdict: Verdict::Passes });
        }
    }

    fn add(&mut self, verdict: Verdict, decider: Decider, space: Space) {
        if let Some(cells) = &mut self.cells {
            cells.push(Cell { space: space.clone(), verdict });
        }
        let spaces = self.causes.entry((std::cmp::Reverse(verdict), decider)).or_default();
        // One for each of the spaces that a flow begins as is enough for an example.
        if spaces.len() < 3 {
            spaces.push(space);
        }
    }

    fn judged(self, flow: &Flow) -> Judged {
        let verdict = self.causes.keys().map(|(verdict, _)| verdict.0).max().unwrap_or(Verdict::Passes);
        let cause = |((verdict, decider), spaces): ((std::cmp::Reverse<Verdict>, Decider), Vec<Space>)| Cause {
            verdict: verdict.0,
            decider,
            example: Example::of(flow, &spaces),
        };
        Judged { flow: *flow, verdict, causes: self.causes.into_iter().map(cause).collect() }
    }
}
