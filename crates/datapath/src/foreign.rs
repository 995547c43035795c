//! What others configured on this node that gets in a pod's way: found and named with the remedy, never changed.

mod routes;

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::netlink::{NetlinkError, Socket};
use crate::nft;
use crate::owned::{NFT_TABLE, POD_LINK_PREFIX};
use crate::rtnl::link::{self, Link};

/// Something foreign that hinders.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// A short name for the kind: `forward-drop`, `bridge-netfilter`, `foreign-route`, `not-looked-at`.
    pub kind: &'static str,
    /// What is there, and what it does to pods.
    pub what: String,
    /// What to do about it: a command where there is one.
    pub remedy: String,
}

/// Looks, in the calling thread's namespace. What cannot be looked at is a finding too.
#[must_use]
pub fn inspect() -> Vec<Finding> {
    let mut findings = nft_chains();
    findings.extend(legacy_iptables());
    findings.extend(bridge_netfilter());
    findings.extend(routes::inspect());
    findings.sort();
    findings
}

fn not_looked_at(what: String, remedy: &str) -> Finding {
    Finding { kind: "not-looked-at", what, remedy: remedy.to_owned() }
}

/// A packet must pass every forward chain of a hook: an accept of ours does not help against a drop of another.
fn nft_chains() -> Vec<Finding> {
    let text = match nft::query(&["--json", "list", "chains"], "list chains") {
        Ok(text) => text,
        Err(error) => return vec![not_looked_at(error.to_string(), "install nft, or run as root")],
    };
    match serde_json::from_str(&text) {
        Ok(value) => forward_drops(&value),
        Err(error) => {
            vec![not_looked_at(format!("list chains: {error}"), "report this with the output of nft -j list chains")]
        }
    }
}

fn forward_drops(listing: &Value) -> Vec<Finding> {
    let chains: Vec<&Value> =
        listing["nftables"].as_array().into_iter().flatten().filter_map(|object| object.get("chain")).collect();
    let field = |chain: &Value, name: &str| chain[name].as_str().unwrap_or("").to_owned();
    // Docker and ufw leave marks by which they are known: chains of theirs in the same table.
    let has = |family: &str, table: &str, start: &str| {
        chains
            .iter()
            .any(|c| field(c, "family") == family && field(c, "table") == table && field(c, "name").starts_with(start))
    };
    let drops = |chain: &&&Value| {
        field(chain, "hook") == "forward"
            && field(chain, "policy") == "drop"
            && !(field(chain, "family") == "inet" && field(chain, "table") == NFT_TABLE)
            && matches!(field(chain, "family").as_str(), "ip" | "ip6" | "inet")
    };
    let mut findings: Vec<_> = chains
        .iter()
        .filter(drops)
        .map(|chain| {
            let (family, table, name) = (field(chain, "family"), field(chain, "table"), field(chain, "name"));
            let tool = if family == "ip6" { "ip6tables" } else { "iptables" };
            let (by, remedy) = if has(&family, &table, "ufw") {
                ("ufw", format!("ufw route allow in on {POD_LINK_PREFIX}+; ufw route allow out on {POD_LINK_PREFIX}+"))
            } else if has(&family, &table, "DOCKER-USER") {
                ("docker", accept_commands(tool, "DOCKER-USER"))
            } else if table == "filter" && name == "FORWARD" {
                ("iptables", accept_commands(tool, "FORWARD"))
            } else {
                ("nftables", nft_commands(&family, &table, &name))
            };
            drop_finding(&format!("nft chain {family} {table} {name}"), by, remedy)
        })
        .collect();
    if chains.iter().any(|c| field(c, "table") == "firewalld" && field(c, "hook") == "forward") {
        findings.push(drop_finding(
            "firewalld, which rejects forwarded packets at the end of its forward chain",
            "firewalld",
            format!(
                "firewall-cmd --permanent --zone=trusted --add-interface={POD_LINK_PREFIX}+; firewall-cmd --reload"
            ),
        ));
    }
    findings
}

fn drop_finding(what: &str, by: &str, remedy: String) -> Finding {
    Finding {
        kind: "forward-drop",
        what: format!(
            "{what} ({by}) drops forwarded packets that no rule of its own accepts: pods reach nothing beyond their node"
        ),
        remedy,
    }
}

fn accept_commands(tool: &str, chain: &str) -> String {
    format!("{tool} -I {chain} -i {POD_LINK_PREFIX}+ -j ACCEPT; {tool} -I {chain} -o {POD_LINK_PREFIX}+ -j ACCEPT")
}

fn nft_commands(family: &str, table: &str, chain: &str) -> String {
    let rule = format!("nft insert rule {family} {table} {chain}");
    format!("{rule} iifname '\"{POD_LINK_PREFIX}*\"' accept; {rule} oifname '\"{POD_LINK_PREFIX}*\"' accept")
}

