//! The `overlane` command. Exit codes: 0 good, 1 what was looked at is not, 2 it could not be done.

mod args;
mod cluster;
mod demo;
mod doctor;
mod install;
mod lab;
mod out;
mod progress;
mod status;
mod uninstall;

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
        Command::Install(args) => install::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Uninstall(args) => uninstall::run(&args),
        Command::Hold => hold(),
        Command::Doctor(args) => doctor::run(&args),
        Command::LabDaemon(args) => lab::daemon(&args.name),
        Command::LabEcho(args) => lab::echo(&args),
    }
}

/// `overlane hold`.
fn hold() -> Result<ExitCode> {
    lab::runtime()?.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}
