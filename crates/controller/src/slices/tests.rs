//! Must catch: a slice that says the same otherwise after a restart, replicas told one by one, a write of what is told
//! already, a Node without pods that has no slice, a deletion of what nobody knows to be gone, pods kept that nobody asks
//! for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use k8s_openapi::api::core::v1::Pod;
use overlane_api::crd::PodSlicePod;
use serde_json::{Value, json};

use super::*;

fn pod(name: &str, node: &str, labels: Value, ips: &[&str]) -> Pod {
    let ips: Vec<_> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "shop", "labels": labels },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "ports": [
            { "name": "web", "containerPort": 8080 }, { "name": "dns", "containerPort": 53, "protocol": "UDP" },
        ] }] },
        "status": { "phase": "Running", "podIPs": ips },
    }))
    .unwrap()
}

fn hear(slices: &mut Slices, pod: &Pod) {
    slices.hear_pod(PodFact::of(pod).unwrap());
}

fn node(number: u8) -> PolicyNode {
    let labels = [("kubernetes.io/hostname".to_owned(), format!("n{number}"))].into();
    let addresses = [format!("fd10:224::{number}"), format!("10.224.0.{number}")];
    PolicyNode { labels, addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect() }
}

/// Two nodes, nothing told yet.
fn slices() -> Slices {
    let mut slices = Slices::default();
    slices.set_wanted(true);
    slices.hear_node("n1", &node(1));
    slices.hear_node("n2", &node(2));
    slices
}

/// Does what is to be done, as the API would. Gives what it was.
fn write(slices: &mut Slices, node: &str, version: u32) -> Option<Change> {
    let change = slices.change(node)?;
    let object = ObjectRef { uid: format!("uid-{node}"), resource_version: version.to_string() };
    match &change {
        Change::Create(spec) | Change::Replace(spec, _) => {
            let digest = slices.digester.digest(spec);
            slices.hear_slice(SeenSlice { node: node.to_owned(), object, digest }, Source::News);
        }
        Change::Delete(object) => slices.forget_slice(node, &object.uid),
    }
    Some(change)
}

