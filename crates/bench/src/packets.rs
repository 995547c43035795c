//! The packets table: pod to pod across nodes against node to node in the same namespaces.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::net::{Ends, Load};
use crate::report;
use crate::stats::{ratio, summary};

/// Runs every load in every family and prints; JSON goes to `out`.
pub fn run(bin: &Path, out: &Path, pairs: usize, millis: u64) -> Result<()> {
    let lab = Lab::up(bin, "bench", 2, &["--ip-families", "ipv4,ipv6"])?;
    for (pod, node) in [("a", "node-0"), ("b", "node-1")] {
        lab.overlane(&["run", pod, "--node", node])?;
    }
    let time = Duration::from_millis(millis);
    let mut rows = Vec::new();
    let mut results = Vec::new();
    println!("machine: {}\n{pairs} pairs of {millis} ms a load", report::machine());
    for family in ["IPv4", "IPv6"] {
        let pods = Ends {
            client_ns: pod_ns(&lab, "a")?,
            server_ns: pod_ns(&lab, "b")?,
            server: pod_address(&lab, "b", family)?,
        };
        let nodes = Ends {
            client_ns: lab.node_ns("node-0"),
            server_ns: lab.node_ns("node-1"),
            server: node_address(&lab, "node-1", family)?,
        };
        for load in Load::ALL {
            let (mut a, mut b, mut cpu_a, mut cpu_b) = (vec![], vec![], vec![], vec![]);
            load.run(&pods, time / 4)?;
            load.run(&nodes, time / 4)?;
            for _ in 0..pairs {
                let pod = load.run(&pods, time)?;
                let node = load.run(&nodes, time)?;
                a.push(pod.figure);
                b.push(node.figure);
                cpu_a.push(pod.cpu);
                cpu_b.push(node.cpu);
            }
            // A round trip is a time: the ratio is turned so that 1 means "as fast as the nodes" everywhere.
            let r = if load == Load::TcpRoundTrip { ratio(&b, &a) } else { ratio(&a, &b) };
            let r = r.context("no pairs")?;
            let median = |v: &[f64]| summary(v).map_or(0.0, |s| s.p50);
            rows.push(vec![
                format!("{family} {}", load.name()),
                format!("{:.2}", median(&a)),
                format!("{:.2}", median(&b)),
                format!("{:.3}", r.median),
                format!("{:.3} to {:.3}", r.low, r.high),
                format!("{:.2} / {:.2}", median(&cpu_a), median(&cpu_b)),
                if r.conclusive { String::new() } else { "inconclusive".into() },
            ]);
            results.push(json!({ "family": family, "load": load.name(), "pods": a, "nodes": b, "ratio": r,
                                 "cpu_pods": cpu_a, "cpu_nodes": cpu_b }));
        }
    }
    report::table(
        "pod to pod across nodes against node to node (1 = as fast; CPU: s a GiB for the stream, else s a second)",
        &["load", "pods", "nodes", "ratio", "95 % interval", "CPU pods / nodes", ""],
        &rows,
    );
    report::json(out, "packets", &json!({ "machine": report::machine(), "results": results }))
}

fn find<'a>(list: &'a Value, name: &str) -> Result<&'a Value> {
    let items = list.as_array().or_else(|| list["items"].as_array()).context("a list was expected")?;
    items.iter().find(|p| p["name"] == name).with_context(|| format!("{name} is not listed"))
}

/// The namespace that a program in the pod finds itself in, by its inode.
fn pod_ns(lab: &Lab, pod: &str) -> Result<String> {
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

fn pod_address(lab: &Lab, pod: &str, family: &str) -> Result<IpAddr> {
    pick(&find(&lab.json("pods")?, pod)?["ips"], family)
}

fn node_address(lab: &Lab, node: &str, family: &str) -> Result<IpAddr> {
    pick(&find(&lab.json("status")?["nodes"], node)?["addresses"], family)
}
