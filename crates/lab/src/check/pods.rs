//! The check's own pods: in a namespace of their own, and gone when the check is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use overlane_core::family::Family;

use super::plan::{Place, Role};
use crate::echo;
use crate::names::{LabName, pod_part};
use crate::netns;
use crate::process::ProcessId;
use crate::run;
use crate::status::{self, LabStatus};

const NAMESPACE: &str = "overlane-check";
const LABEL: &str = "overlane.io/check";
const START_PATIENCE: Duration = Duration::from_secs(60);
const END_PATIENCE: Duration = Duration::from_secs(30);

/// Pods of one check.
pub struct CheckPods {
    client: Client,
    lab: LabName,
    api: Api<Pod>,
    /// This check, among others that may run.
    tag: String,
    count: usize,
}

impl CheckPods {
    /// Creates `each` pods on every node.
    pub async fn start(client: Client, lab: &LabName, status: &LabStatus, each: usize) -> Result<Self> {
        let pid = i32::try_from(std::process::id()).ok().and_then(ProcessId::of).context("find this process")?;
        let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
        run::make_namespace(&client, NAMESPACE).await?;
        let tag = format!("{}-{}", pid.pid, pid.start);
        let pods = Self { client, lab: lab.clone(), api, tag, count: each * status.nodes.len() };
        pods.remove_abandoned().await?;
        let created = pods.create(status, each).await;
        if created.is_err() {
            let _ = pods.remove().await;
        }
        created.map(|()| pods)
    }

    async fn create(&self, status: &LabStatus, each: usize) -> Result<()> {
        for node in &status.nodes {
            for number in 0..each {
                let name = format!("check-{}-{}-{number}", self.tag, node.name);
                let labels = BTreeMap::from([(LABEL.to_owned(), self.tag.clone())]);
                let pod = run::pod(NAMESPACE, &name, Some(&node.name), &labels, &[]);
                let pod: Pod = serde_json::from_value(pod).context("make a pod")?;
                self.api.create(&PostParams::default(), &pod).await.with_context(|| format!("create pod {name}"))?;
            }
        }
        Ok(())
    }

    /// Waits until all of them answer.
    pub async fn ready(&self) -> Result<Vec<Place>> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let pods = self.list(&self.tag).await?;
            let ready: Vec<Place> = pods.iter().filter_map(|pod| self.place(pod)).collect();
            if ready.len() == self.count {
                return Ok(ready);
            }
            if Instant::now() > deadline {
                let late = pods.iter().map(status::pod).find(|pod| !pod.ready);
                let why = late.map(|pod| format!("{} on {} is {}: {}", pod.name, pod.node, pod.phase, pod.message));
                bail!(
                    "{} of {} pods started in {} s; {}",
                    ready.len(),
                    self.count,
                    START_PATIENCE.as_secs(),
                    why.unwrap_or_default()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn place(&self, pod: &Pod) -> Option<Place> {
        let row = status::pod(pod);
        let addresses = row.ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| (Family::of(&ip), ip));
        row.ready.then(|| Place {
            role: Role::Pod,
            node: Some(row.node),
            namespace: netns::path(&self.lab, &pod_part(pod.metadata.uid.as_deref().unwrap_or_default())),
            addresses: addresses.collect(),
            port: echo::PORT,
            mtu: 0,
            name: row.name,
        })
    }

    async fn list(&self, tag: &str) -> Result<Vec<Pod>> {
        let selected = ListParams::default().labels(&format!("{LABEL}={tag}"));
        Ok(self.api.list(&selected).await.context("list the check's pods")?.items)
    }

    /// Deletes the pods and waits until they are gone.
    pub async fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + END_PATIENCE;
        for pod in self.list(&self.tag).await? {
            self.delete(&pod).await?;
        }
        while !self.list(&self.tag).await?.is_empty() {
            if Instant::now() > deadline {
                bail!("pods in namespace {NAMESPACE} do not end");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.remove_namespace().await
    }

    /// The namespace goes with the last check in it.
    async fn remove_namespace(&self) -> Result<()> {
        if self.api.list(&ListParams::default()).await?.items.is_empty() {
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            let _ = namespaces.delete(NAMESPACE, &DeleteParams::default()).await;
        }
        Ok(())
    }

    async fn delete(&self, pod: &Pod) -> Result<()> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        match self.api.delete(&name, &DeleteParams::default().grace_period(1)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop).with_context(|| format!("delete pod {name}")),
        }
    }

    /// Pods of checks whose process is gone.
    async fn remove_abandoned(&self) -> Result<()> {
        let all = ListParams::default().labels(LABEL);
        for pod in self.api.list(&all).await?.items {
            let tag = pod.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL).cloned()).unwrap_or_default();
            let owner = tag
                .split_once('-')
                .and_then(|(pid, start)| Some(ProcessId { pid: pid.parse().ok()?, start: start.parse().ok()? }));
            if owner.is_none_or(|owner| !owner.alive()) {
                self.delete(&pod).await?;
            }
        }
        Ok(())
    }
}
