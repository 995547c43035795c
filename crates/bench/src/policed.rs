//! What a packet costs with ever more policies: between pods that policies select, between pods that none selects, and between the
//! nodes, turn by turn.
//!
//! The server's node has 250 pods, each of an app of its own, so of a class of its own; the policies are dealt out to them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::net::{self, Ends, Load};
use crate::packets::{NODES, Series, node_address, pod_address, pod_ns};
use crate::policy::create;
use crate::report;

/// Pods on the server's node.
const PODS: usize = 250;
const NAMESPACE: &str = "default";
/// Where a lab's nodes reach the API.
const API: &str = "http://10.224.254.4:6443";
const LOADS: [Load; 3] = [Load::TcpRoundTrip, Load::UdpPackets, Load::TcpConnects];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// How much to measure.
pub struct Plan {
    /// Turns of each load.
    pub pairs: usize,
    /// Length of one run.
    pub time: Duration,
    /// The peer's program.
    pub kube_router: Option<PathBuf>,
}

/// Runs all and prints; JSON goes to `out`.
pub fn run(bin: &Path, out: &Path, counts: &[usize], plan: &Plan) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lab = Lab::up(bin, "bench", NODES.len(), &["--ip-families", "ipv4,ipv6"])?;
    people(&lab)?;
    let peer = plan.kube_router.as_deref().map(|program| KubeRouter::up(bin, program)).transpose()?;
    let (pairs, millis) = (plan.pairs, plan.time.as_millis());
    println!("machine: {}", report::machine());
    println!("{PODS} pods on the server's node; {pairs} turns of {millis} ms a load; TCP by {}", net::CONGESTION);
    if let Some(peer) = &peer {
        println!("kube-router: {}", peer.settings);
    }
    let mut there = 0;
    let mut results = Vec::new();
    for count in counts {
        runtime.block_on(grow(&lab, there, *count))?;
        wait(&lab, *count)?;
        if let Some(peer) = &peer {
            runtime.block_on(grow(&peer.lab, there, *count))?;
            peer.wait(*count)?;
        }
        there = *count;
        let before = if *count > 0 { passed(&lab)? } else { 0 };
        let mut rows = Vec::new();
        for family in FAMILIES {
            for load in LOADS {
                let (more, result) = measure(&lab, peer.as_ref(), family, load, plan)?;
                rows.extend(more);
                results.push(json!({ "policies": count, "result": result }));
            }
        }
        // A path that nobody took says nothing of what it costs.
        let after = if *count > 0 { passed(&lab)? } else { 0 };
        if *count > 0 && after <= before {
            bail!("no packet met the server's class with {count} policies: {before} before, {after} after");
        }
        let title = format!("{count} policies; {} flows met the server's class", after - before);
        report::table(&title, &["load", "this", "that", "ratio", "95 % interval", "CPU this / that", ""], &rows);
    }
    report::json(out, "policed", &json!({ "machine": report::machine(), "pods": PODS, "results": results }))
}

/// kube-router's policy engine on the nodes of a lab of its own, which enforces none.
struct KubeRouter {
    lab: Lab,
    programs: Vec<Child>,
    settings: String,
    _kubeconfig: tempfile::TempDir,
}

