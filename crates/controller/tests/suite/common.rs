//! What the suites share: a cluster in this process, with its controllers, nodes and agents.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use overlane_api::crd::{
    CLUSTER_NETWORK, ClusterNetwork, ClusterNetworkSpec, NAMESPACE, NodeBlock, NodeNetworkConfig, NodeState,
    NodeStateSpec, RoutingState, all_crds,
};
use overlane_apiserver::ApiServer;
use overlane_controller::config::Config;
use overlane_controller::metrics::Metrics;
use overlane_controller::wiring;
use overlane_core::blocks::Settings;
use overlane_core::cidr::Cidr;
use overlane_daemon::api::ApiSource;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The families that every rule holds for: pod CIDRs of 256 blocks each.
pub const FAMILIES: [&[&str]; 4] = [
    &["10.244.0.0/16"],
    &["fd12:3456:789a::/72"],
    &["10.244.0.0/16", "fd12:3456:789a::/72"],
    &["fd12:3456:789a::/72", "10.244.0.0/16"],
];

pub const SETTINGS: Settings = Settings { hold_down_ms: 1_500, agent_grace_ms: 300 };
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster without anything that runs.
pub struct Cluster {
    pub server: ApiServer,
    pub client: Client,
}

/// A controller that runs.
pub struct Controller {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    pub metrics: Metrics,
}

