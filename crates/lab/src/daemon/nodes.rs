//! Machines that come, go, and start again.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams};
use overlane_core::family::Family;
use overlane_datapath::mac::Mac;
use tracing::info;

use super::supervise::{Action, Program};
use super::{Cluster, Machine};
use crate::error::LabError;
use crate::kubelet::cni::Runtime;
use crate::kubelet::sandbox::Sandboxes;
use crate::kubelet::{self, Kubelet};
use crate::names::{self, Part};
use crate::spawn::Launch;
use crate::state::NodeRecord;
use crate::vnet::{self, Vnet};
use crate::wire::Wire;
use crate::{down, files, netns, process};

/// Up to this many nodes learn each other's MACs by themselves.
const FEW: usize = 20;

impl Cluster {
    /// A new machine with a new identity, its agent and its kubelet.
    pub(super) async fn add_node(self: &Arc<Self>, number: Option<u32>) -> Result<NodeRecord> {
        let mut nodes = self.nodes.lock().await;
        let number = match number {
            Some(number) if nodes.contains_key(&number) => {
                anyhow::bail!("add {}: it is there already", names::node_name(number))
            }
            Some(number) => number,
            None => (0..).find(|number| !nodes.contains_key(number)).unwrap_or_default(),
        };
        let cluster = self.clone();
        let record =
            tokio::task::spawn_blocking(move || cluster.make_machine(number)).await.context("a worker died")?;
        let record = record.with_context(|| format!("make {}", names::node_name(number)))?;
        nodes.insert(number, Arc::new(self.start_machine(record.clone()).await?));
        info!(node = record.name, host = record.host, "added");
        Ok(record)
    }

    /// Tells every node of a large lab the MACs of all others, and of the VM. The kernel keeps 1024 learnt neighbours
    /// for all namespaces together (`gc_thresh3`, the machine's own to set); a full mesh of some thirty nodes is beyond
    /// that.
    pub(super) async fn mesh(&self) -> Result<()> {
        let machines: Vec<NodeRecord> = self.nodes.lock().await.values().map(|machine| machine.record()).collect();
        if machines.len() <= FEW {
            return Ok(());
        }
        let (lab, vnet) = (self.record.name.clone(), self.record.vnet.clone());
        let tell = move || {
            let vm = netns::run(&netns::path(&vnet, &Part::Vm), || Wire::open()?.mac("eth0"))?;
            let has =
                |ip: &IpAddr| machines.iter().flat_map(|node| &node.addresses).any(|a| a.is_ipv4() == ip.is_ipv4());
            let vm_addresses = Family::ALL.map(vnet::vm_address).into_iter().filter(has).map(|ip| (ip, vm));
            let all: Vec<(IpAddr, Mac)> = machines
                .iter()
                .filter_map(|node| Some((node, node.mac_bytes()?)))
                .flat_map(|(node, mac)| node.addresses.iter().map(move |ip| (*ip, mac)))
                .chain(vm_addresses)
                .collect();
            machines.iter().try_for_each(|node| {
                let others: Vec<_> = all.iter().filter(|(ip, _)| !node.addresses.contains(ip)).copied().collect();
                netns::run(&netns::path(&lab, &Part::Node(node.number)), || Wire::open()?.neighbours(&others))
            })
        };
        tokio::task::spawn_blocking(tell).await.context("a worker died")?
    }

    /// Takes over a machine that an earlier daemon made.
    pub(super) async fn resume_node(self: &Arc<Self>, record: NodeRecord) -> Result<()> {
        let mut nodes = self.nodes.lock().await;
        if netns::inode(&netns::path(&self.record.name, &Part::Node(record.number))).is_none() {
            let (cluster, node) = (self.clone(), record.clone());
            tokio::task::spawn_blocking(move || cluster.attach_machine(&node)).await.context("a worker died")??;
        }
        info!(node = record.name, "taken over");
        nodes.insert(record.number, Arc::new(self.start_machine(record).await?));
        Ok(())
    }

