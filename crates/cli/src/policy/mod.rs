//! `overlane policy`: what network policies mean.

mod check;
mod diff;
mod explain;
mod manifests;
mod read;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::{PolicyArgs, PolicyCommand};

/// Runs a command.
pub fn run(args: &PolicyArgs) -> Result<ExitCode> {
    match &args.command {
        PolicyCommand::Explain(args) => explain::run(args),
        PolicyCommand::Check(args) => check::run(args),
        PolicyCommand::Diff(args) => diff::run(args),
    }
}
