//! Must catch: a change of the types that is not in the committed definitions; a field without a description.
#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use kube::CustomResourceExt as _;
use overlane_api::crd::{CLUSTER_NETWORK_POLICY_YAML, all_crds, all_crds_yaml, cluster_network_policy_crd};
use overlane_api::policy::ClusterNetworkPolicy;
use serde_json::Value;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds/overlane.io.yaml");

#[test]
fn committed_definitions_are_those_of_the_types() {
    let committed = std::fs::read_to_string(FILE).unwrap();
    assert!(committed == all_crds_yaml().unwrap(), "run `make crds` and commit {FILE}");
}

#[test]
fn names_and_scopes() {
    let shown: Vec<_> = all_crds()
        .into_iter()
        .map(|crd| {
            let names = crd.spec.names;
            (crd.metadata.name.unwrap(), crd.spec.scope, names.kind, names.short_names.unwrap_or_default().join(","))
        })
        .collect();
    let want = [
        ("clusternetworks.overlane.io", "Cluster", "ClusterNetwork", "cnet"),
        ("nodeblocks.overlane.io", "Cluster", "NodeBlock", "nblk"),
        ("nodenetworkconfigs.overlane.io", "Namespaced", "NodeNetworkConfig", "nnc"),
        ("nodestates.overlane.io", "Cluster", "NodeState", ""),
        ("egressgateways.overlane.io", "Cluster", "EgressGateway", "egw"),
        ("podslices.overlane.io", "Cluster", "PodSlice", "psl"),
    ];
    let want =
        want.map(|(name, scope, kind, short)| (name.to_owned(), scope.to_owned(), kind.to_owned(), short.to_owned()));
    assert_eq!(shown, want);
}

/// Nothing of the file is lost on the way, and it is what the types read.
#[test]
fn the_definition_of_another_project_stays_whole() {
    let mut published: Value = serde_norway::from_str(CLUSTER_NETWORK_POLICY_YAML).unwrap();
    published.as_object_mut().unwrap().remove("status");
    let read = cluster_network_policy_crd().unwrap();
    let mut whole = serde_json::to_value(&read).unwrap();
    for value in [&mut published, &mut whole] {
        floats(value);
    }
    assert!(whole == published, "a field is lost");
    let ours = ClusterNetworkPolicy::crd().spec;
    assert_eq!((&read.spec.group, &read.spec.scope), (&ours.group, &ours.scope));
    assert_eq!(read.spec.names.kind, ours.names.kind);
    assert_eq!(read.spec.names.plural, ours.names.plural);
    let served: Vec<_> = read.spec.versions.iter().map(|version| (&version.name, version.served)).collect();
    assert_eq!(served, [(&ours.versions[0].name, true)]);
}

/// The type has its limits as floats.
fn floats(value: &mut Value) {
    match value {
        Value::Number(number) => *value = number.as_f64().into(),
        Value::Array(items) => items.iter_mut().for_each(floats),
        Value::Object(fields) => fields.values_mut().for_each(floats),
        _ => {}
    }
}

/// `kubectl explain` is only as good as the descriptions.
#[test]
fn every_field_is_described() {
    let mut bare = BTreeSet::new();
    for crd in all_crds() {
        for version in crd.spec.versions {
            let schema = serde_json::to_value(version.schema.unwrap().open_api_v3_schema.unwrap()).unwrap();
            undescribed(&schema["properties"], &crd.spec.names.kind, &mut bare);
        }
    }
    assert!(bare.is_empty(), "{bare:#?}");
}

fn undescribed(properties: &Value, path: &str, bare: &mut BTreeSet<String>) {
    let Some(properties) = properties.as_object() else {
        return;
    };
    for (name, schema) in properties {
        let path = format!("{path}.{name}");
        // The top level is described by the definition itself.
        if path.matches('.').count() > 1 && schema["description"].as_str().is_none_or(str::is_empty) {
            bare.insert(path.clone());
        }
        undescribed(&schema["properties"], &path, bare);
        undescribed(&schema["items"]["properties"], &path, bare);
    }
}
