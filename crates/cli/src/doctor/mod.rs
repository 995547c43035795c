//! `overlane doctor`: what is wrong on this machine or in a lab, each with its remedy. It looks and changes nothing.

mod features;
mod lab;
mod machine;
mod networkd;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use overlane_lab::client::LabClient;
use overlane_lab::error::LabError;
use overlane_lab::names::LabName;
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::out::{self, Format, Style, Table, cell, paint};

/// What is to be thought of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Worth knowing when something else is wrong.
    Note,
    /// Not as it should be.
    Wrong,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Where: `this machine`, `node-0`, `lab x`.
    pub subject: String,
    /// What was looked at, in one word.
    pub check: &'static str,
    /// What is to be thought of it.
    pub verdict: Verdict,
    /// What is there.
    pub what: String,
    /// What to do about it; empty if it is good.
    pub remedy: String,
}

impl Finding {
    /// As it should be.
    pub fn good(subject: &str, check: &'static str, what: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), check, verdict: Verdict::Good, what: what.into(), remedy: String::new() }
    }

    /// Not as it should be.
    pub fn bad(subject: &str, check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), check, verdict: Verdict::Wrong, what: what.into(), remedy: remedy.into() }
    }

    /// The same, but not wrong in itself.
    pub fn note(self) -> Self {
        Self { verdict: Verdict::Note, ..self }
    }
}

/// Runs the command: 1 if something is wrong.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let lab: Option<LabName> = args.lab.as_ref().map(|name| name.parse()).transpose().map_err(LabError::from)?;
    let mut findings = machine::examine(lab.as_ref());
    if let Some(name) = lab {
        let lab = LabClient::open(&name)?;
        findings.extend(lab::examine(&lab, args.node.as_deref())?);
    } else {
        findings.extend(machine::examine_here());
    }
    let good = findings.iter().all(|finding| finding.verdict != Verdict::Wrong);
    match args.output.output {
        Format::Json => out::json(&serde_json::json!({"good": good, "findings": findings}))?,
        Format::Table => out::print(&render(&findings, out::colours()))?,
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(findings: &[Finding], colours: bool) -> String {
    let mut table = Table::bare();
    // What is well is one line a check, however many subjects it was looked at on.
    let mut well: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.verdict == Verdict::Good) {
        well.entry((finding.check, &finding.what)).or_default().push(&finding.subject);
    }
    for ((check, what), subjects) in well {
        let subject = match subjects.as_slice() {
            [one] => (*one).to_owned(),
            [first, .., last] => format!("{first} .. {last}"),
            [] => String::new(),
        };
        table.row([(Style::Good, "ok".to_owned()), cell(check), cell(subject), (Style::Dim, what.to_owned())]);
    }
    let mut text = table.render(0, colours);
    for (verdict, style, word) in [(Verdict::Note, Style::Bold, "note"), (Verdict::Wrong, Style::Bad, "wrong")] {
        for finding in findings.iter().filter(|finding| finding.verdict == verdict) {
            let Finding { subject, check, what, remedy, .. } = finding;
            let word = paint(style, word, colours);
            text.push_str(&format!("{word}  {check} on {subject}: {what}\n       {remedy}\n"));
        }
    }
    let wrong = findings.iter().filter(|finding| finding.verdict == Verdict::Wrong).count();
    text.push_str(&match wrong {
        0 => paint(Style::Good, "nothing is wrong\n", colours),
        1 => paint(Style::Bad, "1 thing is wrong\n", colours),
        more => paint(Style::Bad, &format!("{more} things are wrong\n"), colours),
    });
    text
}

#[cfg(test)]
mod tests {
    //! Must catch: a finding that is not printed, or printed without its remedy.

    use super::*;

    #[test]
    fn findings_are_printed_with_remedies() {
        let findings = [
            Finding::good("node-0", "forwarding", "on"),
            Finding::good("node-1", "forwarding", "on"),
            Finding::bad("node-1", "agent", "it does not run", "start it"),
            Finding::bad("node-1", "bridge", "odd", "leave it").note(),
        ];
        let text = render(&findings, false);
        assert_eq!(
            text,
            "ok  forwarding  node-0 .. node-1  on\nnote  bridge on node-1: odd\n       leave it\nwrong  agent on node-1: it does not run\n       start it\n1 thing is wrong\n"
        );
    }
}
