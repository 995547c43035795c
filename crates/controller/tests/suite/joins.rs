//! Nodes that join, in every family and order.
//!
//! Must catch: a write more for a node that joins, blocks of one index that are not given together, a config in another
//! shape than AKS users know, a write to a Node that is healthy.

use std::collections::BTreeMap;

use crate::common::{Cluster, FAMILIES, SETTINGS, node, until};
use serde_json::json;

#[tokio::test]
async fn blocks_in_order_of_index_and_of_families_and_no_write_too_many() {
    for pod_cidrs in FAMILIES {
        let cluster = Cluster::new(pod_cidrs).await;
        let controller = cluster.start(SETTINGS);
        cluster.until_cluster("Ready", "True", "InForce").await;
        let mut uids = BTreeMap::new();
        for number in 1..=5 {
            let name = format!("n{number}");
            uids.insert(name.clone(), cluster.join(&name, &format!("b{number}")).await);
            cluster.until_announced(&name, pod_cidrs.len()).await;
        }
        cluster.settle().await;
        let before = cluster.server.stats().requests;
        for (index, (name, uid)) in uids.iter().enumerate() {
            let expected: Vec<String> = pod_cidrs
                .iter()
                .map(|cidr| match cidr.contains(':') {
                    false => format!("10.244.{index}.0/24"),
                    true if index == 0 => "fd12:3456:789a::/80".to_owned(),
                    true => format!("fd12:3456:789a:0:{index:x}::/80"),
                })
                .collect();
            assert_eq!(cluster.announced(name).await, expected);
            let node = cluster.node(name).await.spec.unwrap();
            assert_eq!(node.pod_cidrs, Some(expected.clone()));
            assert_eq!(node.pod_cidr.as_ref(), expected.first());
            let config = &cluster.configs().await[name];
            assert_eq!(config.spec.node_uid, *uid);
            let status = serde_json::to_value(config.status.as_ref().unwrap()).unwrap();
            assert_eq!(status["underlayMAC"], "02:00:00:00:00:07");
            let number = index + 1;
            for (at, cidr) in pod_cidrs.iter().enumerate() {
                let (node_ip, id) = if cidr.contains(':') {
                    (format!("fd10:224::{number}"), format!("fd12-3456-789a-0-{index:x}-0-0-0-80"))
                } else {
                    (format!("10.224.0.{number}"), format!("10.244.{index}.0-24"))
                };
                let entry = json!({
                    "id": id, "primaryIP": expected[at], "subnetAddressSpace": cidr, "nodeIP": node_ip,
                    "type": "overlay", "assignmentMode": "static",
                });
                assert_eq!(status["networkContainers"][at], entry);
            }
        }
        assert_eq!(cluster.writes_since(&before), BTreeMap::new(), "looking again writes nothing");
        controller.stop().await;
    }
}

#[tokio::test]
async fn six_writes_a_node() {
    for pod_cidrs in FAMILIES {
        let cluster = Cluster::new(pod_cidrs).await;
        let controller = cluster.start(SETTINGS);
        cluster.until_cluster("Ready", "True", "InForce").await;
        let before = cluster.server.stats().requests;
        for number in 0..40 {
            cluster.join(&format!("n{number}"), &format!("b{number}")).await;
        }
        until("all are served", async || {
            let configs = cluster.configs().await;
            let served = configs.values().filter(|config| {
                config.status.as_ref().is_some_and(|status| status.network_containers.len() == pod_cidrs.len())
            });
            (served.count() == 40).then_some(())
        })
        .await;
        cluster.settle().await;
        let writes = cluster.writes_since(&before);
        let count =
            |verb: &str, resource: &str| writes.get(&(verb.to_owned(), resource.to_owned())).copied().unwrap_or(0);
        assert_eq!(count("create", "nodeblocks.overlane.io"), 40 * pod_cidrs.len() as u64);
        assert_eq!(count("create", "nodenetworkconfigs.overlane.io"), 40);
        assert_eq!(count("patch", "nodenetworkconfigs.overlane.io/status"), 40);
        assert_eq!(count("patch", "nodes"), 40);
        assert_eq!(count("create", "podslices.overlane.io"), 40);
        // Those of this test: each Node, its status, its NodeState.
        let own = count("create", "nodes") + count("patch", "nodes/status") + count("create", "nodestates.overlane.io");
        assert_eq!(own, 3 * 40);
        let all: u64 = writes.values().sum();
        assert!(all - own <= 40 * 6, "{writes:?}");
        cluster.assert_sound().await;
        controller.stop().await;
    }
}

