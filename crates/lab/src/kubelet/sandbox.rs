//! A pod's sandbox: its network namespace, what CNI made in it, and the record by which both are found again after any
//! end of the daemon.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cni::{self, Attachment, CniError, NetworkList, Runtime};
use crate::files;
use crate::names::{LabName, pod_part};
use crate::netns;
use crate::process::{self, ProcessId};

/// What is remembered of a pod on its node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodRecord {
    /// The pod's namespace in the API.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whether it lives in its node's network namespace.
    pub host_network: bool,
    /// The node's boot id when this was written: after a reboot nothing of it is left.
    pub boot_id: String,
    /// Id of the sandbox; empty while there is none.
    pub container_id: String,
    /// Path of the network namespace.
    pub netns: String,
    /// Addresses in the order of ADD's result; empty until ADD has answered.
    pub ips: Vec<String>,
    /// ADD's result, for DEL.
    pub result: Value,
    /// The process, once it has started.
    pub process: Option<ProcessId>,
    /// How often the process was started again.
    pub restarts: u32,
    /// How the process last ended, once it has.
    pub exit: Option<Exit>,
    /// When the process last started, RFC 3339.
    pub started_at: String,
    /// Set once it is ended for good: `Succeeded` or `Failed`.
    pub finished: Option<String>,
    /// Sandboxes that were lost by a reboot and still want their DEL.
    pub lost: Vec<String>,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// Exit code; 128 and the number for a signal; 137 where nobody saw it.
    pub code: i32,
    /// When, RFC 3339.
    pub at: String,
}

impl PodRecord {
    /// A pod that has nothing yet.
    pub fn new(pod: &Pod, boot_id: &str) -> Self {
        let meta = &pod.metadata;
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            host_network: pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false),
            boot_id: boot_id.to_owned(),
            ..Self::default()
        }
    }

    /// The record's file name.
    pub fn file_name(uid: &str) -> String {
        let safe: String = uid.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(80).collect();
        format!("{safe}.json")
    }
}

/// What a sandbox is made with.
#[derive(Clone, Debug)]
pub struct Sandboxes {
    /// The lab.
    pub lab: LabName,
    /// The node's plugin runtime.
    pub runtime: Runtime,
    /// Where records are kept.
    pub dir: PathBuf,
    /// GC keeps what is on record: while it runs, no sandbox may come that its list does not show.
    pub gc: std::sync::Arc<tokio::sync::RwLock<()>>,
}

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The node has no network configuration yet.
    #[error("the node has no CNI configuration yet")]
    NoNetwork,
    /// A plugin refused.
    #[error(transparent)]
    Plugin(#[from] CniError),
    /// The namespace, or a file.
    #[error("{0:#}")]
    Local(#[from] anyhow::Error),
}

impl Sandboxes {
    /// Writes a pod's record.
    pub fn save(&self, record: &PodRecord) -> Result<()> {
        files::write_json(&self.dir.join(PodRecord::file_name(&record.uid)), record)
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) -> Result<()> {
        files::remove(&self.dir.join(PodRecord::file_name(uid)))
    }

    /// All records.
    pub fn records(&self) -> Vec<PodRecord> {
        let names = files::names(&self.dir);
        names.iter().filter_map(|name| files::read_json(&self.dir.join(name)).ok().flatten()).collect()
    }

    /// Makes the namespace and asks for its network. What a failed attempt left is taken away again, as containerd does.
    pub async fn make(&self, record: &mut PodRecord, pod: &Pod) -> Result<(), SandboxError> {
        let _no_gc = self.gc.read().await;
        let list = NetworkList::find(&self.runtime.conf_dir)?.ok_or(SandboxError::NoNetwork)?;
        let path = netns::path(&self.lab, &pod_part(&record.uid));
        record.container_id = process::random_hex()? + &process::random_hex()?;
        record.netns = path.to_string_lossy().into_owned();
        // Written before anything is there, so that GC and the next daemon know of it.
        self.save(record)?;
        let made = blocking(move || {
            netns::delete(&path)?;
            netns::create(&path, || Ok(()))
        });
        made.await?;
        let attachment = self.attachment(record, Some(pod));
        match self.runtime.add(&list, &attachment).await {
            Ok(result) => {
                record.ips = cni::addresses(&result);
                record.result = result;
                self.save(record)?;
                Ok(())
            }
            Err(error) => {
                let _ = self.runtime.del(&list, &attachment, &Value::Null).await;
                self.drop_namespace(record)?;
                self.save(record)?;
                Err(error.into())
            }
        }
    }

    /// Takes the network and the namespace away. Fails if a plugin does; then it is to be tried again.
    pub async fn end(&self, record: &mut PodRecord) -> Result<(), SandboxError> {
        self.end_lost(record).await?;
        if record.container_id.is_empty() {
            return Ok(());
        }
        if let Some(list) = NetworkList::find(&self.runtime.conf_dir)? {
            let attachment = self.attachment(record, None);
            self.runtime.del(&list, &attachment, &record.result).await?;
        }
        self.drop_namespace(record)?;
        self.save(record)?;
        Ok(())
    }

    /// DEL for sandboxes that a reboot took.
    pub async fn end_lost(&self, record: &mut PodRecord) -> Result<(), SandboxError> {
        while let Some(container_id) = record.lost.last().cloned() {
            if let Some(list) = NetworkList::find(&self.runtime.conf_dir)? {
                let gone = PodRecord { container_id, netns: String::new(), ..record.clone() };
                self.runtime.del(&list, &self.attachment(&gone, None), &Value::Null).await?;
            }
            record.lost.pop();
            self.save(record)?;
        }
        Ok(())
    }

    /// What a reboot leaves of a pod: nothing but its name, and a DEL to come.
    pub fn reboot(record: &mut PodRecord, boot_id: &str) {
        if !record.container_id.is_empty() {
            record.lost.push(std::mem::take(&mut record.container_id));
        }
        record.boot_id = boot_id.to_owned();
        record.netns.clear();
        record.ips.clear();
        record.result = Value::Null;
        record.process = None;
    }

    fn drop_namespace(&self, record: &mut PodRecord) -> Result<()> {
        if !record.netns.is_empty() {
            netns::delete(Path::new(&record.netns))?;
        }
        record.container_id.clear();
        record.netns.clear();
        record.ips.clear();
        record.result = Value::Null;
        Ok(())
    }

    fn attachment(&self, record: &PodRecord, pod: Option<&Pod>) -> Attachment {
        Attachment {
            container_id: record.container_id.clone(),
            netns: record.netns.clone(),
            pod: (record.namespace.clone(), record.name.clone(), record.uid.clone()),
            runtime_config: pod.map(runtime_config).unwrap_or_default(),
        }
    }
}

/// Runs blocking work off the runtime's own threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a worker died")?
}

/// What containerd would hand to plugins that declare the capability.
fn runtime_config(pod: &Pod) -> BTreeMap<String, Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports: Vec<Value> = containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let host = port.host_port.filter(|host| *host > 0)?;
            Some(json!({
                "hostPort": host,
                "containerPort": port.container_port,
                "protocol": port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                "hostIP": port.host_ip.clone().unwrap_or_default(),
            }))
        })
        .collect();
    if ports.is_empty() { BTreeMap::new() } else { [("portMappings".to_owned(), Value::Array(ports))].into() }
}
