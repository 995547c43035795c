//! The ClusterNetwork: absent, invalid, changed.
//!
//! Must catch: a plan in force that breaks a rule or leaves nodes' blocks outside, findings that are not all told, a
//! plan that a restart forgets.

use kube::Api;
use kube::api::DeleteParams;
use overlane_api::crd::{CLUSTER_NETWORK, ClusterNetwork};
use serde_json::json;

use crate::common::{Cluster, FAMILIES, SETTINGS, spec, until};

#[tokio::test]
async fn without_one_nothing_is_done_and_with_one_everything() {
    let cluster = Cluster::bare();
    let controller = cluster.start(SETTINGS);
    cluster.join("n1", "b1").await;
    let before = cluster.server.stats().requests;
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert!(cluster.writes_since(&before).is_empty());
    assert!(controller.metrics.is_synced());
    cluster.create_network(spec(FAMILIES[2])).await;
    cluster.until_announced("n1", 2).await;
    controller.stop().await;
}

#[tokio::test]
async fn every_finding_is_told_and_what_nodes_have_stays() {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let mut controller = cluster.start(SETTINGS);
    cluster.join("n1", "b1").await;
    let blocks = cluster.until_announced("n1", 2).await;
    cluster.until_cluster("Ready", "True", "InForce").await;
    cluster.patch_network(json!({ "podCIDRs": ["10.244.0.1/16", "fd12:3456:789a::/72"], "maxPods": 200_000 })).await;
    let condition = cluster.until_cluster("Ready", "False", "Invalid").await;
    for word in ["podCIDRs[0]", "host-bits", "10.244.0.0/16", "maxPods", "stays"] {
        assert!(condition.message.contains(word), "{word}: {}", condition.message);
    }
    let told = |events: &[(String, String, String)]| {
        events.iter().filter(|(kind, _, reason)| kind == "ClusterNetwork" && reason == "Invalid").count()
    };
    until("an event", async || (told(&cluster.events().await) == 1).then_some(())).await;
    // The plan before goes on: for nodes there are, and for new ones.
    cluster.join("n2", "b2").await;
    cluster.until_announced("n2", 2).await;
    // Also after a restart.
    controller.stop().await;
    controller = cluster.start(SETTINGS);
    cluster.join("n3", "b3").await;
    cluster.until_announced("n3", 2).await;
    assert_eq!(cluster.announced("n1").await, blocks);
    cluster.settle().await;
    assert_eq!(told(&cluster.events().await), 1, "told once");
    cluster.patch_network(json!({ "podCIDRs": FAMILIES[2], "maxPods": 100 })).await;
    cluster.until_cluster("Ready", "True", "InForce").await;
    let object = Api::<ClusterNetwork>::all(cluster.client.clone()).get(CLUSTER_NETWORK).await.unwrap();
    let status = object.status.unwrap();
    assert_eq!((status.observed_generation, status.applied), (object.metadata.generation.unwrap(), Some(object.spec)));
    controller.stop().await;
}

#[tokio::test]
async fn a_change_that_would_leave_blocks_outside_is_refused() {
    for (pod_cidrs, change, words) in [
        (
            FAMILIES[0],
            json!({ "podCIDRs": ["10.245.0.0/16"] }),
            ["pod-cidr-in-use", "podCIDRs[0]", "10.244.0.0/24 (n1)"],
        ),
        (
            FAMILIES[0],
            json!({ "podCIDRs": ["10.244.4.0/22"] }),
            ["pod-cidr-in-use", "podCIDRs[0]", "10.244.0.0/24 (n1)"],
        ),
        (
            FAMILIES[0],
            json!({ "nodeMaskSize": { "ipv4": 25 }, "maxPods": 100 }),
            ["node-mask-in-use", "nodeMaskSize.ipv4", "24"],
        ),
        (
            FAMILIES[2],
            json!({ "podCIDRs": ["10.244.0.0/16"], "serviceCIDRs": [] }),
            ["pod-cidr-in-use", "podCIDRs", "fd12:3456:789a::/80 (n1)"],
        ),
        (
            FAMILIES[1],
            json!({ "podCIDRs": ["fd13::/72"] }),
            ["pod-cidr-in-use", "podCIDRs[0]", "fd12:3456:789a::/80 (n1)"],
        ),
    ] {
        let cluster = Cluster::new(pod_cidrs).await;
        let mut controller = cluster.start(SETTINGS);
        cluster.join("n1", "b1").await;
        let blocks = cluster.until_announced("n1", pod_cidrs.len()).await;
        cluster.patch_network(change.clone()).await;
        let condition = cluster.until_cluster("Ready", "False", "Refused").await;
        for word in words {
            assert!(condition.message.contains(word), "{change}: {word}: {}", condition.message);
        }
        controller.stop().await;
        controller = cluster.start(SETTINGS);
        cluster.join("n2", "b2").await;
        cluster.until_announced("n2", pod_cidrs.len()).await;
        assert_eq!(cluster.announced("n1").await, blocks);
        // Once nobody is in the way it comes in force.
        cluster.delete_node("n1").await;
        cluster.delete_node("n2").await;
        cluster.until_cluster("Ready", "True", "InForce").await;
        cluster.join("n3", "b3").await;
        let served = until("served by the new plan", async || {
            let blocks = cluster.announced("n3").await;
            (!blocks.is_empty()).then_some(blocks)
        })
        .await;
        assert!(!served.contains(&blocks[0]), "{served:?}");
        controller.stop().await;
    }
}

#[tokio::test]
async fn a_family_that_is_added_reaches_the_nodes_there_are() {
    let cluster = Cluster::new(FAMILIES[0]).await;
    let controller = cluster.start(SETTINGS);
    for name in ["n0", "n1"] {
        cluster.join(name, name).await;
        cluster.until_announced(name, 1).await;
    }
    cluster.patch_network(json!({ "podCIDRs": FAMILIES[2] })).await;
    let both = cluster.until_announced("n1", 2).await;
    assert_eq!(both, ["10.244.1.0/24", "fd12:3456:789a:0:1::/80"], "of the same index as the block it has");
    cluster.settle().await;
    let node = cluster.node("n1").await;
    assert_eq!(node.spec.unwrap().pod_cidrs.unwrap(), ["10.244.1.0/24"], "which can be written only once");
    let bad = node.status.unwrap().conditions.unwrap_or_default();
    assert!(bad.iter().all(|condition| condition.type_ != "OverlaneNetwork"), "{bad:?}");
    controller.stop().await;
}

#[tokio::test]
async fn deleted_it_leaves_its_plan_in_force() {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let controller = cluster.start(SETTINGS);
    cluster.join("n1", "b1").await;
    cluster.until_announced("n1", 2).await;
    let api: Api<ClusterNetwork> = Api::all(cluster.client.clone());
    api.delete(CLUSTER_NETWORK, &DeleteParams::default()).await.unwrap();
    cluster.join("n2", "b2").await;
    cluster.until_announced("n2", 2).await;
    cluster.create_network(spec(&["10.99.0.0/16"])).await;
    cluster.until_cluster("Ready", "False", "Refused").await;
    controller.stop().await;
}
