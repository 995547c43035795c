//! What is known of the cluster at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use overlane_core::cidr::Cidr;
use overlane_core::cluster::{ClusterPlan, Finding, RoutingState};
use overlane_core::family::Family;
use overlane_core::ipam::Block;
use overlane_core::masq::MasqConfig;
use overlane_core::plan::Peer;

use crate::leaving::Selection;

/// The cluster as this node sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Every source has been heard in full by this process. Before that nothing may be deleted on this view's word.
    pub complete: bool,
    /// The cluster's network, once there is a valid one. A later invalid one does not take its place.
    pub cluster: Option<Arc<ClusterPlan>>,
    /// How pod packets cross nodes: what that sends, and in what they are taken; there if it is.
    pub routing: Option<RoutingState>,
    /// Why the present ClusterNetwork is not valid.
    pub findings: Vec<Finding>,
    /// This node's blocks, as given by the controller and fit to be used.
    pub own: Own,
    /// The other nodes.
    pub peers: Arc<Vec<Peer>>,
    /// Blocks of ours, now or earlier in this boot, that another node's NodeNetworkConfig names and ours does not.
    pub lost: BTreeMap<Cidr, String>,
    /// Blocks that both ours and another node's NodeNetworkConfig name.
    pub contested: BTreeMap<Cidr, String>,
    /// Blocks that were given to this node in this boot.
    pub known: BTreeSet<Cidr>,
    /// What is not masqueraded.
    pub masq: MasqConfig,
    /// Other nodes whose NodeNetworkConfig cannot be understood, and why; what it said before counts.
    pub peer_faults: Vec<String>,
    /// Fragments of the masquerade configuration which were left out, and why.
    pub masq_faults: Vec<String>,
    /// What says which pods leave by egress gateways; `None` where there are none.
    pub selection: Option<Arc<Selection>>,
    /// EgressGateways that cannot be understood, and why; they are left out.
    pub gateway_faults: Vec<String>,
    /// Most pods that the kubelet runs here.
    pub max_pods: Option<u32>,
}

/// What the controller gave this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The blocks, those that were given together with one pair number.
    pub blocks: Vec<Block>,
    /// The node's addresses.
    pub node_ips: BTreeMap<Family, IpAddr>,
    /// Why there are none, or not all.
    pub missing: Option<String>,
    /// What in the object could not be understood; what it said before counts.
    pub fault: Option<String>,
}
