//! Objects of any kind: applied, deleted, looked for.

use anyhow::{Context as _, Result, anyhow};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;

/// Who applies, in the objects' managed fields.
const MANAGER: &str = "overlane-install";

/// What an object is called in messages: `DaemonSet kube-system/overlane-agent`.
pub fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, namespace, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

/// The way to an object's kind, in its namespace if it has one.
pub fn api_of(client: &Client, object: &Value) -> Result<(Api<DynamicObject>, String)> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let version = text("/apiVersion").ok_or_else(|| anyhow!("an object has no apiVersion"))?;
    let kind = text("/kind").ok_or_else(|| anyhow!("an object has no kind"))?;
    let name = text("/metadata/name").ok_or_else(|| anyhow!("a {kind} has no name"))?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api = match text("/metadata/namespace") {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    Ok((api, name.to_owned()))
}

/// Applies an object as it is written, on the server. What others set of it stays theirs.
pub async fn apply(client: &Client, object: &Value) -> Result<()> {
    let (api, name) = api_of(client, object)?;
    // Ours are ours: what somebody changed of them by hand goes back.
    let how = PatchParams::apply(MANAGER).force();
    let patched = api.patch(&name, &how, &Patch::Apply(object)).await;
    patched.with_context(|| format!("apply {}", title(object)))?;
    Ok(())
}

/// Deletes an object; whether it was there.
pub async fn delete(client: &Client, object: &Value) -> Result<bool> {
    let (api, name) = api_of(client, object)?;
    match api.delete(&name, &DeleteParams::background()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error).with_context(|| format!("delete {}", title(object))),
    }
}

/// An object as it is now.
pub async fn get(client: &Client, object: &Value) -> Result<Option<DynamicObject>> {
    let (api, name) = api_of(client, object)?;
    match api.get_opt(&name).await {
        Ok(found) => Ok(found),
        // The kind itself is unknown.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", title(object))),
    }
}
