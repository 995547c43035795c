//! The custom resources, group `overlane.io`, version `v1alpha1`.
//!
//! Who writes what: people write [`ClusterNetwork`]'s spec; the controller writes [`NodeBlock`], [`NodeNetworkConfig`],
//! [`PodSlice`] and every status; an agent writes its own node's [`NodeState`] and nothing else.

mod cluster_network_policy;
mod pod_slice;

pub use cluster_network_policy::{CLUSTER_NETWORK_POLICY_YAML, cluster_network_policy_crd};
pub use pod_slice::{PodSlice, PodSlicePod, PodSlicePort, PodSliceProfile, PodSliceSpec};

use std::net::IpAddr;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, ValidationRule,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, CustomResourceExt};
use overlane_core::cidr::Cidr;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API group.
pub const GROUP: &str = "overlane.io";
/// The name of the one [`ClusterNetwork`].
pub const CLUSTER_NETWORK: &str = "default";
/// Where [`NodeNetworkConfig`]s live.
pub const NAMESPACE: &str = "kube-system";
/// The annotation by which a controller of ours marks the `podCIDRs` of a Node that it wrote, comma-separated.
pub const POD_CIDRS_MARK: &str = "overlane.io/pod-cidrs";
/// The taint with which nodes may be made, so that no pod comes before their agent is ready.
pub const STARTUP_TAINT: &str = "overlane.io/agent-not-ready";

/// How the cluster's pods are networked. There is one, named `default`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "overlane.io",
    version = "v1alpha1",
    kind = "ClusterNetwork",
    doc = "How the cluster's pods are networked. There is one, named `default`.",
    plural = "clusternetworks",
    shortname = "cnet",
    status = "ClusterNetworkStatus",
    printcolumn = r#"{"name":"Families","type":"string","jsonPath":".spec.ipFamilies"}"#,
    printcolumn = r#"{"name":"Pod CIDRs","type":"string","jsonPath":".spec.podCIDRs"}"#,
    printcolumn = r#"{"name":"Routing","type":"string","jsonPath":".spec.routing"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#
)]
#[kube(derive = "PartialEq")]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterNetworkSpec {
    /// `IPv4`, `IPv6` or both; the first is the primary family.
    pub ip_families: Vec<String>,
    /// Pod CIDRs, one a family, in the order of `ipFamilies`. Every node's block is carved out of these.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// Service CIDRs, one a family, in the order of `ipFamilies`. Must not overlap the pod CIDRs.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<String>,
    /// Prefix length of a node's block, by family.
    pub node_mask_size: NodeMaskSize,
    /// Most pods that a node runs: 10 to 250.
    pub max_pods: u32,
    /// How pod packets cross nodes.
    pub routing: Routing,
    /// Networks of nodes between which the fabric is known to carry pods' packets: they go bare in `auto` without being
    /// asked about, and by routers in `native`.
    #[serde(rename = "nativeCIDRs")]
    pub native_cidrs: Vec<String>,
    /// The tunnel's numbers, where `routing` uses one.
    pub vxlan: Vxlan,
    /// Who chooses the nodes' blocks: Overlane (`allocate`) or whoever writes `node.spec.podCIDRs` (`adopt`).
    #[serde(rename = "nodeCIDRs")]
    pub node_cidrs: NodeCidrs,
    /// Whether packets that leave the pod CIDRs take the node's address.
    pub masquerade: bool,
    /// How packets leave the cluster.
    pub outbound_type: OutboundType,
    /// Next hops and exceptions of the outbound type.
    pub egress: Egress,
    /// Who enforces NetworkPolicies and ClusterNetworkPolicies.
    pub network_policy: NetworkPolicy,
    /// Whether agents log what network policy drops, with the policy's name; at most some tens a second on each node.
    pub network_policy_log: bool,
}

