//! Lists of any length, and what pods and nodes say of themselves.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use kube::Api;
use kube::api::ListParams;
use serde::de::DeserializeOwned;

/// Objects a page.
const PAGE: u32 = 500;

/// Hands every object on, page by page: of a large cluster's objects only what the caller keeps is kept.
pub async fn each<K>(api: &Api<K>, mut params: ListParams, what: &str, mut take: impl FnMut(K)) -> Result<()>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    params = params.limit(PAGE);
    loop {
        let page = api.list(&params).await.with_context(|| format!("list {what}"))?;
        let next = page.metadata.continue_.clone().filter(|next| !next.is_empty());
        page.items.into_iter().for_each(&mut take);
        match next {
            Some(next) => params.continue_token = Some(next),
            None => return Ok(()),
        }
    }
}

/// Whether the pod's containers are ready, by its own condition.
pub fn pod_is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A node's conditions.
pub fn node_conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

/// Whether a condition of a node has a status.
pub fn node_says(node: &Node, kind: &str, status: &str) -> bool {
    node_conditions(node).iter().any(|condition| condition.type_ == kind && condition.status == status)
}