/// The old iptables has its own hooks, which nft does not list.
fn legacy_iptables() -> Vec<Finding> {
    let mut findings = Vec::new();
    for (tool, names) in [
        ("iptables-legacy", "/proc/thread-self/net/ip_tables_names"),
        ("ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names"),
    ] {
        // The file names the tables in use; the program would bring one into being by looking.
        if !std::fs::read_to_string(names).is_ok_and(|text| text.lines().any(|table| table == "filter")) {
            continue;
        }
        let output = Command::new(tool).args(["-w", "5", "-S", "FORWARD"]).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => {
                if String::from_utf8_lossy(&output.stdout).lines().any(|line| line == "-P FORWARD DROP") {
                    findings.push(drop_finding(
                        &format!("the chain FORWARD of {tool}"),
                        tool,
                        accept_commands(tool, "FORWARD"),
                    ));
                }
            }
            _ => findings.push(not_looked_at(
                format!("old iptables tables are in use, and {tool} cannot be run to look at them"),
                &format!("install iptables, and look at {tool} -S FORWARD"),
            )),
        }
    }
    findings
}

/// Matters where a bridge passes on frames of other machines: their clusters' pods may have the very addresses that
/// ours have, and would be taken for forgeries.
fn bridge_netfilter() -> Vec<Finding> {
    let bridges = match busy_bridges() {
        Ok(bridges) if bridges.is_empty() => return Vec::new(),
        Ok(bridges) => bridges.join(", "),
        Err(error) => return vec![not_looked_at(error.to_string(), "run as root")],
    };
    ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"]
        .into_iter()
        .filter(|name| {
            std::fs::read_to_string(format!("/proc/sys/net/bridge/{name}")).is_ok_and(|value| value.trim() == "1")
        })
        .map(|name| Finding {
            kind: "bridge-netfilter",
            what: format!(
                "net.bridge.{name} is 1: frames that {bridges} of this node passes on go through the packet filter as \
                 if they were routed, and one from another cluster with the same pod addresses is dropped"
            ),
            remedy: format!("sysctl net.bridge.{name}=0, if nothing else on this node needs it"),
        })
        .collect()
}

/// Bridges with at least two ports.
fn busy_bridges() -> Result<Vec<String>, NetlinkError> {
    let links: Vec<_> = Socket::route()?.dump(link::list(None))?.iter().filter_map(Link::read).collect();
    let ports = |bridge: &Link| links.iter().filter(|l| l.master == Some(bridge.index)).count();
    let busy = links.iter().filter(|l| l.kind.as_deref() == Some("bridge") && ports(l) > 1);
    Ok(busy.map(|l| l.name.clone()).collect())
}

#[cfg(test)]
mod tests {
    //! Must catch: a foreign forward chain with policy drop that is not named, or one of ours that is.
    use super::*;
    use serde_json::json;

    fn chain(family: &str, table: &str, name: &str, policy: &str) -> Value {
        json!({"chain": {"family": family, "table": table, "name": name, "hook": "forward", "policy": policy, "prio": 0}})
    }

    #[test]
    fn each_tool_is_known_and_has_its_remedy() {
        let user = json!({"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}});
        let ufw = json!({"chain": {"family": "ip6", "table": "filter", "name": "ufw6-user-forward"}});
        let listing = json!({"nftables": [
            {"metainfo": {}}, user, ufw,
            chain("ip", "filter", "FORWARD", "drop"),
            chain("ip6", "filter", "FORWARD", "drop"),
            chain("inet", "mine", "fwd", "drop"),
            chain("inet", "fine", "fwd", "accept"),
            chain("bridge", "filter", "FORWARD", "drop"),
            chain("inet", "overlane", "forward", "drop"),
            chain("inet", "firewalld", "filter_FORWARD", "accept"),
        ]});
        let found = forward_drops(&listing);
        let said: Vec<_> = found.iter().map(|f| format!("{} | {}", f.what, f.remedy)).collect();
        assert_eq!(found.len(), 4, "{said:#?}");
        assert!(said[0].contains("(docker)") && said[0].contains("DOCKER-USER -i ovlp+"), "{}", said[0]);
        assert!(said[1].contains("(ufw)") && said[1].contains("ufw route allow"), "{}", said[1]);
        assert!(said[2].contains("nft insert rule inet mine fwd iifname '\"ovlp*\"' accept"), "{}", said[2]);
        assert!(said[3].contains("firewall-cmd"), "{}", said[3]);
    }

    #[test]
    fn an_unexpected_listing_is_no_panic() {
        for value in [json!(null), json!([]), json!({"nftables": [1, {"chain": []}]})] {
            assert!(forward_drops(&value).is_empty());
        }
    }
}
