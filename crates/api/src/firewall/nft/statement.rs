//! A rule's statements, one after the other: comparisons narrow down what it is for, verdicts say what becomes of that.

use overlane_core::family::Family;
use overlane_core::firewall::{Action, RangeSet, Span};

use super::ask::{Ask, Field, Kind};
use super::{At, Reader, Table, values};
use crate::firewall::FirewallError;

/// Statements that decide nothing, and change nothing that rules here ask for.
const HARMLESS: [&str; 8] = ["counter", "log", "flow", "comment", "ct helper", "ct timeout", "secmark", "xt comment"];

/// What becomes of what a rule is for, in order, and what of it was not understood.
pub(super) struct Outcomes {
    pub(super) outcomes: Vec<(Ask, Action)>,
    pub(super) unknown: Vec<String>,
}

/// A rule while it is read.
pub(super) struct Statements<'r, 'a, 'b> {
    reader: &'r Reader<'a, 'b>,
    table: Table<'a>,
    ask: Ask,
    found: Outcomes,
    /// How many ranges were looked at.
    pub(super) work: usize,
}

impl<'r, 'a, 'b> Statements<'r, 'a, 'b> {
    pub(super) fn new(reader: &'r Reader<'a, 'b>, table: Table<'a>) -> Self {
        let found = Outcomes { outcomes: Vec::new(), unknown: Vec::new() };
        Self { reader, table, ask: Ask::new(super::families(table)), found, work: 0 }
    }

    pub(super) fn end(self) -> Outcomes {
        self.found
    }

    pub(super) fn add(&mut self, at: &At<'_>) -> Result<(), FirewallError> {
        let Some((what, inner)) = at.only() else {
            self.anything("a statement");
            return Ok(());
        };
        if let Some(action) = self.verdict(what, &inner)? {
            self.found.outcomes.push((self.ask.clone(), action));
            return Ok(());
        }
        match what {
            "match" => self.compare(&inner),
            "vmap" => self.verdict_map(&inner)?,
            "continue" => {}
            // Beyond its limit it does not match.
            "limit" | "quota" | "ct count" | "set" | "meter" => self.not_understood(what),
            "mangle" if is_mark(&inner) => {}
            what if HARMLESS.contains(&what) => {}
            _ => self.anything(what),
        }
        Ok(())
    }

    /// A condition that nobody understood.
    fn not_understood(&mut self, what: &str) {
        self.ask.opaque = true;
        self.found.unknown.push(format!("whether `{what}` holds"));
    }

    /// A statement that may do anything with what comes to it.
    fn anything(&mut self, what: &str) {
        let ask = Ask { opaque: true, ..self.ask.clone() };
        self.found.outcomes.extend([(ask.clone(), Action::Deny), (ask, Action::Allow)]);
        self.found.unknown.push(format!("what `{what}` does"));
        self.ask.opaque = true;
    }

    fn verdict(&self, what: &str, at: &At<'_>) -> Result<Option<Action>, FirewallError> {
        let chain = || -> Result<usize, FirewallError> {
            let target = at.need("target")?.text()?;
            // One that is not there leads nowhere, which is found when something comes to it.
            Ok(self.reader.chains.get(&(self.table, target)).copied().unwrap_or(usize::MAX))
        };
        Ok(Some(match what {
            "accept" => Action::Allow,
            "drop" | "reject" => Action::Deny,
            "return" => Action::Return,
            "jump" => Action::Jump(chain()?),
            "goto" => Action::Goto(chain()?),
            _ => return Ok(None),
        }))
    }

    fn compare(&mut self, at: &At<'_>) {
        let parts = at.get("left").and_then(|left| Some((left, at.get("op")?.text().ok()?, at.get("right")?)));
        let known = parts.as_ref().and_then(|(left, op, right)| {
            let field = Field::of(left)?;
            let span = self.compared(field.kind, op, right)?;
            Some((field, span))
        });
        match known {
            Some((field, span)) => self.narrow(&field, &span),
            None => {
                let left = at.get("left").map(|left| left.value().to_string()).unwrap_or_default();
                self.not_understood(&left.chars().take(100).collect::<String>());
            }
        }
    }

