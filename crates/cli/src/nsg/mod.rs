//! `overlane nsg`: what rules of packet filters around nodes do to the overlay.

mod check;
mod remedy;
mod report;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::{NsgArgs, NsgCommand};

/// Runs a command.
pub fn run(args: &NsgArgs) -> Result<ExitCode> {
    match &args.command {
        NsgCommand::Check(args) => check::run(args),
    }
}
