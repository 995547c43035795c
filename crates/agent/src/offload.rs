//! Tests once for each tunnel whether checksums of its packets are made, and has the kernel make them where they are not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use overlane_core::family::Family;
use overlane_core::plan::TunnelPlan;
use overlane_datapath::offload;

/// How many nodes are asked each time.
const ASKED: usize = 4;
/// How often it is tried until somebody answers, and how far apart.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(5);

/// File name in the run dir, while a test may have switched them off.
const FILE: &str = "offload-test";

/// What was found.
#[derive(Debug)]
pub struct Offload {
    file: PathBuf,
    /// The link that was tested last, by its index.
    tested: Option<u32>,
    found: Arc<Mutex<Found>>,
}

#[derive(Debug, Default)]
struct Found {
    fault: Option<String>,
    news: bool,
}

impl Offload {
    /// Nothing was tested.
    pub fn new(run_dir: &Path) -> Self {
        Self { file: run_dir.join(FILE), tested: None, found: Arc::default() }
    }

    /// Begins a test, if this link was not tested and there is anybody to ask.
    pub fn test(&mut self, index: u32, plan: &TunnelPlan) {
        let pairs = pairs(plan);
        if self.tested == Some(index) || pairs.is_empty() {
            return;
        }
        let (told, file) = (Arc::clone(&self.found), self.file.clone());
        let run = move || {
            for _ in 0..TRIES {
                match tested(&file, &pairs) {
                    Ok(Some(found)) => {
                        let text = "the device below does not make checksums of VXLAN packets: they are made in software, which \
                                    costs throughput; update the kernel or the driver of the node's link";
                        if !found {
                            tracing::warn!("{text}");
                        }
                        *lock(&told) = Found { fault: (!found).then(|| text.to_owned()), news: !found };
                        return;
                    }
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "test the tunnel's checksums"),
                }
                std::thread::sleep(PAUSE);
            }
            tracing::debug!("nobody answers who could tell whether the tunnel's checksums are right");
        };
        match std::thread::Builder::new().name("offload".to_owned()).spawn(run) {
            Ok(_) => self.tested = Some(index),
            Err(error) => tracing::warn!(%error, "test the tunnel's checksums"),
        }
    }

    /// What is wrong.
    pub fn fault(&self) -> Option<String> {
        lock(&self.found).fault.clone()
    }

    /// Whether there is anything to be said that was not asked for since.
    pub fn has_news(&self) -> bool {
        std::mem::take(&mut lock(&self.found).news)
    }
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whom to ask, and from where.
fn pairs(plan: &TunnelPlan) -> Vec<(IpAddr, IpAddr)> {
    let mut found: BTreeMap<Family, Vec<(IpAddr, IpAddr)>> = BTreeMap::new();
    for peer in &plan.peers {
        let family = peer.block.family();
        let Some(own) = plan.addresses.get(&family) else { continue };
        let of_family = found.entry(family).or_default();
        if of_family.len() < ASKED {
            of_family.push((*own, peer.address()));
        }
    }
    found.into_values().flatten().collect()
}

/// Tests, and leaves no test unfinished behind: what an agent that was killed had switched off goes on again.
fn tested(file: &Path, pairs: &[(IpAddr, IpAddr)]) -> std::io::Result<Option<bool>> {
    if file.exists() {
        offload::set(true)?;
    }
    std::fs::write(file, "")?;
    let found = look(pairs);
    if found.is_err() {
        offload::set(true)?;
    }
    std::fs::remove_file(file)?;
    found
}

/// Whether the device below makes checksums; `None` where nobody answers either way. Where it does not, it is not asked to
/// any more.
fn look(pairs: &[(IpAddr, IpAddr)]) -> std::io::Result<Option<bool>> {
    let is_answered = || pairs.iter().any(|(from, to)| offload::is_answered(*from, *to).unwrap_or(false));
    // What somebody switched off stays so; an agent before this one may have been that.
    if !offload::is_on()? || is_answered() {
        return Ok(Some(true));
    }
    offload::set(false)?;
    let Some((from, to)) = pairs.iter().find(|(from, to)| offload::is_answered(*from, *to).unwrap_or(false)) else {
        offload::set(true)?;
        return Ok(None);
    };
    // Or who answers has come up only now.
    for _ in 0..2 {
        offload::set(true)?;
        if offload::is_answered(*from, *to)? {
            return Ok(Some(true));
        }
        offload::set(false)?;
        if !offload::is_answered(*from, *to)? {
            offload::set(true)?;
            return Ok(None);
        }
    }
    Ok(Some(false))
}
