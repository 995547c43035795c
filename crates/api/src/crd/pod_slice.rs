//! What network policies can tell of the pods of one node, for the agents of others.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What network policies can tell of one node and its pods: the pods' addresses, and what each is like. Cluster-scoped, named
/// after the node, written by the controller. Pods of the host's network are not in it, nor those that have ended.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "overlane.io",
    version = "v1alpha1",
    kind = "PodSlice",
    doc = "What network policies can tell of one node and its pods. Named after the node. Written by the controller.",
    plural = "podslices",
    shortname = "psl"
)]
#[kube(derive = "PartialEq")]
#[serde(rename_all = "camelCase", default)]
pub struct PodSliceSpec {
    /// Labels of the node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_labels: BTreeMap<String, String>,
    /// Addresses of the node, of both families.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node_addresses: Vec<String>,
    /// What pods are like; replicas have one in common. `pods` lead here by index.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<PodSliceProfile>,
    /// The pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodSlicePod>,
}

/// What a pod is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSliceProfile {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its ports that have names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PodSlicePort>,
}

/// A port of a pod that has a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSlicePort {
    /// The name.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: u16,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSlicePod {
    /// What it is like: an index of `profiles`.
    pub profile: u32,
    /// Its addresses, of one family or both.
    pub ips: Vec<String>,
}
