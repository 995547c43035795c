//! Tokens of agents at a real API server. Each is bound to its Node, so that the installation's admission policy knows
//! whose it is, and ends with that very object. A Node that is made again gets a new agent with a new token, as its
//! DaemonSet's pod would be a new one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tracing::{info, warn};

use super::Cluster;
use super::api::BoundTo;
use super::supervise::Action;
use crate::files;

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const AGAIN: Duration = Duration::from_millis(500);
/// Beside the token: the UID of the Node that it is bound to.
const BOUND_TO: &str = "node-uid";

impl Cluster {
    /// Waits until the kubelet has registered a new machine's Node, and gives its agent a token where it needs one. One
    /// that has a token keeps it.
    pub(super) async fn admit(&self, name: &str) -> Result<()> {
        if self.paths.node(name).credentials().join(BOUND_TO).exists() {
            return Ok(());
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(node) = nodes.get_opt(name).await.with_context(|| format!("read Node {name}"))? {
                return if self.api.is_real() { self.renew(&node).await.map(drop) } else { Ok(()) };
            }
            if Instant::now() > deadline {
                bail!("wait for the kubelet to register Node {name}: not within {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Makes a token for the Node as it is now, unless its agent has one; whether it was made.
    async fn renew(&self, node: &Node) -> Result<bool> {
        let (Some(name), Some(uid)) = (&node.metadata.name, &node.metadata.uid) else { return Ok(false) };
        let dir = self.paths.node(name).credentials();
        let file = dir.join(BOUND_TO);
        if std::fs::read_to_string(&file).is_ok_and(|known| known == *uid) {
            return Ok(false);
        }
        self.api.admit_agent(&dir, &BoundTo { name: name.clone(), uid: uid.clone() }).await?;
        files::write(&file, uid.as_bytes())?;
        Ok(true)
    }

    /// A Node has come, or is another one now.
    async fn meet(&self, node: &Node) -> Result<()> {
        let Some(name) = &node.metadata.name else { return Ok(()) };
        // A Node without a machine of this lab has no agent.
        let Ok(machine) = self.machine(name).await else { return Ok(()) };
        // What somebody ended stays down, and finds the new token when it is started.
        if self.renew(node).await? && !machine.agent.state().down {
            info!(node = name, "another Node of that name: its agent starts anew");
            machine.agent.act(Action::Restart).await?;
        }
        Ok(())
    }
}

/// Keeps every agent's token good until the daemon ends.
pub(super) async fn keep(cluster: Arc<Cluster>) {
    let api: Api<Node> = Api::all(cluster.client.clone());
    let mut nodes = watcher::watcher(api, watcher::Config::default()).touched_objects().boxed();
    loop {
        match nodes.try_next().await {
            Ok(Some(node)) => {
                if node.metadata.deletion_timestamp.is_none()
                    && let Err(error) = cluster.meet(&node).await
                {
                    warn!(node = node.metadata.name, "give its agent a token: {error:#}");
                }
            }
            Ok(None) => return,
            Err(error) => {
                warn!("watch Nodes: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
