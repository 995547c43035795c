//! What several objects have in common, and the ClusterNetwork.

use overlane_api::crd::{CLUSTER_NETWORK, GROUP};
use serde_json::{Value, json};

use crate::Document;
use crate::source::{Part, Source};

/// The agents' DaemonSet and account.
pub const AGENT: &str = "overlane-agent";
/// The controllers' Deployment, account, disruption budget and Lease.
pub const CONTROLLER: &str = "overlane-controller";
/// Label and value that every installed object bears.
pub const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "overlane");
/// The version of this build, which is the image's default tag.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Labels of an object of a component.
pub(crate) fn labels(component: &str) -> Value {
    json!({
        PART_OF.0: PART_OF.1,
        "app.kubernetes.io/name": component,
    })
}

/// Metadata of a cluster-scoped object.
pub(crate) fn cluster_wide(name: &str, component: &str) -> Value {
    json!({ "name": name, "labels": labels(component) })
}

/// Metadata of an object in the installation's namespace.
pub(crate) fn namespaced(from: &Source<'_>, name: &str, component: &str) -> Value {
    json!({ "name": name, "namespace": from.namespace(), "labels": labels(component) })
}

/// The image's full name.
pub(crate) fn image(from: &Source<'_>) -> Value {
    from.text(&[Part::Value("image.repository"), Part::Text(":"), Part::OrVersion("image.tag")])
}

/// A probe of one of a daemon's pages on its node.
pub(crate) fn probe(from: &Source<'_>, path: &str, port: &'static str) -> Value {
    json!({
        "httpGet": { "host": "127.0.0.1", "path": path, "port": from.value(port) },
        "periodSeconds": 10,
        "timeoutSeconds": 5,
    })
}

/// The ClusterNetwork: people's, so it outlives the chart.
pub(crate) fn cluster_network(from: &Source<'_>) -> Document {
    Document {
        file: "clusternetwork",
        only_if: Some("clusterNetwork.create"),
        object: json!({
            "apiVersion": format!("{GROUP}/v1alpha1"),
            "kind": "ClusterNetwork",
            "metadata": {
                "name": CLUSTER_NETWORK,
                "labels": labels("overlane"),
                "annotations": { "helm.sh/resource-policy": "keep" },
            },
            "spec": from.value("clusterNetwork.spec"),
        }),
    }
}
