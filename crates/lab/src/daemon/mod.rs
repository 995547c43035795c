//! The lab's background process: the Kubernetes API, a kubelet a node, and the keeper of agents and controllers. Those
//! are processes of their own and go on if this one dies; it takes them over when it starts again.

pub mod api;
pub mod control;
mod nodes;
mod schedule;
pub mod supervise;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, CustomResourceExt as _};
use overlane_api::crd::{ClusterNetwork, NodeBlock, NodeNetworkConfig, NodeState};
use overlane_apiserver::ApiServer;
use overlane_core::family::Family;
use tracing::{error, info, warn};

use crate::kubelet::Kubelet;
use crate::manifests::MANAGER;
use crate::names::{LabName, Part};
use crate::paths::LabPaths;
use crate::process::{ProcessId, sibling};
use crate::state::{ApiRecord, LabRecord, NodeRecord};
use crate::vnet::{self, Vnet};
use crate::{files, netns};

use api::LabApi;
use control::{Answer, Command, DaemonStatus, Phase};
use supervise::Program;

/// How long a daemon waits for the one before it to be gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Where the first controller serves its metrics; each further one a port above.
const CONTROLLER_PORT: u32 = 9471;
/// Seconds that a controller waits for agents to say what they hold: here they all start at once and speak within
/// milliseconds. An argument of `up` counts more.
const AGENT_GRACE: &str = "1";

/// A running lab.
pub struct Cluster {
    record: LabRecord,
    families: Vec<Family>,
    paths: LabPaths,
    api: LabApi,
    client: Client,
    phase: Mutex<Phase>,
    controllers: Mutex<BTreeMap<String, Program>>,
    nodes: tokio::sync::Mutex<BTreeMap<u32, Arc<Machine>>>,
    programs: Programs,
}

/// Programs that the lab runs.
struct Programs {
    overlane: PathBuf,
    agent: PathBuf,
    controller: PathBuf,
    plugins: Vec<PathBuf>,
}

impl Programs {
    fn find() -> Result<Self> {
        let overlane = std::env::current_exe().context("find this program's own path")?;
        let plugin = sibling("overlane-cni")?;
        let beside = plugin.parent().map(PathBuf::from).unwrap_or_default();
        let plugins = vec![beside, "/opt/cni/bin".into(), "/usr/lib/cni".into()];
        Ok(Self { overlane, agent: sibling("overlane-agent")?, controller: sibling("overlane-controller")?, plugins })
    }
}

/// A machine and what runs on it.
struct Machine {
    record: Mutex<NodeRecord>,
    agent: Program,
    kubelet: tokio::sync::Mutex<Option<Kubelet>>,
}