    /// The values for which a comparison holds.
    fn compared(&self, kind: Kind, op: &str, right: &At<'_>) -> Option<Span> {
        // A list stands for bits, of which only "any of them" is understood.
        if right.is_list() && op != "in" {
            return None;
        }
        let span = values::right(self.reader, self.table, kind, right)?;
        let all = kind.all();
        let ordered = matches!(kind, Kind::Port | Kind::Protocol | Kind::Icmp(_) | Kind::Address(_));
        let first = span.certain().ranges().first().map(|(first, _)| *first);
        let last = span.certain().ranges().last().map(|(_, last)| *last);
        let up_to = |last: u128| RangeSet::range(0, last).and(&all);
        match op {
            "==" | "in" => Some(span),
            "!=" => Some(span.not(&all)),
            "<" if ordered => Some(Span::sure(first?.checked_sub(1).map(up_to).unwrap_or_default())),
            "<=" if ordered => Some(Span::sure(up_to(last?))),
            ">" if ordered => Some(Span::sure(all.without(&up_to(last?)))),
            ">=" if ordered => {
                Some(Span::sure(first?.checked_sub(1).map_or(all.clone(), |below| all.without(&up_to(below)))))
            }
            _ => None,
        }
    }

    fn narrow(&mut self, field: &Field, span: &Span) {
        self.work += span.thinkable().ranges().len();
        narrow(&mut self.ask, field, span);
        if field.kind == Kind::Link && span.certain() != span.thinkable() {
            let text = "which links its names mean: say --interface".to_owned();
            if !self.found.unknown.contains(&text) {
                self.found.unknown.push(text);
            }
        }
    }

    /// A verdict for each of several values.
    fn verdict_map(&mut self, at: &At<'_>) -> Result<(), FirewallError> {
        let field = at.get("key").and_then(|key| Field::of(&key));
        let data = at.need("data")?;
        let list = match data.value().as_str().and_then(|text| text.strip_prefix('@')) {
            Some(name) => self.reader.sets.get(&(self.table, name)).cloned(),
            None => data.get("set").map(Some),
        };
        let list = match list {
            Some(Some(list)) => list,
            Some(None) => return Ok(()),
            None => {
                self.anything("vmap");
                return Ok(());
            }
        };
        for pair in list.items()? {
            let pair = pair.items()?;
            let [key, verdict] = pair.as_slice() else {
                self.anything("vmap");
                continue;
            };
            let mut ask = self.ask.clone();
            let span = field.as_ref().and_then(|field| Some((field, values::value(self.reader, field.kind, key, 0)?)));
            match span {
                Some((field, span)) => narrow(&mut ask, field, &span),
                None => {
                    ask.opaque = true;
                    self.found.unknown.push("what its verdict map asks for".to_owned());
                }
            }
            self.work += ask.size();
            match verdict.only() {
                Some(("continue", _)) => {}
                Some((what, inner)) => match self.verdict(what, &inner)? {
                    Some(action) => self.found.outcomes.push((ask, action)),
                    None => self.anything("vmap"),
                },
                None => self.anything("vmap"),
            }
        }
        self.found.unknown.dedup();
        Ok(())
    }
}

fn narrow(ask: &mut Ask, field: &Field, span: &Span) {
    let known = |family: &Family| match field.kind {
        Kind::Family => span.thinkable().contains(if *family == Family::V4 { 4 } else { 6 }),
        _ => field.family.is_none_or(|one| one == *family),
    };
    ask.families.retain(known);
    if let Some(protocols) = &field.protocols {
        ask.and(overlane_core::firewall::Dimension::Protocol, protocols);
    }
    if let Some(dimension) = field.dimension {
        ask.and(dimension, span);
    }
}

/// Whether it changes nothing of a packet but marks.
fn is_mark(at: &At<'_>) -> bool {
    at.get("key").is_some_and(|key| key.get("meta").is_some() || key.get("ct").is_some())
}