impl Controller {
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }

    /// How many of its actions of a kind the API has refused because things had changed.
    pub fn conflicts(&self, kind: &str) -> u64 {
        let metrics = self.metrics.text().unwrap();
        let start = format!("overlane_controller_conflicts_total{{kind=\"{kind}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |count| count.parse().unwrap())
    }

    /// As by a kill: nothing is ended in order.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl Cluster {
    pub fn bare() -> Self {
        let server = ApiServer::new();
        all_crds().iter().for_each(|crd| server.register(crd).unwrap());
        let client = server.client();
        Self { server, client }
    }

    pub async fn new(pod_cidrs: &[&str]) -> Self {
        let cluster = Self::bare();
        cluster.create_network(spec(pod_cidrs)).await;
        cluster
    }

    pub async fn create_network(&self, spec: ClusterNetworkSpec) {
        let api: Api<ClusterNetwork> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &ClusterNetwork::new(CLUSTER_NETWORK, spec)).await.unwrap();
    }

    pub async fn patch_network(&self, spec: Value) {
        let api: Api<ClusterNetwork> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({ "spec": spec }));
        api.patch(CLUSTER_NETWORK, &PatchParams::default(), &patch).await.unwrap();
    }

    pub fn start(&self, settings: Settings) -> Controller {
        self.start_with("one", false, settings)
    }

    pub fn start_with(&self, identity: &str, leader_elect: bool, settings: Settings) -> Controller {
        let (stop, stopped) = watch::channel(false);
        let config = Config {
            source: ApiSource::InCluster,
            leader_elect,
            identity: identity.to_owned(),
            settings,
            metrics: None,
            log_filter: String::new(),
        };
        let metrics = Metrics::new();
        let task = tokio::spawn(wiring::control(self.client.clone(), config, metrics.clone(), stopped));
        Controller { stop, task, metrics }
    }

    /// A node that joins: its Node, and its agent's first word.
    pub async fn join(&self, name: &str, boot: &str) -> String {
        let uid = self.add_node(name, boot).await;
        self.speak(name, boot, &[]).await;
        uid
    }

    pub async fn add_node(&self, name: &str, boot: &str) -> String {
        self.create_node(node(name, boot)).await
    }

    pub async fn create_node(&self, object: Value) -> String {
        let api: Api<Node> = Api::all(self.client.clone());
        let status = json!({ "status": object["status"] });
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let object: Node = serde_json::from_value(object).unwrap();
        let made = api.create(&PostParams::default(), &object).await.unwrap();
        // Whether or not a create takes the status along.
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        made.metadata.uid.unwrap()
    }

    pub async fn delete_node(&self, name: &str) {
        let api: Api<Node> = Api::all(self.client.clone());
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub async fn node(&self, name: &str) -> Node {
        Api::all(self.client.clone()).get(name).await.unwrap()
    }

    pub async fn patch_node_status(&self, name: &str, status: Value) {
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({ "status": status }));
        api.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// What an agent says of its node.
    pub async fn speak(&self, name: &str, boot: &str, held: &[String]) {
        let api: Api<NodeState> = Api::all(self.client.clone());
        let ready = Condition {
            type_: "Ready".into(),
            status: "True".into(),
            reason: "Ready".into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()),
        };
        let spec = NodeStateSpec {
            boot_id: boot.to_owned(),
            held_blocks: held.to_vec(),
            underlay_mac: "02:00:00:00:00:07".to_owned(),
            routing: None,
            agent_version: "test".to_owned(),
            conditions: vec![ready],
            ..NodeStateSpec::default()
        };
        let old = api.get_opt(name).await.unwrap();
        if old.is_some() {
            let patch = Patch::Merge(json!({ "spec": spec }));
            api.patch(name, &PatchParams::default(), &patch).await.unwrap();
        } else {
            api.create(&PostParams::default(), &NodeState::new(name, spec)).await.unwrap();
        }
    }

    /// What an agent says of how its packets go.
    pub async fn say_routing(&self, name: &str, routing: RoutingState) {
        let api: Api<NodeState> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({ "spec": { "routing": routing } }));
        api.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub async fn blocks(&self) -> BTreeMap<String, NodeBlock> {
        let api: Api<NodeBlock> = Api::all(self.client.clone());
        let items = api.list(&ListParams::default()).await.unwrap().items;
        items.into_iter().map(|block| (block.spec.cidr.clone(), block)).collect()
    }

    pub async fn live_blocks_of(&self, node: &str) -> BTreeSet<String> {
        let blocks = self.blocks().await;
        let of_node = blocks.into_values().filter(|block| block.spec.node == node && block.spec.released_at.is_none());
        of_node.map(|block| block.spec.cidr).collect()
    }

    pub async fn configs(&self) -> BTreeMap<String, NodeNetworkConfig> {
        let api: Api<NodeNetworkConfig> = Api::namespaced(self.client.clone(), NAMESPACE);
        let items = api.list(&ListParams::default()).await.unwrap().items;
        items.into_iter().map(|config| (config.metadata.name.clone().unwrap(), config)).collect()
    }

    /// The blocks announced for a node, in order; empty where there are none.
    pub async fn announced(&self, node: &str) -> Vec<String> {
        let api: Api<NodeNetworkConfig> = Api::namespaced(self.client.clone(), NAMESPACE);
        let config = api.get_opt(node).await.unwrap();
        let status = config.and_then(|config| config.status);
        status.into_iter().flat_map(|status| status.network_containers).map(|container| container.primary_ip).collect()
    }

    /// Waits until a node has so many blocks announced, then gives them.
    pub async fn until_announced(&self, node: &str, count: usize) -> Vec<String> {
        let found = until(format!("{node} has {count} blocks"), async || {
            let blocks = self.announced(node).await;
            (blocks.len() == count).then_some(blocks)
        });
        found.await
    }

    pub async fn cluster_condition(&self, kind: &str) -> Option<Condition> {
        let api: Api<ClusterNetwork> = Api::all(self.client.clone());
        let status = api.get(CLUSTER_NETWORK).await.unwrap().status.unwrap_or_default();
        status.conditions.into_iter().find(|condition| condition.type_ == kind)
    }

    pub async fn until_cluster(&self, kind: &str, status: &str, reason: &str) -> Condition {
        let found = until(format!("ClusterNetwork has {kind}={status} {reason}"), async || {
            let condition = self.cluster_condition(kind).await?;
            (condition.status == status && condition.reason == reason).then_some(condition)
        });
        found.await
    }

    pub async fn until_node(&self, name: &str, kind: &str, status: &str, reason: &str) -> String {
        let found = until(format!("{name} has {kind}={status} {reason}"), async || {
            let conditions = self.node(name).await.status.unwrap_or_default().conditions.unwrap_or_default();
            let condition = conditions.into_iter().find(|condition| condition.type_ == kind)?;
            let is = condition.status == status && condition.reason.as_deref() == Some(reason);
            is.then(|| condition.message.unwrap_or_default())
        });
        found.await
    }

    /// Events: kind and name of what they are about, and their reason.
    pub async fn events(&self) -> Vec<(String, String, String)> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let events = api.list(&ListParams::default()).await.unwrap().items;
        let about = |event: Event| {
            let object = event.involved_object;
            (object.kind.unwrap(), object.name.unwrap(), event.reason.unwrap())
        };
        events.into_iter().map(about).collect()
    }

    /// Writes by verb and resource, since `before`.
    pub fn writes_since(&self, before: &BTreeMap<(String, String), u64>) -> BTreeMap<(String, String), u64> {
        let reads = ["get", "list", "watch"];
        let all = self.server.stats().requests.into_iter().filter(|((verb, _), _)| !reads.contains(&verb.as_str()));
        all.map(|(key, count)| (key.clone(), count - before.get(&key).copied().unwrap_or(0)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// No block is announced for two nodes, none overlaps another, and each announced one is claimed by its node.
    pub async fn assert_sound(&self) {
        let blocks = self.blocks().await;
        let mut owner: BTreeMap<Cidr, String> = BTreeMap::new();
        for (node, config) in self.configs().await {
            for container in config.status.unwrap_or_default().network_containers {
                let cidr: Cidr = container.primary_ip.parse().unwrap();
                for (other, by) in &owner {
                    assert!(!other.overlaps(&cidr), "{cidr} of {node} overlaps {other} of {by}");
                }
                let claim = &blocks[&container.primary_ip].spec;
                assert_eq!((claim.node.as_str(), claim.released_at.as_ref()), (node.as_str(), None), "{cidr}");
                owner.insert(cidr, node.clone());
            }
        }
    }

    /// No block is announced for two Nodes that are there.
    pub async fn assert_sound_of_nodes(&self) {
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (node, config) in self.configs().await {
            for container in config.status.unwrap_or_default().network_containers {
                let other = seen.insert(container.primary_ip.clone(), node.clone());
                assert_eq!(other, None, "{} is announced for {node}, too", container.primary_ip);
            }
        }
    }

    /// Lets a second pass: whatever was still to be done is done, or was never to be.
    pub async fn settle(&self) {
        let mut before = self.server.stats().revision;
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let now = self.server.stats().revision;
            if now == before {
                return;
            }
            before = now;
        }
        panic!("the cluster never comes to rest");
    }
}

/// A spec with these pod CIDRs, /24 and /80 a node.
pub fn spec(pod_cidrs: &[&str]) -> ClusterNetworkSpec {
    let pod_cidrs = pod_cidrs.iter().map(|text| (*text).to_owned()).collect();
    ClusterNetworkSpec { pod_cidrs, ..ClusterNetworkSpec::default() }
}

/// A Node with addresses of both families; its name ends with a number.
pub fn node(name: &str, boot: &str) -> Value {
    let number: u32 = name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name },
        "spec": { "providerID": format!("test:///{boot}") },
        "status": {
            "addresses": [
                { "type": "InternalIP", "address": format!("10.224.{}.{}", number / 256, number % 256) },
                { "type": "InternalIP", "address": format!("fd10:224::{number:x}") },
                { "type": "Hostname", "address": name },
            ],
            "nodeInfo": {
                "bootID": boot, "machineID": "", "systemUUID": "", "kernelVersion": "", "osImage": "",
                "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "",
                "architecture": "",
            },
        },
    })
}

/// Waits for something.
pub async fn until<T>(what: impl std::fmt::Display, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = tokio::time::Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain: {what}");
}