impl Default for ClusterNetworkSpec {
    /// What a manifest that leaves everything out means. The lists are filled in by `core`.
    fn default() -> Self {
        Self {
            ip_families: Vec::new(),
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_mask_size: NodeMaskSize::default(),
            max_pods: 250,
            routing: Routing::default(),
            native_cidrs: Vec::new(),
            vxlan: Vxlan::default(),
            node_cidrs: NodeCidrs::default(),
            masquerade: true,
            outbound_type: OutboundType::default(),
            egress: Egress::default(),
            network_policy: NetworkPolicy::default(),
            network_policy_log: false,
        }
    }
}

/// Prefix lengths of node blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeMaskSize {
    /// For IPv4; 24 gives 254 usable addresses.
    pub ipv4: u8,
    /// For IPv6.
    pub ipv6: u8,
}

impl Default for NodeMaskSize {
    fn default() -> Self {
        Self { ipv4: 24, ipv6: 80 }
    }
}

/// How pod packets cross nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// A route a node, next hop the node's own address.
    #[default]
    Native,
    /// In VXLAN.
    Vxlan,
    /// Native where a probe shows that the fabric lets pod addresses through, else VXLAN.
    Auto,
}

/// What pod packets cross nodes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// Nothing: they are bare.
    Native,
    /// VXLAN.
    Vxlan,
}

/// How pod packets cross nodes at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RoutingState {
    /// How they are sent.
    pub sends: Routing,
    /// In what they are taken: what is sent, and more while that changes.
    pub accepts: Vec<Carrier>,
    /// Counts the steps of all changes.
    pub step: u64,
}

/// The numbers of a VXLAN. Nodes drop what comes with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Vxlan {
    /// The UDP port that nodes listen on.
    pub port: u16,
    /// The network's identifier, 24 bits.
    pub vni: u32,
}

impl Default for Vxlan {
    fn default() -> Self {
        let overlane_core::cluster::Vxlan { port, vni } = overlane_core::cluster::Vxlan::default();
        Self { port, vni }
    }
}

/// Who chooses the nodes' blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeCidrs {
    /// Overlane does.
    #[default]
    Allocate,
    /// `node.spec.podCIDRs`, written by somebody else, is taken as it is.
    Adopt,
}

/// How packets leave the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OutboundType {
    /// By the node's address.
    #[default]
    LoadBalancer,
    /// Through egress gateways.
    NatGateway,
    /// By the fabric's own routes, or by `egress.nextHops`.
    UserDefinedRouting,
    /// Not at all: what would leave is dropped and counted.
    None,
}

/// How packets leave the cluster, besides the outbound type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Egress {
    /// Destinations that the outbound type does not speak of, besides pods, nodes and what is not masqueraded: an API
    /// server that is on no node, the networks that pods may reach although nothing leaves.
    #[serde(rename = "internalCIDRs")]
    pub internal_cidrs: Vec<String>,
    /// With `userDefinedRouting`: addresses on the nodes' network, one a family, that packets go to on their way out, such
    /// as a firewall's. A family without one has no way out. With none at all, the fabric's own routes decide.
    pub next_hops: Vec<String>,
    /// The next hops see the pod's address, and have to know the way back to it. Otherwise they see the node's.
    pub keep_pod_address: bool,
}

/// Who enforces NetworkPolicies and ClusterNetworkPolicies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkPolicy {
    /// Overlane does.
    #[default]
    Overlane,
    /// Overlane does not: every pod may be reached by all, unless another program sees to it.
    None,
}

/// What the controller found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterNetworkStatus {
    /// The generation that the conditions speak of.
    pub observed_generation: i64,
    /// `Ready`: the plan is valid and blocks are left. `BlocksExhausted`: they are not. `ForeignAllocator`: somebody
    /// else writes `node.spec.podCIDRs`. `RoutingChanging`: nodes go from one routing to another.
    pub conditions: Vec<Condition>,
    /// The spec that is in force: the last one that was neither invalid nor refused. Agents follow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<ClusterNetworkSpec>,
    /// How pod packets cross nodes: `sends` is what `applied.routing` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<RoutingState>,
}

