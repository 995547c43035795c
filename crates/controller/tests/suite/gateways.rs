//! EgressGateways: judged, numbered, given nodes.
//!
//! Must catch: a number or an address that two statuses tell at one moment, a spec that breaks a rule and comes in force
//! or ends the one before, a number that a restart changes, what an older selector said left in the applied one, a
//! gateway that was in force and tells no spec (its pods would be let out under their nodes' addresses), a number that is
//! another's right after its slot's end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use overlane_api::convert;
use overlane_api::crd::{EgressGateway, EgressGatewaySpec, EgressGatewayStatus, all_crds};
use overlane_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::common::{Cluster, FAMILIES, SETTINGS, spec, until};

fn api(cluster: &Cluster) -> Api<EgressGateway> {
    Api::all(cluster.client.clone())
}

fn asked(addresses: &[&str]) -> EgressGatewaySpec {
    serde_json::from_value(json!({
        "podSelector": { "matchLabels": { "app": "web" } },
        "nodeSelector": { "matchExpressions": [{ "key": "egress", "operator": "Exists" }] },
        "destinationCIDRs": ["203.0.113.0/24"],
        "egressIPs": addresses,
    }))
    .unwrap()
}

async fn create(cluster: &Cluster, name: &str, spec: EgressGatewaySpec) {
    api(cluster).create(&PostParams::default(), &EgressGateway::new(name, spec)).await.unwrap();
}

async fn delete(cluster: &Cluster, name: &str) {
    api(cluster).delete(name, &DeleteParams::default()).await.unwrap();
}

async fn change(cluster: &Cluster, name: &str, spec: Value) {
    let patch = Patch::Merge(json!({ "spec": spec }));
    api(cluster).patch(name, &PatchParams::default(), &patch).await.unwrap();
}

async fn label(cluster: &Cluster, node: &str, labels: Value) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
    nodes.patch(node, &PatchParams::default(), &patch).await.unwrap();
}

async fn status(cluster: &Cluster, name: &str) -> EgressGatewayStatus {
    api(cluster).get(name).await.unwrap().status.unwrap_or_default()
}

fn ready(status: &EgressGatewayStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == "Ready")
}

async fn until_ready(cluster: &Cluster, name: &str, reason: &str) -> EgressGatewayStatus {
    let found = until(format!("EgressGateway {name} is {reason}"), async || {
        let object = api(cluster).get(name).await.unwrap();
        let status = object.status.unwrap_or_default();
        let now = Some(status.observed_generation) == object.metadata.generation;
        let is = ready(&status).is_some_and(|ready| ready.reason == reason);
        (now && is).then_some(status)
    })
    .await;
    assert_eq!(ready(&found).unwrap().status, if reason == "InForce" { "True" } else { "False" });
    found
}

async fn until_nodes(cluster: &Cluster, name: &str, nodes: &[&str]) -> EgressGatewayStatus {
    until(format!("{name} has nodes {nodes:?}"), async || {
        let status = status(cluster, name).await;
        (status.nodes == nodes).then_some(status)
    })
    .await
}

fn message(status: &EgressGatewayStatus) -> &str {
    &ready(status).unwrap().message
}

/// The status with no slot, and its spec in force all the same.
fn cut(status: &EgressGatewayStatus, applied: Option<&EgressGatewaySpec>) {
    assert!(status.slots.is_empty() && applied.is_some() && status.applied.as_ref() == applied, "{status:#?}");
    assert!(message(status).contains("its pods are cut"), "{status:#?}");
    assert!(convert::gateway("out", status).unwrap().is_some(), "agents can read it");
}

fn slots(status: &EgressGatewayStatus) -> Vec<(u8, Vec<&str>)> {
    status.slots.iter().map(|slot| (slot.number, slot.egress_ips.iter().map(String::as_str).collect())).collect()
}

async fn told(cluster: &Cluster, name: &str) -> Vec<String> {
    let events = cluster.events().await.into_iter();
    events.filter(|(kind, of, _)| kind == "EgressGateway" && of == name).map(|(_, _, reason)| reason).collect()
}

