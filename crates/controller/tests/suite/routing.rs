//! Must catch: a routing that comes in force while a node does not take it.

use kube::Api;
use overlane_api::crd::{CLUSTER_NETWORK, Carrier, ClusterNetwork, ClusterNetworkStatus, Routing, RoutingState};
use serde_json::json;

use crate::common::{Cluster, SETTINGS, until};

const BOTH: [Carrier; 2] = [Carrier::Native, Carrier::Vxlan];

async fn status(cluster: &Cluster) -> ClusterNetworkStatus {
    let api: Api<ClusterNetwork> = Api::all(cluster.client.clone());
    api.get(CLUSTER_NETWORK).await.unwrap().status.unwrap_or_default()
}

/// Waits for what is in force; gives the message of the condition.
async fn in_force(cluster: &Cluster, sends: Routing, accepts: &[Carrier], reason: &str) -> String {
    until("the routing in force", async || {
        let status = status(cluster).await;
        let told = status.conditions.iter().find(|condition| condition.type_ == "RoutingChanging");
        let there = status.applied.as_ref().is_some_and(|spec| spec.routing == sends)
            && status.routing.as_ref().is_some_and(|routing| routing.accepts == accepts);
        told.filter(|condition| there && condition.reason == reason).map(|condition| condition.message.clone())
    })
    .await
}

async fn do_as(cluster: &Cluster, node: &str, sends: Routing, accepts: &[Carrier]) {
    // A node says what it was told.
    let step = status(cluster).await.routing.map_or(0, |routing| routing.step);
    cluster.say_routing(node, RoutingState { sends, accepts: accepts.to_vec(), step }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_waits_for_every_node() {
    let cluster = Cluster::new(&["10.244.0.0/16"]).await;
    for node in ["n1", "n2"] {
        cluster.join(node, &format!("boot-{node}")).await;
        do_as(&cluster, node, Routing::Native, &[Carrier::Native]).await;
    }
    let one = cluster.start_with("one", true, SETTINGS);
    in_force(&cluster, Routing::Native, &[Carrier::Native], "Settled").await;
    cluster.patch_network(json!({ "routing": "vxlan" })).await;
    let told = in_force(&cluster, Routing::Native, &BOTH, "WaitingForNodes").await;
    assert_eq!(told, "on the way from native to vxlan; waiting for n1, n2");
    do_as(&cluster, "n1", Routing::Native, &BOTH).await;
    // Who comes after goes on from where the first was, and not from what is asked for.
    one.kill().await;
    let _two = cluster.start_with("two", true, SETTINGS);
    until("n2 alone", async || {
        let conditions = status(&cluster).await.conditions;
        conditions.iter().any(|c| c.message.ends_with("waiting for n2")).then_some(())
    })
    .await;
    in_force(&cluster, Routing::Native, &BOTH, "WaitingForNodes").await;
    do_as(&cluster, "n2", Routing::Native, &BOTH).await;
    in_force(&cluster, Routing::Vxlan, &BOTH, "WaitingForNodes").await;
    do_as(&cluster, "n1", Routing::Vxlan, &BOTH).await;
    // A node that is gone is waited for no longer.
    cluster.delete_node("n2").await;
    in_force(&cluster, Routing::Vxlan, &[Carrier::Vxlan], "Settled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_starts_as_it_is_asked_to() {
    let cluster = Cluster::new(&["10.244.0.0/16"]).await;
    cluster.patch_network(json!({ "routing": "vxlan" })).await;
    let _controller = cluster.start(SETTINGS);
    in_force(&cluster, Routing::Vxlan, &[Carrier::Vxlan], "Settled").await;
    // Nobody is there to wait for.
    cluster.patch_network(json!({ "routing": "native" })).await;
    in_force(&cluster, Routing::Native, &[Carrier::Native], "Settled").await;
}
