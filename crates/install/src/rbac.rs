//! Accounts and what each may do. No rule has a wildcard, none reads a Secret.

use overlane_api::crd::{GROUP, NAMESPACE};
use serde_json::{Value, json};

use crate::Document;
use crate::common::{AGENT, CONTROLLER, cluster_wide, labels, namespaced};
use crate::source::Source;

const RBAC: &str = "rbac.authorization.k8s.io";
/// The group of ClusterNetworkPolicies.
const POLICY: &str = "policy.networking.k8s.io";

/// Accounts, roles and bindings.
pub(crate) fn documents(from: &Source<'_>) -> Vec<Document> {
    let mut all = Vec::new();
    for component in [AGENT, CONTROLLER] {
        let account = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": namespaced(from, component, component),
        });
        let cluster = if component == AGENT { agent_cluster() } else { controller_cluster() };
        let local = if component == AGENT { agent_local() } else { controller_local() };
        let subject = json!([{ "kind": "ServiceAccount", "name": component, "namespace": from.namespace() }]);
        let role_metadata = json!({ "name": component, "namespace": NAMESPACE, "labels": labels(component) });
        let objects = [
            account,
            json!({
                "apiVersion": format!("{RBAC}/v1"),
                "kind": "ClusterRole",
                "metadata": cluster_wide(component, component),
                "rules": cluster,
            }),
            json!({
                "apiVersion": format!("{RBAC}/v1"),
                "kind": "ClusterRoleBinding",
                "metadata": cluster_wide(component, component),
                "roleRef": { "apiGroup": RBAC, "kind": "ClusterRole", "name": component },
                "subjects": subject.clone(),
            }),
            // Where these objects live does not depend on where the daemons do.
            json!({
                "apiVersion": format!("{RBAC}/v1"),
                "kind": "Role",
                "metadata": role_metadata.clone(),
                "rules": local,
            }),
            json!({
                "apiVersion": format!("{RBAC}/v1"),
                "kind": "RoleBinding",
                "metadata": role_metadata,
                "roleRef": { "apiGroup": RBAC, "kind": "Role", "name": component },
                "subjects": subject,
            }),
        ];
        all.extend(objects.map(|object| Document { file: "rbac", only_if: None, object }));
    }
    all
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

const READ: [&str; 3] = ["get", "list", "watch"];

/// An agent writes its NodeState and nothing else; the admission policy holds it to its own. Which pods a gateway or a policy
/// is for is in their labels and in those of their namespaces; what policies say of pods of other nodes, in PodSlices.
fn agent_cluster() -> Value {
    json!([
        rule("", &["nodes", "pods", "namespaces"], &READ),
        rule(GROUP, &["clusternetworks", "egressgateways", "podslices"], &READ),
        rule(GROUP, &["nodestates"], &["get", "list", "watch", "create", "patch"]),
        rule("networking.k8s.io", &["networkpolicies"], &READ),
        rule(POLICY, &["clusternetworkpolicies"], &READ),
    ])
}

/// In `kube-system`: what it is given, and ip-masq-agent's configuration, which it selects by name and by label.
fn agent_local() -> Value {
    json!([rule(GROUP, &["nodenetworkconfigs"], &READ), rule("", &["configmaps"], &READ)])
}

/// It reads pods to make PodSlices of them, and policies to say what of them means nothing.
fn controller_cluster() -> Value {
    json!([
        rule("", &["pods"], &READ),
        rule("", &["nodes"], &["get", "list", "watch", "patch"]),
        rule("", &["nodes/status"], &["patch"]),
        rule(GROUP, &["clusternetworks", "egressgateways"], &READ),
        rule(GROUP, &["clusternetworks/status", "egressgateways/status"], &["patch"]),
        rule(GROUP, &["nodeblocks"], &["get", "list", "watch", "create", "patch", "delete"]),
        rule(GROUP, &["podslices"], &["get", "list", "watch", "create", "patch", "delete"]),
        rule(GROUP, &["nodestates"], &["get", "list", "watch", "delete"]),
        rule("networking.k8s.io", &["networkpolicies"], &READ),
        rule(POLICY, &["clusternetworkpolicies"], &READ),
        rule(POLICY, &["clusternetworkpolicies/status"], &["patch"]),
        rule("", &["events"], &["create"]),
    ])
}

fn controller_local() -> Value {
    let mut own_lease = rule("coordination.k8s.io", &["leases"], &["get", "update", "patch"]);
    own_lease["resourceNames"] = json!([CONTROLLER]);
    json!([
        rule(GROUP, &["nodenetworkconfigs"], &["get", "list", "watch", "create", "patch", "delete"]),
        rule(GROUP, &["nodenetworkconfigs/status"], &["patch"]),
        // A creation has no name that a rule could ask for.
        rule("coordination.k8s.io", &["leases"], &["create"]),
        own_lease,
    ])
}
