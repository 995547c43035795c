//! The lab's background process: the Kubernetes API, a kubelet a node, and the keeper of agents and controllers. Those
//! are processes of their own and go on if this one dies; it takes them over when it starts again.

pub mod api;
pub mod control;
mod fabric_routes;
mod nodes;
mod schedule;
pub mod supervise;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
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
/// milliseconds. An argument of `up` counts more. The real API takes seconds to start anew, and agents find it again
/// one after another: with it the program's default counts.
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

    let families = record.families()?;
    let host = join_vnet(&record, &families)?;
    let addresses: Vec<IpAddr> = families.iter().map(|family| vnet::node_address(*family, host)).collect();
    let lab_api = LabApi::open(&record, &paths, netns::path(name, &Part::ControlPlane), &addresses).await?;
    let client = lab_api.client();
    let before = record.api.as_ref().map(|api| api.local_url.clone());
    let local_url = api::serve_locally(client.clone(), before.as_deref()).await?;
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
    tokio::spawn(schedule::run(client));
    tokio::spawn(fabric_routes::run(cluster.clone()));
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

/// Joins the VNet and puts the control plane's host into it; its host number.
fn join_vnet(record: &LabRecord, families: &[Family]) -> Result<u32> {
    let mut vnet = Vnet::join(&record.vnet, &record.name, &record.vnet_wish())?;
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
        self.api.prepare().await?;
        self.api.start().await?;
        self.apply_cluster_network().await?;
        self.start_controllers().await?;
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
        if self.api.is_real() {
            tokio::spawn(tokens::keep(self.clone()));
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

    async fn start_controllers(&self) -> Result<()> {
        let grace = || ("OVERLANE_AGENT_GRACE".to_owned(), AGENT_GRACE.to_owned());
        for number in 0..self.record.controllers {
            let name = format!("controller-{number}");
            let lab = self.record.name.as_str();
            let mut args: Vec<String> = ["--lab", lab, "--identity", &name, "--metrics-addr"].map(str::to_owned).into();
            // Each of several needs a port of its own.
            args.push(format!("127.0.0.1:{}", CONTROLLER_PORT + number));
            args.extend(self.api.arguments_of_controller(&self.paths.credentials(&name)).await?);
            args.extend(self.record.controller_args.iter().cloned());
            let launch = crate::spawn::Launch {
                namespace: netns::path(&self.record.name, &Part::ControlPlane),
                program: self.programs.controller.clone(),
                args,
                env: self.record.kubernetes.is_none().then(grace).into_iter().collect(),
                log: Some(self.paths.log(&name)),
                ..crate::spawn::Launch::default()
            };
            let program = Program::keep(&name, launch, self.paths.process(&name));
            self.controllers.lock().unwrap_or_else(PoisonError::into_inner).insert(name, program);
        }
        Ok(())
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
            Command::Requests => Answer::Requests(self.api.requests().await?),
            Command::Snapshot { file } => {
                self.api.snapshot(&file).await?;
                Answer::Done
            }
            Command::Restore { file } => {
                self.api.restore(&file).await?;
                Answer::Done
            }
            Command::Compact => {
                self.api.compact().await?;
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
        let mut programs = self.api.programs();
        {
            let controllers = self.controllers.lock().unwrap_or_else(PoisonError::into_inner);
            programs.extend(controllers.values().map(Program::state));
        }
        programs.extend(machines.iter().map(|machine| machine.agent.state()));
        let api_up = self.api.is_up().await;
        DaemonStatus {
            phase: self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            api_up,
            programs,
            nodes: machines.iter().map(|machine| machine.record()).collect(),
        }
    }

    async fn program(&self, name: &str) -> Result<Program> {
        if let Some(node) = name.strip_prefix("agent-") {
            return Ok(self.machine(node).await?.agent.clone());
        }
        if let Some(program) = self.api.program(name) {
            return Ok(program);
        }
        let controllers = self.controllers.lock().unwrap_or_else(PoisonError::into_inner);
        match controllers.get(name) {
            Some(program) => Ok(program.clone()),
            None => {
                let of_api = self.api.programs().into_iter().map(|state| state.program);
                let known: Vec<String> = of_api.chain(controllers.keys().cloned()).collect();
                bail!("no program `{name}`: there are {} and an agent a node", known.join(", "))
            }
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
