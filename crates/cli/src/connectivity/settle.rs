//! The check's Service is seconds old when the questions are asked, and Kubernetes promises no time within which every
//! node's proxy and the cluster's DNS know it: the questions wait for them, since a proxy that is behind is no fault of
//! the network's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use overlane_core::family::Family;
use overlane_lab::check::plan::Role;
use tokio::time::Instant;

use super::ask::Task;
use super::pods::{SERVICE_PORT, World};
use super::{AT_ONCE, exec};

/// How long the proxies and the DNS have; then the questions are asked as they are, and their failures are reported.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

/// Returns when every pod and node reaches the Service, and every pod knows its name, or when time is up.
pub async fn settle(client: &Client, world: &World) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &world.namespace);
    let until = Instant::now() + PATIENCE;
    let mut behind = tasks(world);
    loop {
        let pods = &pods;
        let rounds = behind.into_iter().map(|(asker, tasks)| async move {
            let answers = exec::probe(pods, &asker, &tasks, || {}).await;
            let answers = answers.with_context(|| format!("ask from pod {asker}"))?;
            let failed = tasks.into_iter().zip(answers).filter(|(_, answer)| answer.failure.is_some());
            anyhow::Ok((asker, failed.map(|(task, _)| task).collect::<Vec<Task>>()))
        });
        let left: Vec<_> = futures::stream::iter(rounds.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await;
        let left = left.into_iter().collect::<Result<BTreeMap<_, _>>>()?;
        behind = left.into_iter().filter(|(_, tasks)| !tasks.is_empty()).collect();
        if behind.is_empty() || Instant::now() > until {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What each asker has to succeed in, by the asking pod's name.
fn tasks(world: &World) -> BTreeMap<String, Vec<Task>> {
    let mut by_asker = BTreeMap::new();
    for place in &world.places {
        let Some(asker) = world.askers.get(&place.name) else { continue };
        let mine = world.service.iter().filter(|ip| place.addresses.contains_key(&Family::of(ip)));
        let mut tasks: Vec<Task> = mine.map(|ip| Task::Connect { to: SocketAddr::new(*ip, SERVICE_PORT) }).collect();
        if place.role == Role::Pod {
            tasks.push(Task::Resolve { name: world.service_name(), want: world.service.clone() });
        }
        by_asker.insert(asker.clone(), tasks);
    }
    by_asker
}
