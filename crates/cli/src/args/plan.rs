//! `overlane plan` and `overlane validate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use overlane_api::planfile::{self, Growth};
use overlane_core::sizing::MONTHS_MAX;

use super::{AroundArgs, KubeArgs, NetworkArgs, OutputArg};

/// `overlane validate`.
#[derive(Clone, Debug, Args)]
pub struct ValidateArgs {
    /// A plan, or a manifest with a ClusterNetwork; flags count over it
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The network
    #[command(flatten)]
    pub network: NetworkArgs,
    /// What is around it
    #[command(flatten)]
    pub around: AroundArgs,
    /// Ask the cluster for its Service CIDRs, its number of nodes and, where nothing else is given, its ClusterNetwork
    #[arg(long)]
    pub cluster: bool,
    /// How the cluster is reached
    #[command(flatten)]
    pub kube: KubeArgs,
    /// How to print
    #[command(flatten)]
    pub output: OutputArg,
}

/// `overlane plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// A plan; flags count over it
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A node pool: its nodes now, and how many more a month, or how many percent; may be given again
    #[arg(long, value_name = "NAME=N[+N|+P%]", conflicts_with = "node_count")]
    pub pool: Vec<PoolArg>,
    /// How --node-count grows: so many nodes a month, or so many percent
    #[arg(long, value_name = "N|P%", requires = "node_count")]
    pub growth: Option<Growth>,
    /// How many months the plan has to hold [default: 24]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MONTHS_MAX)))]
    pub months: Option<u32>,
    /// Nodes beyond those that are wished for, while others are replaced [default: 1]
    #[arg(long, value_name = "N")]
    pub max_surge: Option<u64>,
    /// Hosts outside must reach pods by the pods' own addresses
    #[arg(long)]
    pub direct_pod_access: bool,
    /// Of a hundred packets of pods, how many leave the cluster
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(..=100))]
    pub egress_percent: Option<u32>,
    /// Flows that a pod has at once to its busiest destination outside
    #[arg(long, value_name = "N")]
    pub flows_per_pod: Option<u64>,
    /// Addresses that all nodes share on their way out, such as a load balancer's [default: each node its own]
    #[arg(long, value_name = "N")]
    pub outbound_ips: Option<u64>,
    /// What carries packets between nodes
    #[arg(long, value_enum, value_name = "FABRIC")]
    pub fabric: Option<FabricArg>,
    /// The network, as far as it is settled
    #[command(flatten)]
    pub network: NetworkArgs,
    /// What is around it
    #[command(flatten)]
    pub around: AroundArgs,
    /// How to print
    #[command(flatten)]
    pub output: OutputArg,
}

/// `--pool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolArg(pub planfile::Pool);

impl std::str::FromStr for PoolArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no pool: write NAME=N, NAME=N+N or NAME=N+P%, such as work=20+10%");
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (nodes, growth) = rest.split_once('+').unwrap_or((rest, "0"));
        let nodes = nodes.parse().map_err(|_| wrong())?;
        let growth = growth.parse().map_err(|_| wrong())?;
        Ok(Self(planfile::Pool { name: name.to_owned(), nodes, growth }))
    }
}

/// `--fabric`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FabricArg {
    /// One segment: nodes reach each other without a router
    Segment,
    /// Routers that know nothing of pods
    Routed,
    /// Routers that lead each node's block to it
    RoutedToPods,
    /// Azure's virtual network
    Azure,
    /// Amazon's
    Aws,
    /// Google's
    Gcp,
}

impl From<FabricArg> for planfile::Fabric {
    fn from(fabric: FabricArg) -> Self {
        match fabric {
            FabricArg::Segment => Self::Segment,
            FabricArg::Routed => Self::Routed,
            FabricArg::RoutedToPods => Self::RoutedToPods,
            FabricArg::Azure => Self::Azure,
            FabricArg::Aws => Self::Aws,
            FabricArg::Gcp => Self::Gcp,
        }
    }
}
