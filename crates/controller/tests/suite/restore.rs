//! The API's store restored from a state older than ten of the nodes.
//!
//! Must catch: a block given to another while an agent still holds it, and a node that does not get its very block back.

use kube::Api;
use kube::api::{DeleteParams, ListParams};
use overlane_api::crd::NodeState;
use overlane_core::blocks::Settings;

use crate::common::{Cluster, FAMILIES, SETTINGS, until};

#[tokio::test]
async fn ten_nodes_get_back_what_they_hold_though_others_come_in_between() {
    for pod_cidrs in FAMILIES {
        for restart in [false, true] {
            let cluster = Cluster::new(pod_cidrs).await;
            // All that follows happens within it, on a busy machine, too.
            let settings = Settings { agent_grace_ms: 4_000, ..SETTINGS };
            let mut controller = cluster.start(settings);
            for number in 0..5 {
                cluster.join(&format!("n{number}"), &format!("b{number}")).await;
                cluster.until_announced(&format!("n{number}"), pod_cidrs.len()).await;
            }
            let snapshot = cluster.server.snapshot();
            let mut held = Vec::new();
            for number in 5..15 {
                let (name, boot) = (format!("n{number}"), format!("b{number}"));
                cluster.join(&name, &boot).await;
                let blocks = cluster.until_announced(&name, pod_cidrs.len()).await;
                cluster.speak(&name, &boot, &blocks).await;
                held.push((name, boot, blocks));
            }
            cluster.settle().await;
            cluster.server.restore(&snapshot).unwrap();
            if restart {
                controller.kill().await;
                controller = cluster.start(settings);
            }
            // New ones are the first to be there.
            for number in 20..25 {
                cluster.join(&format!("n{number}"), &format!("b{number}")).await;
            }
            // Every other agent speaks before its Node is there again.
            for (index, (name, boot, blocks)) in held.iter().enumerate() {
                if index % 2 == 0 {
                    cluster.speak(name, boot, blocks).await;
                    cluster.add_node(name, boot).await;
                } else {
                    cluster.add_node(name, boot).await;
                    cluster.speak(name, boot, blocks).await;
                }
            }
            for (name, _, blocks) in &held {
                let again = cluster.until_announced(name, pod_cidrs.len()).await;
                assert_eq!(again, *blocks, "{name} gets back exactly what its pods hold");
            }
            for number in 20..25 {
                let fresh = cluster.until_announced(&format!("n{number}"), pod_cidrs.len()).await;
                let taken = held.iter().flat_map(|(_, _, blocks)| blocks).any(|block| fresh.contains(block));
                assert!(!taken, "a newcomer got what others hold: {fresh:?}");
            }
            cluster.settle().await;
            cluster.assert_sound().await;
            assert_eq!(cluster.blocks().await.len(), 20 * pod_cidrs.len());
            controller.stop().await;
        }
    }
}

#[tokio::test]
async fn nodes_whose_objects_are_there_but_whose_claims_are_not() {
    // The Nodes had registered, and their blocks came after the snapshot.
    for pod_cidrs in FAMILIES {
        let cluster = Cluster::new(pod_cidrs).await;
        for number in 0..10 {
            cluster.add_node(&format!("n{number}"), &format!("b{number}")).await;
        }
        let snapshot = cluster.server.snapshot();
        let settings = Settings { agent_grace_ms: 1_000, ..SETTINGS };
        let controller = cluster.start(settings);
        let mut held = Vec::new();
        // In reverse, so that the order of names is not the order of blocks.
        for number in (0..10).rev() {
            let (name, boot) = (format!("n{number}"), format!("b{number}"));
            cluster.speak(&name, &boot, &[]).await;
            let blocks = cluster.until_announced(&name, pod_cidrs.len()).await;
            cluster.speak(&name, &boot, &blocks).await;
            held.push((name, boot, blocks));
        }
        cluster.settle().await;
        cluster.server.restore(&snapshot).unwrap();
        for (name, boot, blocks) in &held {
            cluster.speak(name, boot, blocks).await;
        }
        for (name, _, blocks) in &held {
            assert_eq!(cluster.until_announced(name, pod_cidrs.len()).await, *blocks);
        }
        cluster.settle().await;
        cluster.assert_sound().await;
        controller.stop().await;
    }
}

#[tokio::test]
async fn a_block_that_a_living_agent_holds_is_never_given_though_its_node_is_gone_for_long() {
    // Two blocks.
    let cluster = Cluster::bare();
    cluster.create_network(crate::common::spec(&["10.244.0.0/23"])).await;
    let controller = cluster.start(Settings { hold_down_ms: 600, agent_grace_ms: 1_000 });
    cluster.join("n0", "b0").await;
    let held = cluster.until_announced("n0", 1).await;
    cluster.speak("n0", "b0", &held).await;
    cluster.delete_node("n0").await;
    cluster.join("n1", "b1").await;
    cluster.until_announced("n1", 1).await;
    cluster.join("n2", "b2").await;
    // The agent of n0 lives: it repeats its word whenever that is deleted.
    let states: Api<NodeState> = Api::all(cluster.client.clone());
    for _ in 0..3 {
        until("its word is deleted", async || states.get_opt("n0").await.unwrap().is_none().then_some(())).await;
        cluster.speak("n0", "b0", &held).await;
        assert!(cluster.announced("n2").await.is_empty());
    }
    cluster.until_node("n2", "NetworkUnavailable", "True", "NoBlockAvailable").await;
    // Once it falls silent, its block goes on.
    states
        .delete_collection(&DeleteParams::default(), &ListParams::default().fields("metadata.name=n0"))
        .await
        .unwrap();
    assert_eq!(cluster.until_announced("n2", 1).await, held);
    controller.stop().await;
}
