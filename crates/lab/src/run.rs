//! `lab run` and its opposite: pods, one at a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::echo;
use crate::error::LabError;
use crate::manifests::MANAGER;
use crate::status::{self, PodStatus};

const NAMESPACE_PATIENCE: Duration = Duration::from_secs(60);

/// A pod object. Without a command it runs the echo server, and is ready once that listens.
pub fn pod(
    namespace: &str,
    name: &str,
    node: Option<&str>,
    labels: &BTreeMap<String, String>,
    command: &[String],
) -> Value {
    let mut container = json!({"name": "main", "image": "overlane.io/lab"});
    if command.is_empty() {
        container["ports"] = json!([{"containerPort": echo::PORT}]);
        container["readinessProbe"] = json!({"tcpSocket": {"port": echo::PORT}});
    } else {
        container["command"] = json!(command);
    }
    let mut spec = json!({"containers": [container], "terminationGracePeriodSeconds": 2});
    if let Some(node) = node {
        spec["nodeName"] = node.into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": spec,
    })
}

/// Creates the pod, and its namespace if there is none.
pub async fn create(client: &Client, object: Value) -> Result<()> {
    let pod: Pod = serde_json::from_value(object).context("make the pod")?;
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    make_namespace(client, &namespace).await?;
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    match api.create(&PostParams::default(), &pod).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => bail!("pod `{name}` is there already"),
        Err(kube::Error::Api(status)) => bail!("create pod `{name}`: {}", status.message),
        Err(error) => Err(error).with_context(|| format!("create pod `{name}`")),
    }
}

/// Makes a namespace, unless it is there. One that is on its way out is waited for: a real API server takes seconds.
pub async fn make_namespace(client: &Client, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let deadline = Instant::now() + NAMESPACE_PATIENCE;
    while let Some(namespace) = namespaces.get_opt(name).await.with_context(|| format!("read namespace `{name}`"))? {
        if namespace.metadata.deletion_timestamp.is_none() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let seconds = NAMESPACE_PATIENCE.as_secs();
            bail!("make namespace `{name}`: the one of that name has been ending for {seconds} s and is still there");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let made = namespaces.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await;
    made.map(drop).with_context(|| format!("make namespace `{name}`"))
}

/// Waits until the pod is ready, or has finished.
pub async fn wait_ready(client: &Client, namespace: &str, name: &str, patience: Duration) -> Result<PodStatus> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let deadline = Instant::now() + patience;
    loop {
        let row = status::pod(&api.get(name).await.with_context(|| format!("read pod `{name}`"))?);
        if row.ready || matches!(row.phase.as_str(), "Succeeded" | "Failed") {
            return Ok(row);
        }
        if Instant::now() > deadline {
            let where_to = if row.node.is_empty() { "no node" } else { &row.node };
            bail!("pod `{name}` on {where_to} is {} after {} s: {}", row.phase, patience.as_secs(), row.message);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Deletes the pod and waits until it is gone.
pub async fn delete(client: &Client, namespace: &str, name: &str, patience: Duration) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let uid = api.get(name).await.with_context(|| format!("read pod `{name}`"))?.metadata.uid;
    api.delete(name, &DeleteParams::default()).await.with_context(|| format!("delete pod `{name}`"))?;
    let deadline = Instant::now() + patience;
    while api.get_opt(name).await?.is_some_and(|pod| pod.metadata.uid == uid) {
        if Instant::now() > deadline {
            bail!("pod `{name}` is still there after {} s", patience.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The UID of a pod; an error that lists the pods there are if it is not among them.
pub async fn uid(client: &Client, lab: &str, namespace: &str, name: &str) -> Result<(String, Pod)> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    if let Some(pod) = api.get_opt(name).await? {
        return Ok((pod.metadata.uid.clone().unwrap_or_default(), pod));
    }
    let pods: Api<Pod> = Api::all(client.clone());
    let known = pods.list(&ListParams::default()).await?.items;
    let exist = known.into_iter().map(|pod| {
        let (space, name) = (pod.metadata.namespace.unwrap_or_default(), pod.metadata.name.unwrap_or_default());
        if space == namespace { name } else { format!("{name} (-n {space})") }
    });
    Err(LabError::Unknown { kind: "pod", name: name.to_owned(), lab: lab.to_owned(), exist: exist.collect() }.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: an argument of `lab run` that does not reach the pod.

    use super::*;

    #[test]
    fn arguments_reach_the_pod() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let object = pod("ns", "p", Some("node-1"), &labels, &["sleep".into(), "1".into()]);
        let pod: Pod = serde_json::from_value(object).unwrap();
        let spec = pod.spec.unwrap();
        assert_eq!(pod.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(pod.metadata.labels.unwrap()["app"], "web");
        assert_eq!(spec.node_name.as_deref(), Some("node-1"));
        assert_eq!(spec.containers[0].command.as_deref().unwrap(), ["sleep", "1"]);
    }

    #[test]
    fn a_pod_without_a_command_is_ready_once_it_listens() {
        let pod: Pod = serde_json::from_value(super::pod("ns", "p", None, &BTreeMap::new(), &[])).unwrap();
        let spec = pod.spec.unwrap();
        assert!(spec.containers[0].readiness_probe.is_some() && spec.containers[0].command.is_none());
        assert!(spec.node_name.is_none());
    }
}
