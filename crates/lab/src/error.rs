//! What a caller of this crate tells apart. Everything else travels as context.

use overlane_core::cluster::Finding;

use crate::names::NameError;

/// Why a command was refused.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The cluster's network as asked for breaks rules; nothing was made.
    #[error("{}", lines(findings))]
    Invalid {
        /// Every broken rule.
        findings: Vec<Finding>,
    },
    /// An argument makes no sense; nothing was made.
    #[error("{argument}: {reason}")]
    Argument {
        /// Which argument, such as `--nodes`.
        argument: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The lab runs already.
    #[error(
        "lab `{lab}` is already up; `overlane lab status --name {lab}` shows it, `overlane lab down --name {lab}` ends it"
    )]
    AlreadyUp {
        /// Its name.
        lab: String,
    },
    /// The lab is there, without its daemon, and is not what is asked for.
    #[error(
        "lab `{lab}` is there with other settings ({}), and its daemon does not run: the same arguments as before start \
         it again, `overlane lab down --name {lab}` ends it",
        differences.join("; ")
    )]
    OtherSettings {
        /// Its name.
        lab: String,
        /// Which.
        differences: Vec<String>,
    },
    /// There is no such lab.
    #[error("lab `{lab}` is not up; {}", others(exist))]
    NotUp {
        /// Its name.
        lab: String,
        /// Labs that are.
        exist: Vec<String>,
    },
    /// Part of a lab that is not there.
    #[error("{kind} `{name}` is not in lab `{lab}`; {}", list(kind, exist))]
    Unknown {
        /// What was looked for: `node`, `pod`.
        kind: &'static str,
        /// By which name.
        name: String,
        /// In which lab.
        lab: String,
        /// What there is.
        exist: Vec<String>,
    },
}

fn lines(findings: &[Finding]) -> String {
    let mut text = String::from("the cluster's network cannot be so:");
    for finding in findings {
        text.push_str(&format!(
            "\n  {}: {} ({})\n    fix: {}",
            finding.field, finding.reason, finding.rule, finding.fix
        ));
    }
    text
}

fn others(exist: &[String]) -> String {
    if exist.is_empty() {
        return "no lab is, `overlane lab up` brings one up".to_owned();
    }
    format!("these are: {}", exist.join(", "))
}

fn list(kind: &str, exist: &[String]) -> String {
    if exist.is_empty() { format!("there is no {kind}") } else { format!("there is: {}", exist.join(", ")) }
}
