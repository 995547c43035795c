//! A cluster's network, and what is around it, as flags: those of AKS' commands where it has them.

use clap::{Args, ValueEnum};

use super::RoutingArg;

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

/// A cluster's network.
#[derive(Clone, Debug, Args)]
pub struct NetworkArgs {
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
    /// Where the cluster's DNS answers: checked, for whoever installs it; one a family
    #[arg(long, value_name = "ADDRESS,...", value_delimiter = ',')]
    pub dns_service_ip: Vec<String>,
    /// Most pods a node, 10 to 250 [default: 250]
    #[arg(long, value_name = "N")]
    pub max_pods: Option<u32>,
    /// Prefix length of a node's IPv4 block, 20 to 28 [default: 24]
    #[arg(long, value_name = "LENGTH")]
    pub node_cidr_mask_size_ipv4: Option<u8>,
    /// Prefix length of a node's IPv6 block, 64 to 124 [default: 80]
    #[arg(long, value_name = "LENGTH")]
    pub node_cidr_mask_size_ipv6: Option<u8>,
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
}

/// What is around a cluster.
#[derive(Clone, Debug, Default, Args)]
pub struct AroundArgs {
    /// An address range of the network that the nodes' subnets are cut from; may be given again
    #[arg(long, value_name = "CIDR")]
    pub vnet_cidr: Vec<String>,
    /// A subnet that nodes are in; may be given again
    #[arg(long, value_name = "CIDR")]
    pub node_subnet: Vec<String>,
    /// A network that is peered with the nodes'; may be given again
    #[arg(long, value_name = "CIDR")]
    pub peered_cidr: Vec<String>,
    /// A network on premises that is reached from the nodes'; may be given again
    #[arg(long, value_name = "CIDR")]
    pub on_prem_cidr: Vec<String>,
    /// How many nodes there are to be
    #[arg(long, value_name = "N")]
    pub node_count: Option<u64>,
    /// The nodes' resource group: a value of a label of theirs
    #[arg(short = 'g', long, value_name = "NAME")]
    pub resource_group: Option<String>,
    /// The nodes' network: a value of a label of theirs
    #[arg(long, value_name = "NAME")]
    pub vnet_name: Option<String>,
    /// The nodes' subnet, as its name or as Azure's resource ID: names that are values of labels
    #[arg(long, value_name = "NAME|ID")]
    pub vnet_subnet_id: Vec<String>,
}
