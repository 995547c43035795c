//! The Node object of a machine: registered as a kubelet does, Ready once the network says that it serves.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::state::NodeRecord;

/// Whether a node serves pods, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it does.
    pub ready: bool,
    /// One word.
    pub reason: &'static str,
    /// One line.
    pub message: String,
}

/// Creates the Node object, unless there is one of that name, and brings it up to date.
pub async fn register(
    client: &Client,
    lab: &str,
    node: &NodeRecord,
    max_pods: u32,
    readiness: &Readiness,
) -> Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    let wanted: Node = serde_json::from_value(object(lab, node, max_pods)).context("make the Node object")?;
    match api.create(&PostParams::default(), &wanted).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error).with_context(|| format!("create Node {}", node.name)),
    }
    sync(client, lab, node, max_pods, readiness).await
}

/// Writes what the machine knows of itself into the Node's status, where that says something else. Conditions of others
/// stay, and so do external addresses, which a cloud would write. A Node that is gone stays gone, as with a kubelet that does not start anew.
pub async fn sync(client: &Client, lab: &str, node: &NodeRecord, max_pods: u32, readiness: &Readiness) -> Result<()> {
    let wanted: Node = serde_json::from_value(object(lab, node, max_pods)).context("make the Node object")?;
    let wanted = wanted.status.unwrap_or_default();
    let api: Api<Node> = Api::all(client.clone());
    change(&api, &node.name, |current| {
        let status = current.status.get_or_insert_default();
        let conditions = status.conditions.take();
        let mut own = NodeStatus { conditions: None, ..wanted.clone() };
        own.addresses.get_or_insert_default().extend(external(status));
        let mut changed = *status != own;
        *status = own;
        let conditions = status.conditions.insert(conditions.unwrap_or_default());
        let text = if readiness.ready { "True" } else { "False" };
        changed |= set(conditions, "Ready", text, readiness.reason, &readiness.message);
        for pressure in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
            changed |= set(conditions, pressure, "False", "KubeletHasSufficient", "a lab has enough of it");
        }
        changed
    })
    .await
}

fn external(status: &NodeStatus) -> Vec<NodeAddress> {
    let all = status.addresses.iter().flatten();
    all.filter(|address| address.type_.starts_with("External")).cloned().collect()
}

/// Reads, changes and writes a Node's status until nobody else wrote in between: conditions of others stay.
async fn change(api: &Api<Node>, name: &str, mut change: impl FnMut(&mut Node) -> bool) -> Result<()> {
    for _ in 0..20 {
        let Some(mut node) = api.get_opt(name).await.with_context(|| format!("read Node {name}"))? else {
            return Ok(());
        };
        if !change(&mut node) {
            return Ok(());
        }
        match api.replace_status(name, &PostParams::default(), &node).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error).with_context(|| format!("write the status of Node {name}")),
        }
    }
    anyhow::bail!("write the status of Node {name}: others wrote in between, twenty times")
}

fn set(conditions: &mut Vec<NodeCondition>, kind: &str, status: &str, reason: &str, message: &str) -> bool {
    let now = Time(Timestamp::now());
    let known = conditions.iter().position(|condition| condition.type_ == kind);
    let old = known.map(|at| conditions.remove(at));
    let same = |old: &NodeCondition| {
        old.status == status && old.reason.as_deref() == Some(reason) && old.message.as_deref() == Some(message)
    };
    let unchanged = old.as_ref().is_some_and(same);
    let since = old.as_ref().filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
    let condition = NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
        last_heartbeat_time: old
            .as_ref()
            .filter(|_| unchanged)
            .map_or(Some(now), |old| old.last_heartbeat_time.clone()),
    };
    conditions.insert(known.unwrap_or(conditions.len()), condition);
    !unchanged
}

fn object(lab: &str, node: &NodeRecord, max_pods: u32) -> Value {
    let mut addresses: Vec<Value> =
        node.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": node.name}));
    let resources = json!({"cpu": "2", "memory": "4Gi", "pods": max_pods.to_string()});
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
                "overlane.io/lab": lab,
            },
        },
        "spec": {"providerID": node.provider_id},
        "status": {
            "addresses": addresses,
            "capacity": resources,
            "allocatable": resources,
            "nodeInfo": {
                "bootID": node.boot_id,
                "machineID": node.provider_id.rsplit('/').next().unwrap_or_default(),
                "systemUUID": node.provider_id.rsplit('/').next().unwrap_or_default(),
                "kernelVersion": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
                "osImage": "Overlane lab",
                "containerRuntimeVersion": concat!("overlane-lab://", env!("CARGO_PKG_VERSION")),
                "kubeletVersion": concat!("overlane-lab-", env!("CARGO_PKG_VERSION")),
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            },
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a kubelet that overwrites another's condition, or a transition time that moves without a transition.

    use super::*;

    fn node() -> NodeRecord {
        NodeRecord {
            name: "node-0".into(),
            number: 0,
            host: 4,
            mac: "02:00:00:00:00:01".into(),
            provider_id: "overlane-lab://t/abc".into(),
            addresses: vec!["10.224.0.4".parse().unwrap(), "fd10:224::4".parse().unwrap()],
            boot_id: "b".into(),
        }
    }

    #[test]
    fn the_object_is_a_node() {
        let node: Node = serde_json::from_value(object("t", &node(), 110)).unwrap();
        let status = node.status.unwrap();
        let addresses: Vec<String> = status.addresses.unwrap().into_iter().map(|a| a.address).collect();
        assert_eq!(addresses, ["10.224.0.4", "fd10:224::4", "node-0"]);
        assert_eq!(status.node_info.unwrap().boot_id, "b");
        assert_eq!(status.allocatable.unwrap()["pods"].0, "110");
    }

    #[test]
    fn external_addresses_stay() {
        let status: NodeStatus = serde_json::from_value(json!({"addresses": [
            {"type": "InternalIP", "address": "10.224.0.9"},
            {"type": "ExternalIP", "address": "192.0.2.1"},
        ]}))
        .unwrap();
        assert_eq!(external(&status).iter().map(|a| a.address.as_str()).collect::<Vec<_>>(), ["192.0.2.1"]);
    }

    #[test]
    fn conditions_of_others_stay() {
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, "NetworkUnavailable", "False", "r", "m"));
        assert!(set(&mut conditions, "Ready", "False", "r", "m"));
        let since = conditions[1].last_transition_time.clone();
        assert!(!set(&mut conditions, "Ready", "False", "r", "m"), "nothing new");
        assert!(set(&mut conditions, "Ready", "False", "r", "another"));
        assert_eq!(conditions[1].last_transition_time, since, "no transition");
        assert!(set(&mut conditions, "Ready", "True", "r", "m"));
        assert_eq!(conditions.len(), 2);
        assert_eq!(conditions[0].type_, "NetworkUnavailable");
    }
}
