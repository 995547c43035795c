//! What becomes of pods' packets that leave the cluster.
//!
//! Where they go to a next hop, they are marked before they are routed, once their destination is translated; a packet
//! that comes to the end of `forward` without that mark is dropped, like all of them where none may leave.

use std::collections::{BTreeMap, BTreeSet};

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::plan::{EgressPlan, Outside};

use super::gateway::{has_mark, set_mark};
use super::{Chain, from_any_pod, gateway, protocol};
use crate::owned::NEXT_HOP_EXIT;
use crate::render::element::Set;

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
pub(super) fn chains(plan: &EgressPlan, services: &BTreeSet<Cidr>, primary: &BTreeMap<Family, String>) -> Vec<Chain> {
    let mut chains = vec![leaves(plan, services, primary)];
    if matches!(plan.outside, Outside::NextHops { .. }) || plan.gateways.is_some() {
        // Behind every translation of destinations (dstnat is -100), before the route is looked up.
        let hook = Some("type filter hook prerouting priority -50; policy accept;".to_owned());
        let mut rules: Vec<String> = plan.gateways.iter().flat_map(gateway::answers).collect();
        rules.extend(from_pods("exit"));
        chains.push(Chain { name: "exits", hook, rules });
        chains.push(exit(plan));
    }
    chains
}

fn inside() -> impl Iterator<Item = String> {
    Family::ALL.into_iter().map(|family| {
        let (ip, set) = (protocol(family), Set::Inside(family));
        format!("{ip} daddr @{set} return comment \"egress: inside of the cluster\"")
    })
}

/// First packets of flows that leave this node. A mark alone proves nothing: the rule that should lead it may be gone. A
/// Service that nobody translated has nobody behind it, and says so.
fn leaves(plan: &EgressPlan, services: &BTreeSet<Cidr>, primary: &BTreeMap<Family, String>) -> Chain {
    let mut rules: Vec<String> = inside().collect();
    rules.extend(plan.gateways.iter().flat_map(|gateways| gateway::leaves(gateways, primary)));
    if plan.outside == Outside::AsNode {
        return Chain { name: "leaves", hook: None, rules };
    }
    if let Outside::NextHops { by, .. } = &plan.outside {
        for (family, next_hop) in by {
            let Some(next_hop) = next_hop else { continue };
            let (mark, ip) = (has_mark(NEXT_HOP_EXIT), protocol(*family));
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
fn exit(plan: &EgressPlan) -> Chain {
    let mut rules = vec!["ct direction reply return comment \"egress: answers\"".to_owned()];
    rules.extend(inside());
    // Without a route of the node's own IPv6 has another type for what leaves.
    let here = "fib daddr type { local, broadcast, anycast, multicast }";
    rules.push(format!("{here} return comment \"egress: this node, multicast\""));
    rules.push("ip6 daddr fe80::/10 return comment \"egress: the link\"".to_owned());
    rules.extend(plan.gateways.iter().flat_map(gateway::exits));
    if matches!(plan.outside, Outside::NextHops { .. }) {
        rules.push(format!("{} comment \"egress: to the next hop\"", set_mark(NEXT_HOP_EXIT)));
    }
    Chain { name: "exit", hook: None, rules }
}

/// Where the next hop is to see the pod's address.
pub(super) fn unmasqueraded(plan: &EgressPlan) -> Option<String> {
    let keeps = matches!(plan.outside, Outside::NextHops { keep_pod_address: true, .. });
    keeps.then(|| {
        format!("{} return comment \"masquerade: the next hop sees the pod's address\"", has_mark(NEXT_HOP_EXIT))
    })
}
