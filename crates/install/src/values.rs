//! What may be set at an installation. The comments here are the documentation of the chart's values.

use overlane_api::crd::ClusterNetworkSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The values of an installation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Values {
    /// The image of agent, controller and command line.
    pub image: Image,
    /// The cluster's network.
    pub cluster_network: Network,
    /// The agents, one on every node.
    pub agent: Agent,
    /// The controllers, one of which leads.
    pub controller: Controller,
    /// Environment variables of agent and controller, as a container has them. Where nothing serves the `kubernetes`
    /// Service on the nodes yet, `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT` name the API server.
    #[schemars(with = "Vec<Value>")]
    pub env: Vec<Value>,
    /// Whether admission policies hold each agent's account to what its node alone knows.
    pub admission_policy: AdmissionPolicy,
}

impl Values {
    /// The defaults with `given` over them, as Helm lays values over a chart's: maps are merged key by key, everything
    /// else takes the place of what was there, and null empties it.
    ///
    /// # Errors
    /// A key that is not known, or a value of the wrong kind.
    pub fn over_defaults(given: Value) -> Result<Self, serde_json::Error> {
        let mut tree = serde_json::to_value(Self::default())?;
        if !given.is_null() {
            merge(&mut tree, given);
        }
        serde_json::from_value(tree)
    }
}

impl Image {
    /// The whole name, as a container has it.
    #[must_use]
    pub fn name(&self) -> String {
        let tag = if self.tag.is_empty() { crate::VERSION } else { &self.tag };
        format!("{}:{tag}", self.repository)
    }
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(place) => merge(place, value),
                    None => drop(base.insert(key, value)),
                }
            }
        }
        (base @ Value::Object(_), Value::Null) => *base = Value::Object(Map::new()),
        (base @ Value::Array(_), Value::Null) => *base = Value::Array(Vec::new()),
        (base, over) => *base = over,
    }
}

/// The image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Image {
    /// The image's name, with the registry that it was pushed to.
    pub repository: String,
    /// Its tag; the chart's version where empty.
    pub tag: String,
    /// When it is pulled: `Always`, `IfNotPresent`, `Never`.
    pub pull_policy: String,
    /// Secrets to pull it with, as `- name: NAME`.
    #[schemars(with = "Vec<Value>")]
    pub pull_secrets: Vec<Value>,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            repository: "overlane".to_owned(),
            tag: String::new(),
            pull_policy: "IfNotPresent".to_owned(),
            pull_secrets: Vec::new(),
        }
    }
}

/// The ClusterNetwork.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Network {
    /// Whether the installation makes the ClusterNetwork `default`. It stays when the chart is uninstalled.
    pub create: bool,
    /// Its spec: `kubectl explain clusternetwork.spec` says what each field means.
    pub spec: ClusterNetworkSpec,
}

impl Default for Network {
    fn default() -> Self {
        Self { create: true, spec: ClusterNetworkSpec::default() }
    }
}

/// Admission policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AdmissionPolicy {
    /// Needs Kubernetes 1.30: only from there on a token says on which node it is used. Without, a stolen token of one
    /// agent can speak for other nodes.
    pub create: bool,
}

impl Default for AdmissionPolicy {
    fn default() -> Self {
        Self { create: true }
    }
}

