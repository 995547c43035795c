//! What an agent's account may write is bound to its node: a token that was stolen speaks for that node only.
//!
//! The API server says in a request which node a bound token was made for (Kubernetes 1.30,
//! `authentication.kubernetes.io/node-name`; "Managing Service Accounts", bound tokens).

use overlane_api::crd::GROUP;
use serde_json::json;

use crate::Document;
use crate::common::{AGENT, cluster_wide};
use crate::source::{Part, Source};

/// The policy's name, and its binding's.
const NAME: &str = "overlane-agent-own-node";
const NODE: &str = "authentication.kubernetes.io/node-name";

/// Policy and binding.
pub(crate) fn documents(from: &Source<'_>) -> [Document; 2] {
    let is_agent = from.text(&[
        Part::Text("request.userInfo.username == 'system:serviceaccount:"),
        Part::Namespace,
        Part::Text(":overlane-agent'"),
    ]);
    let own =
        format!("'{NODE}' in request.userInfo.extra && request.userInfo.extra['{NODE}'][0] == object.metadata.name");
    // Owners and finalizers would let it keep or end other objects; labels and annotations are nothing that it needs.
    let bare = "!has(object.metadata.ownerReferences) && !has(object.metadata.finalizers) && \
                !has(object.metadata.labels) && !has(object.metadata.annotations)";
    let unchanged = "oldObject != null && \
        object.metadata.?labels == oldObject.metadata.?labels && \
        object.metadata.?annotations == oldObject.metadata.?annotations && \
        object.metadata.?ownerReferences == oldObject.metadata.?ownerReferences && \
        object.metadata.?finalizers == oldObject.metadata.?finalizers";
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": cluster_wide(NAME, AGENT),
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [{
                    "apiGroups": [GROUP],
                    "apiVersions": ["*"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": ["*"],
                }],
            },
            "matchConditions": [{ "name": "is-agent", "expression": is_agent }],
            "validations": [
                {
                    "expression": "request.resource.resource == 'nodestates'",
                    "message": "an agent writes NodeStates and nothing else",
                    "reason": "Forbidden",
                },
                {
                    "expression": own,
                    "message": "an agent writes the NodeState of its own node, with a token that was made for it there",
                    "reason": "Forbidden",
                },
                {
                    "expression": format!("oldObject == null ? ({bare}) : ({unchanged})"),
                    "message": "an agent writes the spec of its NodeState, and no labels, annotations, owners or finalizers",
                    "reason": "Forbidden",
                },
            ],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": cluster_wide(NAME, AGENT),
        "spec": { "policyName": NAME, "validationActions": ["Deny"] },
    });
    [policy, binding].map(|object| Document { file: "admission", only_if: Some("admissionPolicy.create"), object })
}
