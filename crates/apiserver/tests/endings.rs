//! How objects go: finalizers, grace, owners, namespaces, definitions.
//!
//! Must catch: an object that goes while a finalizer holds it, or a dependent that outlives its last owner.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{config_map, node, object, pod, post, refusal, server, widget, widgets};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy, ResourceExt,
};
use kube::runtime::wait::Condition;
use kube::{Client, Resource};
use serde_json::json;

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::default_namespaced(client.clone())
}

async fn owned_by(client: &Client, name: &str, owners: &[&Node]) -> ConfigMap {
    let mut map = config_map(name);
    map.metadata.owner_references = Some(owners.iter().map(|owner| owner.owner_ref(&()).unwrap()).collect());
    maps(client).create(&post(), &map).await.unwrap()
}

async fn exists(client: &Client, name: &str) -> bool {
    maps(client).get_opt(name).await.unwrap().is_some()
}

#[tokio::test]
async fn a_finalizer_holds_an_object() {
    let widgets = widgets(&server().client());
    let mut body = widget("w", 1);
    body.metadata.finalizers = Some(vec!["test.overlane.io/hold".to_owned()]);
    widgets.create(&post(), &body).await.unwrap();
    let marked = widgets.delete("w", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    assert!(widgets.get_opt("w").await.unwrap().is_some());

    let more = Patch::Merge(json!({"metadata": {"finalizers": ["test.overlane.io/hold", "test.overlane.io/more"]}}));
    assert_eq!(refusal(widgets.patch("w", &PatchParams::default(), &more).await).0, 422);
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    widgets.patch("w", &PatchParams::default(), &none).await.unwrap();
    assert!(widgets.get_opt("w").await.unwrap().is_none());
    assert_eq!(refusal(widgets.delete("w", &DeleteParams::default()).await).0, 404);
}

#[tokio::test]
async fn only_the_object_that_was_meant_is_deleted() {
    let widgets = widgets(&server().client());
    let made = widgets.create(&post(), &widget("w", 1)).await.unwrap();
    let only = |uid: Option<String>, resource_version: Option<String>| {
        DeleteParams::default().preconditions(Preconditions { uid, resource_version })
    };
    let other = only(Some("another".to_owned()), None);
    assert_eq!(refusal(widgets.delete("w", &other).await), (409, "Conflict".to_owned()));
    let older = only(made.uid(), Some("1".to_owned()));
    assert_eq!(refusal(widgets.delete("w", &older).await).0, 409);
    widgets.delete("w", &only(made.uid(), made.resource_version())).await.unwrap();
}

#[tokio::test]
async fn a_pod_on_a_node_waits_for_its_kubelet() {
    let client = server().client();
    let pods: Api<Pod> = Api::default_namespaced(client);
    pods.create(&post(), &pod("running", "n1")).await.unwrap();
    let marked = pods.delete("running", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    let sooner = DeleteParams::default().grace_period(5);
    let marked = pods.delete("running", &sooner).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(5));
    pods.delete("running", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(pods.get_opt("running").await.unwrap().is_none());

    let unassigned: Pod =
        object(json!({"metadata": {"name": "waiting"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}));
    pods.create(&post(), &unassigned).await.unwrap();
    pods.delete("waiting", &DeleteParams::default()).await.unwrap();
    assert!(pods.get_opt("waiting").await.unwrap().is_none(), "no kubelet knows a pod without a node");

    pods.create(&post(), &pod("evicted", "n1")).await.unwrap();
    pods.evict("evicted", &EvictParams::default()).await.unwrap();
    assert!(pods.get("evicted").await.unwrap().metadata.deletion_timestamp.is_some());
}

#[tokio::test]
async fn dependents_go_with_their_last_owner() {
    let client = server().client();
    let nodes: Api<Node> = Api::all(client.clone());
    let one = nodes.create(&post(), &node("one")).await.unwrap();
    let two = nodes.create(&post(), &node("two")).await.unwrap();
    owned_by(&client, "of-one", &[&one]).await;
    owned_by(&client, "of-both", &[&one, &two]).await;
    nodes.delete("one", &DeleteParams::default()).await.unwrap();
    assert!(!exists(&client, "of-one").await);
    let left = maps(&client).get("of-both").await.unwrap();
    assert_eq!(left.owner_references().len(), 1);
    assert_eq!(left.owner_references()[0].name, "two");

    // The same name again is another owner.
    nodes.create(&post(), &node("one")).await.unwrap();
    owned_by(&client, "late", &[&one]).await;
    assert!(!exists(&client, "late").await);
}

#[tokio::test]
async fn dependents_may_stay_or_go_first() {
    let client = server().client();
    let nodes: Api<Node> = Api::all(client.clone());
    let with = |policy| DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
    let one = nodes.create(&post(), &node("one")).await.unwrap();
    owned_by(&client, "stays", &[&one]).await;
    nodes.delete("one", &with(PropagationPolicy::Orphan)).await.unwrap();
    assert!(maps(&client).get("stays").await.unwrap().owner_references().is_empty());

    let two = nodes.create(&post(), &node("two")).await.unwrap();
    let mut held = config_map("held");
    held.metadata.owner_references = Some(vec![two.owner_ref(&()).unwrap()]);
    held.metadata.finalizers = Some(vec!["test.overlane.io/hold".to_owned()]);
    maps(&client).create(&post(), &held).await.unwrap();
    nodes.delete("two", &with(PropagationPolicy::Foreground)).await.unwrap();
    assert!(nodes.get("two").await.unwrap().metadata.deletion_timestamp.is_some());
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps(&client).patch("held", &PatchParams::default(), &none).await.unwrap();
    assert!(nodes.get_opt("two").await.unwrap().is_none());
}

#[tokio::test]
async fn a_namespace_goes_with_its_content() {
    let client = server().client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let body: Namespace = object(json!({"metadata": {"name": "ns"}}));
    namespaces.create(&post(), &body).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "ns");
    maps.create(&post(), &config_map("a")).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "ns");
    pods.create(&post(), &pod("p", "n1")).await.unwrap();

    namespaces.delete("ns", &DeleteParams::default()).await.unwrap();
    let leaving = namespaces.get("ns").await.unwrap();
    assert_eq!(leaving.status.unwrap().phase.as_deref(), Some("Terminating"));
    assert!(maps.get_opt("a").await.unwrap().is_none());
    assert_eq!(refusal(maps.create(&post(), &config_map("b")).await).0, 403);
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(namespaces.get_opt("ns").await.unwrap().is_none());
    assert_eq!(refusal(namespaces.delete("kube-system", &DeleteParams::default()).await).0, 403);
}

#[tokio::test]
async fn a_definition_goes_with_its_objects() {
    let client = server().client();
    widgets(&client).create(&post(), &widget("w", 1)).await.unwrap();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = "widgets.test.overlane.io";
    assert!(
        kube::runtime::wait::conditions::is_crd_established()
            .matches_object(definitions.get_opt(name).await.unwrap().as_ref())
    );
    definitions.delete(name, &DeleteParams::default()).await.unwrap();
    assert!(definitions.get_opt(name).await.unwrap().is_none());
    assert_eq!(refusal(widgets(&client).list(&ListParams::default()).await).0, 404);
    definitions.create(&post(), &<common::Widget as kube::CustomResourceExt>::crd()).await.unwrap();
    assert!(widgets(&client).list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let client = server().client();
    for name in ["a", "b", "c"] {
        let mut map = config_map(name);
        map.metadata.labels = Some([("keep".to_owned(), (name == "b").to_string())].into());
        maps(&client).create(&post(), &map).await.unwrap();
    }
    let params = ListParams::default().labels("keep=false");
    maps(&client).delete_collection(&DeleteParams::default(), &params).await.unwrap();
    let left = maps(&client).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(left.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["b"]);
}
