//! `overlane-bench`: the figures of `docs/performance.md`.
//!
//! Every comparison runs both sides turn by turn in one process, and prints what the peer was set to.

#![expect(clippy::print_stdout, reason = "a program's output")]

mod calls;
mod cni;
mod lab;
mod net;
mod packets;
mod peer;
mod policed;
mod policy;
mod report;
mod scale;
mod stats;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Benchmarks of Overlane")]
struct Args {
    /// Directory of the release binaries
    #[arg(long, env = "OVERLANE_BIN", default_value = "target/release")]
    bin: PathBuf,
    /// Where the JSON goes
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// ADD and DEL against ptp + host-local and against the floor
    Cni {
        /// Counted rounds; a round is one call of each
        #[arg(long, default_value_t = 400)]
        rounds: usize,
        /// Calls at once in the burst
        #[arg(long, default_value_t = 250)]
        burst: usize,
    },
    /// Pod to pod across nodes against node to node
    Packets {
        /// Pairs of runs a load
        #[arg(long, default_value_t = 25)]
        pairs: usize,
        /// Length of one run, milliseconds
        #[arg(long, default_value_t = 1000)]
        millis: u64,
        /// Only loads whose name holds this; may be given again
        #[arg(long)]
        only: Vec<String>,
        /// The lab's routing: native, vxlan, auto
        #[arg(long, default_value = "native")]
        routing: String,
    },
    /// Packets between pods that policies select and between pods that none selects, with ever more policies
    Policed {
        /// NetworkPolicies, one count after the other
        #[arg(long, value_delimiter = ',', default_value = "0,100,1000,10000")]
        policies: Vec<usize>,
        /// Turns of each load
        #[arg(long, default_value_t = 15)]
        pairs: usize,
        /// Length of one run, milliseconds
        #[arg(long, default_value_t = 500)]
        millis: u64,
        /// Program of kube-router: in a second lab it enforces the same policies, and takes its turns
        #[arg(long)]
        kube_router: Option<PathBuf>,
    },
    /// Network policy in a large cluster: until it is in force, ADD, memory
    Policy {
        /// NetworkPolicies in the cluster
        #[arg(long, default_value_t = 10_000)]
        policies: usize,
        /// Pods of other nodes
        #[arg(long, default_value_t = 200_000)]
        pods: usize,
    },
    /// Nodes joining: time until all are bound, API writes, memory of controller and agent
    Scale {
        /// How many nodes join
        #[arg(long, default_value_t = 5000)]
        nodes: usize,
        /// How pod packets cross nodes: native, vxlan, auto
        #[arg(long, default_value = "native")]
        routing: String,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.out)?;
    match args.what {
        What::Cni { rounds, burst } => calls::run(&args.bin, &args.out, rounds, burst),
        What::Packets { pairs, millis, only, routing } => {
            let plan = packets::Plan { pairs, time: Duration::from_millis(millis), only: &only, routing: &routing };
            packets::run(&args.bin, &args.out, &plan)
        }
        What::Policed { policies, pairs, millis, kube_router } => {
            let plan = policed::Plan { pairs, time: Duration::from_millis(millis), kube_router };
            policed::run(&args.bin, &args.out, &policies, &plan)
        }
        What::Policy { policies, pods } => policy::run(&args.bin, &args.out, policy::Size { policies, pods }),
        What::Scale { nodes, routing } => scale::run(&args.bin, &args.out, nodes, &routing),
    }
}
