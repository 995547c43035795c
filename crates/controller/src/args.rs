//! What was typed: flags and their environment variables, nothing resolved yet.

use std::path::PathBuf;

use clap::{ArgAction, Parser};

/// The cluster controller of Overlane: gives every node its blocks of pod addresses.
#[derive(Clone, Debug, Parser)]
#[command(name = "overlane-controller", version, about, max_term_width = 120)]
pub struct Args {
    /// Kubeconfig to reach the API server with; without it, and without --api-url, the pod's service account.
    #[arg(long, env = "OVERLANE_KUBECONFIG", value_name = "FILE", conflicts_with = "api_url")]
    pub kubeconfig: Option<PathBuf>,

    /// Address of an API server that asks for no credentials, such as the lab's.
    #[arg(long, env = "OVERLANE_API_URL", value_name = "URL")]
    pub api_url: Option<String>,

    /// Name of the lab that this controller belongs to; only shown, so that a process list tells labs apart.
    #[arg(long, env = "OVERLANE_LAB", value_name = "NAME")]
    pub lab: Option<String>,

    /// Whether to act only while holding the Lease `overlane-controller`. Several controllers without it never give one
    /// block twice either, but get in each other's way.
    #[arg(
        long,
        env = "OVERLANE_LEADER_ELECT",
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub leader_elect: bool,

    /// Name of this controller among several; without it, the host's name and a random part.
    #[arg(long, env = "OVERLANE_IDENTITY", value_name = "NAME")]
    pub identity: Option<String>,

    /// Seconds that a block rests after its node is gone before another node may have it; 0 to 86400.
    #[arg(long, env = "OVERLANE_HOLD_DOWN", value_name = "SECONDS", default_value_t = 300.0)]
    pub hold_down: f64,

    /// Seconds that an agent may take to say which blocks its pods hold. Until then no fresh block is given: not to a
    /// node whose agent has not spoken, and not to any after this controller has listed all blocks anew; 0 to 3600.
    #[arg(long, env = "OVERLANE_AGENT_GRACE", value_name = "SECONDS", default_value_t = 5.0)]
    pub agent_grace: f64,

    /// Where to serve /metrics, /healthz and /readyz; or `off`.
    #[arg(long, env = "OVERLANE_METRICS_ADDR", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9471")]
    pub metrics_addr: String,

    /// What to log: a level, or a filter such as `info,overlane_controller=debug`. Changeable while running by
    /// `PUT /debug/log?filter=...`.
    #[arg(long, env = "OVERLANE_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    pub log_level: String,

    /// Print every setting with its meaning and the value that would count, and end.
    #[arg(long)]
    pub print_config: bool,
}
