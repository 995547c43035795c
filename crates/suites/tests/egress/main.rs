//! How packets leave the cluster, judged by what is seen outside of it.
//!
//! Must catch: a packet that leaves by the node's own way although it must not (`tests/mutants/egress-open.mutant`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod gateway;
mod gateway_change;
mod gateway_edges;
mod gateway_failover;
mod gateway_newborn;
mod nat_gateway;
mod next_hop;
mod nothing;
mod office;
mod ports;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use overlane_suites::lab::{NodeHandle, Pod};
use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Lab, Ns, ip};
use serde_json::{Value, json};

const NETWORK: &str = "/apis/overlane.io/v1alpha1/clusternetworks/default";
const FAMILIES: [&str; 3] = ["ipv4,ipv6", "ipv4", "ipv6"];

/// A lab with a pod on each node.
struct Stage {
    lab: Lab,
    nodes: Vec<NodeHandle>,
    pods: Vec<Pod>,
}

impl Stage {
    fn new(families: &str, more: &[&str]) -> Stage {
        let mut words = vec!["--nodes", "2", "--ip-families", families];
        words.extend(more);
        let lab = Lab::up(&words);
        let nodes = lab.nodes();
        let pods = ["a", "b"].iter().zip(&nodes).map(|(name, node)| lab.run_pod(name, &node.name)).collect();
        Stage { lab, nodes, pods }
    }

    /// Asks for another way out; waits until the controller has put it in force.
    fn egress(&self, outbound: &str, egress: &Value) {
        let spec = json!({"outboundType": outbound, "egress": egress});
        self.lab.api.merge(NETWORK, &json!({ "spec": spec }));
        eventually(secs(10), &format!("{outbound} is in force"), || {
            let network = self.lab.api.get(NETWORK);
            let applied = &network["status"]["applied"];
            // What is left out has its default.
            let is_applied = egress.as_object().unwrap().iter().all(|(key, value)| {
                applied["egress"][key] == *value
                    || (value.is_null() && applied["egress"][key].as_array().is_none_or(Vec::is_empty))
            });
            ensure(applied["outboundType"] == outbound && is_applied, || network["status"].to_string())
        });
    }

    fn node_like(&self, number: usize, ip: IpAddr) -> IpAddr {
        *self.nodes[number].ips().iter().find(|node| node.is_ipv4() == ip.is_ipv4()).unwrap()
    }
}

/// An address of a namespace that is of the same family.
fn address_like(ns: &Ns, like: IpAddr) -> IpAddr {
    ip::global_addresses(ns).into_iter().find(|ip| ip.is_ipv4() == like.is_ipv4()).unwrap()
}

/// Who `outside` sees when a pod speaks to it over UDP; `None` if nothing arrives within `patience`.
fn seen_within(pod: &Pod, outside: &Ns, like: IpAddr, patience: Duration) -> Option<IpAddr> {
    let to = address_like(outside, like);
    let at = SocketAddr::new(to, probe::port());
    let witness = Witness::new(outside, to, at.port());
    let began = Instant::now();
    while began.elapsed() < patience {
        probe::fire(&pod.ns, at, None, "who", 1);
        if let Some(seen) = witness.seen().first() {
            return Some(seen.peer.ip());
        }
        std::thread::sleep(millis(10));
    }
    None
}

/// Waits until `outside` sees packets of a pod as `want`, or none.
fn seen_as(pod: &Pod, outside: &Ns, like: IpAddr, want: Option<IpAddr>, why: &str) {
    eventually(secs(10), why, || {
        let seen = seen_within(pod, outside, like, millis(300));
        ensure(seen == want, || format!("{} sees {like} as {seen:?}, not {want:?}", outside.label))
    });
}

/// Waits until a namespace is as it was.
fn nothing_is_left(ns: &Ns, before: &str) {
    eventually(secs(5), "all is as before", || {
        let now = ip::snapshot(ns);
        let (old, new): (BTreeSet<&str>, BTreeSet<&str>) = (before.lines().collect(), now.lines().collect());
        let changes: Vec<&&str> = old.symmetric_difference(&new).collect();
        ensure(changes.is_empty(), || format!("{}: {changes:#?}", ns.label))
    });
}
