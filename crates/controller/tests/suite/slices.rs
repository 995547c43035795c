//! PodSlices: what each node's pods are like, for the agents of others.
//!
//! Must catch: a node without a slice, a pod that is told too late, as it was, or after it has ended, a foreign change that
//! stays, a write by a standby or of what is told already, slices that are left when nobody enforces policies.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use overlane_api::crd::{PodSlice, PodSliceProfile, PodSliceSpec};
use serde_json::{Value, json};

use crate::common::{Cluster, FAMILIES, SETTINGS, until};

fn slices(cluster: &Cluster) -> Api<PodSlice> {
    Api::all(cluster.client.clone())
}

fn pods(cluster: &Cluster) -> Api<Pod> {
    Api::namespaced(cluster.client.clone(), "shop")
}

async fn start_pod(cluster: &Cluster, name: &str, node: &str, app: &str, ips: &[&str]) {
    let object = json!({
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": app } },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "c",
            "ports": [{ "name": "web", "containerPort": 8080 }] }] },
    });
    let object: Pod = serde_json::from_value(object).unwrap();
    pods(cluster).create(&PostParams::default(), &object).await.unwrap();
    let ips: Vec<_> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    say(cluster, name, json!({ "phase": "Running", "podIPs": ips })).await;
}

/// What a kubelet says.
async fn say(cluster: &Cluster, pod: &str, status: Value) {
    let patch = Patch::Merge(json!({ "status": status }));
    pods(cluster).patch_status(pod, &PatchParams::default(), &patch).await.unwrap();
}

