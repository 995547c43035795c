//! What is kept of an object: small, parsed, and the rest forgotten with the page that it came on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use overlane_api::convert::{self, ConvertError};
use overlane_api::crd::{
    ClusterNetwork, ClusterNetworkSpec, EgressGateway, EgressGatewayStatus, NodeNetworkConfig, NodeNetworkConfigStatus,
    NodeState, NodeStateSpec, PodSlice,
};
use overlane_api::policy::{self, ClusterNetworkPolicy, Slice};
use overlane_core::cluster::RoutingState;
use overlane_core::family::Family;
use overlane_core::ipam::Block;
use overlane_core::labels::Labels;
use overlane_core::plan::{Mac, Peer};
use overlane_core::policy::Policy;

use crate::leaving::PodFacts;

/// A change of a set of objects, as a list followed by a watch tells it.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<T> {
    /// A list begins; what it does not name by its end is missing.
    Begin,
    /// The list names this.
    Listed(T),
    /// The list is complete.
    Done,
    /// Made or changed.
    Applied(T),
    /// Deleted, explicitly.
    Gone(T),
}

impl<T> Change<T> {
    /// The same change of something made from the object.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Begin => Change::Begin,
            Self::Listed(item) => Change::Listed(f(item)),
            Self::Done => Change::Done,
            Self::Applied(item) => Change::Applied(f(item)),
            Self::Gone(item) => Change::Gone(f(item)),
        }
    }
}

impl<K> From<kube::runtime::watcher::Event<K>> for Change<K> {
    fn from(event: kube::runtime::watcher::Event<K>) -> Self {
        use kube::runtime::watcher::Event;
        match event {
            Event::Init => Self::Begin,
            Event::InitApply(item) => Self::Listed(item),
            Event::InitDone => Self::Done,
            Event::Apply(item) => Self::Applied(item),
            Event::Delete(item) => Self::Gone(item),
        }
    }
}

/// A NodeNetworkConfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// UID of the Node that it speaks of; may be empty.
    pub node_uid: Box<str>,
    /// The blocks, those that were given together with one pair number.
    pub blocks: Box<[Block]>,
    /// The node's address of each family.
    pub node_ips: BTreeMap<Family, IpAddr>,
    /// MAC of the node's primary interface, where known.
    pub mac: Option<Mac>,
}

impl NodeConfig {
    /// What counts of the object; there is no half of one.
    pub fn of(object: &NodeNetworkConfig) -> Result<Self, ConvertError> {
        let empty = NodeNetworkConfigStatus::default();
        let status = object.status.as_ref().unwrap_or(&empty);
        Ok(Self {
            node_uid: object.spec.node_uid.as_str().into(),
            blocks: convert::blocks(status)?.into(),
            node_ips: convert::node_ips(status)?,
            mac: convert::mac("status.underlayMAC", &status.underlay_mac)?,
        })
    }

    /// The node as a peer.
    pub fn peer(&self, name: &str) -> Peer {
        Peer {
            name: name.to_owned(),
            blocks: self.blocks.iter().map(|block| block.cidr).collect(),
            node_ips: self.node_ips.clone(),
            mac: self.mac,
        }
    }
}

/// What counts of this node's Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFacts {
    /// Its UID.
    pub uid: String,
    /// Most pods that the kubelet runs.
    pub max_pods: Option<u32>,
    /// Its InternalIPs.
    pub addresses: Vec<IpAddr>,
}

impl NodeFacts {
    /// What counts of the object.
    pub fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let max_pods =
            status.and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("pods")).and_then(|q| q.0.parse().ok());
        let addresses = status.and_then(|s| s.addresses.as_ref()).into_iter().flatten();
        Self {
            uid: node.uid().unwrap_or_default(),
            max_pods,
            addresses: addresses.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok()).collect(),
        }
    }
}

/// What counts of a ClusterNetwork.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterWord {
    /// What was asked for.
    pub asked: ClusterNetworkSpec,
    /// What the controller has put in force; `None` as long as it has not.
    pub in_force: Option<ClusterNetworkSpec>,
    /// How pod packets cross nodes, as far as the controller says it.
    pub routing: Option<RoutingState>,
    /// The controller has refused what was asked for.
    pub refused: bool,
}

/// A named thing.
pub type Named<T> = (String, T);