/// Three nodes with blocks, of which two are labelled.
async fn cluster_of_three() -> Cluster {
    let cluster = Cluster::new(FAMILIES[2]).await;
    for name in ["n1", "n2", "n3"] {
        cluster.join(name, name).await;
    }
    label(&cluster, "n1", json!({ "egress": "" })).await;
    label(&cluster, "n2", json!({ "egress": "", "zone": "b" })).await;
    cluster
}

#[tokio::test]
async fn in_force_at_the_nodes_that_its_labels_name() {
    let cluster = cluster_of_three().await;
    create(&cluster, "out", asked(&["10.224.0.200", "fd10:224::200", "10.224.0.201", "fd10:224::201"])).await;
    let controller = cluster.start(SETTINGS);
    let status = until_nodes(&cluster, "out", &["n1", "n2"]).await;
    assert_eq!(ready(&status).unwrap().reason, "InForce");
    let expected = [(2, vec!["10.224.0.200", "fd10:224::200"]), (3, vec!["10.224.0.201", "fd10:224::201"])];
    assert_eq!(slots(&status), expected);
    let object = api(&cluster).get("out").await.unwrap();
    assert_eq!(
        (status.applied.as_ref(), Some(status.observed_generation)),
        (Some(&object.spec), object.metadata.generation)
    );
    let gateway = convert::gateway("out", &status).unwrap().unwrap();
    assert_eq!((gateway.slots.len(), gateway.nodes.len(), gateway.destinations.len()), (2, 2, 1), "agents can read it");
    // Labels come and go.
    label(&cluster, "n3", json!({ "egress": "yes" })).await;
    until_nodes(&cluster, "out", &["n1", "n2", "n3"]).await;
    label(&cluster, "n2", json!({ "egress": null })).await;
    until_nodes(&cluster, "out", &["n1", "n3"]).await;
    // A node that goes is none any more.
    cluster.delete_node("n3").await;
    until_nodes(&cluster, "out", &["n1"]).await;
    change(&cluster, "out", json!({ "nodeSelector": { "matchLabels": { "zone": "b" } } })).await;
    let status = until_ready(&cluster, "out", "NoNodes").await;
    assert_eq!((status.nodes.len(), slots(&status)), (0, expected.to_vec()), "in force, at no node");
    change(&cluster, "out", json!({ "nodeSelector": { "matchExpressions": null } })).await;
    until_nodes(&cluster, "out", &["n2"]).await;
    // Once also at the start, where no node had a block yet.
    until("told", async || (told(&cluster, "out").await.ends_with(&["NoNodes".to_owned()])).then_some(())).await;
    assert!(told(&cluster, "out").await.iter().all(|reason| reason == "NoNodes"));
    cluster.settle().await;
    controller.stop().await;
}

#[tokio::test]
async fn a_node_without_blocks_is_none_of_its_nodes() {
    let cluster = Cluster::new(&["10.244.0.0/24"]).await;
    let controller = cluster.start(SETTINGS);
    cluster.join("n1", "n1").await;
    cluster.until_announced("n1", 1).await;
    cluster.join("n2", "n2").await;
    for node in ["n1", "n2"] {
        label(&cluster, node, json!({ "egress": "" })).await;
    }
    create(&cluster, "out", asked(&["10.224.0.200"])).await;
    until_nodes(&cluster, "out", &["n1"]).await;
    cluster.settle().await;
    assert_eq!(status(&cluster, "out").await.nodes, ["n1"]);
    controller.stop().await;
}

