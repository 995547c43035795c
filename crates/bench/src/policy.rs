//! Network policy in a large cluster: how long until it is in force on one node, what ADD takes then, and the agent's memory.
//!
//! The objects reach the agent over HTTP, as in a cluster: policies, namespaces, this node's pods, and what the controller writes
//! of all others (PodSlices). This node's pods are real ADDs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use overlane_api::crd::{ClusterNetwork, ClusterNetworkSpec, NAMESPACE, NodeNetworkConfig, PodSlice};
use overlane_apiserver::ApiServer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cni::{self, Sandbox};
use crate::report;
use crate::scale::{Ground, NS, PORT, cpu_seconds, peak_rss};
use crate::stats::summary;

/// Namespace of this node's pods: that of the calls.
const OWN: &str = "bench";
/// Apps in each namespace.
const APPS: usize = 10;
/// Pods on each node.
const A_NODE: usize = 250;
/// Policies in a namespace, and in this node's pods'.
const IN_NAMESPACE: usize = 10;
const IN_OWN: usize = 300;
/// Changes that are timed, of each kind.
const ROUNDS: usize = 40;

/// How large the cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// NetworkPolicies.
    pub policies: usize,
    /// Pods of other nodes.
    pub pods: usize,
}

/// Runs all and prints; JSON goes to `out`.
pub fn run(bin: &Path, out: &Path, size: Size) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(bin, out, size))
}

async fn measure(bin: &Path, out: &Path, size: Size) -> Result<()> {
    let mut ground = Ground::new()?;
    let api = ApiServer::new();
    for crd in overlane_api::crd::all_crds() {
        api.register(&crd)?;
    }
    let served = api.clone();
    let listener = Ground::listener()?;
    tokio::spawn(async move { served.serve(listener, std::future::pending()).await });
    let client = api.client();
    fill(&client, size).await?;

    let args = [
        format!("--api-url=http://127.0.0.1:{PORT}"),
        "--node-name=node-0".to_owned(),
        format!("--run-dir={}", ground.dir.join("run").display()),
        format!("--cni-conf-dir={}", ground.dir.join("net.d").display()),
        "--metrics-addr=off".to_owned(),
    ];
    let agent = ground.start(&bin.join("overlane-agent"), &args)?;
    let conflist = ground.dir.join("net.d/05-overlane.conflist");
    wait("the agent", Duration::from_secs(60), || conflist.exists()).await?;
    let plugin = cni::overlane(bin, &format!("/run/netns/{NS}"), &conflist)?;
    let (mut sandboxes, mut adds) = (Vec::new(), Vec::new());
    for number in 0..A_NODE {
        let sandbox = Sandbox::new(&pod(number))?;
        adds.push(plugin.timed("ADD", &sandbox)?);
        sandboxes.push(sandbox);
    }
    // The agent has just begun: the first waits until it knows of everybody.
    let first = adds.remove(0);
    let selected = if size.policies == 0 { 0 } else { A_NODE };
    wait("policy in force", Duration::from_secs(60), || in_classes() >= selected).await?;
    let (policies, peers) =
        if size.policies == 0 { (Vec::new(), Vec::new()) } else { (policies(&client).await?, peers(&client).await?) };
    tokio::time::sleep(Duration::from_secs(70)).await;
    let (rss, cpu) = (peak_rss(agent)?, cpu_seconds(agent)?);
    tell(out, size, &Figures { first, adds, policies, peers, rss, cpu })
}

struct Figures {
    first: f64,
    adds: Vec<f64>,
    policies: Vec<f64>,
    peers: Vec<f64>,
    rss: f64,
    cpu: f64,
}

fn tell(out: &Path, size: Size, figures: &Figures) -> Result<()> {
    let spread = |all: &[f64]| {
        let worst = all.iter().copied().fold(0.0, f64::max);
        summary(all).map_or_else(|| "-".to_owned(), |s| format!("{:.1} / {:.1} / {worst:.1}", s.p50, s.p99))
    };
    let rows = vec![
        vec!["first ADD after the agent's start, ms".to_owned(), format!("{:.1}", figures.first)],
        vec!["ADD, ms: median / p99 / worst".to_owned(), spread(&figures.adds)],
        vec!["a policy's change, API's answer to kernel, ms".to_owned(), spread(&figures.policies)],
        vec!["a remote pod's label, slice's answer to kernel, ms".to_owned(), spread(&figures.peers)],
        vec!["agent, peak RSS MiB / CPU s".to_owned(), format!("{:.1} / {:.1}", figures.rss, figures.cpu)],
    ];
    println!("machine: {}", report::machine());
    let title = format!("{} policies, {} pods elsewhere, {A_NODE} here", size.policies, size.pods);
    report::table(&title, &["what", "figure"], &rows);
    report::json(
        out,
        &format!("policy-{}", size.policies),
        &json!({ "machine": report::machine(), "policies": size.policies, "pods": size.pods, "first_add_ms": figures.first, "adds_ms": figures.adds,
                 "policies_ms": figures.policies, "peers_ms": figures.peers, "agent_rss_mib": figures.rss,
                 "agent_cpu_s": figures.cpu }),
    )
}

