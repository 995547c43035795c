//! Policies and labels in the API, as a client writes them.

use overlane_suites::api::{Api, name_of};
use overlane_suites::wait::{ensure, eventually, secs};
use serde_json::{Value, json};

/// The collection of ClusterNetworkPolicies.
pub const CLUSTER_POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";
/// All NetworkPolicies.
pub const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str = "clusternetworkpolicies.policy.networking.k8s.io";

/// The collection of a namespace's NetworkPolicies.
pub fn policies_of(namespace: &str) -> String {
    format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies")
}

/// Whose definition of ClusterNetworkPolicies is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Definition {
    /// The one that the cluster has, if it has one.
    AsItIs,
    /// One that lets through what another version might: fields, operators and ranges that nobody knows.
    Loose,
}

/// Makes sure that ClusterNetworkPolicies can be written; whether they could not be before.
pub fn define(api: &Api, definition: Definition) -> bool {
    let path = format!("{DEFINITIONS}/{DEFINITION}");
    let there = api.find(&path);
    let new = there.is_none();
    match (there, definition) {
        (None, _) => drop(api.create(DEFINITIONS, &loose())),
        (Some(mut there), Definition::Loose) => {
            there["spec"] = loose()["spec"].clone();
            api.replace(&path, &there);
        }
        (Some(_), Definition::AsItIs) => (),
    }
    eventually(secs(10), "ClusterNetworkPolicies are served", || {
        let status = api.ask("GET", CLUSTER_POLICIES, None).status;
        ensure(status == 200, || format!("{status}"))
    });
    new
}

fn loose() -> Value {
    let names = json!({
        "kind": "ClusterNetworkPolicy", "listKind": "ClusterNetworkPolicyList",
        "plural": "clusternetworkpolicies", "singular": "clusternetworkpolicy", "shortNames": ["cnp"],
    });
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = json!({
        "name": "v1alpha2", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": anything}, "subresources": {"status": {}},
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": DEFINITION,
            // The API server asks this of groups of Kubernetes' own.
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api/pull/347"},
        },
        "spec": {"group": "policy.networking.k8s.io", "names": names, "scope": "Cluster", "versions": [version]},
    })
}

/// A NetworkPolicy.
pub fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    })
}

/// A ClusterNetworkPolicy.
pub fn cluster_policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// The collection that an object belongs to.
fn collection(object: &Value) -> String {
    match object["kind"].as_str() {
        Some("NetworkPolicy") => policies_of(object["metadata"]["namespace"].as_str().unwrap_or("default")),
        Some("ClusterNetworkPolicy") => CLUSTER_POLICIES.to_owned(),
        other => panic!("{other:?} is no policy: {object}"),
    }
}

/// Where a policy is.
pub fn path(object: &Value) -> String {
    format!("{}/{}", collection(object), name_of(object))
}

/// Creates a policy, or puts it in the place of the one of its name.
pub fn put(api: &Api, object: &Value) {
    let Some(there) = api.find(&path(object)) else {
        api.create(&collection(object), object);
        return;
    };
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"].clone();
    api.replace(&path(&object), &object);
}

/// Deletes a policy.
pub fn delete(api: &Api, object: &Value) {
    api.delete(&path(object));
}

/// All policies of both kinds. Lists leave out what their items are.
pub fn all(api: &Api) -> Vec<Value> {
    let of = |collection, version: &'static str, kind: &'static str| {
        api.list(collection).into_iter().map(move |mut item| {
            (item["apiVersion"], item["kind"]) = (version.into(), kind.into());
            item
        })
    };
    let mut all: Vec<Value> = of(POLICIES, "networking.k8s.io/v1", "NetworkPolicy").collect();
    all.extend(of(CLUSTER_POLICIES, "policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"));
    all
}

/// Makes a namespace.
pub fn namespace(api: &Api, name: &str, labels: &Value) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    api.create("/api/v1/namespaces", &object);
}

/// Sets labels; null takes one away.
pub fn label(api: &Api, path: &str, labels: &Value) {
    api.merge(path, &json!({"metadata": {"labels": labels}}));
}

/// The path of a namespace.
pub fn namespace_path(name: &str) -> String {
    format!("/api/v1/namespaces/{name}")
}

/// The path of a node.
pub fn node_path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}