#[tokio::test]
async fn what_breaks_a_rule_leaves_the_last_in_force_also_over_a_restart() {
    let cluster = cluster_of_three().await;
    let mut controller = cluster.start(SETTINGS);
    create(&cluster, "a", asked(&["10.224.0.200"])).await;
    until_ready(&cluster, "a", "InForce").await;
    create(&cluster, "b", asked(&["10.224.0.201"])).await;
    let before = until_ready(&cluster, "b", "InForce").await;
    assert_eq!(slots(&before), [(3, vec!["10.224.0.201"])]);
    delete(&cluster, "a").await;
    let bad = json!({
        "egressIPs": ["10.244.0.7", "x"], "destinationCIDRs": ["203.0.113.1/24"],
        "podSelector": { "matchExpressions": [{ "key": "app", "operator": "In" }] },
    });
    change(&cluster, "b", bad).await;
    let after = until_ready(&cluster, "b", "Invalid").await;
    let message = &ready(&after).unwrap().message;
    for word in ["egressIPs[0]", "egress-ip-range", "egressIPs[1]", "host-bits", "podSelector", "`app In", "stays"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert_eq!((&after.applied, &after.slots, &after.nodes), (&before.applied, &before.slots, &before.nodes));
    controller.stop().await;
    controller = cluster.start(SETTINGS);
    // Another takes the number behind the greatest: this one keeps its own.
    create(&cluster, "c", asked(&["10.224.0.202"])).await;
    assert_eq!(slots(&until_ready(&cluster, "c", "InForce").await), [(4, vec!["10.224.0.202"])]);
    cluster.settle().await;
    assert_eq!(status(&cluster, "b").await, after);
    assert_eq!(told(&cluster, "b").await, ["Invalid"], "told once");
    // What was never in force is not, and what mends it is, as it says and not more.
    create(&cluster, "d", asked(&["127.0.0.1"])).await;
    let never = until_ready(&cluster, "d", "Invalid").await;
    assert_eq!((never.applied, never.slots.len(), never.nodes.len()), (None, 0, 0));
    assert!(!ready(&status(&cluster, "d").await).unwrap().message.contains("stays"));
    change(&cluster, "b", json!({ "egressIPs": ["10.224.0.201"], "destinationCIDRs": [], "podSelector": null })).await;
    let mended = until_ready(&cluster, "b", "InForce").await;
    assert_eq!(mended.applied, Some(api(&cluster).get("b").await.unwrap().spec));
    assert_eq!(mended.applied.unwrap().pod_selector, Default::default());
    assert_eq!(mended.slots, before.slots);
    controller.stop().await;
}

#[tokio::test]
async fn an_address_is_the_older_ones_or_the_nodes() {
    let cluster = cluster_of_three().await;
    let controller = cluster.start(SETTINGS);
    create(&cluster, "z", asked(&["10.224.0.200"])).await;
    // Times are whole seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    create(&cluster, "a", asked(&["10.224.0.201", "10.224.0.200"])).await;
    create(&cluster, "n", asked(&["10.224.0.3"])).await;
    until_ready(&cluster, "z", "InForce").await;
    let second = until_ready(&cluster, "a", "Invalid").await;
    let why = message(&second);
    assert!(why.contains("egressIPs[1]: 10.224.0.200") && why.contains("EgressGateway z"), "{why}");
    assert_eq!(second.applied, None);
    let of_node = until_ready(&cluster, "n", "Invalid").await;
    assert!(ready(&of_node).unwrap().message.contains("node n3"), "{of_node:?}");
    // What the older one takes, the younger one has no more.
    change(&cluster, "a", json!({ "egressIPs": ["10.224.0.201"] })).await;
    until_ready(&cluster, "a", "InForce").await;
    change(&cluster, "z", json!({ "egressIPs": ["10.224.0.200", "10.224.0.201"] })).await;
    assert_eq!(until_ready(&cluster, "z", "InForce").await.slots.len(), 2);
    let applied = asked(&["10.224.0.201"]);
    let second = until_ready(&cluster, "a", "Invalid").await;
    cut(&second, Some(&applied));
    assert!(message(&second).contains("EgressGateway z"), "{second:?}");
    // Also over what is asked for next, and from another controller.
    change(&cluster, "a", json!({ "egressIPs": ["10.224.0.200"] })).await;
    cut(&until_ready(&cluster, "a", "Invalid").await, Some(&applied));
    controller.stop().await;
    let controller = cluster.start(SETTINGS);
    change(&cluster, "a", json!({ "egressIPs": ["x"] })).await;
    cut(&until_ready(&cluster, "a", "Invalid").await, Some(&applied));
    // A node has it by the time that the older one gives it up.
    cluster.join("n201", "n201").await;
    cluster.until_announced("n201", 2).await;
    delete(&cluster, "z").await;
    cluster.settle().await;
    cut(&status(&cluster, "a").await, Some(&applied));
    cluster.delete_node("n201").await;
    let back = until("a has its slot back", async || {
        let status = status(&cluster, "a").await;
        (!status.slots.is_empty()).then_some(status)
    })
    .await;
    assert_eq!((ready(&back).unwrap().reason.as_str(), slots(&back)), ("Invalid", vec![(5, vec!["10.224.0.201"])]));
    assert!(message(&back).ends_with("The spec that was in force before stays."), "{back:?}");
    change(&cluster, "a", json!({ "egressIPs": ["10.224.0.201"] })).await;
    assert_eq!(slots(&until_ready(&cluster, "a", "InForce").await), [(5, vec!["10.224.0.201"])]);
    // A node that comes later with an address in force is told of, and ends nothing.
    cluster.join("n201", "n201").await;
    let kept = until_ready(&cluster, "a", "Invalid").await;
    assert!(ready(&kept).unwrap().message.contains("node n201"), "{kept:?}");
    assert_eq!((slots(&kept), kept.applied.is_some()), (vec![(5, vec!["10.224.0.201"])], true));
    cluster.delete_node("n201").await;
    until_ready(&cluster, "a", "InForce").await;
    cluster.delete_node("n3").await;
    until_ready(&cluster, "n", "InForce").await;
    cluster.settle().await;
    controller.stop().await;
}

/// Follows all gateways and, at each of their changes, looks at what all statuses tell. Counts the changes, and those by
/// which one's pods are cut.
async fn watched(cluster: &Cluster) -> impl Future<Output = (usize, usize)> + use<> {
    let api = api(cluster);
    let list = api.list(&ListParams::default()).await.unwrap();
    let mut known: BTreeMap<String, EgressGateway> =
        list.items.into_iter().map(|object| (object.metadata.name.clone().unwrap(), object)).collect();
    let version = list.metadata.resource_version.unwrap();
    async move {
        let (mut seen, mut cut) = (0, 0);
        let mut events = api.watch(&WatchParams::default().timeout(4), &version).await.unwrap().boxed();
        while let Some(event) = events.next().await {
            match event.unwrap() {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let old = known.insert(object.metadata.name.clone().unwrap(), object.clone());
                    let was = old.filter(|old| old.metadata.uid == object.metadata.uid).and_then(|old| old.status);
                    let was = was.is_some_and(|status| status.applied.is_some());
                    cut += usize::from(object.status.as_ref().is_some_and(|status| status.slots.is_empty()));
                    assert!(
                        !was || object.status.is_some_and(|status| status.applied.is_some()),
                        "let out: {known:#?}"
                    );
                }
                WatchEvent::Deleted(object) => drop(known.remove(object.metadata.name.as_deref().unwrap())),
                _ => continue,
            }
            seen += 1;
            let (mut numbers, mut addresses) = (BTreeSet::new(), BTreeSet::new());
            for slot in known.values().filter_map(|object| object.status.as_ref()).flat_map(|status| &status.slots) {
                assert!(numbers.insert(slot.number), "number {} twice: {known:#?}", slot.number);
                for address in &slot.egress_ips {
                    assert!(addresses.insert(address.clone()), "{address} twice: {known:#?}");
                }
            }
        }
        (seen, cut)
    }
}

