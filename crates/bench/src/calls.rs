//! The CNI table: ADD and DEL, alone, beside a hundred pods, eight and all at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
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

/// Before each call: what earlier calls left to the kernel (links that end) is over. A pod's start does not follow at
/// once upon another's end, and neither plugin is to pay for the other's.
const REST: Duration = Duration::from_millis(60);
/// The end of a namespace holds the kernel's link lock for far longer; it waits for the end of a round.
const LONG_REST: Duration = Duration::from_millis(400);
/// Rounds before those that count.
const WARM: usize = 5;
/// Calls under way at a time in the crowd, and how often in a row.
const CROWD: usize = 8;
const CROWD_ROUNDS: usize = 25;
/// Pods on the node that has some.
const PODS: usize = 100;

/// Runs all and prints; JSON goes to `out`.
pub fn run(bin: &Path, out: &Path, rounds: usize, burst: usize) -> Result<()> {
    let lab = Lab::up(bin, "bench", 2, &["--ip-families", "ipv4,ipv6"])?;
    let peer_node = PeerNode::new()?;
    let state = std::env::temp_dir().join(format!("overlane-bench-{}", std::process::id()));
    let on = |node: &str| overlane(bin, &lab.node_ns(node), &lab.node_dir(node).join("cni/net.d/05-overlane.conflist"));
    let ours = on("node-0")?;
    let full = Plugin { name: format!("overlane, {PODS} pods there"), ..on("node-1")? };
    let peer = ptp(&PeerNode::path(), &state);
    let least = floor(bin, &PeerNode::path());
    println!("machine: {}\npeer: {} {}", report::machine(), peer.binary.display(), peer.config);

    let hold = (0..PODS).map(|i| Sandbox::new(&format!("ovb-hold-{i}"))).collect::<Result<Vec<_>>>()?;
    for sandbox in &hold {
        full.timed("ADD", sandbox)?;
    }
    let mut times = Times::new();
    for round in 0..rounds + WARM {
        let mut one = Times::new();
        let mut ended = Vec::new();
        for plugin in [&ours, &full, &peer, &least] {
            ended.push(turn(plugin, &format!("ovb-{}-{}-{round}", std::process::id(), ended.len()), &mut one)?);
        }
        drop(ended);
        std::thread::sleep(LONG_REST);
        if round >= WARM {
            for (key, values) in one {
                times.entry(key).or_default().extend(values);
            }
        }
    }
    for sandbox in &hold {
        full.timed("DEL", sandbox)?;
    }
    drop(hold);
    for plugin in [&ours, &peer] {
        times.insert(format!("ADD {}, {CROWD} at once", plugin.name), crowd(plugin)?);
    }

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
        ("ADD at 100 pods / at 0", key(&full, "ADD"), key(&ours, "ADD")),
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

/// One ADD and one DEL in a fresh namespace, which is given back.
fn turn(plugin: &Plugin, name: &str, times: &mut Times) -> Result<Sandbox> {
    let sandbox = Sandbox::new(name)?;
    for verb in ["ADD", "DEL"] {
        std::thread::sleep(REST);
        times.entry(key(plugin, verb)).or_default().push(plugin.timed(verb, &sandbox)?);
    }
    Ok(sandbox)
}

/// Milliseconds of each ADD while there are always [`CROWD`] under way: each thread begins its next at once.
fn crowd(plugin: &Plugin) -> Result<Vec<f64>> {
    let name = |thread: usize, round: usize| format!("ovb-crowd-{thread}-{round}");
    let rows: Vec<Vec<Sandbox>> = (0..CROWD)
        .map(|thread| (0..CROWD_ROUNDS).map(|round| Sandbox::new(&name(thread, round))).collect())
        .collect::<Result<_>>()?;
    let times: Vec<Result<Vec<f64>>> = std::thread::scope(|scope| {
        let add = |row: &'_ Vec<Sandbox>| row.iter().map(|sandbox| plugin.timed("ADD", sandbox)).collect();
        let threads: Vec<_> = rows.iter().map(|row| scope.spawn(move || add(row))).collect();
        threads.into_iter().map(|t| t.join().map_err(|_| anyhow!("a call's thread panicked"))?).collect()
    });
    for sandbox in rows.iter().flatten() {
        plugin.timed("DEL", sandbox)?;
    }
    Ok(times.into_iter().collect::<Result<Vec<_>>>()?.concat())
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
