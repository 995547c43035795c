//! The node's sysctls, kept against drift; what they were before is on file, for an uninstall.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use overlane_core::family::Family;
use overlane_datapath::sysctl::{self, Changed, SysctlError};
use serde::{Deserialize, Serialize};

/// File name in the run dir.
pub const FILE: &str = "sysctls.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Value {
    before: String,
    after: String,
}

/// What was changed so far.
#[derive(Debug)]
pub struct Sysctls {
    path: PathBuf,
    changed: BTreeMap<String, Value>,
    /// What had the right value after the last look.
    held: BTreeSet<String>,
}

impl Sysctls {
    /// Reads what an earlier agent changed.
    pub fn new(run_dir: &Path) -> Self {
        let path = run_dir.join(FILE);
        let changed = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { path, changed: changed.unwrap_or_default(), held: BTreeSet::new() }
    }

    /// What agents have changed on this node since it booted, for an uninstall.
    pub fn changed_by_us(run_dir: &Path) -> Vec<Changed> {
        let Self { changed, .. } = Self::new(run_dir);
        changed.into_iter().map(|(key, Value { before, after })| Changed { key, before, after }).collect()
    }

    /// Sets what differs; gives how many had been right before.
    pub fn keep(&mut self, families: &[Family], underlays: &BTreeSet<String>) -> (usize, Result<(), SysctlError>) {
        let wanted = match sysctl::wanted(families, underlays) {
            Ok(wanted) => wanted,
            Err(error) => return (0, Err(error)),
        };
        let (changed, result) = match sysctl::apply(&wanted) {
            Ok(changed) => (changed, Ok(())),
            Err((changed, error)) => (changed, Err(error)),
        };
        let drifted = changed.iter().filter(|change| self.held.contains(&change.key)).count();
        self.held = wanted.into_iter().map(|setting| setting.key).collect();
        for Changed { key, before, after } in &changed {
            tracing::info!(key, before, after, "sysctl set");
            // The value before the first change is the one to go back to.
            let entry = self.changed.entry(key.clone());
            let value = entry.or_insert_with(|| Value { before: before.clone(), after: after.clone() });
            value.after.clone_from(after);
        }
        if !changed.is_empty()
            && let Err(error) = self.write()
        {
            tracing::warn!(%error, file = %self.path.display(), "note which sysctls were changed");
        }
        (drifted, result)
    }

    fn write(&self) -> std::io::Result<()> {
        let fresh = self.path.with_extension("json.new");
        std::fs::write(&fresh, serde_json::to_vec_pretty(&self.changed)?)?;
        std::fs::rename(&fresh, &self.path)
    }
}
