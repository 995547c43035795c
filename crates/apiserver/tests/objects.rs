//! Writing and reading objects, in-process.
//!
//! Must catch: an update with a stale resourceVersion that is accepted, or a second object under a taken name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{config_map, node, object, pod, post, refusal, server, widget, widgets};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ListParams, Patch, PatchParams, ResourceExt};
use serde_json::json;

#[tokio::test]
async fn a_created_object_has_an_identity_and_defaults() {
    let client = server().client();
    let body: common::Widget = object(json!({"metadata": {"name": "w"}, "spec": {"size": 3, "colour": ""}}));
    let made = widgets(&client).create(&post(), &body).await.unwrap();
    assert_eq!(made.namespace().as_deref(), Some("default"));
    assert!(made.uid().is_some() && made.resource_version().is_some());
    assert!(made.creation_timestamp().is_some());
    assert_eq!(made.metadata.generation, Some(1));

    let generated: ConfigMap = object(json!({"metadata": {"generateName": "cm-"}}));
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let (one, two) = (maps.create(&post(), &generated).await.unwrap(), maps.create(&post(), &generated).await.unwrap());
    assert!(one.name_any().starts_with("cm-"));
    assert_ne!(one.name_any(), two.name_any());
}

#[tokio::test]
async fn a_taken_name_is_refused() {
    let widgets = widgets(&server().client());
    widgets.create(&post(), &widget("w", 1)).await.unwrap();
    let second = widgets.create(&post(), &widget("w", 2)).await;
    assert_eq!(refusal(second), (409, "AlreadyExists".to_owned()));
    assert_eq!(widgets.get("w").await.unwrap().spec.size, 1);
}

#[tokio::test]
async fn a_stale_update_is_refused_and_one_without_change_is_free() {
    let widgets = widgets(&server().client());
    let first = widgets.create(&post(), &widget("w", 1)).await.unwrap();
    let mut changed = first.clone();
    changed.spec.size = 2;
    let second = widgets.replace("w", &post(), &changed).await.unwrap();
    assert_ne!(first.resource_version(), second.resource_version());
    assert_eq!(second.metadata.generation, Some(2));
    assert_eq!(refusal(widgets.replace("w", &post(), &changed).await), (409, "Conflict".to_owned()));
    let same = widgets.replace("w", &post(), &second).await.unwrap();
    assert_eq!(same.resource_version(), second.resource_version());

    changed.metadata.resource_version = None;
    assert_eq!(refusal(widgets.replace("w", &post(), &changed).await).0, 422);
    changed.metadata.resource_version = second.resource_version();
    changed.metadata.uid = Some("another".to_owned());
    assert_eq!(refusal(widgets.replace("w", &post(), &changed).await).0, 409);
}

#[tokio::test]
async fn status_and_specification_have_a_door_each() {
    let widgets = widgets(&server().client());
    let mut body = widget("w", 1);
    body.status = Some(common::WidgetStatus { used: 9, conditions: Vec::new() });
    let made = widgets.create(&post(), &body).await.unwrap();
    assert_eq!(made.status, None, "a create does not write the status");

    let status = json!({"spec": {"size": 7}, "metadata": {"labels": {"x": "y"}}, "status": {"used": 5}});
    let params = PatchParams::default();
    let after = widgets.patch_status("w", &params, &Patch::Merge(&status)).await.unwrap();
    assert_eq!(after.spec.size, 1);
    assert!(after.labels().is_empty());
    assert_eq!(after.status.as_ref().unwrap().used, 5);
    assert_eq!(after.metadata.generation, Some(1));

    let both = json!({"spec": {"size": 2}, "status": {"used": 6}});
    let after = widgets.patch("w", &params, &Patch::Merge(&both)).await.unwrap();
    assert_eq!(after.spec.size, 2);
    assert_eq!(after.status.unwrap().used, 5);
    assert_eq!(after.metadata.generation, Some(2));
}

