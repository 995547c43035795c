//! What a cluster's network looks like: read once, from objects alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use overlane_api::crd::{CLUSTER_NETWORK, ClusterNetwork, NAMESPACE, NodeNetworkConfig, NodeState};
use overlane_core::cidr::Cidr;
use overlane_core::ipam;
use overlane_install::{AGENT, CONTROLLER, PART_OF};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::gateways::{self, GatewayStatus};
use crate::cluster::read::{each, node_conditions};

/// A cluster's network.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Whether everything is as it should be.
    pub good: bool,
    /// The ClusterNetwork.
    pub network: Option<NetworkStatus>,
    /// The controllers.
    pub controllers: Daemons,
    /// The agents.
    pub agents: Daemons,
    /// The nodes, by name.
    pub nodes: Vec<NodeStatus>,
    /// The egress gateways, by name.
    pub gateways: Vec<GatewayStatus>,
}

/// The ClusterNetwork.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStatus {
    /// `IPv4`, `IPv6`.
    pub families: Vec<String>,
    /// Pod CIDRs in force.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// `native`.
    pub routing: String,
    /// The `Ready` condition's status, and its message.
    pub ready: bool,
    /// What it says.
    pub message: String,
}

/// Agents or controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Daemons {
    /// How many there should be.
    pub wanted: i32,
    /// How many are ready.
    pub ready: i32,
    /// How many are of the newest template.
    pub updated: i32,
    /// The leader, of controllers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Versions, and how many pods have each.
    pub versions: BTreeMap<String, usize>,
    /// What keeps pods from running.
    pub troubles: Vec<PodTrouble>,
}

/// What keeps a pod of ours from running.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTrouble {
    /// The pod.
    pub pod: String,
    /// Its node; empty where it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// In the words of the kubelet or the scheduler.
    pub text: String,
}

impl std::fmt::Display for PodTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.node.as_str() {
            "" => write!(f, "{}: {}", self.pod, self.text),
            node => write!(f, "{} on {node}: {}", self.pod, self.text),
        }
    }
}

impl Daemons {
    /// Whether all are there, new and ready.
    pub fn is_settled(&self) -> bool {
        self.wanted > 0 && self.ready == self.wanted && self.updated == self.wanted
    }

    /// What keeps them, in a line.
    pub fn trouble(&self) -> String {
        let told: Vec<String> = self.troubles.iter().map(ToString::to_string).collect();
        if told.is_empty() { "its pods are not there yet".to_owned() } else { told.join("; ") }
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether Kubernetes calls it ready.
    pub ready: bool,
    /// Its blocks.
    pub blocks: Vec<BlockUse>,
    /// Whether its agent says that an ADD would be served.
    pub agent_ready: bool,
    /// The agent's version, once it has spoken.
    pub agent_version: String,
    /// The reason that the agent is degraded, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Live pods of the pod network with an address in none of the node's blocks: another network gave it to them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign_pods: Vec<String>,
    /// What agent, controller and node have to say.
    pub messages: Vec<String>,
}

/// A block and how much of it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockUse {
    /// The block.
    pub cidr: String,
    /// The addresses that pods have.
    pub used: u32,
    /// The addresses that pods may have.
    pub usable: u32,
}

impl NodeStatus {
    /// What it waits for, in a line: the first thing in the order in which they come about. That a node without a
    /// network is not ready, its kubelet says of every one.
    pub fn waits_for(&self, status: &ClusterStatus) -> String {
        if let Some(trouble) = status.agents.troubles.iter().find(|trouble| trouble.node == self.name) {
            return format!("its agent: {}", trouble.text);
        }
        if !self.messages.is_empty() {
            return self.messages.join("; ");
        }
        if self.blocks.is_empty() {
            return format!("a block: the controller has not given one ({})", status.controllers.trouble());
        }
        if !self.agent_ready {
            return format!("its agent: {}", status.agents.trouble());
        }
        "the kubelet to call the node ready".to_owned()
    }
}

