//! Bad days of nodes, of the API and of the daemons, over a cluster's life.
//!
//! Must catch: an agent that, at its start, writes its rules anew although they are right, and so cuts what runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod daemons;
mod expand;
mod flows;
mod network;
mod nodes;

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use overlane_suites::books::Live;
use overlane_suites::runtime::{Runtime, Sandbox};
use overlane_suites::wait::{ensure, eventually, millis};
use overlane_suites::{Lab, NodeHandle, clean, ip, packet};

/// A lab of two nodes for the tests that change nothing but pods and agents; they take turns.
fn shared() -> (MutexGuard<'static, ()>, &'static Lab) {
    static TURN: Mutex<()> = Mutex::new(());
    static LAB: OnceLock<Lab> = OnceLock::new();
    clean::begin();
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    (turn, LAB.get_or_init(|| Lab::up(&["--nodes", "2"])))
}

fn live(sandbox: &Sandbox) -> Live {
    Live { name: sandbox.pod.clone(), ns: sandbox.net.ns.clone(), ips: sandbox.ips() }
}

fn added(runtime: &Runtime) -> Sandbox {
    let mut sandbox = Sandbox::new();
    runtime.add(&mut sandbox).must();
    sandbox
}

fn same_family(ips: &[IpAddr], like: IpAddr) -> IpAddr {
    *ips.iter().find(|ip| ip.is_ipv4() == like.is_ipv4()).unwrap()
}

/// All sandboxes ping each other, every family.
fn mesh(sandboxes: &[&Sandbox], limit: Duration) {
    for from in sandboxes {
        for into in sandboxes {
            for to in into.ips() {
                eventually(limit, &format!("{} pings {}", from.pod, into.pod), || {
                    packet::ping(&from.net.ns, to, 56, millis(300)).map(|_| ())
                });
            }
        }
    }
}

fn routed(node: &NodeHandle, block: &str, via: Option<IpAddr>) -> Result<(), String> {
    let routes = ip::routes(&node.ns, ip::TABLE);
    let found: Vec<_> = routes.iter().filter(|r| r.dst == block && r.kind == "unicast").collect();
    match via {
        Some(via) => ensure(found.len() == 1 && found[0].gateway == via.to_string(), || format!("{block}: {found:?}")),
        None => ensure(found.is_empty(), || format!("{block}: {found:?}")),
    }
}
