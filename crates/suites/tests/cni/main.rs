//! Drives the real overlane-cni in a node's namespace by hand, as a container runtime would: every verb, every fault.
//!
//! Must catch: `DEL` with no agent answering success without leaving a tombstone, so that the address is never free
//! again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod absent;
mod bandwidth;
mod check;
mod garbage;
mod ports;
mod races;
mod reference;
mod verbs;

use std::sync::MutexGuard;

use overlane_suites::books::{self, Live};
use overlane_suites::runtime::Sandbox;
use overlane_suites::shared::SharedLab;
use overlane_suites::wait::secs;
use overlane_suites::{Lab, NodeHandle, exec};
use serde_json::Value;

static LAB: SharedLab<3> = SharedLab::new();

fn lab() -> &'static Lab {
    LAB.lab()
}

fn node(number: usize) -> (MutexGuard<'static, ()>, NodeHandle) {
    LAB.node(number)
}

fn live(sandbox: &Sandbox) -> Live {
    Live { name: sandbox.pod.clone(), ns: sandbox.net.ns.clone(), ips: sandbox.ips() }
}

fn settled(node: &NodeHandle, sandboxes: &[&Sandbox]) {
    let live: Vec<Live> = sandboxes.iter().map(|s| live(s)).collect();
    books::balanced(&node.ns, &live, &[], secs(10));
}

fn proper_error(out: &exec::Out, json: &Option<Value>, what: &str) {
    assert!(out.code.is_some_and(|c| c != 0 && c != 101), "{what}: {out}");
    assert!(!out.all().contains("panicked"), "{what}: {out}");
    let json = json.as_ref().unwrap_or_else(|| panic!("{what}: no JSON on stdout: {out}"));
    assert!(json["code"].as_u64().is_some_and(|c| c > 0), "{what}: {out}");
    assert!(json["msg"].as_str().is_some_and(|m| !m.is_empty()), "{what}: {out}");
}