impl ClusterStatus {
    /// Reads it. `namespace` is where the daemons are; without, they are looked for.
    pub async fn read(client: &Client, namespace: Option<&str>) -> Result<Self> {
        let (all_nodes, all_pods): (Api<Node>, Api<Pod>) = (Api::all(client.clone()), Api::all(client.clone()));
        let (mut pods, mut addressed) = (Vec::new(), Vec::new());
        let take_pod = |pod: Pod| {
            addressed.extend(Addressed::of(&pod));
            if is_of(&pod, AGENT) || is_of(&pod, CONTROLLER) {
                pods.push(pod);
            }
        };
        let mut nodes = Vec::new();
        let take_node =
            |node: Node| nodes.push((node.name_any(), node.labels().clone(), node_conditions(&node).to_vec()));
        let ((), (), configs, states) = tokio::try_join!(
            each(&all_nodes, ListParams::default(), "nodes", take_node),
            each(&all_pods, ListParams::default(), "pods", take_pod),
            ours::<NodeNetworkConfig>(Api::namespaced(client.clone(), NAMESPACE), "NodeNetworkConfigs"),
            ours::<NodeState>(Api::all(client.clone()), "NodeStates"),
        )?;
        let namespace = namespace.map(str::to_owned).or_else(|| daemons_namespace(&pods));
        let namespace = namespace.unwrap_or_else(|| NAMESPACE.to_owned());
        // Nodes that the agents' selector leaves out (of another system, say) are none of ours.
        let (agents, selector) = agents(client, &namespace, &pods).await?;
        let mut status = Self {
            network: network(client).await?,
            controllers: controllers(client, &namespace, &pods).await?,
            agents,
            gateways: gateways::read(client).await?,
            ..Self::default()
        };
        let configs: BTreeMap<String, NodeNetworkConfig> = configs.into_iter().map(|c| (c.name_any(), c)).collect();
        let states: BTreeMap<String, NodeState> = states.into_iter().map(|s| (s.name_any(), s)).collect();
        let is_ours =
            |labels: &BTreeMap<String, String>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        for (name, _, conditions) in nodes.iter().filter(|(_, labels, _)| is_ours(labels)) {
            status.nodes.push(node_status(name, conditions, configs.get(name), states.get(name), &addressed));
        }
        status.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let node_is_good =
            |node: &NodeStatus| node.ready && node.agent_ready && node.degraded.is_none() && !node.blocks.is_empty();
        status.good = status.network.as_ref().is_some_and(|network| network.ready)
            && status.controllers.ready > 0
            && status.agents.is_settled()
            && status.nodes.iter().all(node_is_good)
            && status.gateways.iter().all(|gateway| gateway.ready);
        Ok(status)
    }
}

/// Objects of our kinds; none where the kind itself is unknown.
pub async fn ours<K>(api: Api<K>, what: &str) -> Result<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut found = Vec::new();
    match each(&api, ListParams::default(), what, |object| found.push(object)).await {
        Err(error) if is_not_found(&error) => Ok(Vec::new()),
        other => other.map(|()| found),
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.code == 404)
}

fn daemons_namespace(pods: &[Pod]) -> Option<String> {
    pods.iter().find(|pod| is_of(pod, AGENT)).and_then(Pod::namespace)
}

fn is_of(pod: &Pod, component: &str) -> bool {
    let labels = pod.labels();
    labels.get(PART_OF.0).is_some_and(|value| value == PART_OF.1)
        && labels.get("app.kubernetes.io/name").is_some_and(|value| value == component)
}

async fn network(client: &Client) -> Result<Option<NetworkStatus>> {
    let api: Api<ClusterNetwork> = Api::all(client.clone());
    let found = match api.get_opt(CLUSTER_NETWORK).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(None),
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
        Err(error) => return Err(error).context("read the ClusterNetwork"),
    };
    let status = found.status.unwrap_or_default();
    let spec = status.applied.as_ref().unwrap_or(&found.spec);
    // What was left out is filled in by the same rules as everywhere.
    let plan = overlane_core::cluster::validate(&overlane_api::convert::cluster_spec(spec)).ok();
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    Ok(Some(NetworkStatus {
        families: plan.iter().flat_map(|plan| plan.families()).map(ToString::to_string).collect(),
        pod_cidrs: plan.iter().flat_map(|plan| plan.pod_cidrs()).map(|cidr| cidr.to_string()).collect(),
        routing: format!("{:?}", spec.routing).to_lowercase(),
        ready: ready.is_some_and(|condition| condition.status == "True"),
        message: ready.map_or_else(|| "no controller has judged it yet".to_owned(), |c| c.message.clone()),
    }))
}