async fn wait(what: &str, limit: Duration, is: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is() {
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Pods of this node that are in a class, by what the kernel has.
fn in_classes() -> usize {
    nft(&["list", "map", "inet", "overlane", "policy_in4"]).matches("goto policy_in_").count()
}

fn pod(number: usize) -> String {
    format!("ovb-pol-{number}")
}

fn app(number: usize) -> String {
    format!("app-{}", number % APPS)
}

/// A policy of a namespace: two of its apps reach a third at a port, and so does a network; it reaches names and a fourth.
fn policy(namespace: &str, number: usize, port: u16) -> Value {
    let pods = |offset: usize| json!({ "podSelector": { "matchLabels": { "app": app(number + offset) } } });
    let front = json!({ "namespaceSelector": { "matchLabels": { "role": "front" } },
                        "podSelector": { "matchLabels": { "app": app(number) } } });
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": format!("p-{number}"), "namespace": namespace },
        "spec": {
            "podSelector": { "matchLabels": { "app": app(number) } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [pods(1), pods(2), front, { "ipBlock": { "cidr": "192.0.2.0/24" } }],
                          "ports": [{ "port": port, "protocol": "TCP" }, { "port": 9000, "endPort": 9010, "protocol": "TCP" }] }],
            "egress": [{ "ports": [{ "port": 53, "protocol": "UDP" }] }, { "to": [pods(3)] }],
        }
    })
}

/// What the controller would have written of a node: its pods are of apps of one namespace after the other.
fn slice(node: usize, pods: usize) -> Value {
    let profile = |namespace: usize, number: usize| json!({ "namespace": format!("ns-{namespace}"), "labels": { "app": app(number), "pod-template-hash": format!("{namespace:x}") } });
    let namespace = |n: usize| (node * 7 + n / APPS) % 1000;
    let profiles: Vec<Value> = (0..25 * APPS).map(|n| profile(namespace(n), n)).collect();
    let pod = |n: usize| {
        json!({ "profile": n % (25 * APPS), "ips": [format!("10.{}.{}.{}", 33 + node / 256, node % 256, n + 1),
                                            format!("fd12:3456:789a:0:{node:x}::{:x}", n + 1)] })
    };
    json!({
        "apiVersion": "overlane.io/v1alpha1", "kind": "PodSlice", "metadata": { "name": format!("node-{node}") },
        "spec": { "nodeLabels": { "kubernetes.io/os": "linux" }, "nodeAddresses": [format!("10.224.{}.{}", node / 256, node % 256)],
                  "profiles": profiles, "pods": (0..pods).map(pod).collect::<Vec<_>>() }
    })
}

