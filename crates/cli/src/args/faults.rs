//! `overlane lab program`, `api` and `nodes`: what breaks a lab on purpose.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use overlane_lab::daemon::supervise::Action;

use super::OutputArg;

/// What to do to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgramAction {
    /// SIGTERM; it stays down
    Stop,
    /// Run it again
    Start,
    /// Stop and start
    Restart,
    /// SIGKILL; it is started again with back-off, as after any crash
    Kill,
    /// SIGKILL; it stays down
    Down,
    /// SIGSTOP
    Pause,
    /// SIGCONT
    Resume,
}

impl From<ProgramAction> for Action {
    fn from(action: ProgramAction) -> Self {
        match action {
            ProgramAction::Stop => Self::Stop,
            ProgramAction::Start => Self::Start,
            ProgramAction::Restart => Self::Restart,
            ProgramAction::Kill => Self::Kill,
            ProgramAction::Down => Self::Down,
            ProgramAction::Pause => Self::Pause,
            ProgramAction::Resume => Self::Resume,
        }
    }
}

/// `overlane lab program`.
#[derive(Debug, Args)]
pub struct ProgramArgs {
    /// `agent-node-0`, `controller-0`; `kube-apiserver` and `etcd` of a lab that has them
    pub program: String,
    /// What to do
    #[arg(value_enum)]
    pub action: ProgramAction,
    /// How to print what became of it
    #[command(flatten)]
    pub output: OutputArg,
}

/// `overlane lab api`.
#[derive(Debug, Args)]
pub struct ApiArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ApiCommand,
}

/// What can be done to the API.
#[derive(Debug, Subcommand)]
pub enum ApiCommand {
    /// Close it inside the VNet, with every connection; kubectl on this machine still reaches it
    Stop,
    /// Serve it inside the VNet again
    Start,
    /// Write all objects to a file
    Snapshot {
        /// The file
        file: PathBuf,
    },
    /// Put a snapshot in place of all objects, as when etcd is restored
    Restore {
        /// The file
        file: PathBuf,
    },
    /// Drop the history: watches from an old revision must list anew. A real API server starts again for that
    Compact,
    /// Show how many requests it has served, by verb and resource
    Requests(OutputArg),
}

/// `overlane lab nodes`.
#[derive(Debug, Args)]
pub struct NodesArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: NodesCommand,
}

/// What can be done to nodes.
#[derive(Debug, Subcommand)]
pub enum NodesCommand {
    /// Add machines
    Add {
        /// How many
        #[arg(default_value_t = 1, value_name = "N")]
        count: u32,
        /// The name of a single one, such as that of a machine that was removed
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Throw a machine away
    Remove {
        /// Its name
        node: String,
        /// Leave its Node and Pod objects, as when a machine dies without a goodbye
        #[arg(long)]
        keep_objects: bool,
    },
    /// Reboot a machine: its memory is gone, its identity stays
    Reboot {
        /// Its name
        node: String,
    },
    /// Stop a machine's kubelet; pods go on
    KubeletStop {
        /// The machine's name
        node: String,
    },
    /// Start a machine's kubelet; it registers its node again
    KubeletStart {
        /// The machine's name
        node: String,
    },
}
