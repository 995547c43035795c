//! The commands for a real cluster.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{OutputArg, RoutingArg, seconds};

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

/// `--network-plugin`, as AKS has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkPlugin {
    /// As AKS calls it
    Azure,
    /// The same
    Overlane,
}

/// `--network-plugin-mode`, as AKS has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PluginMode {
    /// Pods have addresses from a private pod CIDR
    Overlay,
}

/// `--network-dataplane`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dataplane {
    /// As AKS calls nftables
    Azure,
    /// nftables
    Nftables,
    /// As AKS calls eBPF
    Cilium,
    /// eBPF
    Ebpf,
}

/// `--network-policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PolicyEngine {
    /// Overlane enforces none: every pod is reached by all, unless another program sees to it
    None,
    /// Overlane does
    Overlane,
    /// One of AKS'; not this
    Azure,
    /// One of AKS'; not this
    Calico,
    /// One of AKS'; not this
    Cilium,
}

/// `--outbound-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "camelCase")]
pub enum OutboundType {
    /// By the node's address
    LoadBalancer,
    /// Through egress gateways
    NatGateway,
    /// The same, as AKS calls it
    #[value(name = "managedNATGateway")]
    ManagedNatGateway,
    /// The same, as AKS calls it
    #[value(name = "userAssignedNATGateway")]
    UserAssignedNatGateway,
    /// By the fabric's own routes, or by --egress-next-hop
    UserDefinedRouting,
    /// Not at all
    None,
}

/// `--node-cidrs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NodeCidrsArg {
    /// Adopt where every node has its spec.podCIDRs already, else allocate
    #[default]
    Auto,
    /// Overlane chooses each node's block
    Allocate,
    /// Whoever writes node.spec.podCIDRs does
    Adopt,
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
    /// Taken for the sake of commands written for AKS
    #[arg(long, value_enum, value_name = "PLUGIN", hide_possible_values = true)]
    pub network_plugin: Option<NetworkPlugin>,
    /// Taken for the sake of commands written for AKS: overlay is what Overlane is
    #[arg(long, value_enum, value_name = "MODE")]
    pub network_plugin_mode: Option<PluginMode>,
    /// Address families, the primary one first [default: the cluster's Service CIDRs']
    #[arg(long, value_name = "FAMILY,...", value_delimiter = ',')]
    pub ip_families: Vec<String>,
    /// Pod CIDRs, one a family [default: 10.244.0.0/16,fd12:3456:789a::/64]
    #[arg(long, visible_alias = "pod-cidr", value_name = "CIDR,...", value_delimiter = ',')]
    pub pod_cidrs: Vec<String>,
    /// Service CIDRs, one a family [default: the cluster's]
    #[arg(long, visible_alias = "service-cidr", value_name = "CIDR,...", value_delimiter = ',')]
    pub service_cidrs: Vec<String>,
    /// The cluster's DNS address: checked, for whoever installs the cluster's DNS
    #[arg(long, value_name = "ADDRESS")]
    pub dns_service_ip: Option<String>,
    /// Most pods a node, 10 to 250 [default: 250]
    #[arg(long, value_name = "N")]
    pub max_pods: Option<u32>,
    /// How pod packets cross nodes [default: native]
    #[arg(long, value_enum, value_name = "MODE")]
    pub routing: Option<RoutingArg>,
    /// A network of nodes between which the fabric is known to carry pods' packets; may be given again
    #[arg(long, value_name = "CIDR")]
    pub native_cidr: Vec<String>,
    /// The data plane [default: nftables]
    #[arg(long, value_enum, value_name = "PLANE")]
    pub network_dataplane: Option<Dataplane>,
    /// Who enforces NetworkPolicies and ClusterNetworkPolicies: overlane or none [default: overlane]
    #[arg(long, value_enum, value_name = "ENGINE", hide_possible_values = true)]
    pub network_policy: Option<PolicyEngine>,
    /// How packets leave the cluster [default: loadBalancer]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub outbound_type: Option<OutboundType>,
    /// With userDefinedRouting: what packets go to on their way out, such as a firewall; one a family
    #[arg(long, value_name = "ADDRESS,...", value_delimiter = ',')]
    pub egress_next_hop: Vec<String>,
    /// The next hops see the pod's address, not the node's
    #[arg(long)]
    pub egress_keep_pod_address: bool,
    /// A destination that the outbound type does not speak of; may be given again
    #[arg(long, value_name = "CIDR")]
    pub egress_internal_cidr: Vec<String>,
    /// Who chooses the nodes' blocks
    #[arg(long, value_enum, default_value_t, value_name = "WHO")]
    pub node_cidrs: NodeCidrsArg,
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
