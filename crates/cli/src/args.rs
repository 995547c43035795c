//! What was typed. Nothing here is resolved yet.

mod cluster;
mod faults;
mod lifecycle;
mod network;
mod nsg;
mod plan;
mod policy;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use overlane_lab::kubernetes::ApiKind;

use crate::out::Format;

pub use cluster::{
    ConnectivityArgs, InstallArgs, KubeArgs, Printed, ProbeArgs, StatusArgs, SysdumpArgs, UninstallArgs,
};
pub use faults::{ApiArgs, ApiCommand, NodesArgs, NodesCommand, ProgramArgs};
pub use lifecycle::{ClusterArgs, ClusterCommand, CreateArgs, DeleteClusterArgs, ShowArgs, UpdateArgs, WhichArgs};
pub use network::{AroundArgs, Dataplane, NetworkArgs, NodeCidrsArg, OutboundType, PolicyEngine};
pub use nsg::{NsgArgs, NsgCheckArgs, NsgCommand};
pub use plan::{PlanArgs, ValidateArgs};
pub use policy::{
    About, ExplainArgs, PolicyArgs, PolicyCheckArgs, PolicyCommand, PolicyDiffArgs, RecordArgs, SourceArgs, Who,
};

/// Pod networking from a private pod CIDR, for Kubernetes on any cloud, any metal, and one laptop.
#[derive(Debug, Parser)]
#[command(name = "overlane", version, about, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A cluster of network namespaces on this machine
    Lab(LabArgs),
    /// Plan a cluster's addresses: what fits, when it runs out, where it can grow
    Plan(Box<PlanArgs>),
    /// Check a cluster's addresses by every rule, before there is a cluster
    Validate(Box<ValidateArgs>),
    /// Install Overlane into a cluster, or bring what is there to this version
    Install(Box<InstallArgs>),
    /// Make a cluster, show its network, let it grow: by AKS' words
    Cluster(ClusterArgs),
    /// Show a cluster's network: nodes, blocks and their use, conditions, versions
    Status(StatusArgs),
    /// Check that pods on every node reach what they must, with pods that this makes and takes away again
    Connectivity(ConnectivityArgs),
    /// Say what network policies mean
    Policy(PolicyArgs),
    /// Say what the rules of a cloud's or a node's packet filter do to the overlay
    Nsg(Box<NsgArgs>),
    /// Collect what somebody needs to find a fault, in one small file without secrets
    Sysdump(SysdumpArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// What `overlane connectivity` runs in its pods
    #[command(hide = true)]
    Probe(ProbeArgs),
    /// Take Overlane away from a cluster and from its nodes
    Uninstall(UninstallArgs),
    /// Wait to be told to end: what a container runs that only has to be there
    #[command(hide = true)]
    Hold,
    /// Say what is wrong on this node or in a lab, and what to do about it
    Doctor(DoctorArgs),
    /// The background process of a lab
    #[command(hide = true)]
    LabDaemon(NameArg),
    /// The echo server of a lab's pods
    #[command(hide = true)]
    LabEcho(EchoArgs),
}

/// `overlane lab`.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// The lab's name
    #[arg(long, global = true, default_value = "default", value_name = "NAME", env = "OVERLANE_LAB_NAME")]
    pub name: String,
    /// What to do.
    #[command(subcommand)]
    pub command: LabCommand,
}

/// The lab's name alone.
#[derive(Debug, Args)]
pub struct NameArg {
    /// The lab's name
    #[arg(long, value_name = "NAME")]
    pub name: String,
}

/// `overlane lab-echo`.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// The name that it answers with
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// The port of TCP, UDP and HTTP
    #[arg(long, default_value_t = overlane_lab::echo::PORT)]
    pub port: u16,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArg {
    /// How to print
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// The lab's commands.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Bring a lab up; it is ready when this returns
    Up(UpArgs),
    /// Show the lab: nodes, blocks, programs
    Status(OutputArg),
    /// Show the pods
    Pods(PodsArgs),
    /// End the lab and leave nothing behind
    Down(DownArgs),
    /// Print a kubeconfig for kubectl
    Kubeconfig(OutputArg),
    /// Run a pod: an echo server (TCP, UDP, HTTP on 8080), or a command
    Run(RunArgs),
    /// Delete a pod
    Delete(DeleteArgs),
    /// Run a command in a pod
    Exec(ExecArgs),
    /// Run a command on a node
    Node(NodeArgs),
    /// Run a command on a host that is no node
    Outside(OutsideArgs),
    /// Check that everything reaches what it must, and nothing else
    Check(OutputArg),
    /// Show what a lab is: three nodes, pods, and proofs, on one screen
    Demo(ApiArg),
    /// Print the log of a pod, or of a program (`agent-node-0`, `controller-0`, `daemon`, `kube-apiserver`)
    Logs(LogsArgs),
    /// Do something to an agent, a controller, or the programs of a real API
    Program(ProgramArgs),
    /// Take the API away from agents and controllers, give it back, or change its past
    Api(ApiArgs),
    /// Add, remove and reboot nodes
    Nodes(NodesArgs),
}

