//! Manifests: read before anything is made, applied once the API is there.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::Scope;
use kube::{Client, Discovery};
use overlane_api::crd::CLUSTER_NETWORK;
use serde::Deserialize as _;
use serde_json::Value;

use crate::error::LabError;

/// The field manager under which manifests are applied.
pub const MANAGER: &str = "overlane-lab";

/// One object of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The file that it was read from.
    pub file: PathBuf,
    /// The object.
    pub object: Value,
}

impl Manifest {
    /// What the object calls itself: `Pod web`.
    pub fn title(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        format!("{} {}", text(&self.object["kind"]), text(&self.object["metadata"]["name"]))
    }
}

/// Reads files, and directories' `.yaml`, `.yml` and `.json` files in order of name; `-` is standard input.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>, LabError> {
    let mut manifests = Vec::new();
    for path in paths {
        for file in files(path)? {
            manifests.extend(read_file(&file)?);
        }
    }
    Ok(manifests)
}

fn bad(path: &Path, reason: impl std::fmt::Display) -> LabError {
    LabError::Argument { argument: format!("-f {}", path.display()), reason: reason.to_string() }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, LabError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(|error| bad(path, error))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
    files.sort();
    if files.is_empty() { Err(bad(path, "holds no .yaml, .yml or .json file")) } else { Ok(files) }
}

fn read_file(path: &Path) -> Result<Vec<Manifest>, LabError> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(|error| bad(path, error))?;
    } else {
        text = fs::read_to_string(path).map_err(|error| bad(path, error))?;
    }
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Manifest>, LabError> {
    let mut manifests = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let object = Value::deserialize(document).map_err(|error| bad(path, error))?;
        if object.is_null() {
            continue;
        }
        let items = match object["kind"].as_str() {
            Some("List") => object["items"].as_array().cloned().unwrap_or_default(),
            _ => vec![object],
        };
        for object in items {
            for field in ["apiVersion", "kind"] {
                if !object[field].is_string() {
                    return Err(bad(path, format!("an object without {field}")));
                }
            }
            if !object["metadata"]["name"].is_string() {
                return Err(bad(path, "an object without metadata.name"));
            }
            manifests.push(Manifest { file: path.to_owned(), object });
        }
    }
    Ok(manifests)
}

/// Takes the ClusterNetwork out of the manifests, if there is one.
pub fn take_cluster_network(manifests: &mut Vec<Manifest>) -> Result<Option<Value>, LabError> {
    let is_one = |manifest: &Manifest| manifest.object["kind"] == "ClusterNetwork";
    let found: Vec<Manifest> = manifests.iter().filter(|m| is_one(m)).cloned().collect();
    manifests.retain(|manifest| !is_one(manifest));
    match found.as_slice() {
        [] => Ok(None),
        [one] if one.object["metadata"]["name"] == CLUSTER_NETWORK => Ok(Some(one.object.clone())),
        [one] => Err(bad(&one.file, format!("a ClusterNetwork is called `{CLUSTER_NETWORK}`"))),
        [_, second, ..] => Err(bad(&second.file, "a second ClusterNetwork")),
    }
}

/// Applies manifests, server-side: namespaces and definitions first, otherwise in the order given. A kind that is not
/// served yet is waited for, as a definition may be among the manifests.
pub async fn apply(client: &Client, manifests: &[Manifest], mut told: impl FnMut(&Manifest)) -> Result<()> {
    let mut ordered: Vec<&Manifest> = manifests.iter().collect();
    ordered.sort_by_key(|manifest| match manifest.object["kind"].as_str() {
        Some("CustomResourceDefinition") => 0,
        Some("Namespace") => 1,
        _ => 2,
    });
    let mut discovery = None;
    for manifest in ordered {
        apply_one(client, &mut discovery, manifest)
            .await
            .with_context(|| format!("apply {} of {}", manifest.title(), manifest.file.display()))?;
        told(manifest);
    }
    Ok(())
}

async fn apply_one(client: &Client, discovery: &mut Option<Discovery>, manifest: &Manifest) -> Result<()> {
    let (resource, namespaced) = resolve(client, discovery, &manifest.object).await?;
    let object: DynamicObject = serde_json::from_value(manifest.object.clone())?;
    let name = object.metadata.name.clone().unwrap_or_default();
    let api: Api<DynamicObject> = if namespaced {
        let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
        Api::namespaced_with(client.clone(), namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    };
    api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await?;
    Ok(())
}

async fn resolve(client: &Client, known: &mut Option<Discovery>, object: &Value) -> Result<(ApiResource, bool)> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let kind = object["kind"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let wanted = GroupVersionKind::gvk(group, version, kind);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let discovery = match known.take() {
            Some(discovery) => discovery,
            None => Discovery::new(client.clone()).run().await.context("ask which kinds are served")?,
        };
        if let Some((resource, capabilities)) = discovery.resolve_gvk(&wanted) {
            let namespaced = capabilities.scope == Scope::Namespaced;
            *known = Some(discovery);
            return Ok((resource, namespaced));
        }
        if Instant::now() > deadline {
            return Err(anyhow!("{api_version} {kind} is not served"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: an object of a manifest that is silently left out.

    use super::*;

    fn parsed(text: &str) -> Result<Vec<Manifest>, LabError> {
        parse(Path::new("f.yaml"), text)
    }

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let text = "
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: b}}
- {apiVersion: v1, kind: Pod, metadata: {name: c}}
";
        let titles: Vec<String> = parsed(text).unwrap().iter().map(Manifest::title).collect();
        assert_eq!(titles, ["Namespace a", "Pod b", "Pod c"]);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in ["kind: Pod", "apiVersion: v1", "{apiVersion: v1, kind: Pod}", "a: [", "just text"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn there_is_one_cluster_network() {
        let one = "{apiVersion: overlane.io/v1alpha1, kind: ClusterNetwork, metadata: {name: default}}";
        let mut manifests = parsed(one).unwrap();
        assert!(take_cluster_network(&mut manifests).unwrap().is_some());
        assert!(manifests.is_empty());
        let mut two = parsed(&format!("{one}\n---\n{one}")).unwrap();
        assert!(take_cluster_network(&mut two).is_err());
        let mut other = parsed(&one.replace("default", "x")).unwrap();
        assert!(take_cluster_network(&mut other).is_err());
    }
}