/// The agents, and the labels of the nodes that get one.
async fn agents(client: &Client, namespace: &str, pods: &[Pod]) -> Result<(Daemons, BTreeMap<String, String>)> {
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(AGENT).await.context("read the agents' DaemonSet")?;
    let DaemonSet { metadata, spec, status } = found.unwrap_or_default();
    let selector = spec.and_then(|spec| spec.template.spec?.node_selector).unwrap_or_default();
    let status = status.unwrap_or_default();
    // A status of an older generation says nothing of the newest template.
    let seen = status.observed_generation == metadata.generation;
    let agents = Daemons {
        wanted: status.desired_number_scheduled,
        ready: status.number_ready,
        updated: if seen { status.updated_number_scheduled.unwrap_or_default() } else { 0 },
        leader: None,
        versions: versions(pods, AGENT),
        troubles: troubles(pods, AGENT),
    };
    Ok((agents, selector))
}

async fn controllers(client: &Client, namespace: &str, pods: &[Pod]) -> Result<Daemons> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(CONTROLLER).await.context("read the controllers' Deployment")?;
    let Deployment { metadata, spec, status } = found.unwrap_or_default();
    let wanted = spec.and_then(|spec| spec.replicas).unwrap_or_default();
    let status = status.unwrap_or_default();
    // A status of an older generation says nothing of the newest template.
    let seen = status.observed_generation == metadata.generation;
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let lease = leases.get_opt(CONTROLLER).await.context("read the controllers' Lease")?;
    Ok(Daemons {
        wanted,
        ready: status.ready_replicas.unwrap_or_default(),
        updated: if seen { status.updated_replicas.unwrap_or_default() } else { 0 },
        leader: lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty()),
        versions: versions(pods, CONTROLLER),
        troubles: troubles(pods, CONTROLLER),
    })
}

/// The images' tags.
fn versions(pods: &[Pod], component: &str) -> BTreeMap<String, usize> {
    let mut versions = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_of(pod, component)) {
        let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default();
        let version = image.rsplit_once(':').map_or(image.as_str(), |(_, tag)| tag);
        *versions.entry(version.to_owned()).or_default() += 1;
    }
    versions
}

/// Why pods do not run: what the kubelet says of their containers, or the scheduler of them.
fn troubles(pods: &[Pod], component: &str) -> Vec<PodTrouble> {
    let mut found = Vec::new();
    for pod in pods.iter().filter(|pod| is_of(pod, component)) {
        let status = pod.status.clone().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        for container in status.container_statuses.iter().flatten() {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            if let Some(waiting) = waiting {
                let words = [waiting.reason.clone(), waiting.message.clone()];
                let words: Vec<String> = words.into_iter().flatten().collect();
                found.push(PodTrouble { pod: pod.name_any(), node: node.clone(), text: words.join(": ") });
            }
        }
        let unschedulable =
            status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
        if let Some(message) = unschedulable.and_then(|condition| condition.message.clone()) {
            found.push(PodTrouble { pod: pod.name_any(), node, text: message });
        }
    }
    found
}

/// A live pod with addresses of the pod network.
struct Addressed {
    node: String,
    /// Namespace and name.
    name: String,
    ips: Vec<IpAddr>,
}

impl Addressed {
    fn of(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if over || spec.host_network == Some(true) {
            return None;
        }
        let ips: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
        let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        let node = spec.node_name.clone()?;
        (!ips.is_empty()).then_some(Self { node, name, ips })
    }
}

