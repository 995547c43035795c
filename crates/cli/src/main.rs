//! The `overlane` command. Exit codes: 0 good, 1 what was looked at is not, 2 it could not be done.

mod args;
mod cluster;
mod connectivity;
mod demo;
mod doctor;
mod install;
mod lab;
mod lifecycle;
mod network;
mod nsg;
mod out;
mod plan;
mod policy;
mod progress;
mod runtime;
mod status;
mod sysdump;
mod uninstall;
mod validate;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser as _};

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
        Command::Plan(args) => plan::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Install(args) => install::run(&args),
        Command::Cluster(args) => lifecycle::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Connectivity(args) => connectivity::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Nsg(args) => nsg::run(&args),
        Command::Sysdump(args) => sysdump::run(&args),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "overlane", &mut script);
            out::print(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Probe(args) => probe(args),
        Command::Uninstall(args) => uninstall::run(&args),
        Command::Hold => hold(),
        Command::Doctor(args) => doctor::run(&args),
        Command::LabDaemon(args) => lab::daemon(&args.name),
        Command::LabEcho(args) => lab::echo(&args),
    }
}

/// `overlane probe`.
fn probe(args: args::ProbeArgs) -> Result<ExitCode> {
    if args.mtu {
        out::print(&std::fs::read_to_string("/sys/class/net/eth0/mtu")?)?;
        return Ok(ExitCode::SUCCESS);
    }
    connectivity::ask::probe(std::time::Duration::from_secs(args.patience))
}

/// `overlane hold`.
fn hold() -> Result<ExitCode> {
    runtime::start()?.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}
