//! Many nodes join at once: how long until all have their blocks, what it costs the API, what the controller takes.
//!
//! The API is in this process and served over HTTP; the controller is its own process, of the same build.
//! `cargo run --release -p overlane-controller --example join -- [NODES [IMAGE-KIB]]`

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use overlane_api::crd::{
    CLUSTER_NETWORK, ClusterNetwork, ClusterNetworkSpec, NAMESPACE, NodeBlock, NodeNetworkConfig, NodeState,
    NodeStateSpec, all_crds,
};
use overlane_apiserver::ApiServer;
use serde_json::json;

/// Requests of this process under way at a time.
const AT_ONCE: usize = 16;

#[tokio::main]
async fn main() -> Result<()> {
    let number = |at: usize, default: usize| -> Result<usize> {
        std::env::args()
            .nth(at)
            .map_or(Ok(default), |text| text.parse().with_context(|| format!("`{text}` is no number")))
    };
    let (nodes, image_kib) = (number(1, 5_000)?, number(2, 50)?);
    let server = ApiServer::new();
    for crd in all_crds() {
        server.register(&crd)?;
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let url = format!("http://{}", listener.local_addr()?);
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener, std::future::pending()).await });
    let client = server.client();
    let pod_cidrs = ["10.224.0.0/11", "fd12:3456:789a::/64"].map(str::to_owned).into();
    let service_cidrs = ["172.20.0.0/16", "fd12:3456:789a:1::/108"].map(str::to_owned).into();
    let spec = ClusterNetworkSpec { pod_cidrs, service_cidrs, ..ClusterNetworkSpec::default() };
    let networks: Api<ClusterNetwork> = Api::all(client.clone());
    networks.create(&PostParams::default(), &ClusterNetwork::new(CLUSTER_NETWORK, spec)).await?;

    let mut controller = start(&url)?;
    let before = server.stats().requests;
    let begun = Instant::now();
    join(&client, nodes, image_kib).await?;
    let created = begun.elapsed();
    until_served(&client, nodes).await?;
    let served = begun.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("{nodes} nodes with {image_kib} KiB of images each");
    println!("  created after           {:8.1} s", created.as_secs_f64());
    println!("  all bound after         {:8.1} s", served.as_secs_f64());
    show_writes(&server, &before, nodes)?;
    show_process("while they joined", &controller)?;
    end(&mut controller)?;

    let before = server.stats().requests;
    let mut controller = start(&url)?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    println!(
        "started again over all of them: {} writes but for its Lease",
        writes(&server, &before).values().sum::<u64>()
    );
    show_process("started again", &controller)?;
    let nodes_api: Api<Node> = Api::all(client.clone());
    let begun = Instant::now();
    nodes_api.delete("node-0", &DeleteParams::default()).await?;
    let configs: Api<NodeNetworkConfig> = Api::namespaced(client.clone(), NAMESPACE);
    while configs.get_opt("node-0").await?.is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("  a node that goes is withdrawn after {:.1} ms", begun.elapsed().as_secs_f64() * 1000.0);
    end(&mut controller)
}

fn start(url: &str) -> Result<Child> {
    let beside =
        std::env::current_exe()?.parent().and_then(|dir| dir.parent()).map(|dir| dir.join("overlane-controller"));
    let program: PathBuf =
        beside.filter(|path| path.exists()).context("build the controller first, with the same profile")?;
    let log = std::env::var("OVERLANE_LOG_LEVEL").unwrap_or_else(|_| "warn".to_owned());
    Command::new(&program)
        .args(["--api-url", url, "--metrics-addr", "off", "--log-level", &log])
        .spawn()
        .with_context(|| format!("start {}", program.display()))
}

fn end(controller: &mut Child) -> Result<()> {
    Command::new("kill").args(["-TERM", &controller.id().to_string()]).status()?;
    let status = controller.wait()?;
    if status.success() { Ok(()) } else { bail!("the controller ended with {status}") }
}

