//! Manifests: YAML or JSON, with pods and with what makes pods.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use overlane_api::policy::Objects;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What the API server gives each namespace as a label.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Reads files, and of directories the files in them, as `kubectl apply -f` does; what a cluster adds is added.
pub fn read(paths: &[PathBuf]) -> Result<Objects> {
    let mut objects = parse(paths)?;
    complete(&mut objects);
    Ok(objects)
}

/// Adds what a cluster would have added.
pub fn complete(objects: &mut Objects) {
    label_namespaces(objects);
    objects.invent_addresses();
}

/// Reads them as they are.
pub fn parse(paths: &[PathBuf]) -> Result<Objects> {
    let mut objects = Objects::default();
    for path in paths {
        for file in files(path)? {
            let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            add(&text, &mut objects).with_context(|| format!("read {}", file.display()))?;
        }
    }
    Ok(objects)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let is_manifest = |file: &PathBuf| {
        let ending = file.extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("yaml" | "yml" | "json"))
    };
    files.retain(is_manifest);
    files.sort();
    if files.is_empty() {
        bail!("{} has no file that ends in .yaml, .yml or .json", path.display());
    }
    Ok(files)
}

fn add(text: &str, objects: &mut Objects) -> Result<()> {
    for document in serde_norway::Deserializer::from_str(text) {
        let value = Value::deserialize(document)?;
        if !value.is_null() {
            take(value, objects)?;
        }
    }
    Ok(())
}

fn take(value: Value, objects: &mut Objects) -> Result<()> {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    if let Some(Value::Array(items)) = value.get("items").filter(|_| kind.ends_with("List")) {
        return items.iter().try_for_each(|item| take(item.clone(), objects));
    }
    let group = value["apiVersion"].as_str().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
    match (group, kind.as_str()) {
        ("", "Namespace") => objects.namespaces.push(object(value)?),
        ("", "Node") => objects.nodes.push(object(value)?),
        ("", "Pod") => objects.pods.push(object(value)?),
        ("networking.k8s.io", "NetworkPolicy") => objects.policies.push(object(value)?),
        ("policy.networking.k8s.io", "ClusterNetworkPolicy") => objects.cluster_policies.push(object(value)?),
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("", "ReplicationController")
        | ("batch", "Job") => objects.pods.push(made(&value, &value["spec"]["template"])?),
        ("batch", "CronJob") => objects.pods.push(made(&value, &value["spec"]["jobTemplate"]["spec"]["template"])?),
        // Of everything else policies know nothing.
        _ => {}
    }
    Ok(())
}

fn object<T: DeserializeOwned>(value: Value) -> Result<T> {
    let what = format!(
        "{} {}",
        value["kind"].as_str().unwrap_or_default(),
        value["metadata"]["name"].as_str().unwrap_or("without name")
    );
    serde_json::from_value(value).context(what)
}

/// A pod as a workload would make it, under the workload's name.
fn made(workload: &Value, template: &Value) -> Result<Pod> {
    let mut pod = template.clone();
    pod["kind"] = "Pod".into();
    pod["apiVersion"] = "v1".into();
    for key in ["name", "namespace"] {
        pod["metadata"][key] = workload["metadata"][key].clone();
    }
    object(pod)
}

/// As the API server does, for those that have no object too.
fn label_namespaces(objects: &mut Objects) {
    let of_pods = objects.pods.iter().map(|pod| &pod.metadata);
    let of_policies = objects.policies.iter().map(|policy| &policy.metadata);
    let named: BTreeSet<String> = of_pods
        .chain(of_policies)
        .map(|metadata| metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()))
        .collect();
    for name in named {
        if !objects.namespaces.iter().any(|namespace| namespace.metadata.name.as_deref() == Some(&name)) {
            let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
            objects.namespaces.push(Namespace { metadata, ..Namespace::default() });
        }
    }
    for namespace in &mut objects.namespaces {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
    }
}

#[cfg(test)]
pub(super) mod tests {
    //! Must catch: a workload's pods that are not there, or a namespace without the label of its name.
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Two pods of one namespace.
    pub const PODS: &str = "
kind: Pod
apiVersion: v1
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: []}
---
kind: Pod
apiVersion: v1
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: []}
---
";

    /// One file of manifests, as it is.
    pub fn parsed(text: &str) -> Objects {
        let mut objects = Objects::default();
        add(text, &mut objects).unwrap();
        objects
    }

    #[test]
    fn what_manifests_hold() {
        let dir = tempfile::tempdir().unwrap();
        let workload = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec:\n  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}\n";
        let list = r#"{"kind": "List", "apiVersion": "v1", "items": [{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}, "spec": {"containers": []}}]}"#;
        std::fs::write(dir.path().join("a.yaml"), format!("{workload}---\n---\nkind: Secret\napiVersion: v1\n"))
            .unwrap();
        std::fs::write(dir.path().join("b.json"), list).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "kind: [").unwrap();
        let objects = read(&[dir.path().to_owned()]).unwrap();
        let names: Vec<_> = objects.pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["web", "p"]);
        let understood = objects.understand();
        assert_eq!(understood.endpoints.len(), 4, "an address of each family for each pod");
        assert_eq!(understood.world.namespaces()["shop"][NAME_LABEL], "shop");
        assert!(understood.world.namespaces().contains_key("default"));
        assert!(understood.world.profiles().any(|profile| profile.ports.iter().any(|port| port.name == "http")));

        std::fs::write(dir.path().join("c.yml"), "kind: [").unwrap();
        let error = format!("{:#}", read(&[dir.path().to_owned()]).unwrap_err());
        assert!(error.contains("c.yml"), "{error}");
        let nothing = tempfile::tempdir().unwrap();
        assert!(read(&[nothing.path().to_owned()]).is_err());
    }
}
