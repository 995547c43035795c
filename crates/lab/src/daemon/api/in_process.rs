//! The API in this process: its objects are saved, so that a daemon that starts again knows its cluster.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use overlane_api::crd;
use overlane_apiserver::ApiServer;
use tracing::warn;

use crate::files;
use crate::paths::LabPaths;

/// What the API was told in the last moment before a daemon is killed is lost.
const SAVE_EVERY: Duration = Duration::from_millis(500);

/// The API with the product's definitions, and the objects that an earlier daemon had.
pub fn open(paths: &LabPaths) -> Result<ApiServer> {
    let server = ApiServer::new();
    match std::fs::read(paths.api_store()) {
        Ok(bytes) => server.restore(&bytes).context("restore the API's objects")?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("read the API's objects"),
    }
    for definition in crd::all_crds() {
        server.register(&definition)?;
    }
    server.register(&crd::cluster_network_policy_crd().context("read the definition of ClusterNetworkPolicies")?)?;
    Ok(server)
}

/// Writes the store to a file whenever it has changed.
pub async fn keep_saved(server: ApiServer, file: PathBuf) {
    let mut saved = None;
    loop {
        let revision = server.stats().revision;
        if saved != Some(revision) {
            let (server, file) = (server.clone(), file.clone());
            let write = tokio::task::spawn_blocking(move || files::write(&file, &server.snapshot()));
            match write.await.map_err(|error| anyhow!(error)) {
                Ok(Ok(())) => saved = Some(revision),
                Ok(Err(error)) | Err(error) => warn!("save the API's objects: {error:#}"),
            }
        }
        tokio::time::sleep(SAVE_EVERY).await;
    }
}
