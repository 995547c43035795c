//! The end of a lab, in whatever state it is found: processes by pid and start time, and every process in one of the
//! lab's namespaces; then the namespaces; then the files. Nobody else is touched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::daemon::supervise::ProgramState;
use crate::files;
use crate::kubelet::sandbox::PodRecord;
use crate::names::{LabName, Part};
use crate::netns;
use crate::paths::{LabPaths, ROOT};
use crate::process::{self, ProcessId};
use crate::state::LabRecord;
use crate::vnet::{Vnet, VnetRecord};

const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What was found and ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ended {
    /// Whether there was anything at all.
    pub found: bool,
    /// How many namespaces were removed.
    pub namespaces: usize,
    /// How many processes were killed.
    pub processes: usize,
}

/// Ends a lab. Fine if it is not there, or only partly.
pub fn down(name: &LabName) -> Result<Ended> {
    let lock = crate::up::lock(name)?;
    let ended = down_locked(name)?;
    lock.remove()?;
    tidy();
    Ok(ended)
}

/// Removes the directories that labs share, where nothing of another lab is in them.
pub fn tidy() {
    for dir in ["_locks", "_vnets", ""] {
        let _ = std::fs::remove_dir(Path::new(ROOT).join(dir));
    }
}

/// The same for a caller that holds the lab's lock.
pub fn down_locked(name: &LabName) -> Result<Ended> {
    let paths = LabPaths::of(name);
    let record = LabRecord::find(name).ok().flatten();
    let mut ended = Ended { found: paths.dir().exists(), ..Ended::default() };

    // First what would start others again.
    let mut known: Vec<ProcessId> = record.as_ref().and_then(|record| record.daemon).into_iter().collect();
    // One that is on no record: just started, or its record was lost.
    known.extend(process::with_arguments(&crate::up::daemon_arguments(name)));
    known.sort();
    known.dedup();
    ended.processes += kill(&known)?;
    known.clear();
    for file in files::names(&paths.dir().join("processes")) {
        let state = files::read_json::<ProgramState>(&paths.dir().join("processes").join(file)).ok().flatten();
        known.extend(state.and_then(|state| state.process));
    }
    ended.processes += kill(&known)?;
    for node in files::names(&paths.dir().join("nodes")) {
        ended.processes += end_pods(&pod_records(&paths.node(&node).pods()))?;
    }

    let own = |owner: &LabName, part: &Part| owner == name && !part.is_vnet();
    let mut spaces: Vec<PathBuf> =
        netns::all().iter().filter(|(_, owner, part)| own(owner, part)).map(|(_, o, p)| netns::path(o, p)).collect();
    spaces.sort();
    ended.namespaces = spaces.len();
    ended.processes += count_in(&spaces);
    end_namespaces(&spaces)?;

    for vnet in vnets_of(name, record.as_ref()) {
        ended.found |= Vnet::leave(&vnet, name)?;
    }
    files::remove_dir(paths.dir())?;
    ended.found |= ended.namespaces > 0 || ended.processes > 0;
    Ok(ended)
}

/// Names of everything that looks like a lab: by its files, or by its namespaces alone.
pub fn all() -> Vec<LabName> {
    let mut names: BTreeSet<LabName> = crate::state::labs().iter().filter_map(|name| name.parse().ok()).collect();
    for (_, owner, part) in netns::all() {
        if !part.is_vnet() {
            names.insert(owner);
        }
    }
    for vnet in vnets() {
        names.extend(vnet.labs.into_keys());
    }
    names.into_iter().collect()
}

fn vnets() -> Vec<VnetRecord> {
    let dir = Path::new(ROOT).join("_vnets");
    let records = files::names(&dir).into_iter().filter(|name| name.ends_with(".json"));
    records.filter_map(|name| files::read_json(&dir.join(name)).ok().flatten()).collect()
}

/// The VNets that a lab may be in: what its record says, every VNet that names it, its own.
fn vnets_of(name: &LabName, record: Option<&LabRecord>) -> BTreeSet<LabName> {
    let mut found: BTreeSet<LabName> = record.map(|record| record.vnet.clone()).into_iter().collect();
    let members = vnets().into_iter().filter(|vnet| vnet.labs.contains_key(name));
    found.extend(members.map(|vnet| vnet.name));
    let own = vnets().into_iter().find(|vnet| vnet.name == *name);
    // Its own VNet, unless others are in it and it is not.
    if own.is_none_or(|vnet| vnet.labs.is_empty() || vnet.labs.contains_key(name)) {
        found.insert(name.clone());
    }
    found
}

fn count_in(spaces: &[PathBuf]) -> usize {
    let inodes: BTreeSet<u64> = spaces.iter().filter_map(|path| netns::inode(path)).collect();
    if inodes.is_empty() { 0 } else { process::in_namespaces(&inodes).len() }
}

fn kill(processes: &[ProcessId]) -> Result<usize> {
    let running: Vec<ProcessId> = processes.iter().copied().filter(|process| process.alive()).collect();
    running.iter().for_each(|process| process.signal(Signal::SIGKILL));
    let left = process::wait_gone(&running, KILL_PATIENCE);
    if left.is_empty() { Ok(running.len()) } else { bail!("processes do not end: {left:?}") }
}

/// The pods on record in a directory. What cannot be read is left out.
pub fn pod_records(dir: &Path) -> Vec<PodRecord> {
    files::names(dir).into_iter().filter_map(|file| files::read_json(&dir.join(file)).ok().flatten()).collect()
}

/// Kills the programs of pods, with their process groups: one may have left its pod's namespace.
pub fn end_pods(pods: &[PodRecord]) -> Result<usize> {
    let programs: Vec<ProcessId> = pods.iter().filter_map(|pod| pod.process).collect();
    programs.iter().for_each(|program| program.signal_group(Signal::SIGKILL));
    kill(&programs)
}

/// Kills every process in the namespaces, and removes them.
pub fn end_namespaces(paths: &[PathBuf]) -> Result<()> {
    let inodes: BTreeSet<u64> = paths.iter().filter_map(|path| netns::inode(path)).collect();
    // A process may start another while it is looked for.
    for _ in 0..20 {
        let inside = if inodes.is_empty() { Vec::new() } else { process::in_namespaces(&inodes) };
        if inside.is_empty() {
            break;
        }
        kill(&inside)?;
    }
    paths.iter().try_for_each(|path| netns::delete(path).map(drop))
}

/// The same for one.
pub fn end_namespace(path: &Path) -> Result<()> {
    end_namespaces(&[path.to_owned()])
}