async fn change_pod(cluster: &Cluster, pod: &str, change: Value) {
    pods(cluster).patch(pod, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

/// What is told, by node.
async fn all(cluster: &Cluster) -> BTreeMap<String, PodSliceSpec> {
    let items = slices(cluster).list(&ListParams::default()).await.unwrap().items;
    items.into_iter().map(|slice| (slice.metadata.name.unwrap(), slice.spec)).collect()
}

/// Of each pod that is told of a node, what it is called and its addresses.
fn told(spec: &PodSliceSpec) -> Vec<(&str, Vec<&str>)> {
    let app = |profile: &PodSliceProfile| profile.labels["app"].clone();
    let apps: Vec<String> = spec.profiles.iter().map(app).collect();
    let name = |at: u32| spec.profiles[usize::try_from(at).unwrap()].labels["app"].as_str();
    assert_eq!(apps.len(), spec.profiles.len());
    spec.pods.iter().map(|pod| (name(pod.profile), pod.ips.iter().map(String::as_str).collect())).collect()
}

async fn until_told(cluster: &Cluster, node: &str, expected: &[(&str, &[&str])]) -> PodSliceSpec {
    until(format!("{node} tells {expected:?}"), async || {
        let spec = slices(cluster).get_opt(node).await.unwrap()?.spec;
        let expected: Vec<(&str, Vec<&str>)> = expected.iter().map(|(app, ips)| (*app, ips.to_vec())).collect();
        (told(&spec) == expected).then_some(spec)
    })
    .await
}

async fn until_nodes(cluster: &Cluster, nodes: &[&str]) {
    until(format!("there are slices of {nodes:?}"), async || all(cluster).await.keys().eq(nodes).then_some(())).await;
}

fn of_slices(cluster: &Cluster, before: &BTreeMap<(String, String), u64>) -> BTreeMap<String, u64> {
    let writes = cluster.writes_since(before).into_iter();
    writes.filter(|((_, of), _)| of == "podslices.overlane.io").map(|((verb, _), count)| (verb, count)).collect()
}

async fn two_nodes() -> Cluster {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let shop: Namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
    Api::all(cluster.client.clone()).create(&PostParams::default(), &shop).await.unwrap();
    for name in ["n1", "n2"] {
        cluster.join(name, name).await;
    }
    cluster
}

#[tokio::test]
async fn a_pod_is_told_from_its_address_to_its_end() {
    let cluster = two_nodes().await;
    let controller = cluster.start(SETTINGS);
    until_nodes(&cluster, &["n1", "n2"]).await;
    let bare = all(&cluster).await;
    assert_eq!(bare["n1"].node_addresses, ["10.224.0.1", "fd10:224::1"]);
    assert!(bare.values().all(|spec| spec.pods.is_empty()), "a node without pods has one, too");
    start_pod(&cluster, "a", "n1", "web", &["10.244.0.9", "fd12::9"]).await;
    let spec = until_told(&cluster, "n1", &[("web", &["10.244.0.9", "fd12::9"])]).await;
    let port = &spec.profiles[0].ports[0];
    assert_eq!((port.name.as_str(), port.protocol.as_str(), port.port), ("web", "TCP", 8080));
    assert_eq!(spec.profiles[0].namespace, "shop");
    // A replica has the same profile.
    start_pod(&cluster, "b", "n1", "web", &["10.244.0.10"]).await;
    let spec = until_told(&cluster, "n1", &[("web", &["10.244.0.9", "fd12::9"]), ("web", &["10.244.0.10"])]).await;
    assert_eq!(spec.profiles.len(), 1);
    change_pod(&cluster, "b", json!({ "metadata": { "labels": { "app": "db" } } })).await;
    until_told(&cluster, "n1", &[("web", &["10.244.0.9", "fd12::9"]), ("db", &["10.244.0.10"])]).await;
    say(&cluster, "a", json!({ "phase": "Succeeded" })).await;
    until_told(&cluster, "n1", &[("db", &["10.244.0.10"])]).await;
    pods(&cluster).delete("b", &DeleteParams::default().grace_period(0)).await.unwrap();
    until_told(&cluster, "n1", &[]).await;
    // Made again elsewhere, as a StatefulSet's is.
    start_pod(&cluster, "b", "n2", "db", &["10.244.1.9"]).await;
    until_told(&cluster, "n2", &[("db", &["10.244.1.9"])]).await;
    controller.stop().await;
}

#[tokio::test]
async fn what_policies_never_tell_of_costs_no_write() {
    let cluster = two_nodes().await;
    let controller = cluster.start(SETTINGS);
    until_nodes(&cluster, &["n1", "n2"]).await;
    let host = json!({
        "metadata": { "name": "proxy", "namespace": "shop" },
        "spec": { "nodeName": "n1", "hostNetwork": true, "containers": [{ "name": "c", "image": "c" }] },
    });
    pods(&cluster).create(&PostParams::default(), &serde_json::from_value(host).unwrap()).await.unwrap();
    let before = cluster.server.stats().requests;
    say(&cluster, "proxy", json!({ "phase": "Running", "podIPs": [{ "ip": "10.224.0.1" }] })).await;
    start_pod(&cluster, "waits", "n1", "web", &[]).await;
    start_pod(&cluster, "lost", "nowhere", "web", &["10.244.9.9"]).await;
    cluster.settle().await;
    assert_eq!(of_slices(&cluster, &before), BTreeMap::new());
    start_pod(&cluster, "a", "n1", "web", &["10.244.0.9"]).await;
    until_told(&cluster, "n1", &[("web", &["10.244.0.9"])]).await;
    let before = cluster.server.stats().requests;
    change_pod(&cluster, "a", json!({ "metadata": { "annotations": { "note": "x" } } })).await;
    say(&cluster, "a", json!({ "conditions": [{ "type": "Ready", "status": "True" }] })).await;
    cluster.patch_node_status("n1", json!({ "conditions": [{ "type": "Ready", "status": "True" }] })).await;
    cluster.settle().await;
    assert_eq!(of_slices(&cluster, &before), BTreeMap::new(), "nothing that policies can tell");
    controller.stop().await;
}

#[tokio::test]
async fn nodes_come_change_and_go() {
    let cluster = two_nodes().await;
    start_pod(&cluster, "early", "n3", "web", &["10.244.2.9"]).await;
    let controller = cluster.start(SETTINGS);
    until_nodes(&cluster, &["n1", "n2"]).await;
    cluster.join("n3", "n3").await;
    until_told(&cluster, "n3", &[("web", &["10.244.2.9"])]).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let patch = Patch::Merge(json!({ "metadata": { "labels": { "zone": "b" } } }));
    nodes.patch("n3", &PatchParams::default(), &patch).await.unwrap();
    let addresses = json!([{ "type": "InternalIP", "address": "10.224.0.33" }, { "type": "ExternalIP", "address": "192.0.2.3" },
        { "type": "Hostname", "address": "n3" }]);
    cluster.patch_node_status("n3", json!({ "addresses": addresses })).await;
    until("the node's are told", async || {
        let spec = slices(&cluster).get("n3").await.unwrap().spec;
        let zone = spec.node_labels.get("zone").map(String::as_str);
        (zone == Some("b") && spec.node_addresses == ["10.224.0.33", "192.0.2.3"]).then_some(())
    })
    .await;
    cluster.delete_node("n3").await;
    until_nodes(&cluster, &["n1", "n2"]).await;
    assert!(pods(&cluster).get_opt("early").await.unwrap().is_some(), "whatever becomes of its pods");
    controller.stop().await;
}

#[tokio::test]
async fn what_another_did_is_put_right() {
    let cluster = two_nodes().await;
    start_pod(&cluster, "a", "n1", "web", &["10.244.0.9"]).await;
    let controller = cluster.start(SETTINGS);
    let right = until_told(&cluster, "n1", &[("web", &["10.244.0.9"])]).await;
    let restored = async |what: &str| {
        until(what, async || {
            let all = all(&cluster).await;
            (all.len() == 2 && all.get("n1") == Some(&right)).then_some(())
        })
        .await;
    };
    for change in [
        json!({ "nodeLabels": { "zone": "b" } }),
        json!({ "pods": [] }),
        json!({ "profiles": [], "pods": [{ "profile": 7, "ips": ["10.244.0.9"] }] }),
    ] {
        let patch = Patch::Merge(json!({ "spec": change }));
        slices(&cluster).patch("n1", &PatchParams::default(), &patch).await.unwrap();
        restored("put right").await;
    }
    slices(&cluster).delete("n1", &DeleteParams::default()).await.unwrap();
    restored("made again").await;
    slices(&cluster).create(&PostParams::default(), &PodSlice::new("nowhere", right.clone())).await.unwrap();
    restored("one of no node goes").await;
    controller.stop().await;
}

#[tokio::test]
async fn a_restart_writes_nothing_that_is_right() {
    let cluster = two_nodes().await;
    start_pod(&cluster, "a", "n1", "web", &["10.244.0.9"]).await;
    let controller = cluster.start(SETTINGS);
    until_told(&cluster, "n1", &[("web", &["10.244.0.9"])]).await;
    until_nodes(&cluster, &["n1", "n2"]).await;
    cluster.settle().await;
    controller.kill().await;
    // What happens meanwhile.
    start_pod(&cluster, "b", "n2", "web", &["10.244.1.9"]).await;
    let before = cluster.server.stats().requests;
    let controller = cluster.start(SETTINGS);
    until_told(&cluster, "n2", &[("web", &["10.244.1.9"])]).await;
    cluster.settle().await;
    assert_eq!(of_slices(&cluster, &before), [("patch".to_owned(), 1)].into());
    // Nor does a look at everything anew.
    let before = cluster.server.stats().requests;
    cluster.server.compact();
    cluster.settle().await;
    assert_eq!(of_slices(&cluster, &before), BTreeMap::new());
    controller.stop().await;
}

#[tokio::test]
async fn a_standby_writes_nothing_until_it_leads() {
    let cluster = two_nodes().await;
    let one = cluster.start_with("one", true, SETTINGS);
    until_nodes(&cluster, &["n1", "n2"]).await;
    let two = cluster.start_with("two", true, SETTINGS);
    until("two has seen all", async || two.metrics.is_synced().then_some(())).await;
    for number in 1..=5 {
        start_pod(&cluster, &format!("a{number}"), "n1", "web", &[&format!("10.244.0.{number}")]).await;
    }
    until("all are told", async || (all(&cluster).await["n1"].pods.len() == 5).then_some(())).await;
    cluster.settle().await;
    let writes = |metrics: &str| metrics.lines().any(|line| line.contains("podslice"));
    assert!(writes(&one.metrics.text().unwrap()) && !writes(&two.metrics.text().unwrap()));
    one.stop().await;
    change_pod(&cluster, "a5", json!({ "metadata": { "labels": { "app": "db" } } })).await;
    until("the next one tells", async || (told(&all(&cluster).await["n1"]).last()?.0 == "db").then_some(())).await;
    assert!(two.metrics.is_leader());
    two.stop().await;
}

#[tokio::test]
async fn without_enforcement_there_are_none() {
    let cluster = two_nodes().await;
    start_pod(&cluster, "a", "n1", "web", &["10.244.0.9"]).await;
    let controller = cluster.start(SETTINGS);
    until_told(&cluster, "n1", &[("web", &["10.244.0.9"])]).await;
    until_nodes(&cluster, &["n1", "n2"]).await;
    cluster.patch_network(json!({ "networkPolicy": "none" })).await;
    until_nodes(&cluster, &[]).await;
    let watches = |requests: &BTreeMap<(String, String), u64>| {
        let of_pods = requests.iter().filter(|((verb, of), _)| of == "pods" && (verb == "watch" || verb == "list"));
        of_pods.map(|(_, count)| *count).sum::<u64>()
    };
    let before = cluster.server.stats().requests;
    start_pod(&cluster, "b", "n1", "web", &["10.244.0.10"]).await;
    cluster.join("n3", "n3").await;
    cluster.settle().await;
    assert!(all(&cluster).await.is_empty());
    assert_eq!(watches(&cluster.server.stats().requests), watches(&before), "nobody asks for pods");
    cluster.patch_network(json!({ "networkPolicy": "overlane" })).await;
    until_told(&cluster, "n1", &[("web", &["10.244.0.9"]), ("web", &["10.244.0.10"])]).await;
    until_nodes(&cluster, &["n1", "n2", "n3"]).await;
    controller.stop().await;
    // One that starts where there were some.
    cluster.patch_network(json!({ "networkPolicy": "none" })).await;
    let controller = cluster.start(SETTINGS);
    until_nodes(&cluster, &[]).await;
    controller.stop().await;
}

/// Many changes of one node are few writes, and the last of them is told; each is told at once.
#[tokio::test]
async fn at_once_and_gathered() {
    let cluster = two_nodes().await;
    let controller = cluster.start(SETTINGS);
    until_nodes(&cluster, &["n1", "n2"]).await;
    cluster.settle().await;
    start_pod(&cluster, "a", "n1", "web", &["10.244.0.9"]).await;
    let (mut asked, mut took) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let app = format!("app{number}");
        let begun = Instant::now();
        change_pod(&cluster, "a", json!({ "metadata": { "labels": { "app": &app } } })).await;
        asked.push(begun.elapsed());
        while told(&all(&cluster).await["n1"]) != [(app.as_str(), vec!["10.244.0.9"])] {
            assert!(begun.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        took.push(begun.elapsed());
    }
    asked.sort();
    took.sort();
    // Half a tick of any clock is longer; a busy machine is slow at everything.
    let limit = Duration::from_millis(50).max(20 * asked[10]);
    assert!(took[10] < limit, "a write takes {:?}, and is told after {took:?}", asked[10]);
    let before = cluster.server.stats().requests;
    for number in 0..100 {
        change_pod(&cluster, "a", json!({ "metadata": { "labels": { "app": format!("last{number}") } } })).await;
    }
    until_told(&cluster, "n1", &[("last99", &["10.244.0.9"])]).await;
    cluster.settle().await;
    let writes = of_slices(&cluster, &before);
    assert!(writes["patch"] <= 100, "{writes:?}");
    let metrics = controller.metrics.text().unwrap();
    assert!(metrics.contains("overlane_controller_slice_pods 1"), "{metrics}");
    controller.stop().await;
}

/// In a large cluster every agent reads every write: a slice rests between two, and the last word is told all the same.
#[tokio::test]
async fn many_nodes_make_few_writes() {
    const NODES: u32 = 600;
    let cluster = Cluster::new(FAMILIES[2]).await;
    let shop: Namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
    Api::all(cluster.client.clone()).create(&PostParams::default(), &shop).await.unwrap();
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    for number in 0..NODES {
        let node = json!({ "metadata": { "name": format!("n{number}") } });
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    }
    let controller = cluster.start(SETTINGS);
    until("there is a slice of each", async || (all(&cluster).await.len() == NODES as usize).then_some(())).await;
    start_pod(&cluster, "a", "n1", "web", &["10.244.0.9"]).await;
    until_told(&cluster, "n1", &[("web", &["10.244.0.9"])]).await;
    cluster.settle().await;
    let (before, begun) = (cluster.server.stats().requests, Instant::now());
    for number in 0..100 {
        change_pod(&cluster, "a", json!({ "metadata": { "labels": { "app": format!("last{number}") } } })).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until_told(&cluster, "n1", &[("last99", &["10.244.0.9"])]).await;
    let writes = of_slices(&cluster, &before)["patch"];
    // 200 us a node.
    let most = begun.elapsed().as_millis() as u64 / 120 + 2;
    assert!(writes <= most.min(50), "{writes} writes in {:?}", begun.elapsed());
    controller.stop().await;
}
