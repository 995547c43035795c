//! What is written: the bodies of creates and patches. Each patch names the object's UID, and its `resourceVersion`
//! where it rests on what was read, so that the API refuses it once that has changed.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference};
use kube::Resource as _;
use kube::api::{DeleteParams, Preconditions};
use overlane_api::crd::{
    EgressGatewayStatus, NodeBlock, NodeBlockSpec, NodeNetworkConfig, NodeNetworkConfigSpec, POD_CIDRS_MARK,
    PodSliceSpec, STARTUP_TAINT, block_name,
};
use overlane_core::blocks::{ConditionChange, Content, ObjectRef, Owner};
use overlane_core::cidr::Cidr;
use serde_json::{Value, json};

use crate::objects;

/// A new claim.
pub fn new_block(block: &Cidr, pool: Option<Cidr>, owner: &Owner) -> NodeBlock {
    let spec = NodeBlockSpec {
        cidr: block.to_string(),
        pod_cidr: pool.map(|pool| pool.to_string()).unwrap_or_default(),
        node: owner.node.clone(),
        node_uid: owner.node_uid.clone(),
        machine: objects::machine(&owner.machine),
        released_at: None,
    };
    NodeBlock::new(&block_name(block), spec)
}

/// A claim in place of the one that was read.
pub fn assign(pool: Option<Cidr>, owner: &Owner, over: &ObjectRef) -> Value {
    let text = |text: &str| if text.is_empty() { Value::Null } else { Value::from(text) };
    json!({
        "metadata": precise(over),
        "spec": {
            "podCIDR": pool.map(|pool| pool.to_string()).unwrap_or_default(),
            "node": owner.node,
            "nodeUID": owner.node_uid,
            "machine": { "bootID": text(&owner.machine.boot_id), "providerID": text(&owner.machine.provider_id) },
            "releasedAt": null,
        },
    })
}

/// A claim given back.
pub fn release(object: &ObjectRef, at_ms: u64) -> Value {
    json!({ "metadata": precise(object), "spec": { "releasedAt": objects::rfc3339(at_ms) } })
}

/// A new config, which announces nothing yet.
pub fn new_config(node: &str, node_uid: &str) -> NodeNetworkConfig {
    let mut config = NodeNetworkConfig::new(node, NodeNetworkConfigSpec { node_uid: node_uid.to_owned() });
    config.metadata.owner_references = Some(vec![owner(node, node_uid)]);
    config
}

/// A config that speaks of another Node object from now on.
pub fn rebind(node: &str, node_uid: &str, object: &ObjectRef) -> Value {
    let mut metadata = precise(object);
    metadata["ownerReferences"] = json!([owner(node, node_uid)]);
    json!({ "metadata": metadata, "spec": { "nodeUID": node_uid } })
}

/// What a config announces.
pub fn announce(content: &Content, object: &ObjectRef) -> Value {
    let containers: Vec<_> = content.containers.iter().map(objects::network_container).collect();
    let mac = if content.mac.is_empty() { Value::Null } else { Value::from(content.mac.as_str()) };
    let node_ips: Vec<String> = content.node_ips.iter().map(ToString::to_string).collect();
    let status = json!({ "networkContainers": containers, "nodeIPs": node_ips, "underlayMAC": mac });
    json!({ "metadata": precise(object), "status": status })
}

/// `spec.podCIDRs`, which the API lets nobody change once they are set, and the mark that it was us.
pub fn pod_cidrs(uid: &str, cidrs: &[Cidr]) -> Value {
    let cidrs: Vec<String> = cidrs.iter().map(Cidr::to_string).collect();
    json!({
        "metadata": { "uid": uid, "annotations": { POD_CIDRS_MARK: cidrs.join(",") } },
        "spec": { "podCIDR": cidrs.first(), "podCIDRs": cidrs },
    })
}

/// Conditions of a Node, as a strategic merge patch: it leaves the kubelet's alone.
pub fn conditions(uid: &str, changes: &[ConditionChange], now_ms: u64) -> Value {
    // The API server keeps these times to the second.
    let now = objects::rfc3339(now_ms / 1000 * 1000);
    let conditions: Vec<Value> = changes
        .iter()
        .map(|change| {
            json!({
                "type": change.kind.as_str(),
                "status": if change.status { "True" } else { "False" },
                "reason": change.reason,
                "message": change.message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            })
        })
        .collect();
    json!({ "metadata": { "uid": uid }, "status": { "conditions": conditions } })
}

/// The startup taint taken away, if it is still where it was seen: the list has no key to name one by.
pub fn without_startup_taint(uid: &str, index: usize) -> Result<json_patch::Patch, serde_json::Error> {
    let taint = format!("/spec/taints/{index}");
    serde_json::from_value(json!([
        { "op": "test", "path": "/metadata/uid", "value": uid },
        { "op": "test", "path": format!("{taint}/key"), "value": STARTUP_TAINT },
        { "op": "remove", "path": taint },
    ]))
}

/// A gateway's whole status. A merge would leave in it what the old one's selectors say and the new one's do not.
pub fn gateway_status(
    version: Option<&str>,
    status: &EgressGatewayStatus,
) -> Result<json_patch::Patch, serde_json::Error> {
    serde_json::from_value(json!([
        // As it was: the API refuses the patch of any other.
        { "op": "replace", "path": "/metadata/resourceVersion", "value": version },
        { "op": "add", "path": "/status", "value": status },
    ]))
}

/// A ClusterNetworkPolicy's conditions, all of them, over those that were read.
pub fn policy_status(version: Option<&str>, all: &[Condition]) -> Result<json_patch::Patch, serde_json::Error> {
    serde_json::from_value(json!([
        { "op": "replace", "path": "/metadata/resourceVersion", "value": version },
        { "op": "add", "path": "/status", "value": { "conditions": all } },
    ]))
}

/// What a slice says, over the one that was read and no other.
pub fn slice(over: &ObjectRef, spec: &PodSliceSpec) -> Result<json_patch::Patch, serde_json::Error> {
    serde_json::from_value(json!([
        { "op": "test", "path": "/metadata/uid", "value": over.uid },
        { "op": "replace", "path": "/metadata/resourceVersion", "value": over.resource_version },
        { "op": "add", "path": "/spec", "value": spec },
    ]))
}

/// The deletion of what was read, and of nothing newer.
pub fn delete(object: &ObjectRef) -> DeleteParams {
    DeleteParams::default().preconditions(Preconditions {
        uid: Some(object.uid.clone()),
        resource_version: Some(object.resource_version.clone()),
    })
}

fn precise(object: &ObjectRef) -> Value {
    json!({ "uid": object.uid, "resourceVersion": object.resource_version })
}

fn owner(node: &str, node_uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: Node::api_version(&()).into_owned(),
        kind: Node::kind(&()).into_owned(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        ..OwnerReference::default()
    }
}