pub(crate) async fn create<K>(api: Api<K>, objects: impl Iterator<Item = Value>) -> Result<()>
where
    K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    stream::iter(objects)
        .map(|object| {
            let api = api.clone();
            async move {
                let object: K = serde_json::from_value(object)?;
                api.create(&PostParams::default(), &object).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(32)
        .try_collect::<()>()
        .await
}

/// Gives a node its blocks, as the controller does.
async fn give(client: &Client, node: &str, blocks: [&str; 2], ips: [&str; 2]) -> Result<()> {
    let configs: Api<NodeNetworkConfig> = Api::namespaced(client.clone(), NAMESPACE);
    let block = |cidr: &str, space: &str, ip: &str| json!({ "primaryIP": cidr, "subnetAddressSpace": space, "nodeIP": ip, "type": "overlay", "assignmentMode": "static" });
    let [v4, v6] = blocks;
    let containers = [block(v4, "10.32.0.0/11", ips[0]), block(v6, "fd12:3456:789a::/64", ips[1])];
    let status = json!({ "status": { "nodeIPs": ips, "networkContainers": containers } });
    configs.create(&PostParams::default(), &NodeNetworkConfig::new(node, Default::default())).await?;
    configs.patch_status(node, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

async fn fill(client: &Client, size: Size) -> Result<()> {
    let network = ClusterNetworkSpec {
        ip_families: vec!["IPv4".into(), "IPv6".into()],
        pod_cidrs: vec!["10.32.0.0/11".into(), "fd12:3456:789a::/64".into()],
        service_cidrs: vec!["10.0.0.0/16".into(), "fd12:3456:789a:1::/108".into()],
        ..Default::default()
    };
    Api::all(client.clone()).create(&PostParams::default(), &ClusterNetwork::new("default", network)).await?;
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-0" } });
    create(Api::<Node>::all(client.clone()), [node].into_iter()).await?;
    give(client, "node-0", ["10.32.0.0/24", "fd12:3456:789a::/80"], ["10.224.0.4", "fd10:224::4"]).await?;
    let nodes = size.pods.div_ceil(A_NODE);
    stream::iter(1..=nodes)
        .map(async |node| {
            let [high, low] = [node / 256, node % 256];
            let blocks = [format!("10.{}.{low}.0/24", 33 + high), format!("fd12:3456:789a:0:{node:x}::/80")];
            let ips = [format!("10.225.{high}.{low}"), format!("fd10:224::1:{node:x}")];
            let [blocks, ips] = [blocks.each_ref().map(String::as_str), ips.each_ref().map(String::as_str)];
            give(client, &format!("node-{node}"), blocks, ips).await
        })
        .buffer_unordered(32)
        .try_collect::<()>()
        .await?;

    let namespace = |name: String, role: &str| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": { "role": role } } });
    let others = (0..1000).map(|n| namespace(format!("ns-{n}"), if n % 100 == 0 { "front" } else { "back" }));
    let namespaces = Api::<Namespace>::all(client.clone());
    create(namespaces, others.chain([namespace(OWN.to_owned(), "own")])).await?;
    create(Api::<PodSlice>::all(client.clone()), (1..=nodes).map(|node| slice(node, A_NODE))).await?;
    let own = (0..A_NODE).map(|number| {
        json!({ "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": pod(number), "namespace": OWN, "labels": { "app": app(number), "n": number.to_string() } },
                "spec": { "nodeName": "node-0", "containers": [{ "name": "c", "image": "none" }] } })
    });
    create(Api::<Pod>::namespaced(client.clone(), OWN), own).await?;
    let here = IN_OWN.min(size.policies);
    let own = (0..here).map(|number| policy(OWN, number, 8080));
    create(Api::<NetworkPolicy>::namespaced(client.clone(), OWN), own).await?;
    for namespace in 0..(size.policies - here).div_ceil(IN_NAMESPACE) {
        let name = format!("ns-{namespace}");
        let all = (0..IN_NAMESPACE).map(|number| policy(&name, number, 8080));
        create(Api::<NetworkPolicy>::namespaced(client.clone(), &name), all).await?;
    }
    Ok(())
}

/// What `nft` prints of the table.
fn nft(words: &[&str]) -> String {
    let output = Command::new("ip").args(["netns", "exec", NS, "nft"]).args(words).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Milliseconds from `began` until the kernel holds it; a look takes some itself. (`nft monitor` does not bear ranges that change:
/// it ends for want of memory.)
fn until(began: Instant, what: &str, holds: impl Fn() -> bool) -> Result<f64> {
    while !holds() {
        if began.elapsed() > Duration::from_secs(10) {
            bail!("{what} is not in the kernel after ten seconds");
        }
    }
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

/// Has policies allow all ports; of each the time from the API's answer until pods are led to what says so.
async fn policies(client: &Client) -> Result<Vec<f64>> {
    let api: Api<NetworkPolicy> = Api::namespaced(client.clone(), OWN);
    let pods = || nft(&["list", "map", "inet", "overlane", "policy_in4"]);
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let mut changed = policy(OWN, round, 8080);
        if let Some(rule) = changed["spec"]["ingress"][0].as_object_mut() {
            rule.remove("ports");
        }
        let before = pods();
        api.patch(&format!("p-{round}"), &PatchParams::default(), &Patch::Merge(&changed)).await?;
        took.push(until(Instant::now(), &format!("policy p-{round}"), || pods() != before)?);
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Others of its app come later: what it allowed they would not allow anew.
        let back = Patch::Merge(policy(OWN, round, 8080));
        api.patch(&format!("p-{round}"), &PatchParams::default(), &back).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(took)
}

/// Gives pods of other nodes the labels of those who may come in; the same of the slice that says it.
async fn peers(client: &Client) -> Result<Vec<f64>> {
    let api: Api<PodSlice> = Api::all(client.clone());
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let node = 1 + round;
        let mut changed = slice(node, A_NODE);
        // A pod of a namespace that nothing here is about becomes one of this node's namespace.
        let profiles = changed["spec"]["profiles"].as_array_mut().context("no profiles")?;
        let index = profiles.len();
        profiles.push(json!({ "namespace": OWN, "labels": { "app": app(round) } }));
        changed["spec"]["pods"][17]["profile"] = json!(index);
        let address = changed["spec"]["pods"][17]["ips"][0].as_str().unwrap_or_default().to_owned();
        let element = format!("{{ {address} }}");
        api.patch(&format!("node-{node}"), &PatchParams::default(), &Patch::Merge(&changed)).await?;
        let get = ["get", "element", "inet", "overlane", "policy_host4", &element];
        took.push(until(Instant::now(), &address, || nft(&get).contains(&format!("{address} :")))?);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(took)
}