/// A node's claim to a block. Named after the block, so that the API server refuses a second claim.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "overlane.io",
    version = "v1alpha1",
    kind = "NodeBlock",
    doc = "A node's claim to a block of pod addresses. Named after the block, so that a second claim is refused.",
    plural = "nodeblocks",
    shortname = "nblk",
    printcolumn = r#"{"name":"CIDR","type":"string","jsonPath":".spec.cidr"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.node"}"#,
    printcolumn = r#"{"name":"Released","type":"string","jsonPath":".spec.releasedAt"}"#
)]
#[kube(derive = "PartialEq")]
#[serde(rename_all = "camelCase", default)]
pub struct NodeBlockSpec {
    /// The block, such as `10.244.2.0/24`.
    pub cidr: String,
    /// The pod CIDR that it was carved from; empty for an adopted block outside every pod CIDR.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// Name of the Node that holds it.
    pub node: String,
    /// UID of that Node object.
    #[serde(rename = "nodeUID")]
    pub node_uid: String,
    /// The machine behind the Node.
    pub machine: Machine,
    /// When the node was seen to be gone (RFC 3339); the block is free once the hold-down has passed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
}

/// The name of the NodeBlock of a block: `10.244.2.0-24`, `fd12-3456-789a-0-2-0-0-0-80`. One block has one name.
#[must_use]
pub fn block_name(block: &Cidr) -> String {
    match block.network() {
        IpAddr::V4(network) => format!("{network}-{}", block.prefix_len()),
        // Written in full: an object's name may have no colon, and `::` would leave it open what is left out.
        IpAddr::V6(network) => {
            let [a, b, c, d, e, f, g, h] = network.segments();
            format!("{a:x}-{b:x}-{c:x}-{d:x}-{e:x}-{f:x}-{g:x}-{h:x}-{}", block.prefix_len())
        }
    }
}

/// What tells one machine from another under the same Node name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Machine {
    /// `node.status.nodeInfo.bootID`.
    #[serde(rename = "bootID", skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// `node.spec.providerID`.
    #[serde(rename = "providerID", skip_serializing_if = "String::is_empty")]
    pub provider_id: String,
}

/// A node's network as the controller assigned it. Named after the node, in `kube-system`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "overlane.io",
    version = "v1alpha1",
    kind = "NodeNetworkConfig",
    doc = "The blocks that a node was given. Named after the node. Written by the controller.",
    plural = "nodenetworkconfigs",
    shortname = "nnc",
    namespaced,
    status = "NodeNetworkConfigStatus",
    printcolumn = r#"{"name":"Block","type":"string","jsonPath":".status.networkContainers[0].primaryIP"}"#,
    printcolumn = r#"{"name":"Second block","type":"string","jsonPath":".status.networkContainers[1].primaryIP"}"#,
    printcolumn = r#"{"name":"Node IP","type":"string","jsonPath":".status.networkContainers[0].nodeIP"}"#
)]
#[kube(derive = "PartialEq")]
#[serde(rename_all = "camelCase", default)]
pub struct NodeNetworkConfigSpec {
    /// UID of the Node that this speaks of.
    #[serde(rename = "nodeUID", skip_serializing_if = "String::is_empty")]
    pub node_uid: String,
}

/// What the node was given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeNetworkConfigStatus {
    /// One entry a block, paired blocks beside each other, in the cluster's order of families.
    pub network_containers: Vec<NetworkContainer>,
    /// The node's addresses, one a family, whatever families its blocks are of.
    #[serde(rename = "nodeIPs", skip_serializing_if = "Vec::is_empty")]
    pub node_ips: Vec<String>,
    /// MAC address of the node's primary interface, where its agent has told it: what packets from its pods bear on
    /// the nodes' own segment.
    #[serde(rename = "underlayMAC", skip_serializing_if = "String::is_empty")]
    pub underlay_mac: String,
}