/// Which Kubernetes API a lab has.
#[derive(Clone, Debug, Args)]
pub struct ApiArg {
    /// The Kubernetes API: the lab's own, in its process, or the real one
    #[arg(long, value_enum, default_value_t, value_name = "API", env = "OVERLANE_LAB_API")]
    pub api: Api,
    /// Where `--api kubernetes` finds kube-apiserver and kube-controller-manager, and etcd unless it is on PATH
    /// [default: along PATH]
    #[arg(long, value_name = "DIR", env = "OVERLANE_KUBERNETES_BIN")]
    pub kubernetes_bin: Option<PathBuf>,
}

/// Kubernetes APIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// In the lab's own process: up at once
    #[default]
    InProcess,
    /// kube-apiserver on etcd, with RBAC and the installation's accounts
    Kubernetes,
}

impl From<Api> for ApiKind {
    fn from(api: Api) -> Self {
        match api {
            Api::InProcess => Self::InProcess,
            Api::Kubernetes => Self::Kubernetes,
        }
    }
}

/// How pod packets cross nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RoutingArg {
    /// Bare, by a route a node
    Native,
    /// In VXLAN
    Vxlan,
    /// Bare where the fabric lets them through, else in VXLAN
    Auto,
}

/// Who enforces network policy in a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NetworkPolicyArg {
    /// Overlane does
    Overlane,
    /// Nobody does
    None,
}

impl From<NetworkPolicyArg> for overlane_core::cluster::NetworkPolicy {
    fn from(arg: NetworkPolicyArg) -> Self {
        match arg {
            NetworkPolicyArg::Overlane => Self::Overlane,
            NetworkPolicyArg::None => Self::None,
        }
    }
}

/// What lies between the nodes of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum UnderlayArg {
    /// One segment
    L2,
    /// Every node behind a router, whose table leads to nodes and to the blocks of nodes that do not tunnel
    Routed,
    /// One segment that drops what bears another source than its sender's own addresses
    Antispoof,
}

impl From<UnderlayArg> for overlane_lab::fabric::Underlay {
    fn from(arg: UnderlayArg) -> Self {
        match arg {
            UnderlayArg::L2 => Self::L2,
            UnderlayArg::Routed => Self::Routed,
            UnderlayArg::Antispoof => Self::Antispoof,
        }
    }
}

impl From<RoutingArg> for overlane_core::cluster::Routing {
    fn from(arg: RoutingArg) -> Self {
        match arg {
            RoutingArg::Native => Self::Native,
            RoutingArg::Vxlan => Self::Vxlan,
            RoutingArg::Auto => Self::Auto,
        }
    }
}