#[tokio::test]
async fn what_the_schema_forbids_is_named() {
    let client = server().client();
    let kind = kube::api::ApiResource::erase::<common::Widget>(&());
    let dynamic: Api<kube::api::DynamicObject> = Api::default_namespaced_with(client, &kind);
    let body = object(json!({"apiVersion": "test.overlane.io/v1", "kind": "Widget",
        "metadata": {"name": "w"}, "spec": {"size": 500, "colour": 5, "unknown": true}}));
    let Err(kube::Error::Api(status)) = dynamic.create(&post(), &body).await else {
        panic!("the body breaks two rules")
    };
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    let fields: Vec<String> = status.details.unwrap().causes.into_iter().map(|cause| cause.field).collect();
    assert_eq!(fields, ["spec.colour", "spec.size"]);

    let body = object(json!({"apiVersion": "test.overlane.io/v1", "kind": "Widget",
        "metadata": {"name": "w"}, "spec": {"size": 5, "unknown": true}}));
    let made = dynamic.create(&post(), &body).await.unwrap();
    assert_eq!(made.data["spec"], json!({"size": 5, "colour": "blue"}));
}

#[tokio::test]
async fn bad_names_types_and_places_are_refused() {
    let client = server().client();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    assert_eq!(refusal(maps.create(&post(), &config_map("Bad_Name")).await).0, 422);
    let nowhere: Api<ConfigMap> = Api::namespaced(client.clone(), "nowhere");
    assert_eq!(refusal(nowhere.create(&post(), &config_map("x")).await).0, 404);
    let elsewhere: ConfigMap = object(json!({"metadata": {"name": "x", "namespace": "kube-system"}}));
    assert_eq!(refusal(maps.create(&post(), &elsewhere).await).0, 400);
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let empty: Pod = object(json!({"metadata": {"name": "p"}, "spec": {"containers": []}}));
    assert_eq!(refusal(pods.create(&post(), &empty).await).0, 422);
    let request =
        http::Request::post("/api/v1/nodes").body(br#"{"metadata":{"name":"n"},"spec":{"podCIDRs":5}}"#.to_vec());
    let refused = client.request::<serde_json::Value>(request.unwrap()).await;
    assert_eq!(refusal(refused).0, 400);
}

#[tokio::test]
async fn pod_cidrs_of_a_node_are_written_once() {
    let nodes: Api<Node> = Api::all(server().client());
    nodes.create(&post(), &node("n")).await.unwrap();
    let params = PatchParams::default();
    let set = |cidrs: &[&str]| Patch::Merge(json!({"spec": {"podCIDRs": cidrs}}));
    let doubled = nodes.patch("n", &params, &set(&["10.0.0.0/24", "10.0.1.0/24"])).await;
    assert_eq!(refusal(doubled).0, 422);
    let given = ["10.244.1.0/24", "fd12::/80"];
    let first = nodes.patch("n", &params, &set(&given)).await.unwrap();
    assert_eq!(first.spec.as_ref().unwrap().pod_cidr.as_deref(), Some("10.244.1.0/24"));
    let Err(kube::Error::Api(status)) = nodes.patch("n", &params, &set(&["10.244.2.0/24"])).await else {
        panic!("podCIDRs may not change")
    };
    assert!(status.message.contains("may not change podCIDR"), "{}", status.message);
    let labelled = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    nodes.patch("n", &params, &labelled).await.unwrap();
}

#[tokio::test]
async fn every_kind_of_patch() {
    let client = server().client();
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.create(&post(), &node("n")).await.unwrap();
    let params = PatchParams::default();
    let condition = |kind: &str| {
        let condition = json!({"type": kind, "status": "False", "reason": "r", "message": "m"});
        Patch::Strategic(json!({"status": {"conditions": [condition]}}))
    };
    nodes.patch_status("n", &params, &condition("NetworkUnavailable")).await.unwrap();
    let both = nodes.patch_status("n", &params, &condition("Ready")).await.unwrap();
    assert_eq!(both.status.unwrap().conditions.unwrap().len(), 2);

    let merge = Patch::Merge(json!({"metadata": {"annotations": {"a": "1"}}}));
    nodes.patch("n", &params, &merge).await.unwrap();
    let null = Patch::Merge(json!({"metadata": {"annotations": {"a": null}}}));
    assert!(nodes.patch("n", &params, &null).await.unwrap().annotations().is_empty());

    let refused = widgets(&client).patch("w", &params, &Patch::Strategic(json!({}))).await;
    assert_eq!(refusal(refused).0, 415, "custom resources have no strategic merge");

    let stale = Patch::Merge(json!({"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}}));
    assert_eq!(refusal(nodes.patch("n", &params, &stale).await).0, 409);
    let request = http::Request::patch("/api/v1/nodes/n")
        .header("content-type", "application/json-patch+json")
        .body(br#"[{"op":"test","path":"/metadata/name","value":"other"}]"#.to_vec());
    assert_eq!(refusal(client.request::<Node>(request.unwrap()).await).0, 422);
}

#[tokio::test]
async fn server_side_apply_creates_owns_and_gives_back() {
    let widgets = widgets(&server().client());
    let apply = |manager: &str| PatchParams::apply(manager);
    let body = |spec| {
        Patch::Apply(
            json!({"apiVersion": "test.overlane.io/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec}),
        )
    };
    let made = widgets.patch("w", &apply("one"), &body(json!({"size": 1, "note": "n"}))).await.unwrap();
    assert_eq!(made.spec.colour, "blue");
    let same = widgets.patch("w", &apply("one"), &body(json!({"size": 1, "note": "n"}))).await.unwrap();
    assert_eq!(same.resource_version(), made.resource_version(), "applying the same writes nothing");

    let refused = widgets.patch("w", &apply("two"), &body(json!({"size": 2}))).await;
    assert_eq!(refusal(refused), (409, "Conflict".to_owned()));
    let forced = widgets.patch("w", &apply("two").force(), &body(json!({"size": 2}))).await.unwrap();
    assert_eq!(forced.spec.size, 2);
    assert_eq!(forced.spec.note.as_deref(), Some("n"));

    let shrunk = widgets.patch("w", &apply("one"), &body(json!({"size": 2}))).await.unwrap();
    assert_eq!(shrunk.spec.note, None, "what one manager alone owned is gone");

    let status = Patch::Apply(json!({"apiVersion": "test.overlane.io/v1", "kind": "Widget", "status": {"used": 4}}));
    let after = widgets.patch_status("w", &apply("three"), &status).await.unwrap();
    assert_eq!(after.status.unwrap().used, 4);
    assert_eq!(after.spec.size, 2);
}

#[tokio::test]
async fn dry_run_stores_nothing() {
    let server = server();
    let widgets = widgets(&server.client());
    let before = server.stats().revision;
    let dry = kube::api::PostParams { dry_run: true, field_manager: None };
    widgets.create(&dry, &widget("w", 1)).await.unwrap();
    assert_eq!(refusal(widgets.get("w").await).0, 404);
    assert_eq!(server.stats().revision, before);
}

#[tokio::test]
async fn lists_are_selected_and_paged_at_one_revision() {
    let client = server().client();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    for index in 0..25 {
        pods.create(&post(), &pod(&format!("p{index:02}"), &format!("n{}", index % 5))).await.unwrap();
    }
    let of_node = ListParams::default().fields("spec.nodeName=n3").labels("app in (web)");
    assert_eq!(pods.list(&of_node).await.unwrap().items.len(), 5);
    assert_eq!(refusal(pods.list(&ListParams::default().fields("spec.image=x")).await).0, 400);

    let mut params = ListParams::default().limit(10);
    let mut names = Vec::new();
    loop {
        let page = pods.list(&params).await.unwrap();
        assert!(page.items.len() <= 10);
        if params.continue_token.is_none() {
            assert_eq!(page.metadata.remaining_item_count, Some(15));
            // Neither of these belongs to the revision that the list shows.
            pods.create(&post(), &pod("p99", "n1")).await.unwrap();
            pods.delete("p20", &kube::api::DeleteParams::default().grace_period(0)).await.unwrap();
        }
        names.extend(page.items.iter().map(ResourceExt::name_any));
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            break;
        }
    }
    assert_eq!(names, (0..25).map(|index| format!("p{index:02}")).collect::<Vec<_>>());
    let everywhere: Api<Namespace> = Api::all(client);
    assert_eq!(everywhere.list(&ListParams::default()).await.unwrap().items.len(), 4);
}

#[tokio::test]
async fn the_two_kinds_of_events_are_one() {
    let server = server();
    let client = server.client();
    let body = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "regarding": {"kind": "Node", "name": "n"}, "note": "hello", "reason": "R", "action": "A", "type": "Normal",
        "eventTime": "2026-11-21T10:00:00.000000Z", "reportingController": "c", "reportingInstance": "c-0"});
    let new: Api<k8s_openapi::api::events::v1::Event> = Api::default_namespaced(client.clone());
    new.create(&post(), &object(body)).await.unwrap();
    let old: Api<k8s_openapi::api::core::v1::Event> = Api::default_namespaced(client);
    let found = old.list(&ListParams::default().fields("involvedObject.name=n")).await.unwrap().items;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].message.as_deref(), Some("hello"));
    let listed = new.list(&ListParams::default().fields("regarding.name=n")).await.unwrap().items;
    assert_eq!(listed[0].note.as_deref(), Some("hello"));
    let incomplete = json!({"metadata": {"name": "f"}, "regarding": {"kind": "Node", "name": "n"}});
    assert_eq!(refusal(new.create(&post(), &object(incomplete)).await).0, 422);
}

/// As `pkg/apis/networking/v1/defaults.go` of Kubernetes has it.
#[tokio::test]
async fn a_network_policy_says_what_it_isolates() {
    let policies: Api<NetworkPolicy> = Api::default_namespaced(server().client());
    for (name, spec, types) in [
        ("in", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}), &["Ingress"][..]),
        ("out", json!({"podSelector": {}, "egress": [{}]}), &["Ingress", "Egress"]),
        ("none", json!({"podSelector": {}, "egress": []}), &["Ingress"]),
        ("said", json!({"podSelector": {}, "policyTypes": ["Egress"]}), &["Egress"]),
    ] {
        let body: NetworkPolicy = object(json!({"metadata": {"name": name}, "spec": spec}));
        let made = policies.create(&post(), &body).await.unwrap().spec.unwrap();
        assert_eq!(made.policy_types.unwrap(), types, "{name}");
        for port in made.ingress.into_iter().flatten().flat_map(|rule| rule.ports).flatten() {
            assert_eq!(port.protocol.as_deref(), Some("TCP"));
        }
    }
}