/// One block of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkContainer {
    /// Name of the NodeBlock.
    pub id: String,
    /// The block, as a CIDR.
    #[serde(rename = "primaryIP")]
    pub primary_ip: String,
    /// The pod CIDR around it.
    pub subnet_address_space: String,
    /// The node's address of the block's family; empty where the node has none.
    #[serde(rename = "nodeIP")]
    pub node_ip: String,
    /// Always `overlay`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Always `static`.
    pub assignment_mode: String,
}

/// What a node's agent alone knows. Cluster-scoped, named after the node, written by that agent only.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "overlane.io",
    version = "v1alpha1",
    kind = "NodeState",
    doc = "What a node's agent alone knows. Named after the node. Written by that agent.",
    plural = "nodestates",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".spec.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Degraded","type":"string","jsonPath":".spec.conditions[?(@.type==\"Degraded\")].reason"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".spec.agentVersion"}"#
)]
#[kube(derive = "PartialEq")]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStateSpec {
    /// The kernel's boot id.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// Blocks that pods on this node hold addresses of. A controller that lost its memory gives these back.
    pub held_blocks: Vec<String>,
    /// MAC address of the node's primary interface.
    #[serde(rename = "underlayMAC", skip_serializing_if = "String::is_empty")]
    pub underlay_mac: String,
    /// How pod packets cross nodes as far as this one is concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<RoutingState>,
    /// Pod CIDRs that the node's routes and masquerade carry; network policy follows within a moment.
    #[serde(rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
    /// Version of the agent.
    pub agent_version: String,
    /// `Ready`: an ADD would be served. `Degraded`: it would, but something is wrong.
    pub conditions: Vec<Condition>,
}

/// Nodes through which chosen pods leave the cluster, with addresses that do not change.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "overlane.io",
    version = "v1alpha1",
    kind = "EgressGateway",
    doc = "Nodes through which chosen pods leave the cluster, with addresses that do not change.",
    plural = "egressgateways",
    shortname = "egw",
    status = "EgressGatewayStatus",
    printcolumn = r#"{"name":"Egress IPs","type":"string","jsonPath":".spec.egressIPs"}"#,
    printcolumn = r#"{"name":"Nodes","type":"string","jsonPath":".status.nodes"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#
)]
#[kube(derive = "PartialEq")]
#[serde(rename_all = "camelCase", default)]
pub struct EgressGatewaySpec {
    /// Labels of the namespaces whose pods it is for; all namespaces where it is empty.
    pub namespace_selector: LabelSelector,
    /// Labels of the pods that it is for, of those namespaces; all where it is empty. Pods in the host's network are
    /// never meant.
    pub pod_selector: LabelSelector,
    /// Destinations that it is for; all where there are none. What is inside of the cluster is never meant.
    #[serde(rename = "destinationCIDRs")]
    pub destination_cidrs: Vec<String>,
    /// Labels of the nodes that may be it; all nodes where it is empty. Each of them has to be able to have every
    /// address below on its network.
    pub node_selector: LabelSelector,
    /// What the far side sees: free addresses of the gateways' network, one a family or several. Each is at one node at
    /// a time; with several, the pods are spread over them. IPv4 and IPv6 addresses go in pairs, in their order.
    #[serde(rename = "egressIPs")]
    pub egress_ips: Vec<String>,
}

/// What the controller made of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EgressGatewayStatus {
    /// The generation that the conditions speak of.
    pub observed_generation: i64,
    /// `Ready`: it is valid, in force, and there is a node for it. Otherwise the reason says which of these it is not.
    pub conditions: Vec<Condition>,
    /// The spec that is in force: the last one that was valid. Agents follow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<EgressGatewaySpec>,
    /// Its addresses by pairs, each with a number that is its own in the cluster.
    pub slots: Vec<EgressSlot>,
    /// Nodes that may be it.
    pub nodes: Vec<String>,
}

/// An egress address of each family, with its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EgressSlot {
    /// Nodes know packets for it by this.
    pub number: u8,
    /// What the far side sees.
    #[serde(rename = "egressIPs")]
    pub egress_ips: Vec<String>,
}

