//! The commands about packet filters around nodes.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use overlane_api::firewall::Format;
use overlane_core::cidr::Cidr;

use super::{OutputArg, RoutingArg};

/// `overlane nsg`.
#[derive(Debug, Args)]
pub struct NsgArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: NsgCommand,
}

/// The commands about packet filters around nodes.
#[derive(Debug, Subcommand)]
pub enum NsgCommand {
    /// Say whether what the overlay needs passes, which rule blocks it, and which to add; exit code 1 if not all of it
    /// surely passes
    Check(NsgCheckArgs),
}

/// `overlane nsg check`.
#[derive(Debug, Args)]
pub struct NsgCheckArgs {
    /// The rules, as JSON: of `az network nsg show` or `rule list`, `aws ec2 describe-security-groups`, `gcloud compute
    /// firewall-rules list --format=json`, or `nft -j list ruleset`; - for standard input
    #[arg(value_name = "RULES")]
    pub rules: PathBuf,
    /// Whose rules they are [default: what they look like]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<FormatArg>,
    /// A network of nodes; may be given again
    #[arg(long, visible_alias = "node-cidrs", value_name = "CIDR,...", value_delimiter = ',', required = true)]
    pub node_cidr: Vec<Cidr>,
    /// A network of pods; may be given again
    #[arg(long, visible_alias = "pod-cidrs", value_name = "CIDR,...", value_delimiter = ',', required = true)]
    pub pod_cidr: Vec<Cidr>,
    /// How pod packets cross nodes
    #[arg(long, value_enum, default_value = "native", value_name = "MODE")]
    pub routing: RoutingArg,
    /// The UDP port of the tunnel
    #[arg(long, default_value_t = 4789, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: u16,
    /// Azure: address space of the VNet, which the tag VirtualNetwork covers beside the nodes' networks; may be given again
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub vnet_cidr: Vec<Cidr>,
    /// Azure: a peered or connected network, which VirtualNetwork covers too; may be given again
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub peered_cidr: Vec<Cidr>,
    /// Azure: a prefix of the route table of the nodes' subnet, which VirtualNetwork covers too; may be given again
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub route_cidr: Vec<Cidr>,
    /// Azure: who is in an application security group; may be given again
    #[arg(long, value_name = "NAME=CIDR,...")]
    pub asg: Vec<Members>,
    /// A security group that nodes are in, by name or identifier; may be given again [default: all of the file]
    #[arg(long, value_name = "GROUP,...", value_delimiter = ',')]
    pub group: Vec<String>,
    /// GCP: a network tag that nodes have; may be given again, or empty where they have none
    #[arg(long, value_name = "TAG,...", value_delimiter = ',')]
    pub tag: Option<Vec<String>>,
    /// GCP: the service account that nodes run as; may be given again
    #[arg(long, value_name = "ACCOUNT,...", value_delimiter = ',')]
    pub service_account: Option<Vec<String>>,
    /// GCP: the VPC network of the nodes, where the rules are of several
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// nft: a node's link to other nodes; may be given again
    #[arg(long, value_name = "LINK,...", value_delimiter = ',')]
    pub interface: Vec<String>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArg,
}

/// Formats of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Network security groups of Azure
    Azure,
    /// Security groups of AWS
    Aws,
    /// Firewall rules of a VPC network of Google Cloud
    Gcp,
    /// nftables of a node
    Nft,
}

impl From<FormatArg> for Format {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::Azure => Self::Azure,
            FormatArg::Aws => Self::Aws,
            FormatArg::Gcp => Self::Gcp,
            FormatArg::Nft => Self::Nft,
        }
    }
}

/// An application security group and who is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Its name.
    pub name: String,
    /// Networks whose addresses are all in it.
    pub cidrs: Vec<Cidr>,
}

impl FromStr for Members {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, cidrs) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("give NAME=CIDR,...")?;
        let cidrs = cidrs.split(',').filter(|cidr| !cidr.is_empty());
        let cidrs =
            cidrs.map(|cidr| cidr.parse::<Cidr>().map_err(|error| error.to_string())).collect::<Result<_, _>>()?;
        Ok(Self { name: name.to_owned(), cidrs })
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a group whose members are somebody else's.

    use super::*;

    #[test]
    fn members() {
        let of = |text: &str| text.parse::<Members>().map(|one| (one.name, one.cidrs.len()));
        assert_eq!(of("web=10.0.0.0/24,10.0.1.0/24"), Ok(("web".to_owned(), 2)));
        // Nobody is in it.
        assert_eq!(of("web="), Ok(("web".to_owned(), 0)));
        for bad in ["web", "=10.0.0.0/24", "web=10.0.0.1/24", "web=x"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
