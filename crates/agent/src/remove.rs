//! `--uninstall`: a node as it was before an agent ran on it.
//!
//! Refuses while pods have their network from us, unless forced. What fails is gathered, and the rest goes on: called
//! again, it takes away what is left.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use overlane_core::ipam::{Lease, LeaseKind, LeaseState};
use overlane_datapath::sysctl;
use overlane_datapath::uninstall::{Removal, remove_all};

use crate::config::Config;
use crate::links::pod_links;
use crate::plugin;
use crate::reconcile::sysctls::Sysctls;
use crate::store::FILE;
use crate::store::lock::{LockError, RunDirLock};
use crate::takeover;
use crate::wiring::boot_id;

/// How long an agent that is being ended may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes everything away and prints what was done. Whether nothing is left.
///
/// # Errors
/// An agent runs, or the kernel cannot be asked.
pub fn run(config: &Config, force: bool) -> Result<bool> {
    let dir = &config.run_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("make run dir {}", dir.display()))?;
    let lock = lock(dir)?;
    sysctl::use_root(&config.sysctl_dir);
    let pods = pod_links().context("list pod links")?;
    if !force {
        // Nothing in the kernel tells of these.
        let delegated = delegated(config).context("read which addresses other plugins have from overlane-ipam")?;
        if !pods.is_empty() || !delegated.is_empty() {
            for link in pods.values() {
                println!("{}: {}", link.name, link.alias.as_deref().unwrap_or("no alias"));
            }
            for lease in &delegated {
                println!("{}: {:?} of network {}", lease.attachment, lease.addresses, lease.network);
            }
            let count = pods.len() + delegated.len();
            println!("{count} pods have their network or address from overlane; end them first, or add --force");
            return Ok(false);
        }
    }
    let mut failed = Vec::new();
    // First, so that the runtime starts no more pods with it.
    remove_file(&config.conflist(), &mut failed);
    let removed = remove_all(&Removal { links: true, sysctls: &Sysctls::changed_by_us(dir) });
    for done in &removed.done {
        println!("removed: {done}");
    }
    failed.extend(removed.failed);
    // An agent without one to install has never put one there.
    if config.cni_plugin.is_some() {
        for file in plugin::installed(config) {
            remove_file(&file, &mut failed);
        }
    }
    // What an uninstall that is tried again needs stays until the rest is gone.
    if failed.is_empty() {
        empty(dir, &mut failed);
    }
    drop(lock);
    // A mount point stays, and is empty.
    let _ = std::fs::remove_dir(dir);
    for error in &failed {
        println!("FAILED: {error}");
    }
    Ok(failed.is_empty())
}

/// Leases of pure IPAM on file whose pods may live.
fn delegated(config: &Config) -> Result<Vec<Lease>> {
    if !config.run_dir.join(FILE).exists() {
        return Ok(Vec::new());
    }
    let (ledger, _) = takeover::open(&config.run_dir, &boot_id(&config.boot_id_file)?, 0)?;
    let mut leases = ledger.leases();
    leases.retain(|lease| lease.kind == LeaseKind::Ipam && lease.state != LeaseState::Draining);
    Ok(leases)
}

/// The lock, once an agent that is being ended lets go of it.
fn lock(dir: &Path) -> Result<RunDirLock> {
    let until = Instant::now() + PATIENCE;
    loop {
        match RunDirLock::take(dir) {
            Err(LockError::Taken { .. }) if Instant::now() < until => {}
            other => return Ok(other?),
        }
    }
}

fn remove_file(path: &Path, failed: &mut Vec<String>) {
    match std::fs::remove_file(path) {
        Ok(()) => println!("removed: {}", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => failed.push(format!("remove {}: {error}", path.display())),
    }
}

fn empty(dir: &Path, failed: &mut Vec<String>) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return failed.push(format!("list {}: {error}", dir.display())),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let gone = if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        if let Err(error) = gone {
            failed.push(format!("remove {}: {error}", path.display()));
        }
    }
    println!("removed: what was in {}", dir.display());
}
