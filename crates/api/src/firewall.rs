//! Rules of clouds' and nodes' packet filters, as their own tools print them, and what they are in
//! [`overlane_core::firewall`].
//!
//! What a reader does not know makes a rule that may match; what it cannot read at all is an error that says where.
//! docs/firewall.md says how each format is read.

mod aws;
mod azure;
mod cursor;
mod gcp;
mod nft;
mod terms;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use overlane_core::cidr::Cidr;
use overlane_core::firewall::{Direction, Firewall};
use serde_json::Value;

use self::cursor::At;

/// Whose rules they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Network security groups of Azure.
    Azure,
    /// Security groups of AWS.
    Aws,
    /// Firewall rules of a VPC network of Google Cloud.
    Gcp,
    /// Rules of nftables on a node.
    Nft,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Azure => "azure",
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Nft => "nft",
        })
    }
}

/// What rules speak of and do not say themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The nodes' networks.
    pub nodes: Vec<Cidr>,
    /// The pods'.
    pub pods: Vec<Cidr>,
    /// Whether pods' addresses are on the wire between nodes.
    pub bare: bool,
    /// Azure: further networks that the tag `VirtualNetwork` covers.
    pub vnet: Vec<Cidr>,
    /// Azure: who is in an application security group, by its name.
    pub members: BTreeMap<String, Vec<Cidr>>,
    /// The security groups that apply to nodes, by name or identifier; empty where all that are in the input do.
    pub groups: Vec<String>,
    /// GCP: the nodes' network tags, if they are known.
    pub tags: Option<BTreeSet<String>>,
    /// GCP: the nodes' service accounts, if they are known.
    pub service_accounts: Option<BTreeSet<String>>,
    /// GCP: the VPC network.
    pub network: Option<String>,
    /// nft: the nodes' links to each other, if they are known.
    pub links: Vec<String>,
    /// nft: what is Overlane's own.
    pub own: Own,
}

/// Names of what Overlane itself makes on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Its table, of family `inet`, which is left out.
    pub table: String,
    /// What names of all its links begin with.
    pub link: String,
    /// What names of pods' links begin with.
    pub pod_link: String,
    /// The tunnel's link.
    pub tunnel_link: String,
}

/// Rules that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Their format.
    pub format: Format,
    /// What they are.
    pub firewall: Firewall,
    /// The lists of rules that apply.
    pub lists: Vec<List>,
    /// What was assumed, and what rules like these leave out.
    pub notes: Vec<String>,
}

/// A list of rules: what a further rule would be added to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// How labels call it: [`overlane_core::firewall::Label::owner`].
    pub owner: String,
    /// The name or identifier that commands take, if it is known.
    pub name: Option<String>,
    /// Azure: the resource group, if it is known.
    pub resource_group: Option<String>,
    /// The direction that it is for, where it is for one.
    pub direction: Option<Direction>,
    /// Priorities that rules have.
    pub used: BTreeSet<(Direction, i64)>,
}

/// Rules cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// It is no JSON.
    #[error("it is no JSON: {cause}")]
    Json {
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
    /// It is no format that is known.
    #[error("cannot say whose rules these are; say it with --format azure, aws, gcp or nft")]
    Format,
    /// It is another format's.
    #[error("these are no rules of {format}: {expected} was expected")]
    Other {
        /// The format that was asked for.
        format: Format,
        /// What such rules look like.
        expected: &'static str,
    },
    /// Something is not there.
    #[error("{at}: `{key}` is missing")]
    Missing {
        /// Where.
        at: String,
        /// What.
        key: String,
    },
    /// Something is of another kind.
    #[error("{at}: {expected} was expected, not {given}")]
    Kind {
        /// Where.
        at: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        given: &'static str,
    },
    /// A value means nothing.
    #[error("{at}: `{given}` is {problem}")]
    Value {
        /// Where.
        at: String,
        /// The value.
        given: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Something was named that is not in the input.
    #[error("there is no {what} `{name}` in it; there is {known}")]
    Absent {
        /// What it would be.
        what: &'static str,
        /// Its name.
        name: String,
        /// What there is.
        known: String,
    },
    /// It is more than anybody's rules are.
    #[error("the rules ask for more than {most} ranges, sets counted for each rule that names them")]
    TooMany {
        /// How many are read.
        most: usize,
    },
    /// Rules of several networks, of which one has to be named.
    #[error("there are rules of several networks: {known}; say which with --network")]
    Networks {
        /// Their names.
        known: String,
    },
}

/// Reads rules; finds out whose they are where that is not said.
///
/// # Errors
/// [`FirewallError`], for the first thing that cannot be read.
pub fn read(text: &str, format: Option<Format>, told: &Told) -> Result<Rules, FirewallError> {
    let text = text.trim_start_matches('\u{feff}');
    let value: Value = serde_json::from_str(text).map_err(|cause| FirewallError::Json { cause })?;
    let format = match format.or_else(|| guess(&value)) {
        Some(format) => format,
        None => return Err(FirewallError::Format),
    };
    let top = At::top(&value);
    match format {
        Format::Azure => azure::read(&top, told),
        Format::Aws => aws::read(&top, told),
        Format::Gcp => gcp::read(&top, told),
        Format::Nft => nft::read(&top, told),
    }
}

/// Whose rules look like that.
fn guess(value: &Value) -> Option<Format> {
    let has = |value: &Value, key: &str| value.get(key).is_some();
    if has(value, "nftables") {
        return Some(Format::Nft);
    }
    if has(value, "SecurityGroups") || has(value, "SecurityGroupRules") {
        return Some(Format::Aws);
    }
    let azure = |value: &Value| {
        let inner = value.get("properties").unwrap_or(value);
        has(inner, "securityRules") || has(inner, "access")
    };
    if azure(value) {
        return Some(Format::Azure);
    }
    let first = value.as_array()?.first()?;
    let known = [
        (azure(first), Format::Azure),
        (has(first, "allowed") || has(first, "denied"), Format::Gcp),
        (has(first, "IpPermissions") || has(first, "IsEgress"), Format::Aws),
    ];
    known.into_iter().find_map(|(is, format)| is.then_some(format))
}
