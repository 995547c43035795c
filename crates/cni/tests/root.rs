//! Must catch: a DEL with no agent that leaves the pod's interface, or takes one that is not ours (another kind of link,
//! another plugin's pair, the node's own).
//!
//! Needs root: makes network namespaces. Run with `--features root-tests`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use common::*;
use overlane_api::socket::Outcome;
use serde_json::json;

/// A named network namespace that goes with the test.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ovlcni-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        Self(name)
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    fn ip(&self, args: &[&str]) {
        ip(&[&["-n", &self.0], args].concat());
    }

    fn has(&self, link: &str) -> bool {
        Command::new("ip").args(["-n", &self.0, "link", "show", link]).output().unwrap().status.success()
    }

    /// A pair whose one end is the pod's interface.
    fn with_pair(&self) -> &Self {
        self.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
        self
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?} (are we root?): {output:?}");
}

#[test]
fn del_with_no_agent_removes_the_interface() {
    let (site, pod) = (Site::new(), Namespace::new());
    pod.with_pair();
    let conf = site.conf("1.0.0", json!({}));
    call("DEL", &pod.path(), &conf).is_quiet();
    assert!(!pod.has("eth0") && !pod.has("other"));
    call("DEL", &pod.path(), &conf).is_quiet();
    assert_eq!(site.tombstones().len(), 2);
}

#[test]
fn del_with_an_agent_that_hangs_removes_it_too() {
    let (site, pod) = (Site::new(), Namespace::new());
    pod.with_pair();
    let _silent = site.listen();
    call("DEL", &pod.path(), &site.hasty("1.0.0", json!({}))).is_quiet();
    assert!(!pod.has("eth0"));
    assert_eq!(site.tombstones().len(), 1);
}

#[test]
fn del_that_an_agent_serves_leaves_the_interface_to_it() {
    let (site, pod) = (Site::new(), Namespace::new());
    pod.with_pair();
    let agent = serve(site.listen(), answering(Outcome::Done));
    call("DEL", &pod.path(), &site.conf("1.0.0", json!({}))).is_quiet();
    agent.join().unwrap();
    assert!(pod.has("eth0"));
}

#[test]
fn another_kind_of_link_stays() {
    let (site, pod) = (Site::new(), Namespace::new());
    pod.ip(&["link", "add", "eth0", "type", "bridge"]);
    call("DEL", &pod.path(), &site.conf("1.0.0", json!({}))).is_quiet();
    assert!(pod.has("eth0"));
    assert_eq!(site.tombstones().len(), 1);
}

#[test]
fn another_plugins_pair_stays() {
    let (site, pod) = (Site::new(), Namespace::new());
    pod.with_pair();
    let prev = |host: &str| json!({"prevResult": {"interfaces": [{"name": host}, {"name": "eth0", "sandbox": pod.path()}], "ips": []}});
    call("DEL", &pod.path(), &site.conf("1.0.0", prev("cali0123456789"))).is_quiet();
    assert!(pod.has("eth0"));
    call("DEL", &pod.path(), &site.conf("1.0.0", prev("ovlpabcdefghijk"))).is_quiet();
    assert!(!pod.has("eth0"));
}

/// The namespace that the plugin itself is in, reached by a path that does not say so.
#[test]
fn the_nodes_own_interface_stays() {
    let (site, node) = (Site::new(), Namespace::new());
    node.with_pair();
    let mut command = Command::new("nsenter");
    command.env_clear().arg(format!("--net={}", node.path())).arg(env!("CARGO_BIN_EXE_overlane-cni"));
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    command.envs([("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c0ffee"), ("CNI_IFNAME", "eth0")]);
    command.env("CNI_NETNS", node.path());
    feed(command, site.conf("1.0.0", json!({})).to_string().as_bytes()).is_quiet();
    assert!(node.has("eth0"));
    assert_eq!(site.tombstones().len(), 1);
}

#[test]
fn add_hands_over_a_named_namespace() {
    let (site, pod) = (Site::new(), Namespace::new());
    let agent = serve(site.listen(), answering(Outcome::Added(endpoint())));
    let result = call("ADD", &pod.path(), &site.conf("1.1.0", json!({}))).json();
    let seen = agent.join().unwrap();
    assert_eq!(result["interfaces"][1]["sandbox"], pod.path());
    assert_eq!(inode(format!("/proc/self/fd/{}", seen.descriptors[0])), inode(pod.path()));
}
