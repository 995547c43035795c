//! Pure IPAM: Debian's ptp and bridge, and a runtime by hand, with `overlane-ipam` for the addresses.
//!
//! Must catch: the agent's audit or its start ending a lease because no link of ours goes with it, so that the address
//! is given to a second pod.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod races;
mod traffic;
mod verbs;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::MutexGuard;

use overlane_suites::runtime::{Runtime, Sandbox};
use overlane_suites::shared::SharedLab;
use overlane_suites::wait::{ensure, eventually, secs};
use overlane_suites::{Lab, NodeHandle, Ns, books, exec, nft};
use serde_json::{Value, json};

static LAB: SharedLab<2> = SharedLab::new();

fn lab() -> &'static Lab {
    LAB.lab()
}

fn node(number: usize) -> (MutexGuard<'static, ()>, NodeHandle) {
    LAB.node(number)
}

/// A directory of plugins as a node has it: Debian's, and ours under its other name. It goes with the lab.
fn plugins(node: &NodeHandle) -> PathBuf {
    let dir = node.run_dir.with_file_name("plugins");
    std::fs::create_dir_all(&dir).unwrap();
    for name in ["ptp", "bridge"] {
        let plugin = PathBuf::from("/usr/lib/cni").join(name);
        assert!(plugin.is_file(), "Debian's containernetworking-plugins are missing: run scripts/setup.sh");
        let _ = std::os::unix::fs::symlink(plugin, dir.join(name));
    }
    let _ = std::os::unix::fs::symlink(exec::bin("overlane-cni"), dir.join("overlane-ipam"));
    dir
}

/// A runtime whose network has this main plugin, or that calls `overlane-ipam` as a main plugin would. `ipam` goes into
/// the section.
fn runtime(node: &NodeHandle, plugin: &str, network: &str, ipam: &Value) -> Runtime {
    let mut section = json!({"type": "overlane-ipam", "runDir": node.run_dir});
    for (key, value) in ipam.as_object().unwrap() {
        section[key] = value.clone();
    }
    let mut entry = json!({"type": plugin, "ipam": section});
    if plugin == "bridge" {
        (entry["bridge"], entry["isGateway"]) = (json!("cni-suite"), json!(true));
    }
    // Debian's plugins know no later version.
    let version = if plugin == "overlane-ipam" { "1.1.0" } else { "1.0.0" };
    Runtime {
        ns: node.ns.clone(),
        plugin: plugins(node).join(plugin),
        network: network.to_owned(),
        entry,
        version: version.to_owned(),
        limit: secs(100),
    }
}

/// The agent's leases of this kind.
fn leases(node: &NodeHandle, kind: &str) -> Vec<Value> {
    let leases = node.state()["leases"].as_array().cloned().unwrap();
    leases.into_iter().filter(|lease| lease["kind"] == kind).collect()
}

fn addresses(leases: &[Value]) -> Vec<IpAddr> {
    let all = leases.iter().flat_map(|lease| lease["addresses"].as_array().cloned().unwrap());
    all.map(|address| address.as_str().unwrap().parse().unwrap()).collect()
}

/// Waits until the leases of pure IPAM, and what the packet filter knows of them, are those of the sandboxes. No address
/// is another lease's too, and none is in two namespaces.
fn settled(node: &NodeHandle, live: &[&Sandbox]) {
    let wanted: BTreeSet<IpAddr> = live.iter().flat_map(|sandbox| sandbox.ips()).collect();
    assert_eq!(wanted.len(), live.iter().map(|s| s.ips().len()).sum::<usize>(), "two results name one address");
    eventually(secs(15), &format!("books of {}", node.name), || {
        let held: BTreeSet<IpAddr> = addresses(&leases(node, "ipam")).into_iter().collect();
        ensure(held == wanted, || format!("leases {held:?}, sandboxes {wanted:?}"))?;
        let sets = nft::elements(&node.ns);
        let known = ["delegated4", "delegated6"].into_iter().flat_map(|set| sets.get(set).cloned().unwrap_or_default());
        let known: BTreeSet<IpAddr> = known.map(|element| element.parse().unwrap()).collect();
        ensure(known == wanted, || format!("nft knows {known:?}, sandboxes {wanted:?}"))
    });
    single(node, live);
}

/// No address has two leases or is in two namespaces.
fn single(node: &NodeHandle, live: &[&Sandbox]) {
    let all = addresses(node.state()["leases"].as_array().unwrap());
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "an address with two leases: {all:?}");
    let namespaces: Vec<(String, Ns)> = live.iter().map(|s| (s.pod.clone(), s.net.ns.clone())).collect();
    assert_eq!(books::doubled(&namespaces), Vec::<String>::new());
}

/// The gateways that a result names, in its order.
fn gateways(sandbox: &Sandbox) -> Vec<IpAddr> {
    let result = sandbox.result.as_ref().expect("an ADD succeeded");
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip["gateway"].as_str().unwrap().parse().unwrap()).collect()
}
