//! What an installation has to know of the cluster before it changes anything.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::{Api, Client};
use overlane_api::crd::{CLUSTER_NETWORK, ClusterNetwork, ClusterNetworkSpec, POD_CIDRS_MARK};

use super::read::each;

/// The Kubernetes version from which on a token says on which node it is used.
const NODE_IN_TOKEN: u32 = 30;

/// What the cluster is.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `v1.36.3`.
    pub version: String,
    /// The minor version, `36`.
    pub minor: u32,
    /// The Service CIDRs in use, the primary family's first; empty where the server does not tell.
    pub service_cidrs: Vec<String>,
    /// The families of Services, the primary one first.
    pub families: Vec<String>,
    /// The ClusterNetwork's spec, if there is one.
    pub network: Option<ClusterNetworkSpec>,
    /// How many nodes there are.
    pub nodes: usize,
    /// How many of them have `spec.podCIDRs`.
    pub with_pod_cidrs: usize,
    /// One of these, for messages.
    pub example: Option<(String, Vec<String>)>,
}

impl Facts {
    /// Asks the cluster.
    pub async fn read(client: &Client) -> Result<Self> {
        let version = client.apiserver_version().await.context("ask the API server for its version")?;
        // Some vendors write `36+`.
        let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
        let mut facts =
            Self { version: version.git_version, minor: digits.parse().unwrap_or_default(), ..Self::default() };
        facts.service_cidrs = service_cidrs(client).await?;
        facts.families = families(client).await?;
        let networks: Api<ClusterNetwork> = Api::all(client.clone());
        facts.network = match networks.get_opt(CLUSTER_NETWORK).await {
            Ok(found) => found.map(|network| network.spec),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => return Err(error).context("read the ClusterNetwork"),
        };
        let nodes: Api<Node> = Api::all(client.clone());
        let take = |node: Node| {
            facts.nodes += 1;
            let mark = node.metadata.annotations.as_ref().and_then(|all| all.get(POD_CIDRS_MARK)).cloned();
            let cidrs = node.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default();
            // What an earlier installation wrote is nobody else's.
            let ours = mark.is_some_and(|mark| mark == cidrs.join(","));
            if !cidrs.is_empty() && !ours {
                facts.with_pod_cidrs += 1;
                facts.example.get_or_insert((node.metadata.name.unwrap_or_default(), cidrs));
            }
        };
        each(&nodes, ListParams::default(), "nodes", take).await?;
        Ok(facts)
    }

    /// Whether admission policies can tell agents apart.
    pub fn tokens_name_nodes(&self) -> bool {
        self.minor >= NODE_IN_TOKEN
    }
}

/// The families of the API server's own Service, which are those that it was started with.
async fn families(client: &Client) -> Result<Vec<String>> {
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let service = services.get("kubernetes").await.context("read Service default/kubernetes")?;
    Ok(service.spec.and_then(|spec| spec.ip_families).unwrap_or_default())
}

/// All ranges that Services may have addresses of: the ServiceCIDR `kubernetes` first, which the server's flags made.
pub async fn service_cidrs(client: &Client) -> Result<Vec<String>> {
    let api: Api<ServiceCIDR> = Api::all(client.clone());
    let found = match api.list(&ListParams::default()).await {
        Ok(found) => found,
        // Before Kubernetes 1.33 nobody tells.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        Err(error) => return Err(error).context("list ServiceCIDRs"),
    };
    let of_server = found.into_iter().find(|cidr| cidr.metadata.name.as_deref() == Some("kubernetes"));
    Ok(of_server.and_then(|cidr| cidr.spec?.cidrs).unwrap_or_default())
}
