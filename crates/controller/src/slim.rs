//! Nodes as far as they matter here. A real one carries a list of images of some 50 KiB, which is never kept.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use overlane_api::crd::{POD_CIDRS_MARK, STARTUP_TAINT};
use overlane_core::blocks::{MachineId, NodeConditions, NodeView, ObjectRef};
use serde::Deserialize;

const NETWORK_TAINT: &str = "node.kubernetes.io/network-unavailable";

/// A Node.
#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = "k8s_openapi::api::core::v1::Node")]
pub struct SlimNode {
    /// Its metadata.
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
    #[serde(rename = "providerID")]
    provider_id: String,
    taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    addresses: Vec<Address>,
    conditions: Vec<NodeCondition>,
    node_info: NodeInfo,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeInfo {
    #[serde(rename = "bootID")]
    boot_id: String,
}

impl SlimNode {
    /// What decisions need of it.
    #[must_use]
    pub fn view(&self, now_ms: u64) -> NodeView {
        let mut pod_cidrs = self.spec.pod_cidrs.clone();
        if pod_cidrs.is_empty() && !self.spec.pod_cidr.is_empty() {
            pod_cidrs.push(self.spec.pod_cidr.clone());
        }
        let mark = self.metadata.annotations.as_ref().and_then(|all| all.get(POD_CIDRS_MARK));
        NodeView {
            name: self.metadata.name.clone().unwrap_or_default(),
            object: object_ref(&self.metadata),
            machine: MachineId {
                boot_id: self.status.node_info.boot_id.clone(),
                provider_id: self.spec.provider_id.clone(),
            },
            pod_cidrs_ours: !pod_cidrs.is_empty() && mark.is_some_and(|mark| *mark == pod_cidrs.join(",")),
            pod_cidrs,
            addresses: self.internal_ips(),
            conditions: self.conditions(),
            first_seen_ms: now_ms,
        }
    }

    /// All its addresses, of whatever type.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.status.addresses.iter().filter_map(|address| address.address.parse().ok())
    }

    fn internal_ips(&self) -> Vec<IpAddr> {
        let internal = self.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        internal.filter_map(|address| address.address.parse().ok()).collect()
    }

    fn conditions(&self) -> NodeConditions {
        let find = |kind: &str| {
            let condition = self.status.conditions.iter().find(|condition| condition.kind == kind)?;
            Some((condition.status == "True", condition.reason.clone()))
        };
        NodeConditions {
            network_unavailable: find("NetworkUnavailable"),
            tainted: self.spec.taints.iter().any(|taint| taint.key == NETWORK_TAINT),
            overlane: find("OverlaneNetwork"),
            startup_taint: self.spec.taints.iter().position(|taint| taint.key == STARTUP_TAINT),
        }
    }
}

/// UID and version of an object.
#[must_use]
pub fn object_ref(metadata: &ObjectMeta) -> ObjectRef {
    ObjectRef {
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_with_everything() {
        let node: SlimNode = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "7",
                "annotations": {"overlane.io/pod-cidrs": "10.244.0.0/24,fd00::/80"}},
            "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00::/80"], "providerID": "azure:///a",
                "taints": [{"key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule"},
                    {"key": "overlane.io/agent-not-ready", "effect": "NoExecute"}]},
            "status": {"images": [{"names": ["x"], "sizeBytes": 1}], "nodeInfo": {"bootID": "b", "osImage": "Debian"},
                "addresses": [{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "10.0.0.4"},
                    {"type": "InternalIP", "address": "fd10::4"}, {"type": "ExternalIP", "address": "192.0.2.4"}],
                "conditions": [{"type": "Ready", "status": "True"},
                    {"type": "NetworkUnavailable", "status": "True", "reason": "NoBlockAvailable"}]}
        }))
        .unwrap();
        let view = node.view(5);
        assert_eq!(view.object, ObjectRef { uid: "u".into(), resource_version: "7".into() });
        assert_eq!(view.machine, MachineId { boot_id: "b".into(), provider_id: "azure:///a".into() });
        assert!(view.pod_cidrs_ours);
        assert_eq!(view.addresses.len(), 2);
        assert_eq!(node.addresses().count(), 3);
        assert!(view.conditions.tainted);
        assert_eq!(view.conditions.network_unavailable, Some((true, "NoBlockAvailable".into())));
        assert_eq!(view.conditions.overlane, None);
        assert_eq!(view.conditions.startup_taint, Some(1));
    }

    #[test]
    fn a_bare_node_and_podcidrs_of_others() {
        let bare: SlimNode = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert!(bare.view(0).pod_cidrs.is_empty() && !bare.view(0).pod_cidrs_ours && !bare.view(0).machine.is_known());
        let theirs: SlimNode =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "10.244.0.0/24"}})).unwrap();
        assert_eq!(theirs.view(0).pod_cidrs, ["10.244.0.0/24"]);
        assert!(!theirs.view(0).pod_cidrs_ours);
    }
}
