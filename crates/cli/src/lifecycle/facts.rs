//! What a cluster's objects say of its pod CIDRs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use overlane_api::crd::{CLUSTER_NETWORK, ClusterNetwork, ClusterNetworkSpec, NodeBlock, NodeNetworkConfig, NodeState};
use overlane_core::cidr::Cidr;
use overlane_core::family::Family;

use crate::cluster::facts::service_cidrs;
use crate::cluster::read::{each, node_says};

/// What the pod CIDRs were before the last expansion: where a rollback leads.
pub const BEFORE: &str = "overlane.io/pod-cidrs-before";

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Whether Kubernetes calls it ready: its agent can be expected to follow.
    pub ready: bool,
    /// Its blocks, each with the pod CIDR around it as its NodeNetworkConfig has it.
    pub blocks: Vec<(String, String)>,
    /// Pod CIDRs that it says its kernel has; `None` where its agent says nothing of them.
    pub carries: Option<Vec<String>>,
}

impl NodeFacts {
    /// Whether it has a block of each of these pod CIDRs, and routes, masquerade, policy and NodeNetworkConfig carry them.
    pub fn is_at(&self, pod_cidrs: &[String]) -> bool {
        let told = self.blocks.len() >= pod_cidrs.len()
            && self.blocks.iter().all(|(_, around)| around.is_empty() || pod_cidrs.contains(around));
        told && self.carries.as_deref() == Some(pod_cidrs)
    }
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The ClusterNetwork.
    pub network: ClusterNetwork,
    /// The nodes, by name.
    pub nodes: BTreeMap<String, NodeFacts>,
    /// Blocks that nodes have.
    pub blocks: Vec<Cidr>,
    /// The nodes' own addresses.
    pub addresses: Vec<IpAddr>,
    /// Service CIDRs as the API server has them; empty where it does not tell.
    pub services: Vec<String>,
    /// Nodes, each with its own addresses' families.
    pub families: BTreeMap<String, BTreeSet<Family>>,
}

impl Facts {
    /// Reads them.
    pub async fn read(client: &Client) -> Result<Self> {
        let network = network(client).await?;
        let mut nodes: BTreeMap<String, NodeFacts> = BTreeMap::new();
        let api: Api<Node> = Api::all(client.clone());
        let (mut addresses, mut families) = (Vec::new(), BTreeMap::new());
        let take = |node: Node| {
            nodes.entry(node.name_any()).or_default().ready = node_says(&node, "Ready", "True");
            let told = node.status.and_then(|status| status.addresses).unwrap_or_default();
            let own = told.into_iter().filter(|told| told.type_ == "InternalIP");
            let own: Vec<IpAddr> = own.filter_map(|told| told.address.parse().ok()).collect();
            families.insert(node.metadata.name.unwrap_or_default(), own.iter().map(Family::of).collect());
            addresses.extend(own);
        };
        each(&api, ListParams::default(), "nodes", take).await?;
        let api: Api<NodeNetworkConfig> = Api::all(client.clone());
        let take = |config: NodeNetworkConfig| {
            let Some(node) = nodes.get_mut(&config.name_any()) else { return };
            let containers = config.status.unwrap_or_default().network_containers;
            node.blocks = containers.into_iter().map(|c| (c.primary_ip, c.subnet_address_space)).collect();
        };
        each(&api, ListParams::default(), "NodeNetworkConfigs", take).await?;
        let api: Api<NodeState> = Api::all(client.clone());
        let take = |state: NodeState| {
            let Some(node) = nodes.get_mut(&state.name_any()) else { return };
            node.carries = Some(state.spec.pod_cidrs).filter(|cidrs| !cidrs.is_empty());
        };
        each(&api, ListParams::default(), "NodeStates", take).await?;
        let mut blocks = Vec::new();
        let api: Api<NodeBlock> = Api::all(client.clone());
        let take = |block: NodeBlock| {
            let live = block.spec.released_at.is_none();
            blocks.extend(block.spec.cidr.parse::<Cidr>().ok().filter(|_| live));
        };
        each(&api, ListParams::default(), "NodeBlocks", take).await?;
        let services = service_cidrs(client).await?;
        Ok(Self { network, nodes, blocks, addresses, services, families })
    }

    /// The spec that is in force; what was asked for where none is yet.
    pub fn applied(&self) -> &ClusterNetworkSpec {
        let applied = self.network.status.as_ref().and_then(|status| status.applied.as_ref());
        applied.unwrap_or(&self.network.spec)
    }

    /// The pod CIDRs before the last expansion, comma-separated.
    pub fn before(&self) -> Option<&String> {
        self.network.metadata.annotations.as_ref().and_then(|all| all.get(BEFORE))
    }

    /// What the controller says against the spec, if it has judged this generation of it.
    pub fn refused(&self) -> Option<&str> {
        let status = self.network.status.as_ref()?;
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
        let current = ready.observed_generation == self.network.metadata.generation;
        let against = current && matches!(ready.reason.as_str(), "Invalid" | "Refused");
        against.then_some(ready.message.as_str())
    }
}

/// The ClusterNetwork.
pub async fn network(client: &Client) -> Result<ClusterNetwork> {
    let api: Api<ClusterNetwork> = Api::all(client.clone());
    match api.get_opt(CLUSTER_NETWORK).await {
        Ok(Some(network)) => Ok(network),
        Ok(None) => bail!("the cluster has no ClusterNetwork: Overlane is not installed; `overlane install` does that"),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!("the cluster knows no ClusterNetworks: Overlane is not installed; `overlane install` does that")
        }
        Err(error) => Err(error).context("read the ClusterNetwork"),
    }
}
