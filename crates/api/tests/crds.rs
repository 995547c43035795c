//! Must catch: a change of the types that is not in the committed definitions; a field without a description.
#![cfg(feature = "kube")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use overlane_api::crd::{all_crds, all_crds_yaml};
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