/// The agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Agent {
    /// Directory on the node that the container runtime looks for CNI plugins in. This and the next three are for good:
    /// agents that look elsewhere find neither the leases nor the configuration of those before them.
    pub cni_bin_dir: String,
    /// Directory on the node that the container runtime reads network configurations from.
    pub cni_conf_dir: String,
    /// Name of the network configuration. The runtime uses the first by name.
    pub cni_conf_name: String,
    /// Directory on the node for the socket and the leases; on a tmpfs, so that a reboot empties it.
    pub run_dir: String,
    /// What is logged: a level, or a filter such as `info,overlane_agent::calls=debug`.
    pub log_level: String,
    /// Where each agent serves `/metrics`, `/healthz`, `/readyz` and `/debug`, on its node. Whoever reaches it can read
    /// the node's state and change the log's filter.
    pub metrics_addr: String,
    /// Port of `metricsAddr`, for the probes.
    pub metrics_port: u16,
    /// Further arguments: `overlane-agent --help` lists them.
    pub extra_args: Vec<String>,
    /// Requests and limits.
    #[schemars(with = "Map<String, Value>")]
    pub resources: Map<String, Value>,
    /// How many agents at once are without a successor while a new version rolls out. Pods keep their network
    /// meanwhile; new ones wait.
    pub max_unavailable: Share,
    /// Nodes that get an agent.
    #[schemars(with = "Map<String, Value>")]
    pub node_selector: Map<String, Value>,
    /// SELinux' context of the agent. Where it is enforced, `{type: spc_t}` lets the agent write the runtime's directories.
    #[serde(rename = "seLinuxOptions")]
    #[schemars(with = "Map<String, Value>")]
    pub selinux_options: Map<String, Value>,
}

/// A number, or a part such as `10%`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Share {
    /// So many.
    Number(u32),
    /// Such a part.
    Text(String),
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            cni_bin_dir: "/opt/cni/bin".to_owned(),
            cni_conf_dir: "/etc/cni/net.d".to_owned(),
            cni_conf_name: "05-overlane.conflist".to_owned(),
            run_dir: "/run/overlane".to_owned(),
            log_level: "info".to_owned(),
            metrics_addr: "127.0.0.1:9470".to_owned(),
            metrics_port: 9470,
            extra_args: Vec::new(),
            resources: object(
                json!({ "requests": { "cpu": "50m", "memory": "40Mi" }, "limits": { "memory": "200Mi" } }),
            ),
            max_unavailable: Share::Text("10%".to_owned()),
            node_selector: object(json!({ "kubernetes.io/os": "linux" })),
            selinux_options: Map::new(),
        }
    }
}

/// The controllers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Controller {
    /// How many; no two share a node.
    pub replicas: u32,
    /// Seconds that a block rests after its node is gone before another node may have it.
    pub hold_down: u32,
    /// What is logged: a level, or a filter.
    pub log_level: String,
    /// Where each controller serves `/metrics`, `/healthz` and `/readyz`, on its node.
    pub metrics_addr: String,
    /// Port of `metricsAddr`, for the probes.
    pub metrics_port: u16,
    /// Further arguments: `overlane-controller --help` lists them.
    pub extra_args: Vec<String>,
    /// Requests and limits.
    #[schemars(with = "Map<String, Value>")]
    pub resources: Map<String, Value>,
    /// Nodes that may run a controller.
    #[schemars(with = "Map<String, Value>")]
    pub node_selector: Map<String, Value>,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            replicas: 2,
            hold_down: 300,
            log_level: "info".to_owned(),
            metrics_addr: "127.0.0.1:9471".to_owned(),
            metrics_port: 9471,
            extra_args: Vec::new(),
            resources: object(
                json!({ "requests": { "cpu": "50m", "memory": "40Mi" }, "limits": { "memory": "300Mi" } }),
            ),
            node_selector: object(json!({ "kubernetes.io/os": "linux" })),
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: values that the command line reads otherwise than Helm does; a misspelt key that is passed over.

    use super::*;

    #[test]
    fn values_are_laid_over_the_defaults() {
        let given =
            json!({ "agent": { "resources": { "limits": { "memory": "1Gi" } }, "nodeSelector": null }, "env": [1] });
        let values = Values::over_defaults(given).unwrap();
        assert_eq!(values.agent.resources["limits"]["memory"], "1Gi");
        assert_eq!(values.agent.resources["requests"]["cpu"], "50m", "merged key by key");
        assert!(values.agent.node_selector.is_empty() && values.env.len() == 1);
        assert_eq!(Values::over_defaults(Value::Null).unwrap(), Values::default());
        let error = Values::over_defaults(json!({ "agent": { "loglevel": "debug" } })).unwrap_err().to_string();
        assert!(error.contains("loglevel"), "{error}");
        let values = Values::over_defaults(json!({ "agent": { "maxUnavailable": 1 } })).unwrap();
        assert_eq!(values.agent.max_unavailable, Share::Number(1));
    }
}
