//! `pods/binding`: how a scheduler gives a pod its node. Nothing else can, once the pod is there.

use http::StatusCode;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::meta::{self, at, text};
use crate::request::Request;
use crate::server::{Answer, Server};
use crate::store::Object;

impl Server {
    /// Binds a pod to a node.
    ///
    /// # Errors
    /// 404 if there is no such pod, 409 if it has a node, is on its way out or is another one of that name, 400 and 500 if
    /// the binding names another pod or no node.
    pub fn bind(&self, request: &Request) -> Result<Answer, Failure> {
        let body = request.json()?;
        if request.name.as_deref() != Some(text(&body, &["metadata", "name"])) {
            return Err(Failure::bad_request("name in URL does not match name in Binding object"));
        }
        self.change(request, |live| bound(request, live, &body))?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        let bytes = status.to_string().into();
        Ok(Answer::Body { code: StatusCode::CREATED, content_type: "application/json", bytes })
    }
}

fn bound(request: &Request, live: &Object, binding: &Value) -> Result<Value, Failure> {
    let (resource, name) = (&*request.resource, live.key.1.as_str());
    let (kind, node) = (text(binding, &["target", "kind"]), text(binding, &["target", "name"]));
    // The real server does not say what kind of error these are.
    if !["", "Node"].contains(&kind) {
        let why = format!("target.kind: Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\"");
        return Err(Failure::internal(why));
    }
    if node.is_empty() {
        return Err(Failure::internal("target.name: Required value"));
    }
    let conflict = |why: &str| Err(Failure::conflict(resource, name, why).of_subresource("binding"));
    let uid = text(binding, &["metadata", "uid"]);
    if !uid.is_empty() && uid != live.uid() {
        return conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            live.uid()
        ));
    }
    if at(&live.value, &["metadata", "deletionTimestamp"]).is_some() {
        return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let holder = text(&live.value, &["spec", "nodeName"]);
    if !holder.is_empty() {
        return conflict(&format!("pod {name} is already assigned to node \"{holder}\""));
    }
    let mut pod = live.value.clone();
    pod["spec"]["nodeName"] = node.into();
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": meta::now()});
    match pod["status"]["conditions"].as_array_mut() {
        Some(conditions) => {
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(scheduled);
        }
        None => pod["status"]["conditions"] = json!([scheduled]),
    }
    Ok(pod)
}