    /// Throws a machine away. Its pods and its Node object go too, unless `keep_objects`.
    pub(super) async fn remove_node(&self, name: &str, keep_objects: bool) -> Result<()> {
        let machine = self.machine(name).await?;
        let record = machine.record();
        self.nodes.lock().await.remove(&record.number);
        if let Some(kubelet) = machine.kubelet.lock().await.take() {
            kubelet.stop().await;
        }
        machine.agent.end().await;
        let (lab, vnet, dir) = (self.record.name.clone(), self.record.vnet.clone(), self.paths.node(name));
        let part = Part::Node(record.number);
        tokio::task::spawn_blocking(move || {
            end_machine(&lab, &record, &dir)?;
            files::remove_dir(dir.dir())?;
            Vnet::open(&vnet)?.give_back(&lab, &part)
        })
        .await
        .context("a worker died")??;
        if !keep_objects {
            self.delete_objects(name).await?;
        }
        info!(node = name, "removed");
        Ok(())
    }

    /// Everything in the machine's memory is gone, it has a new boot id, and its programs start again.
    pub(super) async fn reboot_node(self: &Arc<Self>, name: &str) -> Result<()> {
        let machine = self.machine(name).await?;
        let mut kubelet = machine.kubelet.lock().await;
        if let Some(kubelet) = kubelet.take() {
            kubelet.stop().await;
        }
        machine.agent.act(Action::Down).await?;
        let cluster = self.clone();
        let mut record = machine.record();
        let rebooted = tokio::task::spawn_blocking(move || {
            let dir = cluster.paths.node(&record.name);
            end_machine(&cluster.record.name, &record, &dir)?;
            files::remove_dir(&dir.run())?;
            record.boot_id = process::random_uuid()?;
            cluster.attach_machine(&record)?;
            cluster.write_machine(&record)?;
            anyhow::Ok(record)
        });
        let record = rebooted.await.context("a worker died")??;
        *machine.record.lock().unwrap_or_else(PoisonError::into_inner) = record.clone();
        machine.agent.act(Action::Start).await?;
        *kubelet = Some(self.start_kubelet(record));
        info!(node = name, "rebooted");
        self.mesh().await
    }

    pub(super) async fn set_kubelet(self: &Arc<Self>, name: &str, up: bool) -> Result<()> {
        let machine = self.machine(name).await?;
        let mut kubelet = machine.kubelet.lock().await;
        match (up, kubelet.take()) {
            (true, None) => *kubelet = Some(self.start_kubelet(machine.record())),
            (true, running) => *kubelet = running,
            (false, Some(running)) => running.stop().await,
            (false, None) => {}
        }
        Ok(())
    }

    pub(super) async fn machine(&self, name: &str) -> Result<Arc<Machine>> {
        let nodes = self.nodes.lock().await;
        let found = names::node_number(name).and_then(|number| nodes.get(&number));
        found.cloned().ok_or_else(|| {
            let exist = nodes.keys().map(|number| names::node_name(*number)).collect();
            LabError::Unknown { kind: "node", name: name.to_owned(), lab: self.record.name.to_string(), exist }.into()
        })
    }

    fn make_machine(&self, number: u32) -> Result<NodeRecord> {
        let part = Part::Node(number);
        let host = Vnet::open(&self.record.vnet)?.take(&self.record.name, &part)?;
        let id = process::random_hex()?;
        let mac: Vec<&str> = (0..5).filter_map(|i| id.get(2 * i..2 * i + 2)).collect();
        let record = NodeRecord {
            name: names::node_name(number),
            number,
            host,
            mac: format!("02:{}", mac.join(":")),
            provider_id: format!("overlane-lab://{}/{id}", self.record.name),
            addresses: self.families.iter().map(|family: &Family| vnet::node_address(*family, host)).collect(),
            boot_id: process::random_uuid()?,
        };
        self.attach_machine(&record)?;
        self.write_machine(&record)?;
        Ok(record)
    }

