//! Faults of policies.
//!
//! Must catch: a fault that nobody is told of, one that is told again and again, another's condition that is lost, a condition
//! that says what is over.

use k8s_openapi::api::core::v1::{Event, Namespace};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use overlane_api::crd::cluster_network_policy_crd;
use overlane_api::policy::ClusterNetworkPolicy;
use serde_json::{Value, json};

use crate::common::{Cluster, FAMILIES, SETTINGS, until};

fn policies(cluster: &Cluster) -> Api<NetworkPolicy> {
    Api::namespaced(cluster.client.clone(), "shop")
}

fn cluster_policies(cluster: &Cluster) -> Api<ClusterNetworkPolicy> {
    Api::all(cluster.client.clone())
}

async fn shop() -> Cluster {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let shop: Namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
    Api::all(cluster.client.clone()).create(&PostParams::default(), &shop).await.unwrap();
    cluster
}

fn ports(port: u32) -> Value {
    json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": port }] }] })
}

async fn create(cluster: &Cluster, name: &str, spec: Value) {
    let object = json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": spec });
    policies(cluster).create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

async fn patch(cluster: &Cluster, name: &str, patch: Value) {
    policies(cluster).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

/// As it is written: the types have not all fields.
async fn create_admin(cluster: &Cluster, name: &str, egress: Value) {
    let object = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": name },
        "spec": { "tier": "Admin", "priority": 10, "subject": { "namespaces": {} }, "egress": [egress] },
    });
    let api: Api<DynamicObject> =
        Api::all_with(cluster.client.clone(), &ApiResource::erase::<ClusterNetworkPolicy>(&()));
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

/// Names of the policies that Events are about, and their messages.
async fn told(cluster: &Cluster, namespace: &str) -> Vec<(String, String)> {
    let api: Api<Event> = Api::namespaced(cluster.client.clone(), namespace);
    let events = api.list(&ListParams::default()).await.unwrap().items.into_iter();
    let of_policies = events.filter(|event| event.reason.as_deref() == Some("PolicyInvalid"));
    of_policies.map(|event| (event.involved_object.name.unwrap(), event.message.unwrap())).collect()
}

async fn until_told(cluster: &Cluster, namespace: &str, count: usize) -> Vec<(String, String)> {
    until(format!("{count} are told in {namespace}"), async || {
        let told = told(cluster, namespace).await;
        (told.len() >= count).then_some(told)
    })
    .await
}

async fn until_accepted(cluster: &Cluster, name: &str, status: &str) -> (Condition, Vec<Condition>) {
    until(format!("{name} is accepted: {status}"), async || {
        let object = cluster_policies(cluster).get(name).await.unwrap();
        let mut all = object.status.unwrap_or_default().conditions;
        let at = all.iter().position(|condition| condition.type_ == "overlane.io/Accepted")?;
        let ours = all.remove(at);
        let now = ours.status == status && ours.observed_generation == object.metadata.generation;
        now.then_some((ours, all))
    })
    .await
}

#[tokio::test]
async fn a_fault_is_told_once_with_the_policy() {
    let cluster = shop().await;
    create(&cluster, "bad", ports(70_000)).await;
    create(&cluster, "good", ports(443)).await;
    let controller = cluster.start(SETTINGS);
    let first = until_told(&cluster, "shop", 1).await;
    assert_eq!(first[0].0, "bad");
    assert!(first[0].1.starts_with("spec.ingress[0].ports[0]: `70000`"), "{first:?}");
    assert!(first[0].1.contains("closed"), "{first:?}");
    // What is not its spec is no news.
    patch(&cluster, "bad", json!({ "metadata": { "labels": { "note": "x" } } })).await;
    cluster.settle().await;
    // Nor is a restart.
    controller.stop().await;
    let controller = cluster.start(SETTINGS);
    until("it has begun", async || controller.metrics.is_synced().then_some(())).await;
    cluster.settle().await;
    assert_eq!(told(&cluster, "shop").await, first);
    patch(&cluster, "bad", json!({ "spec": ports(80_000) })).await;
    let second = until_told(&cluster, "shop", 2).await;
    assert!(second.iter().any(|(_, message)| message.contains("`80000`")), "{second:?}");
    patch(&cluster, "bad", json!({ "spec": ports(80) })).await;
    cluster.settle().await;
    assert_eq!(told(&cluster, "shop").await.len(), 2);
    assert!(cluster.events().await.iter().all(|(_, _, reason)| reason != "PolicyInvalid"), "with the policy alone");
    controller.stop().await;
}

#[tokio::test]
async fn a_policy_of_the_cluster_has_a_condition_too() {
    let cluster = shop().await;
    let controller = cluster.start(SETTINGS);
    // A kind that the cluster has not yet.
    cluster.join("n1", "b1").await;
    cluster.until_announced("n1", 2).await;
    cluster.server.register(&cluster_network_policy_crd().unwrap()).unwrap();
    let unknown = json!({ "action": "Deny", "to": [{ "domainNames": ["example.org"] }] });
    create_admin(&cluster, "deny", unknown).await;
    let foreign = json!({ "type": "example.org/Ready", "status": "True", "reason": "Ready", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let (ours, _) = until_accepted(&cluster, "deny", "False").await;
    assert_eq!(ours.reason, "PolicyInvalid");
    assert!(ours.message.starts_with("spec.egress[0].peers[0]: it has to say who is meant"), "{}", ours.message);
    let events = until_told(&cluster, "default", 1).await;
    assert_eq!(events, [("deny".to_owned(), ours.message.clone())]);
    let status = json!({ "status": { "conditions": [foreign, ours] } });
    cluster_policies(&cluster).patch_status("deny", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let egress = json!([{ "action": "Deny", "to": [{ "nodes": {} }] }]);
    let sound = Patch::Merge(json!({ "spec": { "egress": egress } }));
    cluster_policies(&cluster).patch("deny", &PatchParams::default(), &sound).await.unwrap();
    let (ours, others) = until_accepted(&cluster, "deny", "True").await;
    assert_eq!((ours.reason.as_str(), others.len()), ("Accepted", 1), "another's stays");
    cluster.settle().await;
    let before = cluster.server.stats().requests;
    cluster.server.compact();
    cluster.settle().await;
    assert!(cluster.writes_since(&before).is_empty(), "nothing is told again");
    assert_eq!(told(&cluster, "default").await.len(), 1);
    controller.stop().await;
}

#[tokio::test]
async fn nobody_tells_of_what_nobody_enforces() {
    let cluster = shop().await;
    cluster.patch_network(json!({ "networkPolicy": "none" })).await;
    create(&cluster, "bad", ports(70_000)).await;
    let controller = cluster.start(SETTINGS);
    cluster.until_cluster("Ready", "True", "InForce").await;
    cluster.settle().await;
    assert!(told(&cluster, "shop").await.is_empty());
    cluster.patch_network(json!({ "networkPolicy": "overlane" })).await;
    until_told(&cluster, "shop", 1).await;
    controller.stop().await;
}

/// Who makes faulty policies makes work for nobody else.
#[tokio::test]
async fn many_faults_hold_nothing_up() {
    let cluster = shop().await;
    let rules: Vec<_> = (0..10_000).map(|_| json!({ "ports": [{ "port": 0 }] })).collect();
    for number in 0..20 {
        create(&cluster, &format!("bad{number}"), json!({ "podSelector": {}, "ingress": rules })).await;
    }
    let controller = cluster.start(SETTINGS);
    cluster.join("n1", "b1").await;
    cluster.until_announced("n1", 2).await;
    let told = until_told(&cluster, "shop", 20).await;
    assert!(told.iter().all(|(_, message)| message.contains("and 9997 more") && message.len() <= 1_000), "{told:?}");
    controller.stop().await;
}
