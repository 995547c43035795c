//! The `overlane` command. Exit codes: 0 good, 1 what was looked at is not, 2 it could not be done.

mod args;
mod demo;
mod doctor;
mod lab;
mod out;
mod progress;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use args::{Cli, Command};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("overlane: {error:#}");
            ExitCode::from(2)
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
