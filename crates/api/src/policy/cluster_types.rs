//! ClusterNetworkPolicy, `policy.networking.k8s.io/v1alpha2`, as far as it is read here. Its definition is its own project's:
//! `deploy/crds` has it as it is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Its spec.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "policy.networking.k8s.io",
    version = "v1alpha2",
    kind = "ClusterNetworkPolicy",
    plural = "clusternetworkpolicies",
    shortname = "cnp",
    status = "CnpStatus"
)]
#[kube(derive = "PartialEq")]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterNetworkPolicySpec {
    /// Where it counts.
    pub tier: CnpTier,
    /// 0 to 1000; lower goes first in its tier.
    pub priority: i32,
    /// The pods that it is for.
    pub subject: CnpSubject,
    /// What comes to them, in order.
    pub ingress: Vec<CnpRule>,
    /// What they send, in order.
    pub egress: Vec<CnpRule>,
}

/// Where it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CnpTier {
    /// Before NetworkPolicies.
    #[default]
    Admin,
    /// For pods that no NetworkPolicy selects.
    Baseline,
}

/// The pods that it is for: one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CnpSubject {
    /// All pods of namespaces with such labels.
    pub namespaces: Option<LabelSelector>,
    /// Pods with such labels, of such namespaces.
    pub pods: Option<CnpNamespacedPod>,
}

/// Pods with such labels, of such namespaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CnpNamespacedPod {
    /// The namespaces.
    pub namespace_selector: LabelSelector,
    /// The pods.
    pub pod_selector: LabelSelector,
}

/// A rule of either direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CnpRule {
    /// What people call it.
    pub name: String,
    /// What it does.
    pub action: CnpAction,
    /// Of an ingress rule: who sends.
    pub from: Vec<CnpPeer>,
    /// Of an egress rule: who is sent to.
    pub to: Vec<CnpPeer>,
    /// What it is about; everything without.
    pub protocols: Vec<CnpProtocol>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CnpAction {
    /// Allowed, for good.
    Accept,
    /// Dropped.
    #[default]
    Deny,
    /// The next tier decides.
    Pass,
}

/// Who is at the other side: one of these. One without any is of a version that is not known here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CnpPeer {
    /// All pods of namespaces with such labels.
    pub namespaces: Option<LabelSelector>,
    /// Pods with such labels, of such namespaces.
    pub pods: Option<CnpNamespacedPod>,
    /// Nodes with such labels.
    pub nodes: Option<LabelSelector>,
    /// Networks, as CIDRs.
    pub networks: Vec<String>,
}

/// What a rule is about: one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CnpProtocol {
    /// TCP.
    pub tcp: Option<CnpTransport>,
    /// UDP.
    pub udp: Option<CnpTransport>,
    /// SCTP.
    pub sctp: Option<CnpTransport>,
    /// The port of this name of the pod at the destination.
    pub destination_named_port: String,
}

/// A protocol's ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CnpTransport {
    /// At the destination; all without.
    pub destination_port: Option<CnpPort>,
}

/// One port, or a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CnpPort {
    /// One.
    pub number: Option<i32>,
    /// A range.
    pub range: Option<CnpPortRange>,
}

/// Ports from one to another, both included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CnpPortRange {
    /// The first.
    pub start: i32,
    /// The last.
    pub end: i32,
}

/// What implementations say of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CnpStatus {
    /// Conditions.
    pub conditions: Vec<Condition>,
}
