//! Whose a block is when Nodes go, come back, or are other machines under the same name; and controllers that restart.
//!
//! Must catch: a running machine that loses its block, a new machine that inherits one, a block that is reused before
//! its hold-down, a sequence of writes that a restart does not finish.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use overlane_api::crd::{Machine, NodeBlock, NodeBlockSpec, NodeNetworkConfig, NodeNetworkConfigSpec, block_name};
use overlane_core::blocks::Settings;

use crate::common::{Cluster, FAMILIES, SETTINGS, until};

#[tokio::test]
async fn a_node_that_goes_is_withdrawn_at_once_and_its_block_rests() {
    for pod_cidrs in FAMILIES {
        let cluster = Cluster::new(pod_cidrs).await;
        let controller = cluster.start(SETTINGS);
        cluster.join("n1", "b1").await;
        let blocks = cluster.until_announced("n1", pod_cidrs.len()).await;
        let before = Timestamp::now();
        cluster.delete_node("n1").await;
        until("withdrawn", async || cluster.configs().await.is_empty().then_some(())).await;
        until("released", async || cluster.live_blocks_of("n1").await.is_empty().then_some(())).await;
        for block in &blocks {
            let released = cluster.blocks().await[block].spec.released_at.clone().unwrap();
            let released: Timestamp = released.parse().unwrap();
            let after_ms = released.as_millisecond() - before.as_millisecond();
            assert!((0..2_000).contains(&after_ms), "{after_ms}");
        }
        // The word of its agent is deleted once nobody has heard of it for the hold-down.
        let states: Api<overlane_api::crd::NodeState> = Api::all(cluster.client.clone());
        assert!(states.get_opt("n1").await.unwrap().is_some());
        until("its word is deleted", async || states.get_opt("n1").await.unwrap().is_none().then_some(())).await;
        controller.stop().await;
    }
}

#[tokio::test]
async fn made_again_on_the_same_machine_it_keeps_its_block() {
    for pod_cidrs in FAMILIES {
        let cluster = Cluster::new(pod_cidrs).await;
        let controller = cluster.start(SETTINGS);
        cluster.join("n0", "b0").await;
        cluster.join("n1", "b1").await;
        let blocks = cluster.until_announced("n1", pod_cidrs.len()).await;
        cluster.speak("n1", "b1", &blocks).await;
        for pause in [0, 400, 2_500] {
            cluster.delete_node("n1").await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            // Its agent lives and says again what was deleted.
            cluster.speak("n1", "b1", &blocks).await;
            let uid = cluster.add_node("n1", "b1").await;
            until("bound to the new Node object", async || {
                let config = cluster.configs().await.remove("n1")?;
                (config.spec.node_uid == uid && cluster.announced("n1").await == blocks).then_some(())
            })
            .await;
            until("so are its blocks", async || {
                let all = cluster.blocks().await;
                let bound =
                    blocks.iter().all(|block| all[block].spec.node_uid == uid && all[block].spec.released_at.is_none());
                bound.then_some(())
            })
            .await;
            let owner = cluster.configs().await["n1"].metadata.owner_references.clone().unwrap().remove(0);
            assert_eq!((owner.kind.as_str(), owner.uid), ("Node", uid));
            until("podCIDRs", async || (cluster.node("n1").await.spec?.pod_cidrs? == blocks).then_some(())).await;
        }
        cluster.assert_sound().await;
        controller.stop().await;
    }
}

#[tokio::test]
async fn another_machine_under_the_same_name_gets_a_fresh_block() {
    for pod_cidrs in FAMILIES {
        for gone_ms in [0, 600] {
            let cluster = Cluster::new(pod_cidrs).await;
            let controller = cluster.start(Settings { hold_down_ms: 30_000, ..SETTINGS });
            cluster.join("n1", "b1").await;
            let old = cluster.until_announced("n1", pod_cidrs.len()).await;
            cluster.speak("n1", "b1", &old).await;
            cluster.delete_node("n1").await;
            tokio::time::sleep(Duration::from_millis(gone_ms)).await;
            let uid = cluster.add_node("n1", "b2").await;
            cluster.speak("n1", "b2", &[]).await;
            let new = until("fresh blocks", async || {
                let config = cluster.configs().await.remove("n1")?;
                let blocks = cluster.announced("n1").await;
                (config.spec.node_uid == uid && blocks.len() == pod_cidrs.len()).then_some(blocks)
            })
            .await;
            assert!(new.iter().all(|block| !old.contains(block)), "{old:?} {new:?}");
            until("the old ones rest", async || {
                let all = cluster.blocks().await;
                old.iter().all(|block| all[block].spec.released_at.is_some()).then_some(())
            })
            .await;
            cluster.assert_sound().await;
            controller.stop().await;
        }
    }
}

#[tokio::test]
async fn a_reboot_is_no_other_machine() {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let controller = cluster.start(SETTINGS);
    cluster.join("n1", "b1").await;
    let blocks = cluster.until_announced("n1", 2).await;
    let mut info = cluster.node("n1").await.status.unwrap().node_info.unwrap();
    info.boot_id = "b1-again".to_owned();
    cluster.patch_node_status("n1", serde_json::json!({ "nodeInfo": info })).await;
    until("the claims know the boot", async || {
        let all = cluster.blocks().await;
        blocks.iter().all(|block| all[block].spec.machine.boot_id == "b1-again").then_some(())
    })
    .await;
    assert_eq!(cluster.announced("n1").await, blocks);
    controller.stop().await;
}

