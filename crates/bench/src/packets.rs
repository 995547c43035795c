//! The packets table: pod to pod across nodes against node to node in the same namespaces.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::net::{self, Ends, Load};
use crate::peer::{self, Bridged};
use crate::report;
use crate::stats::{Ratio, ratio, summary};

pub(crate) const NODES: [&str; 2] = ["node-0", "node-1"];

/// What is in the nodes' kernels while packets are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// All that the agents put there; conntrack at work.
    Rules,
    /// Routes alone: the agents stand still and their table is gone, conntrack with it.
    Bare,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Rules => "with rules and conntrack",
            Self::Bare => "bare: the same routes, no rule, no conntrack",
        }
    }
}

/// How much to measure.
pub struct Plan<'a> {
    /// Pairs of runs a load.
    pub pairs: usize,
    /// Length of one run.
    pub time: Duration,
    /// Loads whose name holds one of these; all if empty.
    pub only: &'a [String],
    /// The lab's routing.
    pub routing: &'a str,
}

/// Runs the loads in every family, with rules and bare, and prints; JSON goes to `out`.
pub fn run(bin: &Path, out: &Path, plan: &Plan<'_>) -> Result<()> {
    let lab = Lab::up(bin, "bench", NODES.len(), &["--ip-families", "ipv4,ipv6", "--routing", plan.routing])?;
    for (pod, node) in ["a", "b"].into_iter().zip(NODES) {
        lab.overlane(&["run", pod, "--node", node])?;
    }
    // Native pods have no peer that does the same.
    let peer = if plan.routing == "vxlan" { Some(Bridged::beside(&lab)?) } else { None };
    let (pairs, millis) = (plan.pairs, plan.time.as_millis());
    let routing = plan.routing;
    println!("machine: {}", report::machine());
    println!("routing {routing}; {pairs} pairs of {millis} ms a load; TCP by {}", net::CONGESTION);
    if peer.is_some() {
        println!("{}", peer::SETTINGS);
    }
    let mut all = Vec::new();
    for family in ["IPv4", "IPv6"] {
        all.push((family, ends(&lab, family)?));
    }
    let mut results = Vec::new();
    for state in [State::Rules, State::Bare] {
        if state == State::Bare {
            strip(&lab)?;
        }
        let mut rows = Vec::new();
        for (family, (pods, nodes)) in &all {
            let wanted = |load: &Load| plan.only.is_empty() || plan.only.iter().any(|o| load.name().contains(o));
            for load in Load::ALL.into_iter().filter(wanted) {
                let peer = peer.as_ref().filter(|_| state == State::Rules).map(|peer| peer.ends(family));
                let sides = Sides { pods, nodes, peer: peer.as_ref() };
                let (more, result) = measure(load, family, state, &sides, plan)?;
                rows.extend(more);
                results.push(result);
            }
        }
        let title = format!(
            "pod to pod across nodes against node to node, {} (1 = as fast; CPU: s a GiB for the stream, else s a second)",
            state.name()
        );
        report::table(&title, &["load", "pods", "nodes", "ratio", "95 % interval", "CPU pods / nodes", ""], &rows);
    }
    let name = if routing == "native" { "packets".to_owned() } else { format!("packets-{routing}") };
    report::json(out, &name, &json!({ "machine": report::machine(), "routing": routing, "results": results }))
}

/// What takes turns.
struct Sides<'a> {
    pods: &'a Ends,
    nodes: &'a Ends,
    /// Pods of the peer.
    peer: Option<&'a Ends>,
}

/// Figures of one side, in turns with the others'.
#[derive(Default)]
pub(crate) struct Series {
    pub(crate) figures: Vec<f64>,
    pub(crate) cpu: Vec<f64>,
}

impl Series {
    pub(crate) fn turn(&mut self, load: Load, ends: &Ends, time: Duration) -> Result<()> {
        let sample = load.run(ends, time)?;
        self.figures.push(sample.figure);
        self.cpu.push(sample.cpu);
        Ok(())
    }

    pub(crate) fn row(&self, name: &str, load: Load, nodes: &Self) -> Result<(Vec<String>, Ratio)> {
        // A round trip is a time: the ratio is turned so that 1 means "as fast as the nodes" everywhere.
        let (a, b) = (&self.figures, &nodes.figures);
        let r = if load == Load::TcpRoundTrip { ratio(b, a) } else { ratio(a, b) }.context("no pairs")?;
        let median = |v: &[f64]| summary(v).map_or(0.0, |s| s.p50);
        let row = vec![
            name.to_owned(),
            format!("{:.2}", median(a)),
            format!("{:.2}", median(b)),
            format!("{:.3}", r.median),
            format!("{:.3} to {:.3}", r.low, r.high),
            format!("{:.2} / {:.2}", median(&self.cpu), median(&nodes.cpu)),
            if r.conclusive { String::new() } else { "inconclusive".into() },
        ];
        Ok((row, r))
    }
}