/// All custom resource definitions, in the order in which they are installed.
#[must_use]
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        ClusterNetwork::crd(),
        NodeBlock::crd(),
        NodeNetworkConfig::crd(),
        NodeState::crd(),
        EgressGateway::crd(),
        PodSlice::crd(),
    ];
    for crd in &mut all {
        let kind = crd.spec.names.kind.clone();
        for version in &mut crd.spec.versions {
            if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
                known_formats(schema);
                rules(&kind, schema);
            }
        }
    }
    all
}

/// Blocks that an agent can say its pods hold: more than any node has.
const MOST_HELD: i64 = 256;
/// Addresses, and destinations, that an egress gateway can have: every agent holds them all.
const MOST_OF_GATEWAY: i64 = 64;

/// What the API server itself refuses, by CEL where a schema cannot say it. The rules of addresses are `core`'s.
fn rules(kind: &str, schema: &mut JSONSchemaProps) {
    let rule = |rule: &str, message: &str| ValidationRule {
        rule: rule.to_owned(),
        message: Some(message.to_owned()),
        ..ValidationRule::default()
    };
    let spec = |schema: &mut JSONSchemaProps| schema.properties.as_mut().and_then(|all| all.remove("spec"));
    match kind {
        "ClusterNetwork" => {
            let one = rule("self.metadata.name == 'default'", "there is one ClusterNetwork, named default");
            schema.x_kubernetes_validations = Some(vec![one]);
        }
        // The object's name is the claim: under another CIDR it would claim nothing.
        "NodeBlock" => {
            let Some(mut inner) = spec(schema) else { return };
            let kept = rule("self.cidr == oldSelf.cidr", "a NodeBlock is named after its CIDR, which never changes");
            inner.x_kubernetes_validations = Some(vec![kept]);
            schema.properties.get_or_insert_default().insert("spec".to_owned(), inner);
        }
        "NodeState" => {
            let Some(mut inner) = spec(schema) else { return };
            for (list, most) in [("heldBlocks", MOST_HELD), ("conditions", 16)] {
                if let Some(property) = inner.properties.as_mut().and_then(|all| all.get_mut(list)) {
                    property.max_items = Some(most);
                }
            }
            schema.properties.get_or_insert_default().insert("spec".to_owned(), inner);
        }
        "EgressGateway" => {
            let Some(mut inner) = spec(schema) else { return };
            if let Some(properties) = inner.properties.as_mut() {
                for list in ["egressIPs", "destinationCIDRs"] {
                    if let Some(property) = properties.get_mut(list) {
                        property.max_items = Some(MOST_OF_GATEWAY);
                    }
                }
                if let Some(addresses) = properties.get_mut("egressIPs") {
                    (addresses.min_items, addresses.default) = (Some(1), None);
                }
            }
            inner.required = Some(vec!["egressIPs".to_owned()]);
            schema.properties.get_or_insert_default().insert("spec".to_owned(), inner);
        }
        _ => {}
    }
}

/// Takes formats away that Kubernetes has not (`uint8`, `uint32`): it warns of them, and checks nothing. A number that the
/// type has not would keep programs from reading any object of the kind.
fn known_formats(schema: &mut JSONSchemaProps) {
    if schema.format.take_if(|format| format.starts_with("uint")).is_some_and(|format| format == "uint32") {
        schema.maximum = schema.maximum.or(Some(f64::from(u32::MAX)));
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(known_formats);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        known_formats(items);
    }
}

/// All custom resource definitions as one YAML text, as committed in `deploy/crds/overlane.io.yaml`.
///
/// # Errors
/// A definition that YAML cannot express.
pub fn all_crds_yaml() -> Result<String, serde_norway::Error> {
    let mut text = "# Written by `make crds` from crates/api/src/crd.rs; not by hand.\n".to_owned();
    for crd in all_crds() {
        text.push_str("---\n");
        text.push_str(&serde_norway::to_string(&crd)?);
    }
    Ok(text)
}
