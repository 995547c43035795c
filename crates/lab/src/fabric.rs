//! What lies between the nodes of a VNet, and what it does to their packets.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;
use overlane_core::family::Family;
use overlane_datapath::nft;
use serde::{Deserialize, Serialize};

/// The router's address on each port of a routed fabric.
pub const ROUTER_LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// The most packets of a hundred that a fabric can be told to lose.
pub const MOST_LOSS: u32 = 50;
/// The packet filter's table in the router.
const TABLE: &str = "fabric";

/// What kind of network the nodes share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Underlay {
    /// One segment: whatever a node sends arrives.
    #[default]
    L2,
    /// Every node behind the router, on a link of its own; the router's table leads to nodes and, as clouds' route tables
    /// do, to the blocks of nodes that do not tunnel.
    Routed,
    /// One segment that drops what bears another source than its sender's own addresses, as clouds do.
    Antispoof,
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::Routed => "routed",
            Self::Antispoof => "antispoof",
        })
    }
}

/// A fabric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fabric {
    /// Its kind.
    pub underlay: Underlay,
    /// Of a hundred packets that nodes send, so many are lost: 0 to [`MOST_LOSS`].
    pub loss: u32,
}

impl Fabric {
    /// Puts its packet filter into the router's namespace, in which the calling thread is.
    pub fn build(self) -> Result<()> {
        let script = self.script();
        if script.is_empty() { Ok(()) } else { nft(&script) }
    }

    fn script(self) -> String {
        let mut rules = String::new();
        if self.underlay == Underlay::Antispoof {
            rules += "  iifname \"h*\" ip saddr != 0.0.0.0 iifname . ip saddr != @own4 counter name spoofed drop\n";
            rules += "  iifname \"h*\" ip6 saddr != { ::, fe80::/10 } iifname . ip6 saddr != @own6 counter name spoofed drop\n";
        }
        if self.loss > 0 {
            let (loss, kinds) = (self.loss, "meta protocol { ip, ip6 }");
            rules += &format!("  iifname \"h*\" {kinds} numgen random mod 100 < {loss} counter name lost drop\n");
        }
        if rules.is_empty() {
            return rules;
        }
        // What is bridged passes the bridge's hooks, what is routed the others.
        let kind = if self.underlay == Underlay::Routed { "inet" } else { "bridge" };
        format!(
            "table {kind} {TABLE} {{\n counter spoofed {{}}\n counter lost {{}}\n set own4 {{ typeof iifname . ip saddr; }}\n set own6 {{ typeof iifname . ip6 saddr; }}\n chain in {{\n  type filter hook prerouting priority -300;\n{rules} }}\n}}\n"
        )
    }

    /// Lets what is behind a port send from these addresses, in the router's namespace.
    pub fn admit(self, port: &str, addresses: &[IpAddr]) -> Result<()> {
        if self.underlay != Underlay::Antispoof {
            return Ok(());
        }
        let element = |address: &IpAddr| {
            let set = if Family::of(address) == Family::V4 { "own4" } else { "own6" };
            format!("add element bridge {TABLE} {set} {{ \"{port}\" . {address} }}\n")
        };
        nft(&addresses.iter().map(element).collect::<String>())
    }
}

fn nft(script: &str) -> Result<()> {
    Ok(nft::run("make the fabric's rules", script)?)
}

#[cfg(test)]
mod tests {
    //! Must catch: a segment that drops or loses although nobody asked for it.

    use super::*;

    #[test]
    fn a_plain_fabric_has_no_rules() {
        let fabric = |underlay, loss| Fabric { underlay, loss }.script();
        assert_eq!(fabric(Underlay::L2, 0), "");
        assert_eq!(fabric(Underlay::Routed, 0), "");
        assert!(fabric(Underlay::Routed, 5).starts_with("table inet "));
        let both = fabric(Underlay::Antispoof, 5);
        assert!(both.starts_with("table bridge ") && both.contains("own4 counter") && both.contains("mod 100 < 5"));
    }
}
