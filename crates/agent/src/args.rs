//! What was typed: flags and their environment variables, nothing resolved yet.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use overlane_datapath::node::TunnelKind;

/// `--tunnel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TunnelArg {
    /// Routes where the kernel has those that encapsulate, else entries
    #[default]
    Auto,
    /// The route itself (needs CONFIG_LWTUNNEL)
    Routes,
    /// Entries of the tunnel link's forwarding table (FDB)
    Entries,
}

impl TunnelArg {
    /// What was chosen; none leaves it to the kernel.
    #[must_use]
    pub const fn kind(self) -> Option<TunnelKind> {
        match self {
            Self::Auto => None,
            Self::Routes => Some(TunnelKind::Routes),
            Self::Entries => Some(TunnelKind::Entries),
        }
    }
}

/// The node agent of Overlane: gives this node's pods their network.
#[derive(Clone, Debug, Parser)]
#[command(name = "overlane-agent", version, about, max_term_width = 120)]
pub struct Args {
    /// Name of this node's Node object.
    #[arg(long, env = "OVERLANE_NODE_NAME", value_name = "NAME")]
    pub node_name: String,

    /// Kubeconfig to reach the API server with; without it, and without --api-url and --objects, the pod's service
    /// account.
    #[arg(long, env = "OVERLANE_KUBECONFIG", value_name = "FILE", conflicts_with_all = ["api_url", "objects"])]
    pub kubeconfig: Option<PathBuf>,

    /// Address of an API server that asks for no credentials, such as the lab's.
    #[arg(long, env = "OVERLANE_API_URL", value_name = "URL", conflicts_with = "objects")]
    pub api_url: Option<String>,

    /// Directory of YAML files to read ClusterNetwork, NodeNetworkConfigs and ConfigMaps from, in place of a cluster.
    #[arg(long, env = "OVERLANE_OBJECTS", value_name = "DIR")]
    pub objects: Option<PathBuf>,

    /// Directory of the agent's socket and of everything it must remember until the next reboot; a tmpfs.
    #[arg(long, env = "OVERLANE_RUN_DIR", value_name = "DIR", default_value = "/run/overlane")]
    pub run_dir: PathBuf,

    /// Directory that the container runtime reads network configurations from.
    #[arg(long, env = "OVERLANE_CNI_CONF_DIR", value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,

    /// Name of the network configuration that is written there once an address can be given.
    #[arg(long, env = "OVERLANE_CNI_CONF_NAME", value_name = "FILE", default_value = "05-overlane.conflist")]
    pub cni_conf_name: String,

    /// The plugin to install into --cni-bin-dir; without, it is taken to be there already.
    #[arg(long, env = "OVERLANE_CNI_PLUGIN", value_name = "FILE")]
    pub cni_plugin: Option<PathBuf>,

    /// Directory that the container runtime looks for plugins in.
    #[arg(long, env = "OVERLANE_CNI_BIN_DIR", value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,

    /// Directory with the kernel's settings, its part `net` writable: in a container /proc/sys is not.
    #[arg(long, env = "OVERLANE_SYSCTL_DIR", value_name = "DIR", default_value = "/proc/sys")]
    pub sysctl_dir: PathBuf,

    /// Name of the lab that this agent belongs to; only shown, so that a process list tells labs apart.
    #[arg(long, env = "OVERLANE_LAB", value_name = "NAME")]
    pub lab: Option<String>,

    /// This node's addresses, one a family, where the NodeNetworkConfig's shall not count.
    #[arg(long, env = "OVERLANE_NODE_IP", value_name = "ADDRESS,...", value_delimiter = ',')]
    pub node_ip: Vec<String>,

    /// What says which node a packet in the tunnel goes to.
    #[arg(long, env = "OVERLANE_TUNNEL", value_enum, value_name = "HOW", default_value_t)]
    pub tunnel: TunnelArg,

    /// File that holds the machine's boot id; leases of another boot id are void.
    #[arg(long, env = "OVERLANE_BOOT_ID_FILE", value_name = "FILE", default_value = "/proc/sys/kernel/random/boot_id")]
    pub boot_id_file: PathBuf,

    /// Where to serve /metrics, /healthz, /readyz and /debug; or `off`.
    #[arg(long, env = "OVERLANE_METRICS_ADDR", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9470")]
    pub metrics_addr: String,

    /// Seconds that a freed address rests before it is given again, unless nothing else is left.
    #[arg(long, env = "OVERLANE_COOL_DOWN", value_name = "SECONDS", default_value_t = 30)]
    pub cool_down: u32,

    /// Seconds between two full looks at links, routes, neighbours, nft and sysctls; 1 to 3600.
    #[arg(long, env = "OVERLANE_AUDIT_INTERVAL", value_name = "SECONDS", default_value_t = 60)]
    pub audit_interval: u32,

    /// What to log: a level, or a filter such as `info,overlane_agent::calls=debug`. Changeable while running by
    /// `PUT /debug/log?filter=...`.
    #[arg(long, env = "OVERLANE_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    pub log_level: String,

    /// Print every setting with its meaning and the value that would count, and end.
    #[arg(long)]
    pub print_config: bool,

    /// Check the settings and this machine, print what was found, and end: 0 if an agent would run, 1 if not.
    #[arg(long)]
    pub check: bool,

    /// Take everything that agents made on this node away, and end: 0 if nothing is left, 1 if pods still have their
    /// network from it or something could not be removed.
    #[arg(long, conflicts_with_all = ["check", "print_config"])]
    pub uninstall: bool,

    /// With --uninstall: also while pods run; they lose their network.
    #[arg(long, requires = "uninstall")]
    pub force: bool,
}
