//! The CNI table: ADD and DEL, alone, beside a hundred pods and all at once.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::json;

use crate::cni::{Plugin, Sandbox, floor, ip, overlane, ptp};
use crate::lab::Lab;
use crate::report;
use crate::stats::{Summary, ratio, summary};

/// A namespace for the peer, so that neither sees the other's links.
struct PeerNode;

impl PeerNode {
    const NAME: &str = "ovb-ptp";

    fn new() -> Result<Self> {
        let _ = ip(&["netns", "del", Self::NAME]);
        ip(&["netns", "add", Self::NAME])?;
        ip(&["-n", Self::NAME, "link", "set", "lo", "up"])?;
        Ok(Self)
    }

    fn path() -> String {
        format!("/run/netns/{}", Self::NAME)
    }
}

impl Drop for PeerNode {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", Self::NAME]);
    }
}

/// Milliseconds by plugin and verb.
type Times = BTreeMap<String, Vec<f64>>;

/// Runs all and prints; JSON goes to `out`.
pub fn run(bin: &Path, out: &Path, rounds: usize, burst: usize) -> Result<()> {
    let lab = Lab::up(bin, "bench", 1, &["--ip-families", "ipv4,ipv6"])?;
    let peer_node = PeerNode::new()?;
    let state = std::env::temp_dir().join(format!("overlane-bench-{}", std::process::id()));
    let ours = overlane(bin, &lab.node_ns("node-0"), &lab.node_dir("node-0").join("cni/net.d/05-overlane.conflist"))?;
    let peer = ptp(&PeerNode::path(), &state);
    let least = floor(bin, &PeerNode::path());
    println!("machine: {}\npeer: {} {}", report::machine(), peer.binary.display(), peer.config);

    let mut times = Times::new();
    for round in 0..rounds + 5 {
        let mut one = Times::new();
        for plugin in [&ours, &peer, &least] {
            turn(plugin, round, &mut one)?;
        }
        // The first rounds warm caches and are not counted.
        if round >= 5 {
            for (key, values) in one {
                times.entry(key).or_default().extend(values);
            }
        }
    }
    let hold = (0..100).map(|i| Sandbox::new(&format!("ovb-hold-{i}"))).collect::<Result<Vec<_>>>()?;
    for sandbox in &hold {
        ours.timed("ADD", sandbox)?;
    }
    let mut full = Times::new();
    for round in 0..rounds {
        turn(&ours, round, &mut full)?;
    }
    for (key, values) in full {
        times.insert(format!("{key}, 100 pods there"), values);
    }
    for sandbox in &hold {
        ours.timed("DEL", sandbox)?;
    }
    drop(hold);

    let all: BTreeMap<&String, Summary> = times.iter().filter_map(|(k, v)| Some((k, summary(v)?))).collect();
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(k, s)| {
            let cell = |v: f64| format!("{v:.2}");
            vec![k.to_string(), s.n.to_string(), cell(s.min), cell(s.p50), cell(s.p99), cell(s.max)]
        })
        .collect();
    report::table("CNI calls, exec to exit, ms", &["call", "n", "min", "p50", "p99", "max"], &rows);

    let mut ratios = BTreeMap::new();
    for (name, a, b) in [
        ("ADD ours / ptp", key(&ours, "ADD"), key(&peer, "ADD")),
        ("ADD ours / floor", key(&ours, "ADD"), key(&least, "ADD")),
        ("DEL ours / ptp", key(&ours, "DEL"), key(&peer, "DEL")),
        ("ADD at 100 pods / at 0", format!("{}, 100 pods there", key(&ours, "ADD")), key(&ours, "ADD")),
    ] {
        if let (Some(a), Some(b)) = (times.get(&a), times.get(&b))
            && let Some(r) = ratio(a, b)
        {
            ratios.insert(name, r);
        }
    }
    let rows: Vec<Vec<String>> = ratios
        .iter()
        .map(|(name, r)| {
            let verdict = if r.conclusive { "" } else { "wider than 2 %" };
            vec![name.to_string(), format!("{:.3}", r.median), format!("{:.3} to {:.3}", r.low, r.high), verdict.into()]
        })
        .collect();
    report::table("ratios, median of pairs, 95 % interval", &["ratio", "median", "interval", ""], &rows);

    let bursts = bursts(&ours, &peer, burst)?;
    let rows: Vec<Vec<String>> = bursts
        .iter()
        .map(|(n, seconds, good)| vec![n.clone(), format!("{seconds:.2}"), format!("{good} of {burst}")])
        .collect();
    report::table("all at once", &["plugin", "seconds", "succeeded"], &rows);
    drop(peer_node);
    let _ = std::fs::remove_dir_all(&state);
    report::json(
        out,
        "cni",
        &json!({ "machine": report::machine(), "peer": peer.config, "calls": all, "ratios": ratios, "burst": bursts }),
    )
}

fn key(plugin: &Plugin, verb: &str) -> String {
    format!("{verb} {}", plugin.name)
}

/// One ADD and one DEL in a fresh namespace.
fn turn(plugin: &Plugin, round: usize, times: &mut Times) -> Result<()> {
    let sandbox = Sandbox::new(&format!("ovb-{}-{round}", std::process::id()))?;
    times.entry(key(plugin, "ADD")).or_default().push(plugin.timed("ADD", &sandbox)?);
    times.entry(key(plugin, "DEL")).or_default().push(plugin.timed("DEL", &sandbox)?);
    Ok(())
}

/// `count` ADDs at once, then as many DELs at once: seconds and successes.
fn bursts(ours: &Plugin, peer: &Plugin, count: usize) -> Result<Vec<(String, f64, usize)>> {
    let mut rows = Vec::new();
    for plugin in [ours, peer] {
        let sandboxes = (0..count).map(|i| Sandbox::new(&format!("ovb-burst-{i}"))).collect::<Result<Vec<_>>>()?;
        for verb in ["ADD", "DEL"] {
            let (took, good) = plugin.burst(verb, &sandboxes)?;
            if good == 0 {
                bail!("{} {verb}: none of {count} calls at once succeeded", plugin.name);
            }
            rows.push((key(plugin, verb), took.as_secs_f64(), good));
        }
    }
    Ok(rows)
}