    fn attach_machine(&self, record: &NodeRecord) -> Result<()> {
        let part = Part::Node(record.number);
        let path = netns::path(&self.record.name, &part);
        netns::delete(&path)?;
        Vnet::open(&self.record.vnet)?.attach(&part, &path, record.host, &self.families, record.mac_bytes())
    }

    fn write_machine(&self, record: &NodeRecord) -> Result<()> {
        let dir = self.paths.node(&record.name);
        for made in [dir.run(), dir.cni(), dir.pods()] {
            files::make_dir(&made)?;
        }
        files::write(&dir.boot_id(), format!("{}\n", record.boot_id).as_bytes())?;
        files::write_json(&dir.record(), record)
    }

    async fn start_machine(&self, record: NodeRecord) -> Result<Machine> {
        let kubelet = self.start_kubelet(record.clone());
        self.admit(&record.name).await?;
        let name = format!("agent-{}", record.name);
        let dir = self.paths.node(&record.name);
        let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        let mut args: Vec<String> = vec![
            "--node-name".into(),
            record.name.clone(),
            "--lab".into(),
            self.record.name.to_string(),
            "--run-dir".into(),
            path(dir.run()),
            "--cni-conf-dir".into(),
            path(dir.cni()),
            "--boot-id-file".into(),
            path(dir.boot_id()),
        ];
        args.extend(self.api.arguments(&dir.credentials())?);
        args.extend(self.record.agent_args.iter().cloned());
        let launch = Launch {
            namespace: netns::path(&self.record.name, &Part::Node(record.number)),
            hostname: Some(record.name.clone()),
            program: self.programs.agent.clone(),
            args,
            log: Some(self.paths.log(&name)),
            ..Launch::default()
        };
        let agent = Program::keep(&name, launch, self.paths.process(&name));
        Ok(Machine { record: Mutex::new(record), agent, kubelet: tokio::sync::Mutex::new(Some(kubelet)) })
    }

    fn start_kubelet(&self, record: NodeRecord) -> Kubelet {
        let dir = self.paths.node(&record.name);
        let namespace = netns::path(&self.record.name, &Part::Node(record.number));
        Kubelet::start(kubelet::Context {
            lab: self.record.name.clone(),
            paths: self.paths.clone(),
            client: self.client.clone(),
            sandboxes: Sandboxes {
                lab: self.record.name.clone(),
                runtime: Runtime {
                    namespace: namespace.clone(),
                    conf_dir: dir.cni(),
                    bin_dirs: self.programs.plugins.clone(),
                },
                dir: dir.pods(),
                gc: Arc::default(),
            },
            around: kubelet::Environment {
                node: record.name.clone(),
                namespace,
                overlane: self.programs.overlane.clone(),
            },
            max_pods: self.record.max_pods,
            node: record,
        })
    }

    async fn delete_objects(&self, name: &str) -> Result<()> {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let on_node = ListParams::default().fields(&format!("spec.nodeName={name}"));
        for pod in pods.list(&on_node).await?.items {
            let namespace = pod.metadata.namespace.unwrap_or_default();
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
            let at_once = DeleteParams::default().grace_period(0);
            gone(api.delete(&pod.metadata.name.unwrap_or_default(), &at_once).await.map(drop))?;
        }
        let nodes: Api<Node> = Api::all(self.client.clone());
        gone(nodes.delete(name, &DeleteParams::default()).await.map(drop))?;
        Ok(())
    }
}

/// What is gone already is no error.
fn gone(deleted: kube::Result<()>) -> kube::Result<()> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

/// Ends every process of a machine and its pods, and their namespaces.
fn end_machine(lab: &names::LabName, record: &NodeRecord, dir: &crate::paths::NodePaths) -> Result<()> {
    let mut paths = vec![netns::path(lab, &Part::Node(record.number))];
    let pods = down::pod_records(&dir.pods());
    down::end_pods(&pods)?;
    paths.extend(pods.into_iter().filter(|pod| !pod.netns.is_empty()).map(|pod| pod.netns.into()));
    down::end_namespaces(&paths)
}