#[tokio::test]
async fn addresses_change_hands_and_are_never_at_two() {
    let cluster = cluster_of_three().await;
    let controller = cluster.start(SETTINGS);
    create(&cluster, "a", asked(&["10.224.0.200", "10.224.0.202"])).await;
    create(&cluster, "b", asked(&["10.224.0.201"])).await;
    until_ready(&cluster, "a", "InForce").await;
    until_ready(&cluster, "b", "InForce").await;
    let watch = tokio::spawn(watched(&cluster).await);
    // Both at once: each has what the other wants.
    change(&cluster, "a", json!({ "egressIPs": ["10.224.0.201"] })).await;
    change(&cluster, "b", json!({ "egressIPs": ["10.224.0.200", "10.224.0.202"] })).await;
    let a = until_ready(&cluster, "a", "InForce").await;
    let b = until_ready(&cluster, "b", "InForce").await;
    assert_eq!((a.slots.len(), b.slots.len()), (1, 2));
    // From one that goes to one that comes.
    delete(&cluster, "b").await;
    create(&cluster, "c", asked(&["10.224.0.200", "10.224.0.202"])).await;
    assert_eq!(until_ready(&cluster, "c", "InForce").await.slots.len(), 2);
    let (seen, cut) = watch.await.unwrap();
    assert!(seen >= 8 && cut >= 2, "{seen} {cut}");
    assert_eq!(status(&cluster, "a").await, a, "who is not meant keeps its number");
    assert!(told(&cluster, "a").await.is_empty(), "and nothing of it is bad news");
    controller.stop().await;
}

