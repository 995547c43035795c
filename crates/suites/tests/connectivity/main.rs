//! Who reaches whom, in every family: blocks, addresses, pods, nodes, the world; nobody from outside; no forged source.
//!
//! Must catch: the source check of pod links passing what it does not know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod forged;
mod inside;
mod outside;

use std::net::IpAddr;
use std::time::Duration;

use overlane_suites::lab::Pod;
use overlane_suites::{Lab, Ns, ip};

const LIMIT: Duration = Duration::from_secs(2);

/// How long to wait for what must not come; the witnesses are asked as well.
const NOBODY: Duration = Duration::from_millis(200);

/// A lab of two nodes with pods `a` and `b` on the first and `c` on the second.
struct Stage {
    lab: Lab,
    pods: Vec<Pod>,
}

impl Stage {
    fn new(families: &str) -> Stage {
        let lab = Lab::up(&["--nodes", "2", "--ip-families", families]);
        let nodes = lab.nodes();
        let pods = [("a", 0), ("b", 0), ("c", 1)].map(|(name, at)| lab.run_pod(name, &nodes[at].name));
        Stage { lab, pods: pods.into() }
    }

    fn outside(&self, ns: &Ns, like: IpAddr) -> IpAddr {
        let found = ip::global_addresses(ns).into_iter().find(|ip| ip.is_ipv4() == like.is_ipv4());
        found.unwrap_or_else(|| panic!("{} has no address like {like}", ns.label))
    }
}