#[tokio::test]
async fn never_used_first_then_the_longest_free_after_its_hold_down_also_after_a_restart() {
    // Four blocks.
    let cluster = Cluster::bare();
    cluster.create_network(crate::common::spec(&["10.244.0.0/22"])).await;
    let settings = Settings { hold_down_ms: 2_500, ..SETTINGS };
    let controller = cluster.start(settings);
    let mut blocks = Vec::new();
    for name in ["n0", "n1", "n2"] {
        cluster.join(name, name).await;
        blocks.push(cluster.until_announced(name, 1).await.remove(0));
    }
    assert_eq!(blocks, ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
    let mut gone = Vec::new();
    for name in ["n1", "n0", "n2"] {
        cluster.delete_node(name).await;
        until("released", async || cluster.live_blocks_of(name).await.is_empty().then_some(())).await;
        gone.push(Instant::now());
        // Objects tell milliseconds: no two were given back in the same one.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // By then its hold-down has passed, and yet one that was never used goes first.
    controller.stop().await;
    let controller = cluster.start(settings);
    tokio::time::sleep(Duration::from_millis(3_000).saturating_sub(gone[0].elapsed())).await;
    let mut order = Vec::new();
    for name in ["n3", "n4", "n5", "n6"] {
        cluster.join(name, name).await;
        order.push(cluster.until_announced(name, 1).await.remove(0));
    }
    assert_eq!(order, ["10.244.3.0/24", "10.244.1.0/24", "10.244.0.0/24", "10.244.2.0/24"]);
    let reuse = &cluster.blocks().await["10.244.1.0/24"].spec;
    assert_eq!((reuse.node.as_str(), reuse.machine.boot_id.as_str()), ("n4", "n4"));
    controller.stop().await;
}

#[tokio::test]
async fn a_sequence_that_was_cut_anywhere_is_finished_by_the_next_controller() {
    for pod_cidrs in FAMILIES {
        // After so many of the writes: blocks one by one, the config without a status.
        for done in 1..=pod_cidrs.len() + 1 {
            let cluster = Cluster::new(pod_cidrs).await;
            let uid = cluster.join("n1", "b1").await;
            let nodes_blocks = ["10.244.7.0/24", "fd12:3456:789a:0:7::/80"];
            let of_family =
                |cidr: &str| nodes_blocks.iter().find(|block| block.contains(':') == cidr.contains(':')).unwrap();
            let expected: Vec<String> = pod_cidrs.iter().map(|cidr| (*of_family(cidr)).to_owned()).collect();
            for (block, pod_cidr) in expected.iter().zip(pod_cidrs).take(done) {
                let spec = NodeBlockSpec {
                    cidr: block.clone(),
                    pod_cidr: (*pod_cidr).to_owned(),
                    node: "n1".into(),
                    node_uid: uid.clone(),
                    machine: Machine { boot_id: "b1".into(), provider_id: "test:///b1".into() },
                    released_at: None,
                };
                let api: Api<NodeBlock> = Api::all(cluster.client.clone());
                let object = NodeBlock::new(&block_name(&block.parse().unwrap()), spec);
                api.create(&PostParams::default(), &object).await.unwrap();
            }
            if done > pod_cidrs.len() {
                let api: Api<NodeNetworkConfig> = Api::namespaced(cluster.client.clone(), "kube-system");
                let object = NodeNetworkConfig::new("n1", NodeNetworkConfigSpec { node_uid: uid.clone() });
                api.create(&PostParams::default(), &object).await.unwrap();
            }
            let controller = cluster.start(SETTINGS);
            assert_eq!(cluster.until_announced("n1", pod_cidrs.len()).await, expected);
            until("podCIDRs", async || (cluster.node("n1").await.spec?.pod_cidrs? == expected).then_some(())).await;
            cluster.settle().await;
            assert_eq!(cluster.blocks().await.len(), pod_cidrs.len());
            controller.stop().await;
        }
    }
}

#[tokio::test]
async fn controllers_killed_again_and_again_while_nodes_come_and_go() {
    for pod_cidrs in FAMILIES {
        let cluster = Cluster::new(pod_cidrs).await;
        let settings = Settings { agent_grace_ms: 20, ..SETTINGS };
        for round in 0..12_u64 {
            let controller = cluster.start(settings);
            for number in 0..3 {
                let name = format!("n{}", round * 3 + number);
                cluster.join(&name, &name).await;
            }
            if round > 0 {
                cluster.delete_node(&format!("n{}", round * 3 - 3)).await;
            }
            // Somewhere in the middle of it.
            tokio::time::sleep(Duration::from_millis(25 + round * 9)).await;
            controller.kill().await;
        }
        let controller = cluster.start(settings);
        for number in (0..36).filter(|number| number % 3 != 0 || *number == 33) {
            cluster.until_announced(&format!("n{number}"), pod_cidrs.len()).await;
        }
        cluster.settle().await;
        cluster.assert_sound().await;
        let live = cluster.blocks().await.into_values().filter(|block| block.spec.released_at.is_none()).count();
        assert_eq!(live, 25 * pod_cidrs.len(), "36 came, 11 went");
        assert_eq!(cluster.configs().await.len(), 25);
        controller.stop().await;
    }
}