impl KubeRouter {
    fn up(bin: &Path, program: &Path) -> Result<Self> {
        let lab = Lab::up(bin, "bench-peer", NODES.len(), &["--ip-families", "ipv4,ipv6", "--network-policy", "none"])?;
        people(&lab)?;
        let dir = tempfile::tempdir().context("make a directory for kube-router's kubeconfig")?;
        let kubeconfig = dir.path().join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{ "name": "lab", "cluster": { "server": API } }],
            "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
            "users": [{ "name": "lab", "user": {} }],
        });
        std::fs::write(&kubeconfig, text.to_string()).context("write kube-router's kubeconfig")?;
        let flags = "--run-firewall=true --run-router=false --run-service-proxy=false --run-loadbalancer=false \
                     --enable-ipv4=true --enable-ipv6=true --health-port=0 --metrics-port=0 \
                     --service-cluster-ip-range=10.0.0.0/16,fd12:3456:789a:ffff::/112";
        let mut programs = Vec::new();
        for node in NODES {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &format!("ovl-bench-peer-{node}")]).arg(program).args(flags.split(' '));
            command.arg(format!("--kubeconfig={}", kubeconfig.display())).arg(format!("--hostname-override={node}"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            programs.push(command.spawn().with_context(|| format!("run {}", program.display()))?);
        }
        Ok(Self { lab, programs, settings: flags.to_owned(), _kubeconfig: dir })
    }

    /// Waits until its rules do not change any more, and are there.
    fn wait(&self, count: usize) -> Result<()> {
        let began = Instant::now();
        let mut last = (String::new(), Instant::now());
        loop {
            let rules = self.lab.overlane(&["node", NODES[1], "--", "iptables-save", "-t", "filter"])?;
            let rules: String = rules.lines().filter(|line| line.starts_with("-A")).collect();
            if rules != last.0 {
                last = (rules, Instant::now());
            } else if last.1.elapsed() > Duration::from_secs(15) && (count == 0 || has_policies(&last.0)) {
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(600) {
                bail!("kube-router's rules for {count} policies do not settle in ten minutes");
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Whether there are rules of a policy, and not only those for pods without one.
fn has_policies(rules: &str) -> bool {
    rules.split("-A KUBE-NWPLCY-").skip(1).any(|rule| !rule.starts_with("DEFAULT"))
}

impl Drop for KubeRouter {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// The pods: two that policies are to select, two that none does, and others.
fn people(lab: &Lab) -> Result<()> {
    let [client, server] = NODES;
    lab.overlane(&["run", "free-a", "--node", client])?;
    lab.overlane(&["run", "free-b", "--node", server])?;
    lab.overlane(&["run", "client", "--node", client, "--labels", "app=client"])?;
    for number in 0..PODS - 1 {
        let labels = format!("app={}", app(number));
        let command = ["--", "sleep", "infinity"];
        let run = ["run", &app(number), "--node", server, "--labels", &labels, "--no-wait"];
        lab.overlane(&if number == 0 { run.to_vec() } else { [&run[..], &command].concat() })?;
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let pods = lab.json("pods")?;
        let pods = pods.as_array().or_else(|| pods["items"].as_array()).context("a list of pods was expected")?;
        let with = pods.iter().filter(|pod| pod["ips"].as_array().is_some_and(|ips| ips.len() == 2)).count();
        if with == PODS + 2 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{with} of {} pods have addresses after two minutes", PODS + 2);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn app(number: usize) -> String {
    format!("p-{number}")
}

/// A policy for one of the pods: others may reach it at some ports, and it may reach others.
fn policy(number: usize) -> Value {
    let of = |number: usize| json!({ "podSelector": { "matchLabels": { "app": app(number % (PODS - 1)) } } });
    let block = format!("192.0.{}.{}/32", number / 256 % 256, number % 256);
    let port = 9000 + number % 1000;
    let mut from = vec![of(number + 1), of(number + 2), json!({ "ipBlock": { "cidr": block } })];
    let mut ports =
        json!([{ "port": port, "protocol": "TCP" }, { "port": port, "endPort": port + 9, "protocol": "UDP" }]);
    if number == 0 {
        from = vec![json!({ "podSelector": { "matchLabels": { "app": "client" } } })];
        ports = json!([{ "port": 1, "endPort": 65535, "protocol": "TCP" }, { "port": 1, "endPort": 65535, "protocol": "UDP" }]);
    }
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": format!("p-{number}"), "namespace": NAMESPACE },
        "spec": {
            "podSelector": { "matchLabels": { "app": app(number % (PODS - 1)) } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": from, "ports": ports }],
            "egress": [{ "to": [of(number + 3)] }],
        }
    });
    if number == 1 {
        // The client is isolated too.
        object["spec"]["podSelector"] = json!({ "matchLabels": { "app": "client" } });
        object["spec"]["egress"] = json!([{ "to": [of(0)] }]);
    }
    object
}

async fn grow(lab: &Lab, from: usize, to: usize) -> Result<()> {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&lab.overlane(&["kubeconfig"])?)?;
    let client = Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?)?;
    create(Api::<NetworkPolicy>::namespaced(client, NAMESPACE), (from..to).map(policy)).await
}

fn nft(lab: &Lab, node: &str, words: &[&str]) -> Result<String> {
    lab.overlane(&[&["node", node, "--", "nft"], words].concat())
}

/// The class of a pod of the server's node, by its IPv4 address.
fn class(lab: &Lab, pod: &str) -> Result<Option<String>> {
    let address = pod_address(lab, pod, "IPv4")?.to_string();
    let map = nft(lab, NODES[1], &["list", "map", "inet", "overlane", "policy_in4"])?;
    let place = |entry: &str| {
        let (of, to) = entry.rsplit_once(" : ")?;
        of.ends_with(&address).then(|| to.trim().trim_end_matches(['}', ' ', '\n', '\t']).to_owned())
    };
    let found = map.split(',').filter_map(place).next();
    Ok(found.and_then(|verdict| verdict.strip_prefix("goto ").map(|chain| chain.trim().to_owned())))
}

/// Waits until the last policy is in force.
fn wait(lab: &Lab, count: usize) -> Result<()> {
    let Some(last) = count.checked_sub(1) else { return Ok(()) };
    let began = Instant::now();
    while class(lab, &app(last % (PODS - 1)))?.is_none_or(|chain| !chain.starts_with("policy_in_")) {
        if began.elapsed() > Duration::from_secs(60) {
            bail!("{count} policies are not in force after a minute");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // What came last is in force; what came in between is too, once the agents rest.
    std::thread::sleep(Duration::from_secs(5));
    Ok(())
}

/// First packets of flows that the server's class was asked about.
fn passed(lab: &Lab) -> Result<u64> {
    let chain = class(lab, &app(0))?.context("no policy selects the server")?;
    let listed = nft(lab, NODES[1], &["list", "map", "inet", "overlane", &format!("{chain}_ports")])?;
    let counts = listed.split("packets ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

/// What takes turns in a lab: the policed pair, the free one, the nodes.
fn sides(lab: &Lab, family: &str) -> Result<[Ends; 3]> {
    let pods = |from: &str, to: &str| {
        anyhow::Ok(Ends {
            client_ns: pod_ns(lab, from)?,
            server_ns: pod_ns(lab, to)?,
            server: pod_address(lab, to, family)?,
        })
    };
    let [client, server] = NODES;
    let nodes = Ends {
        client_ns: lab.node_ns(client),
        server_ns: lab.node_ns(server),
        server: node_address(lab, server, family)?,
    };
    Ok([pods("client", &app(0))?, pods("free-a", "free-b")?, nodes])
}

fn measure(
    lab: &Lab,
    peer: Option<&KubeRouter>,
    family: &str,
    load: Load,
    plan: &Plan,
) -> Result<(Vec<Vec<String>>, Value)> {
    let mut all = sides(lab, family)?.to_vec();
    if let Some(peer) = peer {
        let [policed, free, _] = sides(&peer.lab, family)?;
        all.extend([policed, free]);
    }
    let mut series: Vec<Series> = all.iter().map(|_| Series::default()).collect();
    for ends in &all {
        load.run(ends, plan.time / 4)?;
    }
    for _ in 0..plan.pairs {
        for (series, ends) in series.iter_mut().zip(&all) {
            series.turn(load, ends, plan.time)?;
        }
    }
    let [policed, free, nodes, theirs @ ..] = &series[..] else { bail!("a lab has three sides") };
    let name = |what: &str| format!("{family} {}: {what}", load.name());
    let (one, against_free) = policed.row(&name("policed against free pods"), load, free)?;
    let (two, against_nodes) = free.row(&name("free pods against nodes"), load, nodes)?;
    let mut rows = vec![one, two];
    let mut result = json!({ "family": family, "load": load.name(), "policed": policed.figures, "free": free.figures,
                             "nodes": nodes.figures, "policed_against_free": against_free, "free_against_nodes": against_nodes });
    if let [their_policed, their_free] = theirs {
        let (three, policed_ratio) = policed.row("   policed against kube-router's", load, their_policed)?;
        let (four, free_ratio) = free.row("   free against kube-router's", load, their_free)?;
        rows.extend([three, four]);
        result["kube_router"] = json!({ "policed": their_policed.figures, "free": their_free.figures,
                                        "policed_against_it": policed_ratio, "free_against_it": free_ratio });
    }
    Ok((rows, result))
}
