//! Judging a node from outside: what its kernel holds for pods against the sandboxes that live.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::ip;
use crate::nft;
use crate::ns::Ns;
use crate::packet;
use crate::wait::eventually;

/// A sandbox that should be networked.
#[derive(Clone)]
pub struct Live {
    /// Name for messages.
    pub name: String,
    /// Its namespace.
    pub ns: Ns,
    /// Its addresses by the CNI result.
    pub ips: Vec<IpAddr>,
}

/// Addresses that two namespaces hold at once, by a look into each. Empty is right.
pub fn doubled(namespaces: &[(String, Ns)]) -> Vec<String> {
    let mut owners: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for (name, ns) in namespaces {
        for ip in ip::global_addresses(ns) {
            owners.entry(ip).or_default().push(name.clone());
        }
    }
    owners.retain(|_, names| names.len() > 1);
    owners.into_iter().map(|(ip, names)| format!("{ip} is held by {}", names.join(" and "))).collect()
}

/// Everything about the node's pod objects that does not fit the living sandboxes. `dead` are namespaces that must
/// hold no link of ours.
pub fn faults(node: &Ns, live: &[Live], dead: &[(String, Ns)]) -> Vec<String> {
    let mut found = Vec::new();
    let wanted: BTreeSet<IpAddr> = live.iter().flat_map(|l| l.ips.iter().copied()).collect();
    if wanted.len() != live.iter().map(|l| l.ips.len()).sum::<usize>() {
        found.push("two results name one address".to_owned());
    }
    let links = ip::pod_links(node);
    if links.len() != live.len() {
        let names: Vec<&str> = links.iter().map(|l| l.name.as_str()).collect();
        found.push(format!("{} pod links for {} sandboxes: {names:?}", links.len(), live.len()));
    }
    // What holds a pod to its limits goes with its link.
    let shapers = ip::links(node).into_iter().filter_map(|l| Some(l.name.strip_prefix("ovlb")?.to_owned()));
    let of_nobody = |rest: &String| !links.iter().any(|l| l.name.ends_with(rest.as_str()));
    found.extend(shapers.filter(of_nobody).map(|rest| format!("ovlb{rest} holds nobody to a limit")));
    routes(node, &wanted, &mut found);
    elements(node, &wanted, &mut found);
    neighbours(node, &wanted, &mut found);
    for sandbox in live {
        let mut has = ip::global_addresses(&sandbox.ns);
        let mut should = sandbox.ips.clone();
        has.sort();
        should.sort();
        if has != should {
            found.push(format!("{} has {has:?}, its result says {should:?}", sandbox.name));
        }
    }
    for (name, ns) in dead {
        let left = ip::global_addresses(ns);
        if !left.is_empty() {
            found.push(format!("{name} is over and still has {left:?}"));
        }
    }
    found
}

fn compare(what: &str, has: &BTreeSet<IpAddr>, wanted: &BTreeSet<IpAddr>, found: &mut Vec<String>) {
    let extra: Vec<_> = has.difference(wanted).collect();
    let missing: Vec<_> = wanted.difference(has).collect();
    if !extra.is_empty() {
        found.push(format!("{what} of nobody: {extra:?}"));
    }
    if !missing.is_empty() {
        found.push(format!("{what} missing: {missing:?}"));
    }
}

fn routes(node: &Ns, wanted: &BTreeSet<IpAddr>, found: &mut Vec<String>) {
    let routes = ip::routes(node, ip::TABLE);
    let to_pods = routes.iter().filter(|r| r.dev.starts_with(ip::POD_LINK) && r.proto == ip::PROTO);
    let list: Vec<IpAddr> = to_pods.filter_map(|r| r.dst.split('/').next()?.parse().ok()).collect();
    let set: BTreeSet<IpAddr> = list.iter().copied().collect();
    if set.len() != list.len() {
        found.push(format!("two routes to one pod address: {list:?}"));
    }
    compare("routes", &set, wanted, found);
}

fn elements(node: &Ns, wanted: &BTreeSet<IpAddr>, found: &mut Vec<String>) {
    let elements = nft::pod_elements(node);
    let list: Vec<IpAddr> = elements.iter().filter_map(|e| e.rsplit(" . ").next()?.parse().ok()).collect();
    let set: BTreeSet<IpAddr> = list.iter().copied().collect();
    if set.len() != list.len() {
        found.push(format!("two source-check elements for one address: {elements:?}"));
    }
    compare("nft elements", &set, wanted, found);
}

fn neighbours(node: &Ns, wanted: &BTreeSet<IpAddr>, found: &mut Vec<String>) {
    let all = ip::neighbours(node);
    let set = all.iter().filter(|n| n.permanent && n.dev.starts_with(ip::POD_LINK)).map(|n| n.ip).collect();
    compare("neighbours", &set, wanted, found);
}

/// Waits until the books balance.
pub fn balanced(node: &Ns, live: &[Live], dead: &[(String, Ns)], limit: Duration) {
    eventually(limit, &format!("books of {}", node.label), || {
        let found = faults(node, live, dead);
        if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
    });
}

/// Each living sandbox answers a ping of each of its addresses from the node.
pub fn reachable(node: &Ns, live: &[Live], limit: Duration) {
    for sandbox in live {
        for to in &sandbox.ips {
            eventually(limit, &format!("{} from {}", sandbox.name, node.label), || {
                packet::ping(node, *to, 56, Duration::from_millis(300)).map(|_| ())
            });
        }
    }
}