/// `overlane lab up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub nodes: u32,
    /// VNet to join, or to make for other labs to join; without, the lab has one of its own
    #[arg(long, value_name = "VNET")]
    pub vnet: Option<String>,
    /// Address families, the primary one first: `ipv4`, `ipv6`, `ipv4,ipv6`, `ipv6,ipv4`
    #[arg(long, value_name = "FAMILY,...", value_delimiter = ',')]
    pub ip_families: Vec<String>,
    /// Address families of the nodes themselves, where they are not those of the pods
    #[arg(long, value_name = "FAMILY,...", value_delimiter = ',')]
    pub node_families: Vec<String>,
    /// Pod CIDRs, one a family [default: 10.244.0.0/16,fd12:3456:789a::/64]
    #[arg(long, visible_alias = "pod-cidr", value_name = "CIDR,...", value_delimiter = ',')]
    pub pod_cidrs: Vec<String>,
    /// Service CIDRs, one a family [default: 10.0.0.0/16,fd12:3456:789a:1::/108]
    #[arg(long, visible_alias = "service-cidr", value_name = "CIDR,...", value_delimiter = ',')]
    pub service_cidrs: Vec<String>,
    /// Most pods a node, 10 to 250 [default: 250]
    #[arg(long, value_name = "N")]
    pub max_pods: Option<u32>,
    /// How pod packets cross nodes [default: native]
    #[arg(long, value_enum, value_name = "MODE")]
    pub routing: Option<RoutingArg>,
    /// Who enforces NetworkPolicies and ClusterNetworkPolicies [default: overlane]
    #[arg(long, value_enum, value_name = "WHO")]
    pub network_policy: Option<NetworkPolicyArg>,
    /// MTU of a new VNet [default: 1500]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// What lies between the nodes of a new VNet [default: l2]
    #[arg(long, value_enum, value_name = "KIND")]
    pub underlay: Option<UnderlayArg>,
    /// Of a hundred packets that hosts of a new VNet send, lose so many, 0 to 50
    #[arg(long, value_name = "PERCENT")]
    pub loss: Option<u32>,
    /// Manifests to apply: a file, a directory, or - ; may be given again. A ClusterNetwork in them is taken in place of
    /// the flags above
    #[arg(short, long = "filename", value_name = "DIR-OR-FILE")]
    pub filename: Vec<PathBuf>,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 180, value_name = "SECONDS", value_parser = seconds())]
    pub timeout: u64,
    /// Leave what was made when it does not get ready
    #[arg(long)]
    pub keep: bool,
    /// A further argument of every agent; may be given again
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub agent_arg: Vec<String>,
    /// A further argument of every controller; may be given again
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub controller_arg: Vec<String>,
    /// How many controllers
    #[arg(long, value_name = "N", hide = true)]
    pub controllers: Option<u32>,
    /// Which API
    #[command(flatten)]
    pub api: ApiArg,
    /// How to print the lab once it is ready
    #[command(flatten)]
    pub output: OutputArg,
}

/// `overlane lab pods`.
#[derive(Debug, Args)]
pub struct PodsArgs {
    /// Only this namespace
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
    /// How to print
    #[command(flatten)]
    pub output: OutputArg,
}

/// `overlane lab down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// End every lab on this machine
    #[arg(long)]
    pub all: bool,
    /// How to print what was ended
    #[command(flatten)]
    pub output: OutputArg,
}

/// `overlane lab run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The pod's name
    pub pod: String,
    /// The node to run on; without, the one with the fewest pods
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Labels
    #[arg(long, value_name = "KEY=VALUE,...", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// The pod's namespace
    #[arg(short, long, default_value = "default", value_name = "NS")]
    pub namespace: String,
    /// Return at once
    #[arg(long)]
    pub no_wait: bool,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = seconds())]
    pub timeout: u64,
    /// How to print the pod
    #[command(flatten)]
    pub output: OutputArg,
    /// What the pod runs; without, an echo server
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    if key.is_empty() { Err("a label's key is empty".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

/// `overlane lab delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The pods' names
    #[arg(required = true)]
    pub pods: Vec<String>,
    /// Their namespace
    #[arg(short, long, default_value = "default", value_name = "NS")]
    pub namespace: String,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = seconds())]
    pub timeout: u64,
}

/// `overlane lab exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The pod's name
    pub pod: String,
    /// The pod's namespace
    #[arg(short, long, default_value = "default", value_name = "NS")]
    pub namespace: String,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `overlane lab node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The node's name
    pub node: String,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Hosts that are no nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutsideHost {
    /// The host on the node subnet
    Vm,
    /// The host behind the router
    Internet,
    /// The router
    Router,
}

/// `overlane lab outside`.
#[derive(Debug, Args)]
pub struct OutsideArgs {
    /// The host
    #[arg(value_enum)]
    pub host: OutsideHost,
    /// The command
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `overlane lab logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// A pod's name, or `agent-NODE`, `controller-0`, `daemon`
    pub of: String,
    /// The pod's namespace
    #[arg(short, long, default_value = "default", value_name = "NS")]
    pub namespace: String,
}

/// `overlane doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Look at a lab, not at this machine
    #[arg(long, value_name = "NAME")]
    pub lab: Option<String>,
    /// Only this node of the lab
    #[arg(long, value_name = "NODE", requires = "lab")]
    pub node: Option<String>,
    /// How to print
    #[command(flatten)]
    pub output: OutputArg,
}

