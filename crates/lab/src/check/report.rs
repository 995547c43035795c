//! What a check found: a row for each way and family, a cell for each protocol, and every failure.

use std::collections::BTreeMap;

use overlane_core::family::Family;
use serde::Serialize;

use super::plan::{Place, Way};
use super::pool::Outcome;
use super::probe::{Kind, Seen, came_to_nothing};

/// Good and all questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many went as they have to.
    pub good: usize,
    /// How many were asked.
    pub asked: usize,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// `pod to pod, same node`.
    pub way: &'static str,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// By protocol: `TCP`, `UDP full`.
    pub counts: BTreeMap<&'static str, Count>,
}

/// A question that did not go as it has to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// `pod to pod, same node`.
    pub way: &'static str,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// `TCP`.
    pub kind: &'static str,
    /// Who asked.
    pub from: String,
    /// Who was asked.
    pub to: String,
    /// What happened.
    pub what: String,
}

/// A whole check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether everything went as it has to, and something was asked.
    pub good: bool,
    /// How many questions were asked.
    pub asked: usize,
    /// How many went otherwise.
    pub failed: usize,
    /// Rows in the order of [`Way`].
    pub rows: Vec<Row>,
    /// Failures.
    pub failures: Vec<Failure>,
}

/// Judges outcomes.
pub fn judge(places: &[Place], outcomes: &[Outcome]) -> Report {
    let mut rows: BTreeMap<(Way, Family), BTreeMap<&'static str, Count>> = BTreeMap::new();
    let mut failures = Vec::new();
    for outcome in outcomes {
        let question = &outcome.question;
        let row = rows.entry((question.way, question.family)).or_default();
        let count = row.entry(question.kind.title()).or_default();
        count.asked += 1;
        match fault(outcome) {
            None => count.good += 1,
            Some(what) => failures.push(Failure {
                way: question.way.title(),
                family: question.family.to_string(),
                kind: question.kind.title(),
                from: name(places, question.from),
                to: format!("{} ({})", name(places, question.to), question.target.ip),
                what,
            }),
        }
    }
    failures
        .sort_by(|a, b| (a.way, &a.family, &a.from, &a.to, a.kind).cmp(&(b.way, &b.family, &b.from, &b.to, b.kind)));
    let row =
        |((way, family), counts): ((Way, Family), _)| Row { way: way.title(), family: family.to_string(), counts };
    Report {
        good: failures.is_empty() && !outcomes.is_empty(),
        asked: outcomes.len(),
        failed: failures.len(),
        rows: rows.into_iter().map(row).collect(),
        failures,
    }
}

fn name(places: &[Place], index: usize) -> String {
    places.get(index).map(|place| place.name.clone()).unwrap_or_default()
}

/// What is wrong with an outcome, if anything is.
fn fault(outcome: &Outcome) -> Option<String> {
    let question = &outcome.question;
    match (&outcome.result, question.way.refused()) {
        (Err(error), true) if came_to_nothing(error) => None,
        (Err(error), _) => Some(format!("{error:#}")),
        (Ok(seen), true) => Some(format!("it came through{}", who(seen))),
        (Ok(Seen { answer: Some(answer), .. }), false)
            if !question.seen.is_empty() && !question.seen.contains(&answer.peer) =>
        {
            let wanted: Vec<String> = question.seen.iter().map(ToString::to_string).collect();
            Some(format!("the far side saw {}, not {}", answer.peer, wanted.join(" or ")))
        }
        (Ok(_), false) => None,
    }
}

fn who(seen: &Seen) -> String {
    seen.answer.as_ref().map(|answer| format!(": {} answered", answer.name)).unwrap_or_default()
}

/// Headings of the protocols, in order.
pub fn kinds() -> Vec<&'static str> {
    Kind::ALL.iter().chain([&Kind::Name]).map(|kind| kind.title()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a check that passes although something came through that must not, or with a wrong source.

    use std::time::Duration;

    use super::super::plan::Question;
    use super::super::probe::{NoAnswer, Target};
    use super::*;
    use crate::echo::Answer;

    fn outcome(way: Way, peer: Option<&str>) -> Outcome {
        let answer = |ip: &str| Answer { name: "x".into(), peer: ip.parse().unwrap() };
        Outcome {
            question: Question {
                way,
                family: Family::V4,
                kind: Kind::Tcp,
                from: 0,
                to: 0,
                target: Target { ip: "10.0.0.1".parse().unwrap(), port: 1, mtu: 1500 },
                seen: vec!["10.0.0.9".parse().unwrap()],
            },
            result: match peer {
                Some(ip) => Ok(Seen { answer: Some(answer(ip)), took: Duration::ZERO }),
                None => Err(NoAnswer.into()),
            },
        }
    }

    #[test]
    fn each_outcome_is_judged_by_its_way() {
        let good = [outcome(Way::PodToInternet, Some("10.0.0.9")), outcome(Way::VmToPod, None)];
        let report = judge(&[], &good);
        assert!(report.good);
        assert_eq!((report.asked, report.failed, report.rows.len()), (2, 0, 2));
        for bad in [
            outcome(Way::PodToInternet, Some("10.0.0.8")),
            outcome(Way::PodToInternet, None),
            outcome(Way::VmToPod, Some("10.0.0.9")),
        ] {
            let report = judge(&[], &[bad]);
            assert!(!report.good);
            assert_eq!(report.failures.len(), 1);
        }
    }

    #[test]
    fn a_question_that_could_not_be_asked_proves_nothing() {
        let mut broken = outcome(Way::VmToPod, None);
        broken.result = Err(anyhow::anyhow!("enter network namespace"));
        assert!(!judge(&[], &[broken]).good);
    }

    #[test]
    fn nothing_asked_is_not_good() {
        assert!(!judge(&[], &[]).good);
    }
}
