//! What a lab looks like now: nodes with their blocks, programs, pods.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, ListParams};
use overlane_api::crd::{NAMESPACE, NodeNetworkConfig};
use overlane_core::cidr::Cidr;
use serde::Serialize;

use crate::client::LabClient;
use crate::daemon::control::Phase;
use crate::daemon::supervise::ProgramState;
use crate::names::{self, Part};
use crate::netns;
use crate::wire::Wire;

/// A lab.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabStatus {
    /// Its name.
    pub name: String,
    /// The VNet that it is in.
    pub vnet: String,
    /// Families, the primary one first.
    pub families: Vec<String>,
    /// Pod CIDRs.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// Whether the daemon runs.
    pub daemon: bool,
    /// Whether the API is served inside the VNet.
    pub api_up: bool,
    /// The API's address inside the VNet.
    pub api: String,
    /// Whether every node is ready.
    pub ready: bool,
    /// Nodes.
    pub nodes: Vec<NodeStatus>,
    /// Agents and controllers.
    pub programs: Vec<ProgramState>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether it takes pods.
    pub ready: bool,
    /// Why not, or what the kubelet says.
    pub message: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its blocks.
    pub blocks: Vec<String>,
    /// Pods on it that are not finished.
    pub pods: usize,
    /// Whether the agent's process runs.
    pub agent: bool,
    /// How often the agent was started again.
    pub restarts: u32,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node; empty while it has none.
    pub node: String,
    /// `Running`, `Pending` ...
    pub phase: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Its addresses.
    pub ips: Vec<String>,
    /// Why it does not run.
    pub message: String,
}

/// The lab's status.
pub async fn of(lab: &LabClient) -> Result<LabStatus> {
    let daemon = lab.status().await?;
    let client = lab.kube()?;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?.items;
    let blocks = blocks(&client).await?;
    let pods = pods(&client).await?;
    let agent = |node: &str| daemon.programs.iter().find(|program| program.program == format!("agent-{node}"));
    let mut rows: Vec<NodeStatus> = nodes
        .iter()
        .map(|node| {
            let name = node.metadata.name.clone().unwrap_or_default();
            let (ready, message) = ready(node);
            let program = agent(&name);
            NodeStatus {
                ready,
                message,
                addresses: addresses(node),
                blocks: blocks.get(&name).cloned().unwrap_or_default(),
                pods: pods
                    .iter()
                    .filter(|pod| pod.node == name && pod.phase != "Succeeded" && pod.phase != "Failed")
                    .count(),
                agent: program.is_some_and(|program| program.process.is_some_and(|process| process.alive())),
                restarts: program.map_or(0, |program| program.restarts),
                name,
            }
        })
        .collect();
    rows.sort_by_key(|node| (names::node_number(&node.name), node.name.clone()));
    let cidrs = lab.record.cluster_network["spec"]["podCIDRs"].as_array().cloned().unwrap_or_default();
    Ok(LabStatus {
        name: lab.name.to_string(),
        vnet: lab.record.vnet.to_string(),
        families: lab.record.families.clone(),
        pod_cidrs: cidrs.iter().filter_map(|cidr| cidr.as_str().map(str::to_owned)).collect(),
        daemon: true,
        api_up: daemon.api_up,
        api: lab.record.api.as_ref().map(|api| api.vnet_url.clone()).unwrap_or_default(),
        ready: daemon.phase == Phase::Running
            && daemon.nodes.iter().all(|machine| rows.iter().any(|node| node.name == machine.name))
            && rows.iter().all(|node| node.ready && !node.blocks.is_empty()),
        nodes: rows,
        programs: daemon.programs,
    })
}

fn ready(node: &Node) -> (bool, String) {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    match ready {
        Some(condition) => (condition.status == "True", condition.message.clone().unwrap_or_default()),
        None => (false, "its kubelet has said nothing yet".to_owned()),
    }
}

fn addresses(node: &Node) -> Vec<String> {
    let all = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    all.into_iter().flatten().filter(|a| a.type_ == "InternalIP").map(|a| a.address.clone()).collect()
}

/// Blocks by node.
pub async fn blocks(client: &Client) -> Result<BTreeMap<String, Vec<String>>> {
    let api: Api<NodeNetworkConfig> = Api::namespaced(client.clone(), NAMESPACE);
    let configs = api.list(&ListParams::default()).await?;
    let blocks = configs.items.into_iter().map(|config| {
        let containers = config.status.unwrap_or_default().network_containers;
        let cidrs = containers.into_iter().map(|container| container.primary_ip).collect();
        (config.metadata.name.unwrap_or_default(), cidrs)
    });
    Ok(blocks.collect())
}

/// All pods, by namespace and name.
pub async fn pods(client: &Client) -> Result<Vec<PodStatus>> {
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await?;
    let mut rows: Vec<PodStatus> = pods.items.iter().map(pod).collect();
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(rows)
}

/// A pod's row.
pub fn pod(pod: &Pod) -> PodStatus {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        waiting.message.clone().filter(|message| !message.is_empty())
    });
    let phase = if pod.metadata.deletion_timestamp.is_some() {
        "Terminating".to_owned()
    } else {
        status.phase.unwrap_or_else(|| "Pending".to_owned())
    };
    PodStatus {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        phase,
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        ips: status.pod_ips.into_iter().flatten().map(|ip| ip.ip).collect(),
        message: waiting.unwrap_or_default(),
    }
}

/// Whether every node sends packets for every other node's blocks another way than by the default route: what counts in
/// the end, whatever agents say of themselves.
pub async fn agents_agree(lab: &LabClient, status: &LabStatus) -> bool {
    let blocks: Vec<(u32, Cidr)> = status
        .nodes
        .iter()
        .filter_map(|node| Some((names::node_number(&node.name)?, &node.blocks)))
        .flat_map(|(number, blocks)| blocks.iter().filter_map(move |block| Some((number, block.parse().ok()?))))
        .collect();
    let nodes: BTreeSet<u32> = blocks.iter().map(|(number, _)| *number).collect();
    let name = lab.name.clone();
    let look = move || {
        nodes.iter().all(|node| {
            let path = netns::path(&name, &Part::Node(*node));
            let others: Vec<Cidr> = blocks.iter().filter(|(owner, _)| owner != node).map(|(_, cidr)| *cidr).collect();
            netns::run(&path, || routed(&others)).unwrap_or(false)
        })
    };
    tokio::task::spawn_blocking(look).await.unwrap_or(false)
}

fn routed(blocks: &[Cidr]) -> Result<bool> {
    let routed = Wire::open()?.routed_away()?;
    Ok(blocks.iter().all(|block| routed.contains(block)))
}
