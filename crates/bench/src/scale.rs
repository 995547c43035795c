//! Many nodes: how long until all are bound, what it costs the API server, what controller and agent take of memory.
//!
//! Everything is in one network namespace: the API on its loopback, the agent's node on a veth whose subnet holds all
//! nodes' addresses. The objects reach controller and agent over HTTP, as in a cluster.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeSpec, NodeStatus, NodeSystemInfo};
use kube::Api;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlane_api::crd::{
    ClusterNetwork, ClusterNetworkSpec, NAMESPACE, NodeBlock, NodeNetworkConfig, NodeState, NodeStateSpec, Routing,
};
use overlane_apiserver::ApiServer;
use serde_json::json;

use crate::cni::ip;
use crate::report;
use crate::stats::summary;

pub const NS: &str = "ovb-scale";
pub const PORT: u16 = 8001;

/// A namespace with everything in it that was started; all of it ends with this value.
pub struct Ground {
    children: Vec<Child>,
    /// For files of what is started.
    pub dir: PathBuf,
}

impl Ground {
    /// With a node's link in it.
    pub fn new() -> Result<Self> {
        let _ = ip(&["netns", "del", NS]);
        ip(&["netns", "add", NS])?;
        for args in [
            "link set lo up",
            "link add eth0 type veth peer name fabric",
            "link set eth0 up",
            "link set fabric up",
            "addr add 10.224.0.4/16 dev eth0",
            "addr add fd10:224::4/64 dev eth0 nodad",
        ] {
            let mut all = vec!["-n", NS];
            all.extend(args.split(' '));
            ip(&all)?;
        }
        let dir = std::env::temp_dir().join(format!("overlane-scale-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("run"))?;
        std::fs::create_dir_all(dir.join("net.d"))?;
        Ok(Self { children: Vec::new(), dir })
    }

    /// Where the API is served.
    pub fn listener() -> Result<TcpListener> {
        let thread = std::thread::spawn(|| -> Result<TcpListener> {
            setns(File::open(format!("/run/netns/{NS}"))?, CloneFlags::CLONE_NEWNET)?;
            Ok(TcpListener::bind(("127.0.0.1", PORT))?)
        });
        thread.join().map_err(|_| anyhow!("the listening thread panicked"))?
    }

    /// Starts a program in it; gives its pid.
    pub fn start(&mut self, program: &Path, args: &[String]) -> Result<u32> {
        let log = File::create(self.dir.join(format!("{}.log", self.children.len())))?;
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{NS}"))
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let pid = child.id();
        self.children.push(child);
        Ok(pid)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = ip(&["netns", "del", NS]);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Peak resident memory of a process, MiB.
pub fn peak_rss(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// CPU seconds of a process so far.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: f64 = after.split(' ').skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

fn node(i: usize) -> Node {
    let host = i + 4;
    let addresses = [format!("10.224.{}.{}", host / 256, host % 256), format!("fd10:224::{host:x}")]
        .map(|address| NodeAddress { address, type_: "InternalIP".into() });
    Node {
        metadata: ObjectMeta { name: Some(format!("node-{i}")), ..Default::default() },
        spec: Some(NodeSpec { provider_id: Some(format!("bench://{i}")), ..Default::default() }),
        status: Some(NodeStatus {
            addresses: Some(addresses.to_vec()),
            node_info: Some(NodeSystemInfo { boot_id: format!("boot-{i}"), ..Default::default() }),
            ..Default::default()
        }),
    }
}

fn state(i: usize) -> NodeState {
    let spec = NodeStateSpec {
        boot_id: format!("boot-{i}"),
        underlay_mac: format!("02:00:00:00:{:02x}:{:02x}", i / 256, i % 256),
        agent_version: "bench".into(),
        ..Default::default()
    };
    NodeState::new(&format!("node-{i}"), spec)
}

/// Runs all and prints; JSON goes to `out`.
pub fn run(bin: &Path, out: &Path, nodes: usize, routing: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let routing = serde_json::from_value(json!(routing)).with_context(|| format!("--routing {routing}"))?;
    runtime.block_on(measure(bin, out, nodes, routing))
}

async fn measure(bin: &Path, out: &Path, nodes: usize, routing: Routing) -> Result<()> {
    anyhow::ensure!(nodes > 1, "--nodes {nodes}: one node has nobody to be routed to");
    let mut ground = Ground::new()?;
    let api = ApiServer::new();
    for crd in overlane_api::crd::all_crds() {
        api.register(&crd)?;
    }
    let served = api.clone();
    let listener = Ground::listener()?;
    tokio::spawn(async move { served.serve(listener, std::future::pending()).await });
    let client = api.client();
    let network = ClusterNetworkSpec {
        ip_families: vec!["IPv4".into(), "IPv6".into()],
        pod_cidrs: vec!["10.32.0.0/11".into(), "fd12:3456:789a::/64".into()],
        service_cidrs: vec!["10.0.0.0/16".into(), "fd12:3456:789a:1::/108".into()],
        max_pods: 250,
        masquerade: true,
        routing,
        ..Default::default()
    };
    Api::all(client.clone()).create(&PostParams::default(), &ClusterNetwork::new("default", network)).await?;
    let url = format!("--api-url=http://127.0.0.1:{PORT}");
    let controller = ground.start(&bin.join("overlane-controller"), &[url.clone(), "--metrics-addr=off".into()])?;

    let before = api.stats();
    let start = Instant::now();
    join(&client, nodes).await?;
    let created = start.elapsed();
    let bound = until_bound(&client, nodes, start).await?;
    let took = bound.as_secs_f64();
    let writes = writes(&before.requests, &api.stats().requests);
    let controller_rss = peak_rss(controller)?;
    let controller_cpu = cpu_seconds(controller)?;

    let args = [
        url,
        "--node-name=node-0".into(),
        format!("--run-dir={}", ground.dir.join("run").display()),
        format!("--cni-conf-dir={}", ground.dir.join("net.d").display()),
        "--metrics-addr=off".into(),
    ];
    let agent = ground.start(&bin.join("overlane-agent"), &args)?;
    let start = Instant::now();
    let routed = until_routed(nodes, start).await?.as_secs_f64();
    // Nobody else writes what the changes below write.
    signal(controller, Signal::SIGSTOP)?;
    let changes = changes(&client, nodes).await?;
    // The audit's first pass reads everything back; its memory counts too.
    tokio::time::sleep(Duration::from_secs(70)).await;
    let agent_rss = peak_rss(agent)?;
    let agent_cpu = cpu_seconds(agent)?;
    signal(agent, Signal::SIGKILL)?;
    let monitor = Monitor::start()?;
    let again = ground.start(&bin.join("overlane-agent"), &args)?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    anyhow::ensure!(cpu_seconds(again)? > 0.05, "the agent that was started again has done nothing");
    let rewritten = monitor.lines().len();
    let change = summary(&changes).context("no changes")?;

    let rows = vec![
        vec![format!("{nodes} nodes created, s"), format!("{:.1}", created.as_secs_f64())],
        vec!["all bound, s from the first".into(), format!("{took:.1}")],
        vec!["controller, peak RSS MiB / CPU s".into(), format!("{controller_rss:.1} / {controller_cpu:.1}")],
        vec!["agent: all routes in the kernel, s from start".into(), format!("{routed:.1}")],
        vec![
            format!("one node's change, API to kernel, ms: median / worst of {}", changes.len()),
            format!("{:.1} / {:.1}", change.p50, changes.iter().copied().fold(0.0, f64::max)),
        ],
        vec!["routes written by an agent that starts again".into(), rewritten.to_string()],
        vec!["agent, peak RSS MiB / CPU s".into(), format!("{agent_rss:.1} / {agent_cpu:.1}")],
    ];
    println!("machine: {}", report::machine());
    report::table(&format!("nodes joining, routing {routing:?}").to_lowercase(), &["what", "figure"], &rows);
    let per_node: Vec<Vec<String>> = writes
        .iter()
        .map(|(k, n)| vec![k.clone(), n.to_string(), format!("{:.2}", *n as f64 / nodes as f64)])
        .collect();
    report::table("API writes (those of the benchmark's own joins left out)", &["write", "all", "a node"], &per_node);
    let name =
        if routing == Routing::Native { "scale".to_owned() } else { format!("scale-{routing:?}").to_lowercase() };
    report::json(
        out,
        &name,
        &json!({ "machine": report::machine(), "nodes": nodes, "routing": routing, "bound_s": took, "controller_rss_mib": controller_rss,
                 "controller_cpu_s": controller_cpu, "routed_s": routed, "agent_rss_mib": agent_rss,
                 "agent_cpu_s": agent_cpu, "changes_ms": changes, "rewritten": rewritten, "writes": writes }),
    )?;
    let a_node = writes.values().sum::<u64>() as f64 / nodes as f64;
    let aims = [
        ("s until all are bound", took, 60.0),
        ("API writes a node", a_node, 5.1),
        ("s until all is routed", routed, 2.0),
        ("ms for one node's change", change.p50, 50.0),
        ("routes written again", rewritten as f64, 0.0),
        ("MiB of an agent", agent_rss, 40.0),
    ];
    let missed = aims.iter().filter(|(_, is, aim)| is > aim);
    let missed: Vec<String> = missed.map(|(what, is, aim)| format!("{is:.1} {what}, more than {aim}")).collect();
    if missed.is_empty() { Ok(()) } else { Err(anyhow!("{}", missed.join("; "))) }
}

async fn join(client: &kube::Client, nodes: usize) -> Result<()> {
    stream::iter(0..nodes)
        .map(|i| {
            let client = client.clone();
            async move {
                let (n, s) = (node(i), state(i));
                Api::<Node>::all(client.clone()).create(&PostParams::default(), &n).await?;
                Api::<NodeState>::all(client).create(&PostParams::default(), &s).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(32)
        .try_collect::<()>()
        .await
}

/// Waits until every node has a NodeNetworkConfig with both blocks, then proves that no block is there twice.
async fn until_bound(client: &kube::Client, nodes: usize, start: Instant) -> Result<Duration> {
    let configs: Api<NodeNetworkConfig> = Api::namespaced(client.clone(), NAMESPACE);
    loop {
        let list = configs.list(&ListParams::default()).await?;
        let blocks: Vec<&str> = list
            .items
            .iter()
            .filter_map(|c| c.status.as_ref())
            .filter(|s| s.network_containers.len() == 2)
            .flat_map(|s| &s.network_containers)
            .map(|c| c.primary_ip.as_str())
            .collect();
        if blocks.len() == nodes * 2 {
            let took = start.elapsed();
            let different: std::collections::BTreeSet<&str> = blocks.iter().copied().collect();
            if different.len() != blocks.len() {
                bail!("{} blocks were given, {} of them different", blocks.len(), different.len());
            }
            let claims = Api::<NodeBlock>::all(client.clone()).list(&ListParams::default()).await?.items.len();
            if claims != nodes * 2 {
                bail!("{claims} NodeBlocks for {nodes} nodes");
            }
            return Ok(took);
        }
        if start.elapsed() > Duration::from_secs(600) {
            bail!("{} of {nodes} nodes were bound in ten minutes", blocks.len() / 2);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn until_routed(nodes: usize, start: Instant) -> Result<Duration> {
    loop {
        let mut counts = Vec::new();
        for family in ["-4", "-6"] {
            let output = Command::new("ip").args(["-n", NS, family, "route", "show", "proto", "111"]).output()?;
            // A probe's route leads to one address, which is shown without a length.
            let is_block =
                |line: &&str| line.contains(" via ") && line.split(' ').next().is_some_and(|d| d.contains('/'));
            counts.push(String::from_utf8_lossy(&output.stdout).lines().filter(is_block).count());
        }
        if counts.iter().all(|n| *n == nodes - 1) {
            return Ok(start.elapsed());
        }
        if start.elapsed() > Duration::from_secs(120) {
            bail!("after two minutes there are {counts:?} of {} routes", nodes - 1);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?);
    kill(pid, signal).with_context(|| format!("send {signal} to {pid}"))
}

/// Lines of `ip monitor route`, with when they came.
struct Monitor {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Monitor {
    fn start() -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["-n", NS, "monitor", "route"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("run ip monitor")?;
        let out = child.stdout.take().context("no output of ip monitor")?;
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if to.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        // It says nothing when it listens.
        std::thread::sleep(Duration::from_millis(300));
        Ok(Self { child, lines })
    }

    /// Those of ours that have come so far.
    fn lines(&self) -> Vec<String> {
        self.lines.try_iter().map(|(_, line)| line).filter(|line| line.contains("proto 111")).collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Gives single nodes other addresses; milliseconds from the API's answer to the route in the kernel, of each.
async fn changes(client: &kube::Client, nodes: usize) -> Result<Vec<f64>> {
    let configs: Api<NodeNetworkConfig> = Api::namespaced(client.clone(), NAMESPACE);
    let monitor = Monitor::start()?;
    let mut took = Vec::new();
    for round in 0..40_usize {
        let name = format!("node-{}", 1 + round * 97 % (nodes - 1));
        let config = configs.get(&name).await?;
        let mut status = config.status.context("a NodeNetworkConfig without status")?;
        let (old, new) = (status.node_ips.first().cloned().unwrap_or_default(), format!("10.224.200.{}", round + 1));
        let block = status.network_containers.first().map(|c| c.primary_ip.clone()).unwrap_or_default();
        for text in status.node_ips.iter_mut().chain(status.network_containers.iter_mut().map(|c| &mut c.node_ip)) {
            if *text == old {
                text.clone_from(&new);
            }
        }
        let patch = Patch::Merge(json!({ "status": status }));
        let began = Instant::now();
        configs.patch_status(&name, &PatchParams::default(), &patch).await?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, line) = monitor.lines.recv_timeout(left).with_context(|| format!("{name}: no route by {new}"))?;
            // In the tunnel the address is that of the encapsulation.
            if line.contains(&new) && line.contains(&block) && !line.starts_with("Deleted") {
                took.push(at.duration_since(began).as_secs_f64() * 1000.0);
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(took)
}

/// Writes by kind, without the benchmark's own creates of Nodes and NodeStates.
fn writes(before: &BTreeMap<(String, String), u64>, after: &BTreeMap<(String, String), u64>) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for ((verb, resource), count) in after {
        let reads = ["get", "list", "watch"].contains(&verb.as_str());
        let own = verb == "create" && (resource == "nodes" || resource.starts_with("nodestates"));
        let new = count - before.get(&(verb.clone(), resource.clone())).unwrap_or(&0);
        if !reads && !own && new > 0 {
            all.insert(format!("{verb} {resource}"), new);
        }
    }
    all
}