/// Up to a day: what is added to a time must not overflow it.
fn seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=86_400)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    //! Must catch: a command of the documentation that is not understood as written.

    use super::*;
    use clap::CommandFactory as _;

    fn lab(line: &str) -> LabArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Lab(lab) => lab,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_takes_its_flags() {
        let lab = lab(
            "overlane lab up --nodes 5 --vnet shared --ip-families ipv6,ipv4 --pod-cidrs fd99::/64,10.9.0.0/16 \
             --service-cidrs fd98::/112,10.8.0.0/16 --max-pods 110 --mtu 9000 -f a -f b --name x --agent-arg --cool-down=1 \
             --network-policy none",
        );
        let LabCommand::Up(up) = lab.command else { panic!() };
        assert_eq!((lab.name.as_str(), up.nodes, up.vnet.as_deref()), ("x", 5, Some("shared")));
        assert_eq!(up.ip_families, ["ipv6", "ipv4"]);
        assert_eq!(up.pod_cidrs, ["fd99::/64", "10.9.0.0/16"]);
        assert_eq!(up.service_cidrs, ["fd98::/112", "10.8.0.0/16"]);
        assert_eq!((up.max_pods, up.mtu), (Some(110), Some(9000)));
        assert_eq!(up.network_policy, Some(NetworkPolicyArg::None));
        assert_eq!(up.filename, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(up.agent_arg, ["--cool-down=1"]);
    }

    #[test]
    fn the_api_is_the_lab_s_own_unless_named() {
        let api = |line: &str| match lab(line).command {
            LabCommand::Up(up) => up.api,
            LabCommand::Demo(api) => api,
            other => panic!("{other:?}"),
        };
        // The suites set the variable for the programs that they start, not for this test.
        assert_eq!(api("overlane lab up").api, Api::InProcess);
        let real = api("overlane lab up --api kubernetes --kubernetes-bin /k");
        assert_eq!((real.api, real.kubernetes_bin), (Api::Kubernetes, Some(PathBuf::from("/k"))));
        assert_eq!(api("overlane lab demo --api kubernetes").api, Api::Kubernetes);
        for bad in ["--api", "--api=", "--api=k3s", "--api=Kubernetes", "--kubernetes-bin"] {
            assert!(Cli::try_parse_from(["overlane", "lab", "up", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_name_goes_anywhere_before_the_dashes() {
        for line in ["overlane lab --name x pods", "overlane lab pods --name x"] {
            assert_eq!(lab(line).name, "x");
        }
        assert_eq!(lab("overlane lab status").name, "default");
        let inner = lab("overlane lab exec web -- echo --name y");
        let LabCommand::Exec(exec) = inner.command else { panic!() };
        assert_eq!((inner.name.as_str(), exec.command.len()), ("default", 3));
    }

    #[test]
    fn run_takes_its_flags() {
        let LabCommand::Run(run) = lab("overlane lab run web --node node-1 --labels a=b,c= -n ns -- sleep 5").command
        else {
            panic!()
        };
        assert_eq!((run.pod.as_str(), run.node.as_deref(), run.namespace.as_str()), ("web", Some("node-1"), "ns"));
        assert_eq!(run.labels, [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]);
        assert_eq!(run.command, ["sleep", "5"]);
    }

    #[test]
    fn the_other_commands_are_understood() {
        for line in [
            "overlane lab status -o json",
            "overlane lab pods -o table",
            "overlane lab down",
            "overlane lab down -o json",
            "overlane lab kubeconfig -o json",
            "overlane lab kubeconfig -o table",
            "overlane lab down --all",
            "overlane lab kubeconfig",
            "overlane lab node node-0 -- ip route",
            "overlane lab outside vm -- ip addr",
            "overlane lab outside internet -- ip addr",
            "overlane lab check",
            "overlane lab demo --name demo",
            "overlane lab nodes add 2",
            "overlane lab nodes add --node node-1",
            "overlane lab nodes remove node-1 --keep-objects",
            "overlane lab nodes reboot node-1",
            "overlane lab program agent-node-0 kill",
            "overlane lab api restore /tmp/x",
            "overlane lab logs web",
        ] {
            lab(line);
        }
        assert!(Cli::try_parse_from(["overlane", "doctor", "--node", "x"]).is_err(), "a node of which lab?");
        assert!(Cli::try_parse_from(["overlane", "lab", "run", "p", "--labels", "x"]).is_err());
    }
}
