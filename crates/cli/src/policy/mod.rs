//! `overlane policy`: what network policies mean.

mod check;
mod diff;
mod explain;
mod flows;
mod manifests;
mod read;
mod record;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::{PolicyArgs, PolicyCommand};

/// Runs a command.
pub fn run(args: &PolicyArgs) -> Result<ExitCode> {
    match &args.command {
        PolicyCommand::Explain(args) => explain::run(args),
        PolicyCommand::Check(args) => check::run(args),
        PolicyCommand::Diff(args) => diff::run(args),
        PolicyCommand::Record(args) => record::run(args),
    }
}
