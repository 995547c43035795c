//! Bringing a lab up, seen from the command: everything is checked, the daemon is started, and its work is followed
//! until the lab is ready.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use overlane_api::crd::NodeState;
use serde::Serialize;

use crate::client::LabClient;
use crate::daemon::control::Phase;
use crate::error::LabError;
use crate::fabric::Underlay;
use crate::files::{self, Lock};
use crate::manifests::Manifest;
use crate::names::LabName;
use crate::netns;
use crate::paths::{LabPaths, NETNS, VnetPaths};
use crate::process::sibling;
use crate::spawn::open_log;
use crate::spec::Plan;
use crate::state::LabRecord;
use crate::status::{self, LabStatus};
use crate::vnet::VnetRecord;
use crate::{down, manifests, names, run};

const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const DAEMON_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How far `up` is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What is being done.
    pub doing: String,
    /// Nodes asked for.
    pub wanted: usize,
    /// Nodes that exist.
    pub made: usize,
    /// Nodes that have their blocks.
    pub bound: usize,
    /// Nodes whose agent is ready.
    pub ready: usize,
}

/// The lab's lock: held by whoever brings it up or ends it.
pub fn lock(name: &LabName) -> Result<Lock> {
    files::lock(&LabPaths::of(name).lock(), LOCK_PATIENCE)
}

/// Everything that can be known to fail before anything is made.
pub fn check_machine() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab needs root: it makes network namespaces");
    }
    for program in ["overlane-agent", "overlane-controller", "overlane-cni"] {
        sibling(program)?;
    }
    Ok(())
}

/// Brings a lab up and waits until it is ready, at most `patience`. One that does not get ready is taken away again,
/// unless it is to be kept.
pub async fn up(plan: &Plan, patience: Duration, keep: bool, mut told: impl FnMut(&Progress)) -> Result<LabStatus> {
    let name = &plan.record.name;
    let held = lock(name)?;
    let done = up_locked(plan, patience, keep, &mut told).await;
    if !LabPaths::of(name).dir().exists() {
        held.remove()?;
        down::tidy();
    }
    done
}

async fn up_locked(plan: &Plan, patience: Duration, keep: bool, told: &mut impl FnMut(&Progress)) -> Result<LabStatus> {
    let name = &plan.record.name;
    let deadline = Instant::now() + patience;
    if let Some(record) = LabRecord::find(name)? {
        refuse_other(&record, plan)?;
        return make(plan, deadline, told).await;
    }
    refuse_leftovers(&plan.record)?;
    refuse_foreign_vnet(plan)?;
    refuse_one_table(plan)?;
    files::make_dir(LabPaths::of(name).dir())?;
    plan.record.save()?;
    let made = make(plan, deadline, told).await;
    if made.is_err() && !keep {
        down::down_locked(name)?;
    }
    made
}

/// Starts the daemon of a lab whose record is written, and waits until the lab is as asked for.
async fn make(plan: &Plan, deadline: Instant, told: &mut impl FnMut(&Progress)) -> Result<LabStatus> {
    let mut daemon = start_daemon(&plan.record.name)?;
    let lab = follow(&plan.record.name, &mut daemon, deadline, told).await?;
    if !plan.manifests.is_empty() {
        let client = lab.kube()?;
        let mut doing = Progress::default();
        manifests::apply(&client, &plan.manifests, |manifest| {
            doing.doing = format!("applied {}", manifest.title());
            told(&doing);
        })
        .await?;
    }
    // Where the daemon was started again, nodes may have come and gone since `up`.
    let nodes = lab.status().await?.nodes.len();
    let status = wait_ready(&lab, nodes, deadline, told).await?;
    for (namespace, pod) in plan.manifests.iter().filter_map(pod_of) {
        told(&Progress { doing: format!("waiting for pod {pod}"), ..Progress::default() });
        let left = deadline.saturating_duration_since(Instant::now());
        run::wait_ready(&lab.kube()?, namespace, pod, left).await?;
    }
    Ok(status)
}