#[tokio::test]
async fn requests_are_counted() {
    let server = server();
    let widgets = widgets(&server.client());
    widgets.create(&post(), &widget("w", 1)).await.unwrap();
    for used in 0..3 {
        let status = json!({"status": {"used": used}});
        widgets.patch_status("w", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }
    let counted = server.stats().requests;
    let of = |verb: &str, resource: &str| counted.get(&(verb.to_owned(), resource.to_owned())).copied();
    assert_eq!(of("create", "widgets.test.overlane.io"), Some(1));
    assert_eq!(of("patch", "widgets.test.overlane.io/status"), Some(3));
    assert_eq!(of("get", "widgets.test.overlane.io"), None);
}

#[tokio::test]
async fn a_list_shows_any_revision_that_is_kept() {
    let server = server();
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let mut states = Vec::new();
    for step in 0_u32..60 {
        let name = format!("m{}", step * 7 % 5);
        let patch = Patch::Merge(json!({"data": {"step": step.to_string()}}));
        match (step % 3, maps.get_opt(&name).await.unwrap()) {
            (0, Some(_)) => drop(maps.delete(&name, &Default::default()).await.unwrap()),
            (_, Some(_)) => drop(maps.patch(&name, &PatchParams::default(), &patch).await.unwrap()),
            (_, None) => drop(maps.create(&post(), &config_map(&name)).await.unwrap()),
        }
        states.push((server.stats().revision, maps.list(&ListParams::default()).await.unwrap().items));
    }
    let at = |revision: u64| {
        let exact = kube::api::VersionMatch::Exact;
        ListParams::default().matching(exact).at(&revision.to_string())
    };
    for (revision, items) in &states {
        assert_eq!(maps.list(&at(*revision)).await.unwrap().items, *items, "revision {revision}");
    }
    server.compact();
    assert_eq!(refusal(maps.list(&at(states[0].0)).await), (410, "Expired".to_owned()));
    assert_eq!(refusal(maps.list(&at(1_000_000)).await).0, 504);
}