async fn join(client: &Client, nodes: usize, image_kib: usize) -> Result<()> {
    let images: Vec<_> =
        (0..image_kib * 4).map(|at| json!({ "names": [format!("{at:0>200}")], "sizeBytes": at })).collect();
    futures::stream::iter(0..nodes)
        .map(|number| {
            let (client, images) = (client.clone(), &images);
            async move {
                let name = format!("node-{number}");
                let object: Node = serde_json::from_value(json!({
                    "metadata": { "name": name },
                    "spec": { "providerID": format!("azure:///subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/group/providers/Microsoft.Compute/virtualMachineScaleSets/pool/virtualMachines/{number}") },
                }))?;
                let api: Api<Node> = Api::all(client.clone());
                api.create(&PostParams::default(), &object).await?;
                let boot_id = format!("00000000-0000-4000-8000-{number:012x}");
                let addresses = [
                    json!({ "type": "InternalIP", "address": format!("10.0.{}.{}", number / 256, number % 256) }),
                    json!({ "type": "InternalIP", "address": format!("fd10::{number:x}") }),
                ];
                let info = ["machineID", "systemUUID", "kernelVersion", "osImage", "containerRuntimeVersion",
                    "kubeletVersion", "kubeProxyVersion", "operatingSystem", "architecture"];
                let mut info: serde_json::Map<_, _> = info.iter().map(|key| ((*key).to_owned(), json!("x"))).collect();
                info.insert("bootID".to_owned(), json!(boot_id));
                let status = json!({ "status": { "addresses": addresses, "nodeInfo": info, "images": images } });
                api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
                let underlay_mac = format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256);
                let spec = NodeStateSpec { boot_id, underlay_mac, ..NodeStateSpec::default() };
                let states: Api<NodeState> = Api::all(client);
                states.create(&PostParams::default(), &NodeState::new(&name, spec)).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Waits until all have both blocks and `podCIDRs`, then proves that no block is there twice.
async fn until_served(client: &Client, nodes: usize) -> Result<()> {
    let configs: Api<NodeNetworkConfig> = Api::namespaced(client.clone(), NAMESPACE);
    let begun = Instant::now();
    loop {
        let items = configs.list(&ListParams::default()).await?.items;
        let containers =
            items.iter().filter_map(|config| config.status.as_ref()).flat_map(|status| &status.network_containers);
        let blocks: Vec<&str> = containers.map(|container| container.primary_ip.as_str()).collect();
        if blocks.len() == 2 * nodes {
            let different: std::collections::BTreeSet<&str> = blocks.iter().copied().collect();
            let claims = Api::<NodeBlock>::all(client.clone()).list(&ListParams::default()).await?.items.len();
            if different.len() != blocks.len() || claims != blocks.len() {
                bail!("{} blocks announced, {} different, {claims} claimed", blocks.len(), different.len());
            }
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(600) {
            bail!("after ten minutes {} of {} blocks are announced", blocks.len(), 2 * nodes);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn writes(server: &ApiServer, before: &BTreeMap<(String, String), u64>) -> BTreeMap<String, u64> {
    let own = ["create nodes", "patch nodes/status", "create nodestates.overlane.io"];
    let mut writes = BTreeMap::new();
    for ((verb, resource), count) in server.stats().requests {
        let kind = format!("{verb} {resource}");
        let reads = ["get", "list", "watch"].contains(&verb.as_str()) || resource.starts_with("leases");
        let new = count - before.get(&(verb, resource)).copied().unwrap_or(0);
        if !reads && new > 0 && !own.contains(&kind.as_str()) {
            writes.insert(kind, new);
        }
    }
    writes
}

fn show_writes(server: &ApiServer, before: &BTreeMap<(String, String), u64>, nodes: usize) -> Result<()> {
    let writes = writes(server, before);
    let each = |count: u64| -> Result<f64> { Ok(f64::from(u32::try_from(count)?) / f64::from(u32::try_from(nodes)?)) };
    println!("  API writes a node       {:8.3}", each(writes.values().sum())?);
    for (kind, count) in &writes {
        println!("    {kind:<45} {:.3}", each(*count)?);
    }
    Ok(())
}

fn show_process(when: &str, controller: &Child) -> Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", controller.id()))?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", controller.id()))?;
    let of = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("?").trim().to_owned();
    let ticks: u32 =
        stat.rsplit(") ").next().unwrap_or("").split(' ').skip(11).take(2).filter_map(|n| n.parse::<u32>().ok()).sum();
    let (peak, now, program) = (of("VmHWM:"), of("VmRSS:"), of("RssFile:"));
    let seconds = f64::from(ticks) / 100.0;
    println!("  controller {when}: peak {peak}, now {now} of which {program} are the program, {seconds:.1} s of CPU");
    Ok(())
}