#[tokio::test]
async fn a_node_that_waits_for_its_network_is_told_when_its_agent_is_ready() {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let controller = cluster.start(SETTINGS);
    let mut waiting = node("n1", "b1");
    waiting["status"]["conditions"] = json!([
        { "type": "Ready", "status": "False", "reason": "KubeletNotReady" },
        { "type": "NetworkUnavailable", "status": "True", "reason": "NodeInitialization" },
    ]);
    cluster.create_node(waiting).await;
    cluster.until_announced("n1", 2).await;
    cluster.settle().await;
    let unavailable = || async {
        let conditions = cluster.node("n1").await.status.unwrap().conditions.unwrap();
        assert!(conditions.iter().any(|condition| condition.type_ == "Ready"), "the kubelet's condition is left alone");
        conditions.into_iter().find(|condition| condition.type_ == "NetworkUnavailable").unwrap().status
    };
    assert_eq!(unavailable().await, "True", "blocks alone are no network");
    cluster.speak("n1", "b1", &[]).await;
    cluster.until_node("n1", "NetworkUnavailable", "False", "OverlaneIsUp").await;
    // One with the taint only, as a cloud's controller leaves it.
    let mut tainted = node("n2", "b2");
    tainted["spec"]["taints"] = json!([{ "key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule" }]);
    cluster.create_node(tainted).await;
    cluster.speak("n2", "b2", &[]).await;
    cluster.until_node("n2", "NetworkUnavailable", "False", "OverlaneIsUp").await;
    // One with the startup taint, between two that are not ours.
    let mut fresh = node("n3", "b3");
    let foreign = |key: &str| json!({ "key": key, "effect": "NoSchedule" });
    let ours = json!({ "key": "overlane.io/agent-not-ready", "effect": "NoExecute" });
    fresh["spec"]["taints"] = json!([foreign("a"), ours, foreign("b")]);
    cluster.create_node(fresh).await;
    cluster.until_announced("n3", 2).await;
    cluster.settle().await;
    let taints = || async {
        let taints = cluster.node("n3").await.spec.unwrap().taints.unwrap_or_default();
        taints.into_iter().map(|taint| taint.key).collect::<Vec<_>>()
    };
    assert_eq!(taints().await.len(), 3, "its agent has not spoken");
    cluster.speak("n3", "b3", &[]).await;
    until("the startup taint goes", async || (taints().await == ["a", "b"]).then_some(())).await;
    controller.stop().await;
}

#[tokio::test]
async fn addresses_that_come_later_and_change() {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let controller = cluster.start(SETTINGS);
    let mut object = node("n1", "b1");
    let addresses = object["status"]["addresses"].take();
    object["status"]["addresses"] = json!([addresses[0]]);
    cluster.create_node(object).await;
    cluster.speak("n1", "b1", &[]).await;
    let blocks = cluster.until_announced("n1", 2).await;
    let node_ips = || async {
        let containers = cluster.configs().await["n1"].status.clone().unwrap().network_containers;
        containers.into_iter().map(|container| container.node_ip).collect::<Vec<_>>()
    };
    assert_eq!(node_ips().await, ["10.224.0.1", ""]);
    let message = cluster.until_node("n1", "OverlaneNetwork", "False", "NoNodeAddress").await;
    assert!(message.contains("IPv6") && !message.contains("IPv4"), "{message}");
    cluster.patch_node_status("n1", json!({ "addresses": addresses })).await;
    until("the address is announced", async || (node_ips().await == ["10.224.0.1", "fd10:224::1"]).then_some(())).await;
    cluster.until_node("n1", "OverlaneNetwork", "True", "Served").await;
    assert_eq!(cluster.announced("n1").await, blocks);
    controller.stop().await;
}

#[tokio::test]
async fn a_node_without_an_agent_waits_for_the_grace() {
    let cluster = Cluster::new(FAMILIES[0]).await;
    let settings = overlane_core::blocks::Settings { agent_grace_ms: 1_500, ..SETTINGS };
    let controller = cluster.start(settings);
    cluster.join("n0", "b0").await;
    cluster.until_announced("n0", 1).await;
    let start = std::time::Instant::now();
    cluster.add_node("n1", "b1").await;
    cluster.until_announced("n1", 1).await;
    assert!(start.elapsed().as_millis() >= 1_300, "an agent that holds blocks must get the time to say so");
    let start = std::time::Instant::now();
    cluster.join("n2", "b2").await;
    cluster.until_announced("n2", 1).await;
    assert!(start.elapsed().as_millis() < 1_300, "one that has spoken is served at once");
    controller.stop().await;
}
