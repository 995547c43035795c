//! What becomes of pods' packets that leave the cluster.
//!
//! Where they go to a next hop, they are marked before they are routed, once their destination is translated; a packet
//! that comes to the end of `forward` without that mark is dropped, like all of them where none may leave.

use std::collections::BTreeSet;

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::plan::{EgressPlan, Outside};

use super::{Chain, from_any_pod, protocol};
use crate::owned::{MARK_MASK, exit_mark};
use crate::render::element::Set;
use crate::render::exits::NEXT_HOP_EXIT;

/// What pods of this node send goes to a chain.
pub(super) fn from_pods(chain: &str) -> Vec<String> {
    let mut rules = vec![format!("{} goto {chain} comment \"egress: what pods send\"", from_any_pod())];
    for family in Family::ALL {
        let (ip, set) = (protocol(family), Set::Delegated(family));
        rules.push(format!("{ip} saddr @{set} goto {chain} comment \"egress: pods behind other plugins' links\""));
    }
    rules
}

/// The chains.
pub(super) fn chains(plan: &EgressPlan, services: &BTreeSet<Cidr>) -> Vec<Chain> {
    let mut chains = vec![leaves(&plan.outside, services)];
    if matches!(plan.outside, Outside::NextHops { .. }) {
        // Behind every translation of destinations (dstnat is -100), before the route is looked up.
        let hook = Some("type filter hook prerouting priority -50; policy accept;".to_owned());
        chains.push(Chain { name: "exits", hook, rules: from_pods("exit") });
        chains.push(exit());
    }
    chains
}

fn inside() -> impl Iterator<Item = String> {
    Family::ALL.into_iter().map(|family| {
        let (ip, set) = (protocol(family), Set::Inside(family));
        format!("{ip} daddr @{set} return comment \"egress: inside of the cluster\"")
    })
}

fn has_exit() -> String {
    format!("meta mark & {MARK_MASK:#010x} == {:#010x}", exit_mark(NEXT_HOP_EXIT))
}

/// First packets of flows that leave this node. A mark alone proves nothing: the rule that should lead it may be gone. A
/// Service that nobody translated has nobody behind it, and says so.
fn leaves(outside: &Outside, services: &BTreeSet<Cidr>) -> Chain {
    let mut rules: Vec<String> = inside().collect();
    if let Outside::NextHops { by, .. } = outside {
        for (family, next_hop) in by {
            let Some(next_hop) = next_hop else { continue };
            let (mark, ip) = (has_exit(), protocol(*family));
            rules.push(format!("{mark} rt {ip} nexthop {next_hop} return comment \"egress: to the next hop\""));
        }
    }
    for service in services {
        let ip = protocol(service.family());
        rules.push(format!(
            "{ip} daddr {service} reject with icmpx port-unreachable comment \"egress: a Service without endpoints\""
        ));
    }
    rules.push("counter name no_way_out drop comment \"egress: nothing else leaves\"".to_owned());
    Chain { name: "leaves", hook: None, rules }
}

/// Answers go back the way that their question came.
fn exit() -> Chain {
    let mut rules = vec!["ct direction reply return comment \"egress: answers\"".to_owned()];
    rules.extend(inside());
    // Without a route of the node's own IPv6 has another type for what leaves.
    let here = "fib daddr type { local, broadcast, anycast, multicast }";
    rules.push(format!("{here} return comment \"egress: this node, multicast\""));
    rules.push("ip6 daddr fe80::/10 return comment \"egress: the link\"".to_owned());
    let (rest, mark) = (!MARK_MASK, exit_mark(NEXT_HOP_EXIT));
    rules.push(format!("meta mark set meta mark & {rest:#010x} | {mark:#010x} comment \"egress: to the next hop\""));
    Chain { name: "exit", hook: None, rules }
}

/// Where the next hop is to see the pod's address.
pub(super) fn unmasqueraded(plan: &EgressPlan) -> Option<String> {
    let keeps = matches!(plan.outside, Outside::NextHops { keep_pod_address: true, .. });
    keeps.then(|| format!("{} return comment \"masquerade: the next hop sees the pod's address\"", has_exit()))
}