fn measure(
    load: Load,
    family: &str,
    state: State,
    sides: &Sides<'_>,
    plan: &Plan<'_>,
) -> Result<(Vec<Vec<String>>, Value)> {
    let (mut pods, mut nodes, mut peer) = (Series::default(), Series::default(), Series::default());
    for ends in [Some(sides.pods), Some(sides.nodes), sides.peer].into_iter().flatten() {
        load.run(ends, plan.time / 4)?;
    }
    for _ in 0..plan.pairs {
        pods.turn(load, sides.pods, plan.time)?;
        nodes.turn(load, sides.nodes, plan.time)?;
        if let Some(ends) = sides.peer {
            peer.turn(load, ends, plan.time)?;
        }
    }
    let (row, r) = pods.row(&format!("{family} {}", load.name()), load, &nodes)?;
    let mut rows = vec![row];
    let mut result = json!({ "state": state.name(), "family": family, "load": load.name(), "pods": pods.figures,
                             "nodes": nodes.figures, "ratio": r, "cpu_pods": pods.cpu, "cpu_nodes": nodes.cpu });
    if sides.peer.is_some() {
        let (row, r) = peer.row("   bridge + FDB against nodes", load, &nodes)?;
        rows.push(row);
        let (row, against) = pods.row("   pods against bridge + FDB", load, &peer)?;
        rows.push(row);
        result["peer"] = json!({ "name": "bridge + FDB", "figures": peer.figures, "cpu": peer.cpu, "ratio": r,
                                 "pods_against_it": against });
    }
    Ok((rows, result))
}

/// The pods' ends and the nodes' ends.
fn ends(lab: &Lab, family: &str) -> Result<(Ends, Ends)> {
    let pods =
        Ends { client_ns: pod_ns(lab, "a")?, server_ns: pod_ns(lab, "b")?, server: pod_address(lab, "b", family)? };
    let [client, server] = NODES;
    let nodes = Ends {
        client_ns: lab.node_ns(client),
        server_ns: lab.node_ns(server),
        server: node_address(lab, server, family)?,
    };
    Ok((pods, nodes))
}

/// Takes the rules away, and keeps the agents from bringing them back.
fn strip(lab: &Lab) -> Result<()> {
    let status = lab.json("status")?;
    for node in NODES {
        let name = format!("agent-{node}");
        let programs = status["programs"].as_array().into_iter().flatten();
        let pid = programs.filter(|p| p["program"] == name.as_str()).find_map(|p| p["process"]["pid"].as_i64());
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).with_context(|| format!("{name} has no pid"))?;
        kill(Pid::from_raw(pid), Signal::SIGSTOP).with_context(|| format!("stop {name}"))?;
        lab.overlane(&["node", node, "--", "nft", "delete", "table", "inet", "overlane"])?;
    }
    Ok(())
}

fn find<'a>(list: &'a Value, name: &str) -> Result<&'a Value> {
    let items = list.as_array().or_else(|| list["items"].as_array()).context("a list was expected")?;
    items.iter().find(|p| p["name"] == name).with_context(|| format!("{name} is not listed"))
}

/// The namespace that a program in the pod finds itself in, by its inode.
pub(crate) fn pod_ns(lab: &Lab, pod: &str) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let inode = lab.overlane(&["exec", pod, "--", "stat", "-Lc", "%i", "/proc/self/ns/net"])?;
    let inode: u64 = inode.trim().parse().with_context(|| format!("inode of pod {pod}'s namespace: {inode}"))?;
    for entry in std::fs::read_dir("/run/netns").context("list /run/netns")? {
        let path = entry?.path();
        if std::fs::metadata(&path).is_ok_and(|m| m.ino() == inode) {
            return Ok(path.display().to_string());
        }
    }
    anyhow::bail!("no namespace in /run/netns is pod {pod}'s")
}

fn pick(addresses: &Value, family: &str) -> Result<IpAddr> {
    addresses
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str()?.parse().ok())
        .find(|a: &IpAddr| a.is_ipv4() == (family == "IPv4"))
        .with_context(|| format!("no {family} address in {addresses}"))
}

pub(crate) fn pod_address(lab: &Lab, pod: &str, family: &str) -> Result<IpAddr> {
    pick(&find(&lab.json("pods")?, pod)?["ips"], family)
}

pub(crate) fn node_address(lab: &Lab, node: &str, family: &str) -> Result<IpAddr> {
    pick(&find(&lab.json("status")?["nodes"], node)?["addresses"], family)
}
