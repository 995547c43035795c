//! `overlane-agent`: one a node.

use std::process::ExitCode;

use clap::Parser as _;
use overlane_agent::args::Args;
use overlane_agent::config::{Config, explain};
use overlane_agent::{check, remove, wiring};
use overlane_daemon::log;

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match Config::resolve(&args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("overlane-agent: {error}");
            return ExitCode::from(2);
        }
    };
    if args.print_config {
        print!("{}", explain(&args));
        return ExitCode::SUCCESS;
    }
    if args.check {
        return if check::run(&config) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if args.uninstall {
        return match remove::run(&config, args.force) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("overlane-agent: {error:#}");
                ExitCode::from(2)
            }
        };
    }
    let outcome = log::start(&config.log_filter).and_then(|log| wiring::run(config, log));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overlane-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
