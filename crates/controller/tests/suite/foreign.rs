//! Another allocator writes `node.spec.podCIDRs` though Overlane is to allocate; and objects spoilt by hand.
//!
//! Must catch: a node that is served blocks other than those on its Node, one block for two nodes, an endless fight.

use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use overlane_api::crd::{NodeBlock, NodeBlockSpec, NodeNetworkConfig, block_name};
use serde_json::json;

use crate::common::{Cluster, FAMILIES, SETTINGS, node, until};

#[tokio::test]
async fn its_nodes_are_left_alone_with_a_condition_and_the_others_served() {
    for pod_cidrs in FAMILIES {
        let cluster = Cluster::new(pod_cidrs).await;
        let controller = cluster.start(SETTINGS);
        cluster.join("n0", "b0").await;
        cluster.until_announced("n0", pod_cidrs.len()).await;
        let mut foreign = node("n1", "b1");
        let theirs = if pod_cidrs[0].contains(':') { "fd12:3456:789a::/80" } else { "10.244.0.0/24" };
        foreign["spec"]["podCIDR"] = json!(theirs);
        foreign["spec"]["podCIDRs"] = json!([theirs]);
        cluster.create_node(foreign).await;
        cluster.speak("n1", "b1", &[]).await;
        let message = cluster.until_node("n1", "NetworkUnavailable", "True", "ForeignAllocator").await;
        assert!(message.contains(theirs) && message.contains("kube-controller-manager"), "{message}");
        let condition = cluster.until_cluster("ForeignAllocator", "True", "ForeignAllocator").await;
        assert!(condition.message.contains("n1"), "{}", condition.message);
        assert!(cluster.announced("n1").await.is_empty());
        cluster.join("n2", "b2").await;
        cluster.until_announced("n2", pod_cidrs.len()).await;
        cluster.settle().await;
        let told = cluster.events().await.into_iter().filter(|(_, name, _)| name == "n1").count();
        assert_eq!(told, 1);
        cluster.delete_node("n1").await;
        cluster.until_cluster("ForeignAllocator", "False", "NoneSeen").await;
        controller.stop().await;
    }
}

#[tokio::test]
async fn what_a_hand_deletes_is_made_again() {
    for pod_cidrs in FAMILIES {
        let cluster = Cluster::new(pod_cidrs).await;
        let controller = cluster.start(SETTINGS);
        cluster.join("n0", "b0").await;
        cluster.join("n1", "b1").await;
        let blocks = cluster.until_announced("n1", pod_cidrs.len()).await;
        until("podCIDRs", async || cluster.node("n1").await.spec?.pod_cidrs).await;
        let configs: Api<NodeNetworkConfig> = Api::namespaced(cluster.client.clone(), "kube-system");
        configs.delete("n1", &DeleteParams::default()).await.unwrap();
        assert_eq!(cluster.until_announced("n1", pod_cidrs.len()).await, blocks);
        let claims: Api<NodeBlock> = Api::all(cluster.client.clone());
        for block in &blocks {
            claims.delete(&block_name(&block.parse().unwrap()), &DeleteParams::default()).await.unwrap();
        }
        until("claimed again", async || (cluster.live_blocks_of("n1").await.len() == blocks.len()).then_some(())).await;
        let patch = Patch::Merge(json!({ "status": { "networkContainers": [{ "primaryIP": "10.9.9.0/24" }] } }));
        configs.patch_status("n1", &PatchParams::default(), &patch).await.unwrap();
        until("announced again", async || (cluster.announced("n1").await == blocks).then_some(())).await;
        // All of it at once: what was written on the Node still says whose the blocks were.
        configs.delete("n1", &DeleteParams::default()).await.unwrap();
        for block in &blocks {
            let _ = claims.delete(&block_name(&block.parse().unwrap()), &DeleteParams::default()).await;
        }
        until("all again", async || (cluster.announced("n1").await == blocks).then_some(())).await;
        cluster.settle().await;
        cluster.assert_sound().await;
        assert_eq!(cluster.blocks().await.len(), 2 * pod_cidrs.len());
        controller.stop().await;
    }
}

#[tokio::test]
async fn a_claim_that_a_hand_has_spoilt_only_keeps_its_block_from_being_given() {
    let cluster = Cluster::new(FAMILIES[0]).await;
    let claims: Api<NodeBlock> = Api::all(cluster.client.clone());
    for name in ["10.244.0.0-24", "10.244.1.0-24", "nonsense"] {
        claims.create(&PostParams::default(), &NodeBlock::new(name, NodeBlockSpec::default())).await.unwrap();
    }
    let controller = cluster.start(SETTINGS);
    cluster.join("n0", "b0").await;
    assert_eq!(cluster.until_announced("n0", 1).await, ["10.244.2.0/24"]);
    cluster.settle().await;
    assert_eq!(claims.list(&kube::api::ListParams::default()).await.unwrap().items.len(), 4, "none was deleted");
    controller.stop().await;
}
