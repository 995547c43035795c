//! Where policies and those that they speak of are read: manifests, or a cluster.

use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::{Api, Client};
use overlane_api::policy::{ClusterNetworkPolicy, Objects};

use super::manifests;
use crate::args::SourceArgs;
use crate::cluster::{client, read::each};
use crate::runtime;

/// From files, or from the cluster where there are none.
pub fn objects(source: &SourceArgs) -> Result<Objects> {
    if !source.files.is_empty() {
        return manifests::read(&source.files);
    }
    runtime::start()?.block_on(async { of_cluster(&client(&source.kube).await?).await })
}

async fn of_cluster(client: &Client) -> Result<Objects> {
    let mut objects = Objects::default();
    let all = ListParams::default;
    each::<Namespace>(&Api::all(client.clone()), all(), "namespaces", |one| objects.namespaces.push(one)).await?;
    each::<Node>(&Api::all(client.clone()), all(), "nodes", |one| objects.nodes.push(one)).await?;
    each::<Pod>(&Api::all(client.clone()), all(), "pods", |one| objects.pods.push(one)).await?;
    let take = |one| objects.policies.push(one);
    if_known(each::<NetworkPolicy>(&Api::all(client.clone()), all(), "network policies", take).await)?;
    let take = |one| objects.cluster_policies.push(one);
    if_known(each::<ClusterNetworkPolicy>(&Api::all(client.clone()), all(), "cluster network policies", take).await)?;
    Ok(objects)
}

/// A kind that the cluster lacks has no objects (a lab's has none of these).
fn if_known(listed: Result<()>) -> Result<()> {
    match listed {
        Err(error) if matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 404) => Ok(()),
        other => other,
    }
}