fn node_status(
    name: &str,
    conditions: &[NodeCondition],
    config: Option<&NodeNetworkConfig>,
    state: Option<&NodeState>,
    pods: &[Addressed],
) -> NodeStatus {
    let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let mut messages = Vec::new();
    for (kind, bad) in
        [("Ready", "False"), ("Ready", "Unknown"), ("NetworkUnavailable", "True"), ("OverlaneNetwork", "False")]
    {
        if let Some(found) = condition(kind).filter(|found| found.status == bad) {
            messages.push(found.message.clone().unwrap_or_default());
        }
    }
    let spoken = |kind: &str| -> Option<&Condition> { state?.spec.conditions.iter().find(|c| c.type_ == kind) };
    let agent_ready = spoken("Ready").is_some_and(|condition| condition.status == "True");
    if let Some(found) = spoken("Ready").filter(|_| !agent_ready) {
        messages.push(found.message.clone());
    }
    let degraded = spoken("Degraded").filter(|condition| condition.status == "True");
    messages.extend(degraded.map(|condition| condition.message.clone()));
    let containers = config.and_then(|config| config.status.as_ref()).map(|status| &status.network_containers);
    let blocks: Vec<BlockUse> =
        containers.into_iter().flatten().map(|container| block_use(&container.primary_ip, pods)).collect();
    let foreign_pods = foreign_pods(name, &blocks, pods);
    messages.extend(foreign_message(&foreign_pods));
    NodeStatus {
        name: name.to_owned(),
        ready: condition("Ready").is_some_and(|ready| ready.status == "True"),
        blocks,
        foreign_pods,
        agent_ready,
        agent_version: state.map(|state| state.spec.agent_version.clone()).unwrap_or_default(),
        degraded: degraded.map(|condition| condition.reason.clone()),
        messages: messages.into_iter().filter(|message| !message.is_empty()).collect(),
    }
}

fn block_use(cidr: &str, pods: &[Addressed]) -> BlockUse {
    let parsed: Option<Cidr> = cidr.parse().ok();
    let addresses = pods.iter().flat_map(|pod| &pod.ips);
    let used = parsed.map_or(0, |block| addresses.filter(|ip| block.contains(**ip)).count());
    BlockUse {
        cidr: cidr.to_owned(),
        used: u32::try_from(used).unwrap_or(u32::MAX),
        usable: parsed.as_ref().map_or(0, ipam::usable),
    }
}

/// Pods of a node whose address no block of it has. A node that has no block yet is judged by that alone.
fn foreign_pods(node: &str, blocks: &[BlockUse], pods: &[Addressed]) -> Vec<String> {
    let blocks: Vec<Cidr> = blocks.iter().filter_map(|block| block.cidr.parse().ok()).collect();
    let held = |ip: &IpAddr| blocks.iter().any(|block| block.contains(*ip));
    let foreign = |pod: &&Addressed| !blocks.is_empty() && pod.node == node && !pod.ips.iter().any(held);
    pods.iter().filter(foreign).map(|pod| pod.name.clone()).collect()
}

fn foreign_message(pods: &[String]) -> Option<String> {
    let first = pods.first()?;
    let (others, verb) = match pods.len() - 1 {
        0 => (String::new(), "has"),
        more => (format!(" and {more} more"), "have"),
    };
    Some(format!("{first}{others} {verb} an address of another network: delete them, so that they are made again"))
}

#[cfg(test)]
mod tests {
    //! Must catch: a pod that lives on another network's address and is not named.

    use super::*;

    #[test]
    fn pods_of_another_network_are_named() {
        let pod = |name: &str, node: &str, ips: &[&str]| Addressed {
            node: node.to_owned(),
            name: format!("default/{name}"),
            ips: ips.iter().map(|ip| ip.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]))).collect(),
        };
        let pods = [
            pod("ours", "n1", &["10.244.1.7", "fd12:3456:789a::7"]),
            pod("old", "n1", &["192.168.7.7", "fd77::7"]),
            pod("elsewhere", "n2", &["10.244.2.7"]),
        ];
        for block in ["10.244.1.0/24", "fd12:3456:789a::/80"] {
            let blocks = [block_use(block, &pods)];
            assert_eq!(blocks[0].used, 1);
            assert_eq!(foreign_pods("n1", &blocks, &pods), ["default/old"], "{block}");
        }
        assert!(foreign_pods("n1", &[], &pods).is_empty(), "no block yet");
        let said = foreign_message(&["default/old".to_owned(), "default/b".to_owned()]).unwrap_or_default();
        assert!(said.contains("default/old and 1 more"), "{said}");
    }
}
