//! The controllers.

use overlane_api::crd::STARTUP_TAINT;
use serde_json::json;

use crate::Document;
use crate::common::{CONTROLLER, image, labels, namespaced, probe};
use crate::source::{Part, Source};

/// Deployment and disruption budget.
pub(crate) fn documents(from: &Source<'_>) -> [Document; 2] {
    let mut liveness = probe(from, "/healthz", "controller.metricsPort");
    liveness["initialDelaySeconds"] = json!(20);
    let arguments = from.list(
        vec![
            from.text(&[Part::Text("--log-level="), Part::Value("controller.logLevel")]),
            from.text(&[Part::Text("--hold-down="), Part::Value("controller.holdDown")]),
            from.text(&[Part::Text("--metrics-addr="), Part::Value("controller.metricsAddr")]),
        ],
        "controller.extraArgs",
    );
    let selector = json!({ "matchLabels": labels(CONTROLLER) });
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": namespaced(from, CONTROLLER, CONTROLLER),
        "spec": {
            "replicas": from.value("controller.replicas"),
            "selector": selector.clone(),
            // No two share a node, so that a third has no place where there are two nodes.
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 } },
            "template": {
                "metadata": { "labels": labels(CONTROLLER) },
                "spec": {
                    "serviceAccountName": CONTROLLER,
                    "priorityClassName": "system-cluster-critical",
                    // It comes before there is a pod network.
                    "hostNetwork": true,
                    // The cluster's own DNS runs on the network that is made here.
                    "dnsPolicy": "Default",
                    "imagePullSecrets": from.value("image.pullSecrets"),
                    "nodeSelector": from.value("controller.nodeSelector"),
                    "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{
                        "labelSelector": selector.clone(),
                        "topologyKey": "kubernetes.io/hostname",
                    }] } },
                    // Nodes wait for it before they are ready; a cloud's own controller may wait for the nodes.
                    "tolerations": [
                        { "key": "node.kubernetes.io/not-ready", "operator": "Exists" },
                        { "key": "node.kubernetes.io/network-unavailable", "operator": "Exists" },
                        { "key": "node.cloudprovider.kubernetes.io/uninitialized", "operator": "Exists" },
                        { "key": "node-role.kubernetes.io/control-plane", "operator": "Exists" },
                        { "key": STARTUP_TAINT, "operator": "Exists" },
                        { "key": "CriticalAddonsOnly", "operator": "Exists" },
                    ],
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": 65532,
                        "runAsGroup": 65532,
                        "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{
                        "name": "controller",
                        "image": image(from),
                        "imagePullPolicy": from.value("image.pullPolicy"),
                        "command": ["/usr/bin/overlane-controller"],
                        "args": arguments,
                        "env": from.list(Vec::new(), "env"),
                        "ports": [{ "name": "metrics", "containerPort": from.value("controller.metricsPort") }],
                        "livenessProbe": liveness,
                        "readinessProbe": probe(from, "/readyz", "controller.metricsPort"),
                        "resources": from.value("controller.resources"),
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "readOnlyRootFilesystem": true,
                            "capabilities": { "drop": ["ALL"] },
                        },
                    }],
                },
            },
        },
    });
    let budget = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": namespaced(from, CONTROLLER, CONTROLLER),
        "spec": { "maxUnavailable": 1, "selector": selector },
    });
    [deployment, budget].map(|object| Document { file: "controller", only_if: None, object })
}
