//! What was found out, for people and for programs.

use std::collections::BTreeSet;

use overlane_api::firewall::Rules;
use overlane_core::firewall::{Cause, Decider, Firewall, Judged, Verdict};
use serde::Serialize;

use super::remedy;
use crate::out::{Style, Table, cell, paint};

/// How many reasons are shown for a flow.
const MOST_CAUSES: usize = 8;

/// What was found out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    format: String,
    /// `passes`, `cannot-tell` or `blocked`: the worst of the flows.
    verdict: String,
    flows: Vec<FlowReport>,
    notes: Vec<String>,
    #[serde(skip)]
    worst: Option<Verdict>,
}

/// A flow that has to pass.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FlowReport {
    /// `node-to-node`, `tunnel`, `node-to-pod`, `pod-answers-node` or `pod-to-pod`.
    purpose: String,
    family: String,
    direction: String,
    source: String,
    destination: String,
    /// `all`, or `udp` and a port.
    traffic: String,
    verdict: String,
    causes: Vec<CauseReport>,
    /// How many more causes there are.
    more: usize,
    /// What to add so that it passes.
    remedies: Vec<String>,
}

/// A rule that keeps some of a flow from passing, or may.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CauseReport {
    verdict: String,
    /// Null where no rule is to blame.
    rule: Option<RuleReport>,
    /// Some of its packets.
    packets: String,
    /// Why it cannot be told, if it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleReport {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i64>,
    /// The group or chain that it is of.
    list: String,
    /// Where it is in the input; empty of rules that every such list has.
    place: String,
}

impl Report {
    pub(super) fn new(rules: Rules, judged: &[Judged]) -> Self {
        let mut remedies = remedy::Remedies::new(&rules);
        let flows = judged.iter().map(|one| flow(&rules.firewall, one, remedies.of(one))).collect();
        let worst = judged.iter().map(|one| one.verdict).max();
        let verdict = worst.unwrap_or(Verdict::Passes).to_string();
        Self { format: rules.format.to_string(), verdict, flows, notes: rules.notes, worst }
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.worst.unwrap_or(Verdict::Passes)
    }

    pub(super) fn render(&self, colours: bool) -> String {
        let mut table = Table::new(&["WHAT", "DIRECTION", "FROM", "TO", "TRAFFIC", "VERDICT"]);
        for flow in &self.flows {
            table.row([
                cell(&flow.purpose),
                cell(&flow.direction),
                cell(&flow.source),
                cell(&flow.destination),
                cell(&flow.traffic),
                (style(&flow.verdict), words(&flow.verdict).to_owned()),
            ]);
        }
        let mut text = table.render(0, colours);
        for flow in self.flows.iter().filter(|flow| !flow.causes.is_empty()) {
            let title = format!("{} {}, {} -> {}", flow.purpose, flow.direction, flow.source, flow.destination);
            text.push_str(&format!("\n{}\n", paint(Style::Bold, &title, colours)));
            for cause in &flow.causes {
                text.push_str(&cause.line(colours));
            }
            if flow.more > 0 {
                text.push_str(&format!("  and {} more\n", flow.more));
            }
        }
        text + &self.advice(colours)
    }

    /// Rules to add, each once, and notes.
    fn advice(&self, colours: bool) -> String {
        let mut text = String::new();
        let mut said = BTreeSet::new();
        let new = self.flows.iter().flat_map(|flow| &flow.remedies).filter(|one| said.insert(one.as_str()));
        let new: Vec<&String> = new.collect();
        if !new.is_empty() {
            text.push_str(&format!("\n{}\n", paint(Style::Bold, "Add", colours)));
            text.extend(new.into_iter().map(|one| format!("  {one}\n")));
        }
        if !self.notes.is_empty() {
            text.push_str(&format!("\n{}\n", paint(Style::Bold, "Notes", colours)));
            text.extend(self.notes.iter().map(|note| format!("  {note}\n")));
        }
        text
    }
}

impl CauseReport {
    fn line(&self, colours: bool) -> String {
        let verdict = paint(style(&self.verdict), words(&self.verdict), colours);
        let rule = self.rule.as_ref().map(|rule| {
            let priority = rule.priority.map(|priority| format!(" (priority {priority})")).unwrap_or_default();
            format!(" by {}{priority} of {}", rule.name, rule.list)
        });
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("  {verdict}{}: {}{reason}\n", rule.unwrap_or_default(), self.packets)
    }
}

fn flow(firewall: &Firewall, judged: &Judged, remedies: Vec<String>) -> FlowReport {
    let flow = &judged.flow;
    FlowReport {
        purpose: flow.purpose.to_string(),
        family: flow.family().to_string(),
        direction: flow.direction.to_string(),
        source: flow.source.to_string(),
        destination: flow.destination.to_string(),
        traffic: flow.traffic.to_string(),
        verdict: judged.verdict.to_string(),
        causes: judged.causes.iter().take(MOST_CAUSES).map(|one| cause(firewall, one)).collect(),
        more: judged.causes.len().saturating_sub(MOST_CAUSES),
        remedies,
    }
}

fn cause(firewall: &Firewall, cause: &Cause) -> CauseReport {
    let label = match cause.decider {
        Decider::Rule(label) => firewall.labels.get(label),
        Decider::Endless | Decider::TooMany => None,
    };
    let unknown = label.and_then(|label| label.unknown.as_ref());
    let reason = match cause.decider {
        Decider::Endless => Some("chains lead into each other, or nowhere".to_owned()),
        Decider::TooMany => Some("the rules divide packets into more parts than were followed".to_owned()),
        Decider::Rule(_) if cause.verdict == Verdict::CannotTell => {
            Some(format!("not known: {}", unknown.map_or("what it asks for", String::as_str)))
        }
        Decider::Rule(_) => None,
    };
    let rule = label.map(|label| RuleReport {
        name: label.name.clone(),
        priority: label.priority,
        list: label.owner.clone(),
        place: label.place.clone(),
    });
    CauseReport { verdict: cause.verdict.to_string(), rule, packets: cause.example.to_string(), reason }
}

fn style(verdict: &str) -> Style {
    match verdict {
        "passes" => Style::Good,
        "blocked" => Style::Bad,
        _ => Style::Bold,
    }
}

fn words(verdict: &str) -> &str {
    if verdict == "cannot-tell" { "cannot tell" } else { verdict }
}
