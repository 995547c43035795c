//! The agents.

use serde_json::{Value, json};

use crate::Document;
use crate::common::{AGENT, image, labels, namespaced, probe};
use crate::source::{Part, Source};

/// What the agent may do beyond any process of its node, and why. `docs/operations.md` has the same table.
pub const CAPABILITIES: [(&str, &str); 3] = [
    ("NET_ADMIN", "links, routes, neighbours, packet filter, conntrack entries and network sysctls of the node"),
    (
        "NET_RAW",
        "ICMP echoes that ask whether the fabric carries pods' addresses, and whether egress gateways are there; \
         words to the segment about who has an egress address",
    ),
    ("SYS_ADMIN", "`setns(2)` into the network namespaces of pods, to make their interfaces"),
];

/// The DaemonSet.
pub(crate) fn document(from: &Source<'_>) -> Document {
    let mut liveness = probe(from, "/healthz", "agent.metricsPort");
    liveness["initialDelaySeconds"] = json!(20);
    let arguments = from.list(
        vec![
            from.text(&[Part::Text("--run-dir="), Part::Value("agent.runDir")]),
            Value::from("--cni-plugin=/usr/bin/overlane-cni"),
            Value::from("--cni-bin-dir=/host/opt/cni/bin"),
            Value::from("--cni-conf-dir=/host/etc/cni/net.d"),
            from.text(&[Part::Text("--cni-conf-name="), Part::Value("agent.cniConfName")]),
            Value::from("--sysctl-dir=/host/proc/sys"),
            from.text(&[Part::Text("--log-level="), Part::Value("agent.logLevel")]),
            from.text(&[Part::Text("--metrics-addr="), Part::Value("agent.metricsAddr")]),
        ],
        "agent.extraArgs",
    );
    let node_name =
        json!({ "name": "OVERLANE_NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } });
    let added: Vec<&str> = CAPABILITIES.iter().map(|(name, _)| *name).collect();
    let object = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": namespaced(from, AGENT, AGENT),
        "spec": {
            "selector": { "matchLabels": labels(AGENT) },
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "maxUnavailable": from.value("agent.maxUnavailable") },
            },
            "template": {
                "metadata": { "labels": labels(AGENT) },
                "spec": {
                    "serviceAccountName": AGENT,
                    "priorityClassName": "system-node-critical",
                    "hostNetwork": true,
                    // The cluster's own DNS runs on the network that is made here.
                    "dnsPolicy": "Default",
                    "imagePullSecrets": from.value("image.pullSecrets"),
                    "nodeSelector": from.value("agent.nodeSelector"),
                    "tolerations": [{ "operator": "Exists" }],
                    "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
                    "terminationGracePeriodSeconds": 5,
                    "containers": [{
                        "name": "agent",
                        "image": image(from),
                        "imagePullPolicy": from.value("image.pullPolicy"),
                        "command": ["/usr/bin/overlane-agent"],
                        "args": arguments,
                        "env": from.list(vec![node_name], "env"),
                        // So that the scheduler gives the port to no pod.
                        "ports": [{ "name": "metrics", "containerPort": from.value("agent.metricsPort") }],
                        "livenessProbe": liveness,
                        "readinessProbe": probe(from, "/readyz", "agent.metricsPort"),
                        "resources": from.value("agent.resources"),
                        "securityContext": {
                            "privileged": false,
                            "readOnlyRootFilesystem": true,
                            "runAsUser": 0,
                            "seLinuxOptions": from.value("agent.seLinuxOptions"),
                            "capabilities": { "drop": ["ALL"], "add": added },
                        },
                        "volumeMounts": [
                            mount("run", from.value("agent.runDir")),
                            mount("cni-bin", Value::from("/host/opt/cni/bin")),
                            mount("cni-conf", Value::from("/host/etc/cni/net.d")),
                            mount("sysctl", Value::from("/host/proc/sys/net")),
                        ],
                    }],
                    "volumes": [
                        volume("run", from.value("agent.runDir"), "DirectoryOrCreate"),
                        volume("cni-bin", from.value("agent.cniBinDir"), "DirectoryOrCreate"),
                        volume("cni-conf", from.value("agent.cniConfDir"), "DirectoryOrCreate"),
                        // A container's own /proc/sys is read-only.
                        volume("sysctl", Value::from("/proc/sys/net"), "Directory"),
                    ],
                },
            },
        },
    });
    Document { file: "agent", only_if: None, object }
}

fn mount(name: &str, path: Value) -> Value {
    json!({ "name": name, "mountPath": path })
}

fn volume(name: &str, path: Value, kind: &str) -> Value {
    json!({ "name": name, "hostPath": { "path": path, "type": kind } })
}
