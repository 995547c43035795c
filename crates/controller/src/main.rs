//! `overlane-controller`: one leader a cluster.

use std::process::ExitCode;

use clap::Parser as _;
use overlane_controller::args::Args;
use overlane_controller::config::{Config, explain};
use overlane_controller::wiring;
use overlane_daemon::log;

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match Config::resolve(&args, wiring::unique_name) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("overlane-controller: {error}");
            return ExitCode::from(2);
        }
    };
    if args.print_config {
        print!("{}", explain(&args));
        return ExitCode::SUCCESS;
    }
    let outcome = log::start(&config.log_filter).and_then(|log| wiring::run(config, log));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overlane-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}