fn created(slices: &mut Slices, node: &str) -> PodSliceSpec {
    match slices.change(node) {
        Some(Change::Create(spec)) => spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn replicas_have_one_profile_and_the_order_is_always_the_same() {
    let web = json!({ "app": "web" });
    let pods = [
        pod("b", "n1", web.clone(), &["10.244.0.10", "fd12::a"]),
        pod("a", "n1", web.clone(), &["10.244.0.9", "fd12::9"]),
        pod("db", "n1", json!({ "app": "db" }), &["10.244.0.11"]),
        pod("far", "n2", web, &["10.244.1.2"]),
    ];
    let mut forth = slices();
    pods.iter().for_each(|pod| hear(&mut forth, pod));
    let mut back = slices();
    pods.iter().rev().for_each(|pod| hear(&mut back, pod));
    let spec = created(&mut forth, "n1");
    let bytes = serde_json::to_vec(&spec).unwrap();
    assert_eq!(bytes, serde_json::to_vec(&created(&mut back, "n1")).unwrap());
    let told = |profile, ips: &[&str]| PodSlicePod { profile, ips: ips.iter().map(|ip| (*ip).to_owned()).collect() };
    let expected =
        [told(1, &["10.244.0.9", "fd12::9"]), told(1, &["10.244.0.10", "fd12::a"]), told(0, &["10.244.0.11"])];
    assert_eq!(spec.pods, expected, "by address, not by its text");
    assert_eq!(spec.profiles.len(), 2);
    assert_eq!(spec.node_addresses, ["10.224.0.1", "fd10:224::1"]);
    assert_eq!(spec.node_labels["kubernetes.io/hostname"], "n1");
    let text = serde_json::to_value(&spec.profiles[1]).unwrap();
    let ports = json!([
        { "name": "dns", "protocol": "UDP", "port": 53 }, { "name": "web", "protocol": "TCP", "port": 8080 },
    ]);
    assert_eq!(text, json!({ "namespace": "shop", "labels": { "app": "web" }, "ports": ports }));
}

#[test]
fn written_when_it_differs_and_then_alone() {
    let mut slices = slices();
    hear(&mut slices, &pod("a", "n1", json!({ "app": "web" }), &["10.244.0.9"]));
    assert_eq!(slices.take_touched(), ["n1".to_owned(), "n2".to_owned()].into());
    assert!(matches!(write(&mut slices, "n1", 1), Some(Change::Create(_))));
    assert!(matches!(write(&mut slices, "n2", 2), Some(Change::Create(spec)) if spec.pods.is_empty()));
    assert_eq!((write(&mut slices, "n1", 3), write(&mut slices, "n2", 3)), (None, None));
    slices.take_touched();
    // The same again.
    hear(&mut slices, &pod("a", "n1", json!({ "app": "web" }), &["10.244.0.9"]));
    slices.hear_node("n1", &node(1));
    assert_eq!(slices.take_touched(), BTreeSet::new());
    // Another label.
    hear(&mut slices, &pod("a", "n1", json!({ "app": "db" }), &["10.244.0.9"]));
    assert_eq!(slices.take_touched(), ["n1".to_owned()].into());
    let Some(Change::Replace(spec, over)) = write(&mut slices, "n1", 4) else { panic!() };
    assert_eq!((spec.profiles[0].labels["app"].as_str(), over.resource_version.as_str()), ("db", "1"));
    // It moves.
    hear(&mut slices, &pod("a", "n2", json!({ "app": "db" }), &["10.244.1.9"]));
    assert!(matches!(write(&mut slices, "n1", 5), Some(Change::Replace(spec, _)) if spec.pods.is_empty()));
    assert!(matches!(write(&mut slices, "n2", 6), Some(Change::Replace(spec, _)) if spec.pods.len() == 1));
    // It ends.
    slices.forget_pod("shop/a");
    assert_eq!(write(&mut slices, "n1", 7), None);
    assert!(matches!(write(&mut slices, "n2", 8), Some(Change::Replace(spec, _)) if spec == PodSliceSpec {
        pods: Vec::new(), profiles: Vec::new(), ..spec.clone()
    }));
}

#[test]
fn what_another_did_is_put_right() {
    let mut slices = slices();
    write(&mut slices, "n1", 5);
    slices.take_touched();
    let object = |version: &str| ObjectRef { uid: "uid-n1".into(), resource_version: version.into() };
    let foreign = |digest, version| SeenSlice { node: "n1".into(), object: object(version), digest };
    slices.hear_slice(foreign(Some(1), "4"), Source::News);
    assert_eq!(slices.change("n1"), None, "that was before");
    slices.hear_slice(foreign(Some(1), "6"), Source::News);
    assert_eq!(slices.take_touched(), ["n1".to_owned()].into());
    assert!(matches!(write(&mut slices, "n1", 7), Some(Change::Replace(_, over)) if over == object("6")));
    slices.hear_slice(foreign(None, "8"), Source::News);
    assert!(matches!(write(&mut slices, "n1", 9), Some(Change::Replace(..))), "one that means nothing");
    slices.forget_slice("n1", "of one before");
    assert_eq!(slices.change("n1"), None);
    slices.forget_slice("n1", "uid-n1");
    assert!(matches!(write(&mut slices, "n1", 10), Some(Change::Create(_))));
    // A list that does not show it, and one of a store that was restored.
    slices.retain_slices(&BTreeSet::new());
    assert!(matches!(write(&mut slices, "n1", 11), Some(Change::Create(_))));
    slices.hear_slice(foreign(Some(1), "3"), Source::List);
    assert!(matches!(slices.change("n1"), Some(Change::Replace(_, over)) if over == object("3")));
}

#[test]
fn nodes_that_go_and_slices_that_nobody_asks_for() {
    let mut slices = slices();
    let pod = pod("a", "n1", json!({}), &["10.244.0.9"]);
    hear(&mut slices, &pod);
    write(&mut slices, "n1", 1);
    write(&mut slices, "n2", 2);
    slices.take_touched();
    slices.retain_nodes(&["n2".to_owned()].into());
    assert_eq!(slices.take_touched(), ["n1".to_owned()].into());
    assert!(matches!(write(&mut slices, "n1", 3), Some(Change::Delete(object)) if object.uid == "uid-n1"));
    assert_eq!(slices.change("n1"), None, "its pods alone make none");
    slices.hear_node("n1", &node(1));
    assert!(matches!(write(&mut slices, "n1", 4), Some(Change::Create(spec)) if spec.pods.len() == 1));
    slices.set_wanted(false);
    assert_eq!((slices.pods(), slices.take_touched().len()), (0, 2));
    assert!(matches!(write(&mut slices, "n2", 5), Some(Change::Delete(_))));
    assert!(matches!(write(&mut slices, "n1", 5), Some(Change::Delete(_))));
    slices.set_wanted(true);
    hear(&mut slices, &pod);
    assert!(matches!(write(&mut slices, "n1", 6), Some(Change::Create(spec)) if spec.pods.len() == 1));
}

#[test]
fn pods_that_policies_never_tell_of() {
    let fact = |change: Value| {
        let mut object = serde_json::to_value(pod("a", "n1", json!({}), &["10.244.0.9"])).unwrap();
        json_patch::merge(&mut object, &change);
        PodFact::of(&serde_json::from_value(object).unwrap())
    };
    assert!(fact(json!({})).is_some());
    assert!(
        fact(json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } })).is_some(),
        "until it has ended"
    );
    for change in [
        json!({ "spec": { "hostNetwork": true } }),
        json!({ "spec": { "nodeName": null } }),
        json!({ "status": { "phase": "Failed" } }),
        json!({ "status": { "podIPs": null } }),
    ] {
        assert_eq!(fact(change.clone()), None, "{change}");
    }
}
