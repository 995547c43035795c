//! A scheduler that is just enough: a pod without a node is bound to the ready node with the fewest pods.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use tracing::{info, warn};

const AGAIN: Duration = Duration::from_millis(500);

/// Schedules until the daemon ends.
pub async fn run(client: Client) {
    let api: Api<Pod> = Api::all(client.clone());
    let unbound = watcher::Config::default().fields("spec.nodeName=");
    let mut pods = watcher::watcher(api, unbound).touched_objects().boxed();
    loop {
        let pod = match pods.try_next().await {
            Ok(Some(pod)) => pod,
            Ok(None) => return,
            Err(error) => {
                warn!("watch pods without a node: {error}");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let unbound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none());
        if unbound && pod.metadata.deletion_timestamp.is_none() {
            tokio::spawn(place(client.clone(), pod));
        }
    }
}

/// Tries until the pod has a node, or is gone.
async fn place(client: Client, pod: Pod) {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"));
    loop {
        match api.get_opt(&name).await {
            Ok(None) => return,
            Ok(Some(now)) if now.metadata.uid != pod.metadata.uid => return,
            Ok(Some(now)) if now.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) => return,
            Ok(Some(_)) | Err(_) => {}
        }
        match choose(&client).await {
            Ok(Some(node)) => {
                // Somebody else's choice in between makes this a conflict, and so does another pod of that name.
                let binding = binding(&pod, &node);
                let bound: kube::Result<Status> =
                    api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
                match bound {
                    Ok(_) => return info!(pod = name, node, "placed"),
                    Err(kube::Error::Api(status)) if status.code == 404 => return,
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    Err(error) => warn!(pod = name, node, "place: {error}"),
                }
            }
            Ok(None) => {}
            Err(error) => warn!(pod = name, "choose a node: {error:#}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn binding(pod: &Pod, node: &str) -> Binding {
    Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    }
}

async fn choose(client: &Client) -> Result<Option<String>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await?;
    let pods = pods.list(&ListParams::default()).await?;
    Ok(emptiest(&nodes.items, &pods.items))
}

fn emptiest(nodes: &[Node], pods: &[Pod]) -> Option<String> {
    let mut load: BTreeMap<&str, usize> = BTreeMap::new();
    for node in pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref()) {
        *load.entry(node).or_default() += 1;
    }
    let ready = nodes.iter().filter(|node| ready(node));
    let names = ready.filter_map(|node| node.metadata.name.clone());
    names.min_by_key(|name| (load.get(name.as_str()).copied().unwrap_or(0), name.clone()))
}

/// Whether a node says that it is ready and may be scheduled to.
pub fn ready(node: &Node) -> bool {
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    ready && !unschedulable
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a pod placed on a node that does not take pods.

    use serde_json::json;

    use super::*;

    fn node(name: &str, ready: &str, cordoned: bool) -> Node {
        let conditions = json!([{"type": "Ready", "status": ready}]);
        serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"unschedulable": cordoned}, "status": {"conditions": conditions}
        }))
        .unwrap()
    }

    fn pod(node: &str) -> Pod {
        serde_json::from_value(json!({"spec": {"nodeName": node, "containers": []}})).unwrap()
    }

    #[test]
    fn the_emptiest_ready_node_is_chosen() {
        let nodes =
            [node("a", "False", false), node("b", "True", true), node("c", "True", false), node("d", "True", false)];
        assert_eq!(emptiest(&nodes, &[]).as_deref(), Some("c"));
        assert_eq!(emptiest(&nodes, &[pod("c")]).as_deref(), Some("d"));
        assert_eq!(emptiest(&nodes[..2], &[]), None);
    }
}
