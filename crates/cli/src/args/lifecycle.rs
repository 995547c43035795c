//! `overlane cluster`: a cluster's network over its life, with the parameter names of AKS.

use clap::{ArgGroup, Args, Subcommand};

use super::{ApiArg, AroundArgs, KubeArgs, NetworkArgs, OutputArg, seconds};

/// `overlane cluster`.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// What to do
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum ClusterCommand {
    /// Make a cluster of network namespaces on this machine, by AKS' words: `overlane lab` with its name is the same one
    Create(Box<CreateArgs>),
    /// End a cluster that `create` made
    Delete(DeleteClusterArgs),
    /// Show a cluster's network, how full it is and where it can grow
    Show(ShowArgs),
    /// Change a running cluster's network: give it a larger pod CIDR or take that back, add an address family
    Update(Box<UpdateArgs>),
}

/// `overlane cluster create`.
#[derive(Clone, Debug, Args)]
pub struct CreateArgs {
    /// The cluster's name
    #[arg(short, long, value_name = "NAME")]
    pub name: String,
    /// How many nodes
    #[arg(short = 'c', long, default_value_t = 3, value_name = "N")]
    pub node_count: u32,
    /// The network
    #[command(flatten)]
    pub network: NetworkArgs,
    /// Words of AKS' commands that mean nothing here
    #[command(flatten)]
    pub ignored: IgnoredArgs,
    /// Which API
    #[command(flatten)]
    pub api: ApiArg,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 180, value_name = "SECONDS", value_parser = seconds())]
    pub timeout: u64,
    /// How to print
    #[command(flatten)]
    pub output: OutputArg,
}

/// Words of AKS' commands that mean nothing to a cluster on this machine.
#[derive(Clone, Debug, Args)]
pub struct IgnoredArgs {
    /// Taken for the sake of commands written for AKS
    #[arg(short = 'g', long, value_name = "NAME", hide = true)]
    pub resource_group: Option<String>,
    /// Taken for the sake of commands written for AKS
    #[arg(short, long, value_name = "NAME", hide = true)]
    pub location: Option<String>,
    /// Taken for the sake of commands written for AKS
    #[arg(long, hide = true)]
    pub generate_ssh_keys: bool,
    /// Taken for the sake of commands written for AKS
    #[arg(short = 's', long, value_name = "SIZE", hide = true)]
    pub node_vm_size: Option<String>,
    /// Taken for the sake of commands written for AKS
    #[arg(short, long, hide = true)]
    pub yes: bool,
}

/// `overlane cluster delete`.
#[derive(Clone, Debug, Args)]
pub struct DeleteClusterArgs {
    /// The cluster's name
    #[arg(short, long, value_name = "NAME")]
    pub name: String,
    /// Words of AKS' commands that mean nothing here
    #[command(flatten)]
    pub ignored: IgnoredArgs,
    /// How to print
    #[command(flatten)]
    pub output: OutputArg,
}

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub struct WhichArgs {
    /// A lab's name; without, the cluster of the kubeconfig
    #[arg(short, long, value_name = "NAME")]
    pub name: Option<String>,
    /// How the cluster is reached
    #[command(flatten)]
    pub kube: KubeArgs,
}

/// `overlane cluster show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// Which cluster
    #[command(flatten)]
    pub which: WhichArgs,
    /// Taken for the sake of commands written for AKS
    #[arg(short = 'g', long, value_name = "NAME", hide = true)]
    pub resource_group: Option<String>,
    /// How to print
    #[command(flatten)]
    pub output: OutputArg,
}

/// `overlane cluster update`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).args(["pod_cidrs", "ip_families", "rollback"]).multiple(true))]
pub struct UpdateArgs {
    /// Which cluster
    #[command(flatten)]
    pub which: WhichArgs,
    /// A larger pod CIDR around the present one, with the same first address; of dual stack, one a family or one alone
    #[arg(long, visible_alias = "pod-cidr", value_name = "CIDR,...", value_delimiter = ',')]
    pub pod_cidrs: Vec<String>,
    /// Add an address family: all of them, those that are there first
    #[arg(long, value_name = "FAMILY,...", value_delimiter = ',', conflicts_with = "rollback")]
    pub ip_families: Vec<String>,
    /// With --ip-families: the Service CIDRs, as the API server has them [default: of the new family the usual one]
    #[arg(
        long,
        visible_alias = "service-cidr",
        value_name = "CIDR,...",
        value_delimiter = ',',
        requires = "ip_families"
    )]
    pub service_cidrs: Vec<String>,
    /// Take the last expansion back, while no node has a block of the new space
    #[arg(long, conflicts_with = "pod_cidrs")]
    pub rollback: bool,
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not wait for the nodes
    #[arg(long)]
    pub no_wait: bool,
    /// Give up waiting after this many seconds; the nodes go on by themselves
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = seconds())]
    pub timeout: u64,
    /// What is around the cluster: a larger pod CIDR must not meet it
    #[command(flatten)]
    pub around: AroundArgs,
    /// How to print
    #[command(flatten)]
    pub output: OutputArg,
}
