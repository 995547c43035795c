//! The `overlane` command. Exit codes: 0 as asked, 1 not so, 2 asked for what cannot be.

mod args;
mod demo;
mod doctor;
mod lab;
mod out;
mod progress;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use overlane_lab::error::LabError;

use args::{Cli, Command};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("overlane: {error:#}");
            let usage = error.downcast_ref::<LabError>().is_some_and(LabError::is_usage);
            if usage { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Lab(args) => lab::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::LabDaemon(args) => lab::daemon(&args.name),
        Command::LabEcho(args) => lab::echo(&args),
    }
}
