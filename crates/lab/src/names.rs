//! Names of labs, VNets and nodes, and of the namespaces that they stand for.
//!
//! A namespace is called `ovl-<owner>-<part>`, the owner being a lab or a VNet. [`parse_namespace`] takes such a name
//! apart again without doubt, so that ending lab `a` never touches lab `a-b`.

use std::fmt;
use std::str::FromStr;

/// What every namespace of every lab begins with.
pub const NAMESPACE_PREFIX: &str = "ovl-";
/// The longest name of a lab or VNet.
pub const MAX_NAME: usize = 40;

/// A name that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {given:?}: {reason}")]
pub struct NameError {
    /// What was to be named: `lab`, `VNet`.
    pub kind: &'static str,
    /// What was given.
    pub given: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

/// The name of a lab or of a VNet: lower-case letters, digits and dashes, beginning and ending with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

impl LabName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LabName {
    type Err = NameError;

    fn from_str(given: &str) -> Result<Self, NameError> {
        let refuse = |reason| Err(NameError { kind: "name", given: given.to_owned(), reason });
        if given.is_empty() || given.len() > MAX_NAME {
            return refuse("a name has 1 to 40 characters");
        }
        if !given.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return refuse("only lower-case letters, digits and dashes are possible");
        }
        if given.starts_with('-') || given.ends_with('-') {
            return refuse("a name begins and ends with a letter or a digit");
        }
        Ok(Self(given.to_owned()))
    }
}

impl TryFrom<String> for LabName {
    type Error = NameError;

    fn try_from(given: String) -> Result<Self, NameError> {
        given.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

/// What a namespace stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The router of a VNet.
    Router,
    /// A host on the node subnet that is no node.
    Vm,
    /// A host behind the router.
    Internet,
    /// The host of a lab's control plane.
    ControlPlane,
    /// A node, by number.
    Node(u32),
    /// A pod, by the first eight hex digits of its UID.
    Pod(String),
}

impl Part {
    /// Whether it belongs to a VNet, not to a lab.
    pub fn is_vnet(&self) -> bool {
        matches!(self, Self::Router | Self::Vm | Self::Internet)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Router => f.write_str("router"),
            Self::Vm => f.write_str("vm"),
            Self::Internet => f.write_str("internet"),
            Self::ControlPlane => f.write_str("cp"),
            Self::Node(number) => write!(f, "node-{number}"),
            Self::Pod(uid) => write!(f, "p-{uid}"),
        }
    }
}

/// The namespace's name, as `ip netns` shows it.
pub fn namespace(owner: &LabName, part: &Part) -> String {
    format!("{NAMESPACE_PREFIX}{owner}-{part}")
}

/// The opposite of [`namespace`]; `None` for names that no lab gives.
pub fn parse_namespace(name: &str) -> Option<(LabName, Part)> {
    let rest = name.strip_prefix(NAMESPACE_PREFIX)?;
    let (head, last) = rest.rsplit_once('-')?;
    let single = match last {
        "router" => Some(Part::Router),
        "vm" => Some(Part::Vm),
        "internet" => Some(Part::Internet),
        "cp" => Some(Part::ControlPlane),
        _ => None,
    };
    if let Some(part) = single {
        return Some((head.parse().ok()?, part));
    }
    let (owner, kind) = head.rsplit_once('-')?;
    let part = match kind {
        "node" => Part::Node(last.parse().ok()?),
        "p" if last.len() == 8 && last.bytes().all(|b| b.is_ascii_hexdigit()) => Part::Pod(last.to_owned()),
        _ => return None,
    };
    Some((owner.parse().ok()?, part))
}

/// Name of the Node object with this number.
pub fn node_name(number: u32) -> String {
    format!("node-{number}")
}

/// The opposite of [`node_name`].
pub fn node_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("node-")?;
    let number = digits.parse().ok()?;
    (node_name(number) == name).then_some(number)
}

/// Part of a pod's namespace: the first eight hex digits of its UID, or of the UID's hash where it is no UUID.
pub fn pod_part(uid: &str) -> Part {
    let digits: String = uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    if digits.len() == 8 {
        return Part::Pod(digits.to_ascii_lowercase());
    }
    let hash = uid.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    Part::Pod(format!("{hash:08x}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: two owners whose namespaces could be taken for each other's.

    use super::*;

    fn lab(name: &str) -> LabName {
        name.parse().unwrap()
    }

    #[test]
    fn names_are_checked() {
        for good in ["a", "default", "a-b", "0", "x1-2"] {
            assert_eq!(lab(good).as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "..", "ä", &"x".repeat(41)] {
            assert!(bad.parse::<LabName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn namespaces_name_their_owner() {
        let parts = [
            Part::Router,
            Part::Vm,
            Part::Internet,
            Part::ControlPlane,
            Part::Node(0),
            Part::Node(12_345_678),
            Part::Pod("12345678".into()),
            Part::Pod("deadbeef".into()),
        ];
        for owner in ["a", "a-b", "a-node-0", "a-p-12345678", "node", "p", "a-cp", "a-vm"] {
            for part in &parts {
                let name = namespace(&lab(owner), part);
                assert_eq!(parse_namespace(&name), Some((lab(owner), part.clone())), "{name}");
            }
        }
        for foreign in ["ovl-", "ovl-a", "cni-1", "ovl-a-node-x", "ovl-a-p-123", "ovl-A-cp", "ovl--cp"] {
            assert_eq!(parse_namespace(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn nodes_have_numbers() {
        assert_eq!(node_number("node-7"), Some(7));
        for bad in ["node-", "node-07", "node--1", "x", "node-1 "] {
            assert_eq!(node_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_pod_has_one_part() {
        assert_eq!(pod_part("5f0C2a9e-1c2d-4000-8000-000000000000"), Part::Pod("5f0c2a9e".into()));
        let odd = pod_part("static");
        assert_eq!(odd, pod_part("static"));
        let name = namespace(&lab("l"), &odd);
        assert_eq!(parse_namespace(&name), Some((lab("l"), odd)));
    }
}
