//! Which ConfigMaps hold ip-masq-agent configuration.
//!
//! Watched one by one by name, which the API server indexes (kubelets watch ConfigMaps so), and by label: not the whole
//! of kube-system, where some controllers write a ConfigMap every few seconds.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;

/// Label and value that mark a ConfigMap of any name.
pub const LABEL: (&str, &str) = ("overlane.io/config", "ip-masq-agent");
/// Names that count without the label: AKS', and ip-masq-agent's own.
pub const NAMES: [&str; 3] = ["azure-ip-masq-agent-config", "azure-ip-masq-agent-config-reconciled", "ip-masq-agent"];

/// Whether a ConfigMap counts.
pub fn is_masq_map(map: &ConfigMap) -> bool {
    let (label, value) = LABEL;
    let namespace = map.namespace();
    let here = namespace.is_none() || namespace.as_deref() == Some(overlane_api::crd::NAMESPACE);
    here && (NAMES.contains(&map.name_any().as_str()) || map.labels().get(label).is_some_and(|v| v == value))
}
