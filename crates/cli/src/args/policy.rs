//! The commands about network policy.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use overlane_api::policy::recording::MOST_FLOWS;
use overlane_core::ports::Protocol;

use super::{KubeArgs, OutputArg};

/// `overlane policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// The commands about network policy.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Say whether policies let a connection through, and which decides; exit code 1 if they do not
    Explain(ExplainArgs),
    /// Say what of policies means nothing, selects nothing, never decides or contradicts another; exit code 1 if anything
    Check(PolicyCheckArgs),
    /// Say between which pods another set of policies changes something; exit code 1 if anything
    Diff(PolicyDiffArgs),
    /// Record on this node which flows begin, with the pods' names, for `diff --flows`; exit code 1 if some were lost
    Record(RecordArgs),
}

/// `overlane policy explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Who opens the connection: a pod, or any address
    #[arg(long, value_name = "NAMESPACE/POD|ADDRESS")]
    pub from: Who,
    /// Who it is opened to: a pod, or any address (of a Service: of a pod behind it)
    #[arg(long, value_name = "NAMESPACE/POD|ADDRESS")]
    pub to: Who,
    /// The port at the destination, as `80`, `53/udp` or `9000/sctp`; or `icmp`
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    pub port: About,
    /// What is read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArg,
}

/// Where policies are read.
#[derive(Debug, Default, Args)]
pub struct SourceArgs {
    /// Read manifests instead of a cluster: a file, or a directory of them; may be given again
    #[arg(short, long = "filename", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// The cluster.
    #[command(flatten)]
    pub kube: KubeArgs,
}

/// `overlane policy check`.
#[derive(Debug, Args)]
pub struct PolicyCheckArgs {
    /// What is read.
    #[command(flatten)]
    pub source: SourceArgs,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `overlane policy diff`.
#[derive(Debug, Args)]
pub struct PolicyDiffArgs {
    /// Manifests, a file or a directory: the old ones, then the new ones. Pods count that both have; where one has none, the
    /// other's
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    /// Say it of flows that `overlane policy record` recorded, not of every pair of pods
    #[arg(long, value_name = "FILE")]
    pub flows: Option<PathBuf>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `overlane policy record`.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// How long, as `60s`, `5m` or `1h`; without, until Ctrl-C. Each connection costs the node more meanwhile
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Keep so many different flows; of others only their number
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = most_flows)]
    pub max: usize,
    /// The file to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Record on a node of a lab, not on this machine
    #[arg(long, value_name = "NAME", requires = "node", conflicts_with_all = ["kubeconfig", "context"])]
    pub lab: Option<String>,
    /// The lab's node
    #[arg(long, value_name = "NODE", requires = "lab")]
    pub node: Option<String>,
    /// The cluster whose pods they are.
    #[command(flatten)]
    pub kube: KubeArgs,
}

fn most_flows(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(most @ 1..=MOST_FLOWS) => Ok(most),
        _ => Err(format!("give a number from 1 to {MOST_FLOWS}")),
    }
}

/// A time of up to a day.
fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    match seconds {
        Some(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("give a time from 1s to 24h, as `60s`, `5m` or `1h`".to_owned()),
    }
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An address.
    Address(IpAddr),
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Pod { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("give a pod as NAMESPACE/POD, or an address".to_owned()),
        }
    }
}

/// What a connection is about: a port, or nothing that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About(pub Option<(Protocol, u16)>);

impl FromStr for About {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("icmp") {
            return Ok(Self(None));
        }
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(format!("`{other}` is none of tcp, udp and sctp")),
        };
        match port.parse() {
            Ok(port @ 1..) => Ok(Self(Some((protocol, port)))),
            _ => Err(format!("`{port}` is no port: give one from 1 to 65535, or `icmp`")),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a port of another protocol than the one that was given.

    use super::*;

    #[test]
    fn times_and_numbers() {
        for (text, seconds) in [("60", 60), ("60s", 60), ("5m", 300), ("24h", 86_400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "0", "s", "5d", "-1", "1.5m", "25h", "99999999999999999999h", "6\u{e9}"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(most_flows("7"), Ok(7));
        assert!(most_flows("0").is_err() && most_flows("1000001").is_err());
    }

    #[test]
    fn ends_and_ports() {
        assert_eq!("fd12::5".parse(), Ok(Who::Address("fd12::5".parse().unwrap_or([0; 4].into()))));
        assert_eq!("shop/web".parse(), Ok(Who::Pod { namespace: "shop".into(), name: "web".into() }));
        for bad in ["web", "/web", "shop/", "a/b/c", ""] {
            assert!(bad.parse::<Who>().is_err(), "{bad}");
        }
        assert_eq!("80".parse(), Ok(About(Some((Protocol::Tcp, 80)))));
        assert_eq!("53/UDP".parse(), Ok(About(Some((Protocol::Udp, 53)))));
        assert_eq!("icmp".parse(), Ok(About(None)));
        for bad in ["0", "65536", "http", "80/http", "-1"] {
            assert!(bad.parse::<About>().is_err(), "{bad}");
        }
    }
}
