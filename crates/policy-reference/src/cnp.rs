//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy, without its status.
//!
//! A field that is not known here is dropped, as a program does that was built before it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

/// A policy of the cluster's administrator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkPolicy {
    /// Group and version.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Kind.
    #[serde(default = "kind")]
    pub kind: String,
    /// Its name decides between policies of one priority.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: Spec,
}

impl ClusterNetworkPolicy {
    /// A policy of this name.
    #[must_use]
    pub fn new(name: &str, spec: Spec) -> Self {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Self { api_version: api_version(), kind: kind(), metadata, spec }
    }
}

fn api_version() -> String {
    "policy.networking.k8s.io/v1alpha2".to_owned()
}

fn kind() -> String {
    "ClusterNetworkPolicy".to_owned()
}

/// What a ClusterNetworkPolicy asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Before or after NetworkPolicies.
    pub tier: Tier,
    /// 0 to 1000; lower goes first within its tier.
    pub priority: i32,
    /// The pods that it is about.
    pub subject: Subject,
    /// Rules for what comes to these pods; the first that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule>,
    /// Rules for what these pods send; the first that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule>,
}

/// Where a policy stands among all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    /// Before NetworkPolicies.
    Admin,
    /// After NetworkPolicies, for pods that none of them isolates.
    Baseline,
}

/// The pods that a policy is about; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// All pods of namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

/// Some pods of some namespaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedPod {
    /// The namespaces; empty is all.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// The pods in them; empty is all.
    #[serde(default)]
    pub pod_selector: LabelSelector,
}

/// What becomes of traffic that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// It is allowed, whatever else there is.
    Accept,
    /// It is dropped, whatever else there is.
    Deny,
    /// The next tier is asked.
    Pass,
}

/// A rule for what comes to the subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What becomes of it.
    pub action: Action,
    /// Where it comes from; one of them.
    #[serde(default)]
    pub from: Vec<IngressPeer>,
    /// What it is; one of them, anything if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ProtocolMatch>,
}

/// A rule for what the subject sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressRule {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What becomes of it.
    pub action: Action,
    /// Where it goes; one of them.
    #[serde(default)]
    pub to: Vec<EgressPeer>,
    /// What it is; one of them, anything if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ProtocolMatch>,
}

/// Where traffic comes from; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressPeer {
    /// All pods of namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

/// Where traffic goes; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressPeer {
    /// All pods of namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Some pods of namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
    /// The addresses of nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    /// CIDRs, of either family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// Domain names. Not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_names: Option<Vec<String>>,
}

impl From<&IngressPeer> for EgressPeer {
    fn from(peer: &IngressPeer) -> Self {
        Self { namespaces: peer.namespaces.clone(), pods: peer.pods.clone(), ..Self::default() }
    }
}

/// A protocol, perhaps with ports; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProtocolMatch {
    /// TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Transport>,
    /// UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<Transport>,
    /// SCTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sctp: Option<Transport>,
    /// A name among the destination's container ports, of whichever protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_named_port: Option<String>,
}

/// Ports of one protocol; all of them if nothing is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transport {
    /// The destination's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<Port>,
}

/// A port or some; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<i32>,
    /// From one to another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<PortRange>,
}

/// Ports from one to another, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// 1 to 65535.
    pub start: i32,
    /// More than `start`, at most 65535.
    pub end: i32,
}