#[tokio::test]
async fn deleted_and_made_anew() {
    let cluster = cluster_of_three().await;
    let controller = cluster.start(SETTINGS);
    for (name, address) in [("a", "10.224.0.200"), ("b", "10.224.0.201")] {
        create(&cluster, name, asked(&[address])).await;
        until_ready(&cluster, name, "InForce").await;
    }
    delete(&cluster, "a").await;
    create(&cluster, "a", asked(&["10.224.0.209"])).await;
    assert_eq!(slots(&until_ready(&cluster, "a", "InForce").await), [(4, vec!["10.224.0.209"])]);
    assert_eq!(slots(&status(&cluster, "b").await), [(3, vec!["10.224.0.201"])]);
    cluster.settle().await;
    controller.stop().await;
}

#[tokio::test]
async fn numbers_rest_before_another_has_them() {
    let cluster = cluster_of_three().await;
    let controller = cluster.start(SETTINGS);
    for number in 2..7 {
        create(&cluster, "a", asked(&["10.224.0.200"])).await;
        assert_eq!(slots(&until_ready(&cluster, "a", "InForce").await), [(number, vec!["10.224.0.200"])]);
        delete(&cluster, "a").await;
    }
    create(&cluster, "b", asked(&["10.224.0.201"])).await;
    assert_eq!(slots(&until_ready(&cluster, "b", "InForce").await)[0].0, 7);
    // Another address is another slot, of the same gateway as well.
    change(&cluster, "b", json!({ "egressIPs": ["10.224.0.202"] })).await;
    let changed = until("changed", async || {
        let status = status(&cluster, "b").await;
        (status.slots[0].egress_ips == ["10.224.0.202"]).then_some(status)
    });
    assert_eq!(slots(&changed.await)[0].0, 8);
    controller.stop().await;
    let controller = cluster.start(SETTINGS);
    create(&cluster, "a", asked(&["10.224.0.200"])).await;
    assert_eq!(slots(&until_ready(&cluster, "a", "InForce").await)[0].0, 9, "behind the greatest that is told");
    controller.stop().await;
}

#[tokio::test]
async fn who_leads_next_goes_on_behind_what_was_given() {
    let cluster = cluster_of_three().await;
    let one = cluster.start_with("one", true, SETTINGS);
    until("one leads", async || one.metrics.is_leader().then_some(())).await;
    let two = cluster.start_with("two", true, SETTINGS);
    until("two is synced", async || two.metrics.is_synced().then_some(())).await;
    create(&cluster, "a", asked(&["10.224.0.200"])).await;
    assert_eq!(slots(&until_ready(&cluster, "a", "InForce").await)[0].0, 2);
    cluster.settle().await;
    delete(&cluster, "a").await;
    one.stop().await;
    until("two leads", async || two.metrics.is_leader().then_some(())).await;
    create(&cluster, "b", asked(&["10.224.0.200"])).await;
    assert_eq!(slots(&until_ready(&cluster, "b", "InForce").await)[0].0, 3);
    two.stop().await;
}

