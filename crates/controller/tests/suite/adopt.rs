//! `nodeCIDRs: adopt`: somebody else writes `node.spec.podCIDRs`.
//!
//! Must catch: a write to `podCIDRs`, a block of another size that is not taken, a bad or doubled one that is.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use overlane_api::crd::{ClusterNetworkSpec, NodeCidrs};
use overlane_core::blocks::Settings;
use serde_json::json;

use crate::common::{Cluster, FAMILIES, SETTINGS, node, spec, until};

async fn adopting(pod_cidrs: &[&str]) -> Cluster {
    let cluster = Cluster::bare();
    cluster.create_network(ClusterNetworkSpec { node_cidrs: NodeCidrs::Adopt, ..spec(pod_cidrs) }).await;
    cluster
}

async fn join(cluster: &Cluster, name: &str, pod_cidrs: &[&str]) {
    let mut object = node(name, name);
    if !pod_cidrs.is_empty() {
        object["spec"]["podCIDR"] = json!(pod_cidrs[0]);
        object["spec"]["podCIDRs"] = json!(pod_cidrs);
    }
    cluster.create_node(object).await;
    cluster.speak(name, name, &[]).await;
}

#[tokio::test]
async fn taken_as_they_are_and_never_written() {
    for pod_cidrs in FAMILIES {
        let cluster = adopting(pod_cidrs).await;
        let controller = cluster.start(SETTINGS);
        // Within and outside the pod CIDRs, of several sizes.
        let all = [
            ["10.244.3.0/24", "fd12:3456:789a:0:3::/80"],
            ["10.244.128.0/18", "fd12:3456:789a:0:80::/74"],
            ["10.77.0.64/26", "fd77::/64"],
        ];
        for (index, both) in all.iter().enumerate() {
            let of = |cidr: &&str| *both.iter().find(|block| block.contains(':') == cidr.contains(':')).unwrap();
            let mine: Vec<&str> = pod_cidrs.iter().map(of).collect();
            let name = format!("n{index}");
            join(&cluster, &name, &mine).await;
            assert_eq!(cluster.until_announced(&name, mine.len()).await, mine);
            for block in &mine {
                let claim = cluster.blocks().await[*block].spec.clone();
                assert_eq!((claim.node, claim.pod_cidr.is_empty()), (name.clone(), index == 2));
            }
        }
        join(&cluster, "n9", &[]).await;
        cluster.until_node("n9", "NetworkUnavailable", "True", "WaitingForPodCIDRs").await;
        cluster.settle().await;
        let patches = cluster.server.stats().requests.get(&("patch".to_owned(), "nodes".to_owned())).copied();
        assert_eq!(patches, None, "Nodes are not ours to write");
        // Then they are written.
        let late: Vec<&str> = pod_cidrs
            .iter()
            .map(|cidr| if cidr.contains(':') { "fd12:3456:789a:0:9::/80" } else { "10.244.9.0/24" })
            .collect();
        let patch = json!({ "spec": { "podCIDR": late[0], "podCIDRs": late } });
        Api::<Node>::all(cluster.client.clone())
            .patch("n9", &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
        assert_eq!(cluster.until_announced("n9", late.len()).await, late);
        cluster.until_node("n9", "NetworkUnavailable", "False", "OverlaneIsUp").await;
        cluster.assert_sound().await;
        controller.stop().await;
    }
}

#[tokio::test]
async fn bad_and_doubled_ones_are_a_condition_of_their_node_alone() {
    let cluster = adopting(FAMILIES[2]).await;
    let controller = cluster.start(SETTINGS);
    join(&cluster, "n0", &["10.244.0.0/24", "fd12:3456:789a::/80"]).await;
    cluster.until_announced("n0", 2).await;
    for (name, pod_cidrs, reason, word) in [
        // The API itself refuses host bits and two of one family.
        ("n1", &["10.244.0.0/24", "fd12:3456:789a:0:1::/80"][..], "PodCIDRTaken", "n0"),
        ("n2", &["10.244.0.128/25"], "PodCIDRTaken", "n0"),
        ("n3", &["10.244.0.0/20"], "PodCIDRTaken", "n0"),
        ("n4", &["10.0.3.0/24"], "BadPodCIDRs", "service CIDR"),
    ] {
        join(&cluster, name, pod_cidrs).await;
        let message = cluster.until_node(name, "NetworkUnavailable", "True", reason).await;
        assert!(message.contains(word), "{message}");
        assert!(cluster.announced(name).await.is_empty());
    }
    join(&cluster, "n5", &["10.244.5.0/24"]).await;
    cluster.until_announced("n5", 1).await;
    // The one that was in the way goes, and once its block has rested the next has it.
    cluster.delete_node("n0").await;
    let served = until("one of the doubled is served", async || {
        for name in ["n1", "n2", "n3"] {
            if !cluster.announced(name).await.is_empty() {
                return Some(name);
            }
        }
        None
    })
    .await;
    cluster.settle().await;
    cluster.assert_sound().await;
    assert!(["n1", "n2", "n3"].contains(&served));
    controller.stop().await;
}

#[tokio::test]
async fn what_the_cluster_has_no_family_for_is_bad() {
    let cluster = adopting(FAMILIES[0]).await;
    let controller = cluster.start(SETTINGS);
    join(&cluster, "n1", &["10.244.1.0/24", "fd00:1::/80"]).await;
    let message = cluster.until_node("n1", "NetworkUnavailable", "True", "BadPodCIDRs").await;
    assert!(message.contains("the cluster has no IPv6"), "{message}");
    controller.stop().await;
}

#[tokio::test]
async fn a_block_rests_though_the_other_allocator_is_in_a_hurry() {
    let cluster = adopting(FAMILIES[0]).await;
    let controller = cluster.start(Settings { hold_down_ms: 2_000, ..SETTINGS });
    join(&cluster, "n0", &["10.244.0.0/24"]).await;
    cluster.until_announced("n0", 1).await;
    cluster.delete_node("n0").await;
    let start = std::time::Instant::now();
    until("released", async || cluster.live_blocks_of("n0").await.is_empty().then_some(())).await;
    join(&cluster, "n1", &["10.244.0.0/24"]).await;
    cluster.until_node("n1", "NetworkUnavailable", "True", "BlockResting").await;
    cluster.until_announced("n1", 1).await;
    assert!(start.elapsed().as_millis() >= 1_900, "{:?}", start.elapsed());
    controller.stop().await;
}

#[tokio::test]
async fn from_allocate_to_adopt_and_back_nothing_changes() {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let controller = cluster.start(SETTINGS);
    cluster.join("n1", "b1").await;
    let blocks = cluster.until_announced("n1", 2).await;
    cluster.settle().await;
    let before = cluster.server.stats().requests;
    for mode in ["adopt", "allocate"] {
        cluster.patch_network(json!({ "nodeCIDRs": mode })).await;
        cluster.settle().await;
        assert_eq!(cluster.announced("n1").await, blocks);
    }
    let writes = cluster.writes_since(&before);
    assert!(writes.keys().all(|(_, resource)| resource.starts_with("clusternetworks")), "{writes:?}");
    controller.stop().await;
}