/// Namespace and name, if the object is a pod.
fn pod_of(manifest: &Manifest) -> Option<(&str, &str)> {
    let object = &manifest.object;
    let is_pod = object["kind"] == "Pod" && object["apiVersion"] == "v1";
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    Some((namespace, object["metadata"]["name"].as_str()?)).filter(|_| is_pod)
}

/// A routed fabric has one table: it cannot lead to equal pod CIDRs of two clusters, unless one of them tunnels.
fn refuse_one_table(plan: &Plan) -> Result<()> {
    let (lab, vnet) = (&plan.record, &plan.record.vnet);
    let Some(known) = files::read_json::<VnetRecord>(VnetPaths::of(vnet).record()).ok().flatten() else {
        return Ok(());
    };
    if known.fabric.underlay != Underlay::Routed || lab.tunnels() {
        return Ok(());
    }
    for name in known.labs.keys().filter(|name| **name != lab.name) {
        let Some(other) = LabRecord::find(name)?.filter(|other| !other.tunnels()) else { continue };
        let theirs = other.pod_cidrs();
        if let Some(shared) = lab.pod_cidrs().iter().find(|cidr| theirs.iter().any(|other| other.overlaps(cidr))) {
            bail!(
                "join VNet {vnet} with pod CIDR {shared}: lab {name} has it too, and the routed fabric between them has one table; take another pod CIDR, or `--routing vxlan` in one of them"
            );
        }
    }
    Ok(())
}

/// A lab that did not name a VNet has one of its own, not one that others made under its name.
fn refuse_foreign_vnet(plan: &Plan) -> Result<()> {
    let vnet = &plan.record.vnet;
    let known = files::read_json::<VnetRecord>(VnetPaths::of(vnet).record()).ok().flatten();
    let others: Vec<LabName> = known.map(|known| known.labs.into_keys().collect()).unwrap_or_default();
    if plan.joins || others.is_empty() {
        return Ok(());
    }
    let others: Vec<String> = others.iter().map(LabName::to_string).collect();
    let reason = format!("a VNet of that name is there, with {} in it; --vnet {vnet} joins it", others.join(", "));
    Err(LabError::Argument { argument: format!("--name {vnet}"), reason }.into())
}

/// A lab that is there goes on only if its daemon is gone and it is what is asked for.
fn refuse_other(record: &LabRecord, plan: &Plan) -> Result<()> {
    let lab = record.name.to_string();
    if record.daemon.is_some_and(|daemon| daemon.alive()) {
        return Err(LabError::AlreadyUp { lab }.into());
    }
    let differences = record.differences(&plan.record)?;
    if differences.is_empty() { Ok(()) } else { Err(LabError::OtherSettings { lab, differences }.into()) }
}

fn refuse_leftovers(record: &LabRecord) -> Result<()> {
    let name = &record.name;
    let left: Vec<String> = netns::all()
        .into_iter()
        .filter(|(_, owner, part)| owner == name && (!part.is_vnet()))
        .map(|(namespace, ..)| namespace)
        .collect();
    if !left.is_empty() {
        bail!(
            "{NETNS} holds leftovers of a lab `{name}`: {}; `overlane lab down --name {name}` removes them",
            left.join(", ")
        );
    }
    Ok(())
}

/// By these a lab's daemon is known, whatever became of its record.
pub fn daemon_arguments(name: &LabName) -> [&str; 3] {
    ["lab-daemon", "--name", name.as_str()]
}

fn start_daemon(name: &LabName) -> Result<Child> {
    let log = open_log(&LabPaths::of(name).log("daemon"))?;
    let own: PathBuf = std::env::current_exe().context("find this program's own path")?;
    Command::new(&own)
        .args(daemon_arguments(name))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {}", own.display()))
}