/// A word about one of the sources.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// The ClusterNetwork.
    Cluster(Change<Named<Box<ClusterWord>>>),
    /// NodeNetworkConfigs, or why one of them means nothing.
    Config(Change<Named<Result<NodeConfig, ConvertError>>>),
    /// ConfigMaps, as heard by one of several watches: data by key.
    Maps(usize, Change<Named<Vec<(String, String)>>>),
    /// The own Node.
    Node(Change<NodeFacts>),
    /// The own NodeState.
    State(Change<Box<NodeStateSpec>>),
    /// EgressGateways: what the controller said of them.
    Gateway(Change<Named<Box<EgressGatewayStatus>>>),
    /// Namespaces.
    Namespace(Change<Named<Labels>>),
    /// The pods of this node, by namespace and name.
    Pod(Change<((String, String), PodFacts)>),
    /// A pod of this node that was asked for.
    FoundPod((String, String), PodFacts),
    /// Nobody asks for pods and namespaces any more.
    NoPods,
    /// NetworkPolicies, by namespace and name.
    Policy(Change<((String, String), Arc<Policy>)>),
    /// ClusterNetworkPolicies.
    ClusterPolicy(Change<Named<Arc<Policy>>>),
    /// What nodes' pods are like, by node.
    Slice(Change<Named<Box<Slice>>>),
    /// Nobody asks for these any more.
    NoSlices,
}

impl Item {
    /// From a ClusterNetwork.
    pub fn cluster(change: Change<ClusterNetwork>) -> Self {
        let word = |object: ClusterNetwork| {
            let in_force = object.status.as_ref().and_then(|status| status.applied.clone());
            let conditions = object.status.iter().flat_map(|status| &status.conditions);
            let refused = conditions
                .filter(|condition| condition.type_ == "Ready" && condition.status == "False")
                .any(|condition| matches!(condition.reason.as_str(), "Invalid" | "Refused"));
            let routing = object.status.as_ref().and_then(|status| status.routing.as_ref());
            let routing = routing.map(convert::routing_state);
            (object.name_any(), Box::new(ClusterWord { in_force, routing, refused, asked: object.spec }))
        };
        Self::Cluster(change.map(word))
    }

    /// From a NodeNetworkConfig.
    pub fn config(change: Change<NodeNetworkConfig>) -> Self {
        Self::Config(change.map(|object| (object.name_any(), NodeConfig::of(&object))))
    }

    /// From a ConfigMap.
    pub fn map(watch: usize, change: Change<ConfigMap>) -> Self {
        let fold = |object: ConfigMap| (object.name_any(), object.data.unwrap_or_default().into_iter().collect());
        Self::Maps(watch, change.map(fold))
    }

    /// From a Node.
    pub fn node(change: Change<Node>) -> Self {
        Self::Node(change.map(|object| NodeFacts::of(&object)))
    }

    /// From an EgressGateway.
    pub fn gateway(change: Change<EgressGateway>) -> Self {
        Self::Gateway(change.map(|object| (object.name_any(), Box::new(object.status.unwrap_or_default()))))
    }

    /// From a Namespace.
    pub fn namespace(change: Change<Namespace>) -> Self {
        let labels = |object: Namespace| (object.name_any(), object.metadata.labels.unwrap_or_default());
        Self::Namespace(change.map(labels))
    }

    /// From a Pod.
    pub fn pod(change: Change<Pod>) -> Self {
        let fold = |object: Pod| ((object.namespace().unwrap_or_default(), object.name_any()), PodFacts::of(&object));
        Self::Pod(change.map(fold))
    }

    /// From a NetworkPolicy.
    pub fn policy(change: Change<NetworkPolicy>) -> Self {
        Self::Policy(change.map(|object| {
            let name = (object.namespace().unwrap_or_default(), object.name_any());
            (name, Arc::new(policy::network_policy(&object).policy))
        }))
    }

    /// From a ClusterNetworkPolicy.
    pub fn cluster_policy(change: Change<ClusterNetworkPolicy>) -> Self {
        let fold = |object: ClusterNetworkPolicy| (object.name_any(), Arc::new(policy::cluster_policy(&object).policy));
        Self::ClusterPolicy(change.map(fold))
    }

    /// From a PodSlice.
    pub fn slice(change: Change<PodSlice>) -> Self {
        Self::Slice(change.map(|object| (object.name_any(), Box::new(policy::slice(&object.spec)))))
    }

    /// From a NodeState.
    pub fn state(change: Change<NodeState>) -> Self {
        Self::State(change.map(|object| Box::new(object.spec)))
    }
}