#[tokio::test]
async fn more_slots_than_numbers() {
    let cluster = cluster_of_three().await;
    let controller = cluster.start(SETTINGS);
    for gateway in 0..4 {
        let addresses: Vec<String> = (0..64).map(|ip| format!("10.225.{gateway}.{ip}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        create(&cluster, &format!("g{gateway}"), asked(&addresses)).await;
        let reason = if gateway == 3 { "NoNumber" } else { "InForce" };
        until_ready(&cluster, &format!("g{gateway}"), reason).await;
    }
    let last = status(&cluster, "g3").await;
    assert_eq!(last.slots.len(), 253 - 3 * 64);
    assert!(ready(&last).unwrap().message.contains("3 of its slots"), "{last:?}");
    assert_eq!(last.applied, Some(api(&cluster).get("g3").await.unwrap().spec));
    create(&cluster, "g4", asked(&["10.225.4.0"])).await;
    cut(&until_ready(&cluster, "g4", "NoNumber").await, Some(&asked(&["10.225.4.0"])));
    delete(&cluster, "g4").await;
    delete(&cluster, "g0").await;
    let whole = until_ready(&cluster, "g3", "InForce").await;
    assert_eq!(whole.slots.len(), 64);
    let kept = |status: &EgressGatewayStatus| -> BTreeMap<Vec<String>, u8> {
        status.slots.iter().map(|slot| (slot.egress_ips.clone(), slot.number)).collect()
    };
    let (before, after) = (kept(&last), kept(&whole));
    assert!(before.iter().all(|(address, number)| after.get(address) == Some(number)));
    until("told", async || (told(&cluster, "g3").await == ["NoNumber"]).then_some(())).await;
    controller.stop().await;
}

#[tokio::test]
async fn where_nothing_leaves_all_is_told_as_ever() {
    let cluster = cluster_of_three().await;
    let mut controller = cluster.start(SETTINGS);
    create(&cluster, "out", asked(&["10.224.0.200"])).await;
    let before = until_ready(&cluster, "out", "InForce").await;
    cluster.patch_network(json!({ "outboundType": "none" })).await;
    let none = until_ready(&cluster, "out", "OutboundNone").await;
    assert_eq!((&none.applied, &none.slots, &none.nodes), (&before.applied, &before.slots, &before.nodes));
    assert!(message(&none).contains("chosen pods are cut"), "{none:?}");
    // One that comes now is in force, too.
    create(&cluster, "new", asked(&["10.224.0.201"])).await;
    let new = until_ready(&cluster, "new", "OutboundNone").await;
    assert_eq!((new.applied.as_ref(), slots(&new)), (Some(&asked(&["10.224.0.201"])), vec![(3, vec!["10.224.0.201"])]));
    assert_eq!(new.nodes, ["n1", "n2"]);
    create(&cluster, "bad", asked(&["127.0.0.1"])).await;
    assert_eq!(until_ready(&cluster, "bad", "Invalid").await.applied, None);
    label(&cluster, "n2", json!({ "egress": null })).await;
    until_nodes(&cluster, "out", &["n1"]).await;
    controller.stop().await;
    controller = cluster.start(SETTINGS);
    cluster.settle().await;
    assert_eq!(status(&cluster, "new").await.slots, new.slots);
    cluster.patch_network(json!({ "outboundType": "natGateway" })).await;
    let after = until_ready(&cluster, "out", "InForce").await;
    assert_eq!((after.applied, after.slots), (before.applied, before.slots));
    assert_eq!(until_ready(&cluster, "new", "InForce").await.slots, new.slots);
    controller.stop().await;
}

#[tokio::test]
async fn a_network_that_grows_over_its_addresses_cuts_its_pods() {
    let cluster = cluster_of_three().await;
    let mut controller = cluster.start(SETTINGS);
    let spec = asked(&["10.224.0.200", "10.225.0.200"]);
    create(&cluster, "out", spec.clone()).await;
    let before = until_ready(&cluster, "out", "InForce").await;
    let v6 = "fd12:3456:789a:1::/108";
    // Over one of two.
    cluster.patch_network(json!({ "serviceCIDRs": ["10.225.0.0/24", v6] })).await;
    let half = until_ready(&cluster, "out", "Invalid").await;
    assert_eq!((half.applied.as_ref(), slots(&half)), (Some(&spec), vec![(2, vec!["10.224.0.200"])]));
    assert!(message(&half).ends_with("before stays, without 10.225.0.200."), "{half:?}");
    assert_eq!(half.nodes, before.nodes);
    // Over both, and what is asked for next is no better.
    cluster.patch_network(json!({ "serviceCIDRs": ["10.224.0.0/15", v6] })).await;
    let none = until("its last slot is gone", async || {
        let status = status(&cluster, "out").await;
        status.slots.is_empty().then_some(status)
    })
    .await;
    cut(&none, Some(&spec));
    assert!(message(&none).contains("egressIPs[0]") && message(&none).contains("egressIPs[1]"), "{none:?}");
    change(
        &cluster,
        "out",
        json!({ "egressIPs": ["10.224.0.201"], "podSelector": { "matchLabels": { "app": "db" } } }),
    )
    .await;
    cut(&until_ready(&cluster, "out", "Invalid").await, Some(&spec));
    controller.stop().await;
    controller = cluster.start(SETTINGS);
    cluster.settle().await;
    cut(&status(&cluster, "out").await, Some(&spec));
    // Numbers of the slots that come back are new.
    cluster.patch_network(json!({ "serviceCIDRs": ["10.0.0.0/16", v6] })).await;
    let back = until_ready(&cluster, "out", "InForce").await;
    assert_eq!((back.slots.len(), back.applied), (1, Some(api(&cluster).get("out").await.unwrap().spec)));
    let hop = json!({ "outboundType": "userDefinedRouting", "egress": { "nextHops": ["10.224.0.201"] } });
    cluster.patch_network(hop).await;
    cut(&until_ready(&cluster, "out", "Invalid").await, Some(&api(&cluster).get("out").await.unwrap().spec));
    // Only its end lets its pods go.
    delete(&cluster, "out").await;
    cluster.settle().await;
    assert!(api(&cluster).get_opt("out").await.unwrap().is_none());
    controller.stop().await;
}

#[tokio::test]
async fn who_does_not_lead_writes_nothing() {
    let cluster = cluster_of_three().await;
    let one = cluster.start_with("one", true, SETTINGS);
    until("one leads", async || one.metrics.is_leader().then_some(())).await;
    create(&cluster, "out", asked(&["10.224.0.200"])).await;
    until_ready(&cluster, "out", "InForce").await;
    let two = cluster.start_with("two", true, SETTINGS);
    until("two is synced", async || two.metrics.is_synced().then_some(())).await;
    change(&cluster, "out", json!({ "egressIPs": ["10.224.0.201"] })).await;
    let before = until_ready(&cluster, "out", "InForce").await;
    assert!(!two.metrics.text().unwrap().contains("patch-egressgateway-status"), "it only watches");
    one.stop().await;
    until("two leads", async || two.metrics.is_leader().then_some(())).await;
    cluster.settle().await;
    assert_eq!(status(&cluster, "out").await, before);
    assert!(!two.metrics.text().unwrap().contains("patch-egressgateway-status"), "and finds nothing to write");
    two.stop().await;
}

#[tokio::test]
async fn without_a_cluster_network_none_is_judged() {
    let cluster = Cluster::bare();
    create(&cluster, "out", asked(&["10.224.0.200"])).await;
    let controller = cluster.start(SETTINGS);
    until("synced", async || controller.metrics.is_synced().then_some(())).await;
    cluster.settle().await;
    assert_eq!(api(&cluster).get("out").await.unwrap().status, None);
    cluster.create_network(spec(FAMILIES[2])).await;
    until_ready(&cluster, "out", "NoNodes").await;
    controller.stop().await;
}

/// Helm updates programs and leaves definitions as they are.
#[tokio::test]
async fn a_cluster_without_the_kind_has_its_blocks_all_the_same() {
    let server = ApiServer::new();
    let (gateways, others): (Vec<_>, Vec<_>) =
        all_crds().into_iter().partition(|crd| crd.spec.names.kind == "EgressGateway");
    others.iter().for_each(|crd| server.register(crd).unwrap());
    let client = server.client();
    let cluster = Cluster { server, client };
    cluster.create_network(spec(FAMILIES[2])).await;
    let controller = cluster.start(SETTINGS);
    cluster.join("n1", "n1").await;
    cluster.until_announced("n1", 2).await;
    gateways.iter().for_each(|crd| cluster.server.register(crd).unwrap());
    create(&cluster, "out", asked(&["10.224.0.200"])).await;
    until_ready(&cluster, "out", "NoNodes").await;
    assert!(controller.metrics.is_synced());
    controller.stop().await;
}