/// Follows the daemon until it has made everything.
async fn follow(
    name: &LabName,
    daemon: &mut Child,
    deadline: Instant,
    told: &mut impl FnMut(&Progress),
) -> Result<LabClient> {
    let paths = LabPaths::of(name);
    let started = Instant::now();
    let mut progress = Progress { doing: "starting the daemon".to_owned(), ..Progress::default() };
    told(&progress);
    loop {
        let lab = LabClient::open(name)?;
        match lab.status().await {
            Ok(status) => {
                progress.made = status.nodes.len();
                match status.phase {
                    // Its record was read before it was asked, and may be older than what it has made since.
                    Phase::Running => return LabClient::open(name),
                    Phase::Failed(why) => bail!("{why}; more in {}", paths.log("daemon").display()),
                    Phase::Starting(doing) => progress.doing = doing,
                }
                told(&progress);
            }
            Err(error) => {
                let died = daemon.try_wait().is_ok_and(|ended| ended.is_some());
                if died || started.elapsed() > DAEMON_PATIENCE {
                    let log = std::fs::read_to_string(paths.log("daemon")).unwrap_or_default();
                    let last = log.lines().last().unwrap_or_default().to_owned();
                    return Err(error.context(format!("the lab's daemon did not start: {last}")));
                }
            }
        }
        if Instant::now() > deadline {
            bail!("making the lab took too long; more in {}", paths.log("daemon").display());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until every node is Ready, has its blocks, and knows of every other node.
pub async fn wait_ready(
    lab: &LabClient,
    wanted: usize,
    deadline: Instant,
    told: &mut impl FnMut(&Progress),
) -> Result<LabStatus> {
    loop {
        let began = Instant::now();
        let status = status::of(lab).await?;
        let progress = Progress {
            doing: "waiting for agents".to_owned(),
            wanted,
            made: status.nodes.len(),
            bound: status.nodes.iter().filter(|node| !node.blocks.is_empty()).count(),
            ready: status.nodes.iter().filter(|node| node.ready).count(),
        };
        told(&progress);
        let ready = progress.ready >= wanted && progress.bound >= wanted;
        if ready && status::agents_agree(lab, &status).await {
            return Ok(status);
        }
        if Instant::now() > deadline {
            bail!("{}", late(&lab.name, &status, &degraded(lab).await));
        }
        // A large lab has better things to do than to be looked at.
        tokio::time::sleep(LOOK_AGAIN.max(began.elapsed() * 3)).await;
    }
}

/// What agents say is wrong with their nodes.
async fn degraded(lab: &LabClient) -> Vec<(String, String)> {
    let Ok(client) = lab.kube() else { return Vec::new() };
    let states = Api::<NodeState>::all(client).list(&ListParams::default()).await;
    let mut found = Vec::new();
    for state in states.map(|list| list.items).unwrap_or_default() {
        let wrong = |condition: &&Condition| condition.type_ == "Degraded" && condition.status == "True";
        let told = state.spec.conditions.iter().find(wrong).map(|c| format!("{}: {}", c.reason, c.message));
        found.extend(told.map(|told| (state.name_any(), told)));
    }
    found
}

/// What keeps a lab from being ready, and where to look.
fn late(name: &names::LabName, status: &LabStatus, degraded: &[(String, String)]) -> String {
    let mut text = format!("lab `{name}` is up but not ready:");
    for node in status.nodes.iter().filter(|node| !node.ready || node.blocks.is_empty()) {
        let why = if node.blocks.is_empty() { "it has no block" } else { &node.message };
        text.push_str(&format!("\n  {}: {why}", node.name));
    }
    for (node, message) in degraded {
        text.push_str(&format!("\n  {node}: {message}"));
    }
    for program in status.programs.iter().filter(|program| program.process.is_none()) {
        let end = program.last_end.as_deref().unwrap_or("not started");
        text.push_str(&format!("\n  {}: {end}", program.program));
    }
    text.push_str(&format!("\nlogs are in {}", LabPaths::of(name).logs().display()));
    text
}
