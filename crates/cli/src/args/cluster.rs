//! The commands for a real cluster.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{NetworkArgs, OutputArg, seconds};

/// How the cluster is reached.
#[derive(Clone, Debug, Default, Args)]
pub struct KubeArgs {
    /// Kubeconfig; without, $KUBECONFIG, ~/.kube/config, or the pod's service account
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
}

/// Which manifests are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Printed {
    /// All
    All,
    /// The custom resource definitions
    Crds,
    /// Everything else
    Objects,
}

/// `overlane install`.
#[derive(Clone, Debug, Args)]
pub struct InstallArgs {
    /// How the cluster is reached
    #[command(flatten)]
    pub kube: KubeArgs,
    /// The network
    #[command(flatten)]
    pub network: NetworkArgs,
    /// The image, as REPOSITORY:TAG [default: overlane:VERSION]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Further values, as the chart's values.yaml has them
    #[arg(short = 'f', long, value_name = "FILE")]
    pub values: Option<PathBuf>,
    /// Namespace of agent and controller
    #[arg(short, long, default_value = "kube-system", value_name = "NS")]
    pub namespace: String,
    /// Print the manifests and change nothing; no cluster is asked. `kubectl apply` takes `crds` first, then `objects`
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, default_missing_value = "all")]
    pub print: Option<Printed>,
    /// Do not wait for the nodes
    #[arg(long)]
    pub no_wait: bool,
    /// Give up waiting after this many seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = seconds())]
    pub timeout: u64,
}

/// `overlane status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// How the cluster is reached
    #[command(flatten)]
    pub kube: KubeArgs,
    /// How to print
    #[command(flatten)]
    pub output: OutputArg,
}

/// `overlane connectivity`.
#[derive(Clone, Debug, Args)]
pub struct ConnectivityArgs {
    /// How the cluster is reached
    #[command(flatten)]
    pub kube: KubeArgs,
    /// Image of the pods [default: the agents']
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// An address outside the cluster that an echo server (`overlane lab-echo`) answers at; may be given again
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub outside: Vec<std::net::SocketAddr>,
    /// Check no more than so many nodes, evenly chosen
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub max_nodes: usize,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = seconds())]
    pub timeout: u64,
    /// How to print
    #[command(flatten)]
    pub output: OutputArg,
}

/// `overlane probe`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ProbeArgs {
    /// Print the MTU of eth0, and end
    #[arg(long)]
    pub mtu: bool,
    /// How long an answer may take
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = seconds())]
    pub patience: u64,
}

/// `overlane sysdump`.
#[derive(Clone, Debug, Args)]
pub struct SysdumpArgs {
    /// How the cluster is reached
    #[command(flatten)]
    pub kube: KubeArgs,
    /// The file to write [default: overlane-sysdump-TIME.tar.gz]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Logs and state of no more than so many agents, those of nodes in trouble first
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub max_nodes: usize,
    /// Lines of each log
    #[arg(long, default_value_t = 2000, value_name = "N")]
    pub log_lines: i64,
}

/// `overlane uninstall`.
#[derive(Clone, Debug, Args)]
pub struct UninstallArgs {
    /// How the cluster is reached
    #[command(flatten)]
    pub kube: KubeArgs,
    /// Also while pods run: they lose their network
    #[arg(long)]
    pub force: bool,
    /// The image that cleans nodes up where the agents are gone already [default: overlane:VERSION]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Values of the installation, for the same case
    #[arg(short = 'f', long, value_name = "FILE")]
    pub values: Option<PathBuf>,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = seconds())]
    pub timeout: u64,
}
