//! What others configured on this node that gets in a pod's way: found and named with the remedy, never changed.

mod forward;
mod routes;

use crate::netlink::{NetlinkError, Socket};
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
    let mut findings = forward::inspect();
    findings.extend(bridge_netfilter());
    findings.extend(routes::inspect());
    findings.sort();
    findings
}

fn not_looked_at(what: String, remedy: &str) -> Finding {
    Finding { kind: "not-looked-at", what, remedy: remedy.to_owned() }
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
