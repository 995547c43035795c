//! A pod's node: given once, by a binding, as kube-apiserver 1.36 has it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{object, pod, post, refusal, server};
use k8s_openapi::api::core::v1::{Binding, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

fn free(name: &str) -> Pod {
    object(json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}}))
}

async fn bind(pods: &Api<Pod>, name: &str, metadata: Value, target: Value) -> kube::Result<Status> {
    let mut binding: Binding = object(json!({"metadata": metadata, "target": target}));
    binding.metadata.name = Some(name.to_owned());
    pods.create_subresource("binding", name, &post(), &binding).await
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let pods: Api<Pod> = Api::default_namespaced(server().client());
    let made = pods.create(&post(), &free("p")).await.unwrap();
    let node = json!({"kind": "Node", "name": "n1"});
    assert_eq!(refusal(bind(&pods, "absent", json!({}), node.clone()).await).0, 404);
    assert_eq!(refusal(bind(&pods, "p", json!({"uid": "another"}), node.clone()).await).0, 409);
    assert_eq!(refusal(bind(&pods, "p", json!({}), json!({"kind": "Pod", "name": "n1"})).await).0, 500);
    assert_eq!(refusal(bind(&pods, "p", json!({}), json!({"kind": "Node", "name": ""})).await).0, 500);
    bind(&pods, "p", json!({"uid": made.metadata.uid}), node.clone()).await.unwrap();
    let bound = pods.get("p").await.unwrap();
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("n1"));
    assert_eq!(bound.status.unwrap().conditions.unwrap()[0].type_, "PodScheduled");
    assert_eq!(refusal(bind(&pods, "p", json!({}), json!({"kind": "Node", "name": "n2"})).await).0, 409);
    // A bound pod waits for its kubelet, and takes no other node on its way out.
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    assert_eq!(refusal(bind(&pods, "p", json!({}), node).await).0, 409);
}

#[tokio::test]
async fn nothing_else_gives_a_pod_its_node() {
    let pods: Api<Pod> = Api::default_namespaced(server().client());
    pods.create(&post(), &free("free")).await.unwrap();
    pods.create(&post(), &pod("held", "n1")).await.unwrap();
    let patch = |spec: Value| Patch::Merge(json!({"spec": spec}));
    for name in ["free", "held"] {
        let moved = pods.patch(name, &PatchParams::default(), &patch(json!({"nodeName": "n2"}))).await;
        assert_eq!(refusal(moved).0, 422, "{name}");
        let renamed = pods.patch(name, &PatchParams::default(), &patch(json!({"hostname": "x"}))).await;
        assert_eq!(refusal(renamed).0, 422, "{name}");
    }
    // What may change does.
    let containers = json!({"containers": [{"name": "c", "image": "another"}], "activeDeadlineSeconds": 5});
    pods.patch("free", &PatchParams::default(), &patch(containers)).await.unwrap();
}
