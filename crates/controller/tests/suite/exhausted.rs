//! No block is left.
//!
//! Must catch: a node that is not served though there is room again, an event a retry, other nodes that suffer, a write
//! that wakes every agent for each node that waits.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::common::{Cluster, SETTINGS, spec, until};

/// Four blocks a family; in dual stack IPv6 has more, which does not help.
const SMALL: [&[&str]; 4] = [
    &["10.244.0.0/22"],
    &["fd12:3456:789a::/78"],
    &["10.244.0.0/22", "fd12:3456:789a::/64"],
    &["fd12:3456:789a::/64", "10.244.0.0/22"],
];

#[tokio::test]
async fn told_once_others_unharmed_and_on_by_itself_once_there_is_room() {
    for pod_cidrs in SMALL {
        let cluster = Cluster::new(pod_cidrs).await;
        let controller = cluster.start(SETTINGS);
        for number in 0..7 {
            cluster.join(&format!("n{number}"), &format!("b{number}")).await;
            if number < 4 {
                cluster.until_announced(&format!("n{number}"), pod_cidrs.len()).await;
            }
        }
        for number in 4..7 {
            let name = format!("n{number}");
            let message = cluster.until_node(&name, "NetworkUnavailable", "True", "NoBlockAvailable").await;
            let full = pod_cidrs.iter().find(|cidr| !cidr.ends_with("/64")).unwrap();
            assert!(message.contains(full), "{message}");
            assert!(cluster.announced(&name).await.is_empty());
        }
        let condition = cluster.until_cluster("BlocksExhausted", "True", "NoBlockAvailable").await;
        until("all are named", async || {
            let message = cluster.cluster_condition("BlocksExhausted").await?.message;
            message.contains("n4, n5, n6 wait").then_some(())
        })
        .await;
        assert!(condition.message.contains("4 used"), "{}", condition.message);
        cluster.until_cluster("Ready", "False", "BlocksExhausted").await;
        cluster.settle().await;
        // More that wait are told by their own Nodes; every agent watches the ClusterNetwork.
        let before = cluster.server.stats().requests;
        for number in 7..11 {
            let name = format!("n{number}");
            cluster.join(&name, &format!("b{number}")).await;
            cluster.until_node(&name, "NetworkUnavailable", "True", "NoBlockAvailable").await;
            tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        }
        let mut writes = cluster.writes_since(&before);
        writes.retain(|(_, resource), _| resource.contains("clusternetwork"));
        assert!(writes.values().sum::<u64>() <= 2, "for four nodes, a second apart: {writes:?}");
        // Whatever is tried again in vain writes and tells nothing.
        let before = cluster.server.stats().requests;
        let api: Api<Node> = Api::all(cluster.client.clone());
        for number in 0..7 {
            let patch = json!({ "metadata": { "labels": { "touched": "yes" } } });
            api.patch(&format!("n{number}"), &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        }
        cluster.settle().await;
        let mut writes = cluster.writes_since(&before);
        // What a slice tells of its node has changed.
        assert_eq!(writes.remove(&("patch".to_owned(), "podslices.overlane.io".to_owned())), Some(7));
        writes.retain(|(_, resource), _| !resource.contains("clusternetwork"));
        assert_eq!(writes.values().sum::<u64>(), 7, "{writes:?}");
        let told = |kind: &str, name: &str| (kind.to_owned(), name.to_owned(), "NoBlockAvailable".to_owned());
        let mut events = cluster.events().await;
        let mut wanted: Vec<_> = (4..11).map(|number| told("Node", &format!("n{number}"))).collect();
        wanted.push(told("ClusterNetwork", "default"));
        events.sort();
        wanted.sort();
        assert_eq!(events, wanted);
        // One goes: after the hold-down the longest waiting has its blocks, the others go on waiting.
        let freed = cluster.announced("n2").await;
        cluster.delete_node("n2").await;
        let given = cluster.until_announced("n4", pod_cidrs.len()).await;
        assert!(given.iter().any(|block| freed.contains(block)), "{given:?} {freed:?}");
        cluster.until_node("n4", "NetworkUnavailable", "False", "OverlaneIsUp").await;
        assert!(cluster.announced("n5").await.is_empty());
        // More room: a pod CIDR that contains the former.
        let larger: Vec<String> =
            pod_cidrs.iter().map(|cidr| cidr.replace("/22", "/20").replace("/78", "/76")).collect();
        cluster.patch_network(json!({ "podCIDRs": larger })).await;
        for name in ["n5", "n6", "n7", "n8", "n9", "n10"] {
            cluster.until_announced(name, pod_cidrs.len()).await;
            cluster.until_node(name, "NetworkUnavailable", "False", "OverlaneIsUp").await;
        }
        cluster.until_cluster("BlocksExhausted", "False", "BlocksLeft").await;
        cluster.until_cluster("Ready", "True", "InForce").await;
        cluster.settle().await;
        cluster.assert_sound().await;
        controller.stop().await;
    }
}

#[tokio::test]
async fn a_node_gets_every_family_or_none() {
    let cluster = Cluster::bare();
    cluster.create_network(spec(&["10.244.0.0/22", "fd12:3456:789a::/79"])).await;
    let controller = cluster.start(SETTINGS);
    for number in 0..3 {
        cluster.join(&format!("n{number}"), &format!("b{number}")).await;
        if number < 2 {
            cluster.until_announced(&format!("n{number}"), 2).await;
        }
    }
    cluster.until_node("n2", "NetworkUnavailable", "True", "NoBlockAvailable").await;
    cluster.settle().await;
    assert!(cluster.announced("n2").await.is_empty());
    assert_eq!(cluster.blocks().await.len(), 4, "what one family still has is not tied up");
    controller.stop().await;
}