impl Machine {
    fn record(&self) -> NodeRecord {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs the daemon of the lab `name` until the process is ended.
pub async fn run(name: &LabName) -> Result<()> {
    let paths = LabPaths::of(name);
    let _only = files::lock(&paths.dir().join("daemon.lock"), LOCK_PATIENCE)?;
    let mut record = LabRecord::load(name)?;
    record.daemon = i32::try_from(std::process::id()).ok().and_then(ProcessId::of);
    record.save()?;
    files::remove(&paths.control())?;
    let listener = tokio::net::UnixListener::bind(paths.control())
        .with_context(|| format!("listen on {}", paths.control().display()))?;

    let server = open_api(&paths)?;
    let client = server.client();
    let before = record.api.as_ref().map(|api| api.local_url.clone());
    let local_url = api::serve_locally(client.clone(), before.as_deref()).await?;
    let families = record.families()?;
    let host = join_vnet(&record, &families)?;
    let Some(primary) = families.first() else { bail!("the lab's record names no family") };
    let address = SocketAddr::new(vnet::node_address(*primary, host), api::PORT);
    let lab_api = LabApi::new(server.clone(), netns::path(name, &Part::ControlPlane), address);
    record.api = Some(ApiRecord { vnet_url: lab_api.vnet_url(), local_url: local_url.clone() });
    record.save()?;
    files::write(&paths.kubeconfig(), api::kubeconfig(name.as_str(), &local_url).as_bytes())?;

    let cluster = Arc::new(Cluster {
        families,
        api: lab_api,
        client: client.clone(),
        phase: Mutex::new(Phase::Starting("API".to_owned())),
        controllers: Mutex::default(),
        nodes: tokio::sync::Mutex::default(),
        programs: Programs::find()?,
        paths: paths.clone(),
        record,
    });
    tokio::spawn(control::serve(cluster.clone(), listener));
    tokio::spawn(api::keep_saved(server, paths.api_store()));
    tokio::spawn(schedule::run(client));
    match cluster.bring_up().await {
        Ok(()) => {
            LabRecord { complete: true, ..cluster.record.clone() }.save()?;
            cluster.set_phase(Phase::Running);
        }
        Err(failure) => {
            error!("{failure:#}");
            cluster.set_phase(Phase::Failed(format!("{failure:#}")));
        }
    }
    std::future::pending::<()>().await;
    Ok(())
}

/// The API with the product's definitions, and the objects that an earlier daemon had.
fn open_api(paths: &LabPaths) -> Result<ApiServer> {
    let server = ApiServer::new();
    match std::fs::read(paths.api_store()) {
        Ok(bytes) => server.restore(&bytes).context("restore the API's objects")?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("read the API's objects"),
    }
    for definition in [ClusterNetwork::crd(), NodeBlock::crd(), NodeNetworkConfig::crd(), NodeState::crd()] {
        server.register(&definition)?;
    }
    Ok(server)
}

/// Joins the VNet and puts the control plane's host into it; its host number.
fn join_vnet(record: &LabRecord, families: &[Family]) -> Result<u32> {
    let mut vnet = Vnet::join(&record.vnet, &record.name, record.mtu)?;
    let host = vnet.take(&record.name, &Part::ControlPlane)?;
    let path = netns::path(&record.name, &Part::ControlPlane);
    if netns::inode(&path).is_none() {
        netns::delete(&path)?;
        vnet.attach(&Part::ControlPlane, &path, host, families, None)?;
    }
    Ok(host)
}

impl Cluster {
    fn set_phase(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    async fn bring_up(self: &Arc<Self>) -> Result<()> {
        self.api.start().await?;
        self.apply_cluster_network().await?;
        self.start_controllers();
        let known = NodeRecord::all(&self.paths)?;
        let is_known: BTreeSet<u32> = known.iter().map(|node| node.number).collect();
        for node in known {
            self.resume_node(node).await?;
        }
        // Once it was complete, nodes come and go by command only.
        let asked = if self.record.complete { 0 } else { self.record.nodes };
        for number in (0..asked).filter(|number| !is_known.contains(number)) {
            self.set_phase(Phase::Starting(format!("node {} of {asked}", number + 1)));
            self.add_node(Some(number)).await?;
        }
        self.mesh().await
    }

    async fn apply_cluster_network(&self) -> Result<()> {
        let kind = GroupVersionKind::gvk("overlane.io", "v1alpha1", "ClusterNetwork");
        let resource = ApiResource::from_gvk_with_plural(&kind, "clusternetworks");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        if api.get_opt(overlane_api::crd::CLUSTER_NETWORK).await?.is_some() {
            return Ok(());
        }
        let params = PatchParams::apply(MANAGER).force();
        api.patch(overlane_api::crd::CLUSTER_NETWORK, &params, &Patch::Apply(&self.record.cluster_network))
            .await
            .context("apply ClusterNetwork default")?;
        Ok(())
    }

    fn start_controllers(&self) {
        let mut controllers = self.controllers.lock().unwrap_or_else(PoisonError::into_inner);
        for number in 0..self.record.controllers {
            let name = format!("controller-{number}");
            let url = self.api.vnet_url();
            let lab = self.record.name.as_str();
            let mut args: Vec<String> =
                ["--lab", lab, "--api-url", &url, "--identity", &name, "--metrics-addr"].map(str::to_owned).into();
            // Each of several needs a port of its own.
            args.push(format!("127.0.0.1:{}", CONTROLLER_PORT + number));
            args.extend(self.record.controller_args.iter().cloned());
            let launch = crate::spawn::Launch {
                namespace: netns::path(&self.record.name, &Part::ControlPlane),
                program: self.programs.controller.clone(),
                args,
                env: [("OVERLANE_AGENT_GRACE".to_owned(), AGENT_GRACE.to_owned())].into(),
                log: Some(self.paths.log(&name)),
                ..crate::spawn::Launch::default()
            };
            controllers.insert(name.clone(), Program::keep(&name, launch, self.paths.process(&name)));
        }
    }

    async fn execute(self: &Arc<Self>, command: Command) -> Result<Answer> {
        Ok(match command {
            Command::Status => Answer::Status(Box::new(self.status().await)),
            Command::Program { program, action } => Answer::Program(self.program(&program).await?.act(action).await?),
            Command::Api { up: true } => {
                self.api.start().await?;
                Answer::Done
            }
            Command::Api { up: false } => {
                self.api.stop().await;
                Answer::Done
            }
            Command::Snapshot { file } => {
                files::write(&file, &self.api.server.snapshot())?;
                Answer::Done
            }
            Command::Restore { file } => {
                let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
                self.api.server.restore(&bytes)?;
                Answer::Done
            }
            Command::Compact => {
                self.api.server.compact();
                Answer::Done
            }
            Command::AddNode { number } => {
                let node = self.add_node(number).await?;
                self.mesh().await?;
                Answer::Node(node)
            }
            Command::RemoveNode { node, keep_objects } => {
                self.remove_node(&node, keep_objects).await?;
                Answer::Done
            }
            Command::RebootNode { node } => {
                self.reboot_node(&node).await?;
                Answer::Done
            }
            Command::Kubelet { node, up } => {
                self.set_kubelet(&node, up).await?;
                Answer::Done
            }
        })
    }

    async fn status(&self) -> DaemonStatus {
        let machines: Vec<Arc<Machine>> = self.nodes.lock().await.values().cloned().collect();
        let mut programs: Vec<_> = {
            let controllers = self.controllers.lock().unwrap_or_else(PoisonError::into_inner);
            controllers.values().map(Program::state).collect()
        };
        programs.extend(machines.iter().map(|machine| machine.agent.state()));
        let requests = self.api.server.stats().requests;
        let api_up = self.api.is_up().await;
        DaemonStatus {
            phase: self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            api_up,
            requests: requests.into_iter().map(|((verb, resource), count)| (verb, resource, count)).collect(),
            programs,
            nodes: machines.iter().map(|machine| machine.record()).collect(),
        }
    }

    async fn program(&self, name: &str) -> Result<Program> {
        if let Some(node) = name.strip_prefix("agent-") {
            return Ok(self.machine(node).await?.agent.clone());
        }
        let controllers = self.controllers.lock().unwrap_or_else(PoisonError::into_inner);
        match controllers.get(name) {
            Some(program) => Ok(program.clone()),
            None => bail!("no program `{name}`: there are {:?} and an agent a node", controllers.keys()),
        }
    }
}

/// Ends on SIGTERM: agents, controllers and pods are left running.
pub async fn until_told() -> Result<()> {
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    // The terminal that `up` ran in may close.
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => { info!("told to end"); return Ok(()) }
            _ = hangup.recv() => warn!("the terminal is gone; going on"),
        }
    }
}
