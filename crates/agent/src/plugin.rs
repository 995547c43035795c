//! The CNI plugin, put where the container runtime looks for it: whole or not at all, and only where it differs.

use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::Config;

/// The plugin's name, which the network configuration calls it by.
pub const NAME: &str = "overlane-cni";

/// A copy of the plugin, for [`OTHER_NAMES`].
const LOOPBACK: &str = "overlane-loopback";
/// Names under which the plugin is another, as links, and where these lead: the one that runtimes run for each pod's
/// `lo`, which a bare runtime has none of, and the one that other main plugins ask for addresses. Whoever copies a set of
/// plugins into the directory writes through the first: that must not be the plugin itself.
const OTHER_NAMES: [(&str, &str); 2] = [("loopback", LOOPBACK), ("overlane-ipam", NAME)];
/// How much is compared at once, bytes.
const PIECE: usize = 65_536;

/// Why the plugin is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// What to install cannot be read.
    #[error("read the plugin to install, {path}: {source}", path = path.display())]
    Source {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It cannot be put in its place; another one, or none, is there.
    #[error("install {path}: {source}; make the directory writable for the agent, or install the plugin of this version there yourself", path = path.display())]
    Target {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Installs the plugin unless the very same is there.
pub fn keep(config: &Config) -> Result<(), PluginError> {
    let Some(from) = &config.cni_plugin else { return Ok(()) };
    keep_as(from, config.cni_bin_dir.join(NAME))
}

fn keep_as(from: &Path, target: PathBuf) -> Result<(), PluginError> {
    if is_same(from, &target).map_err(|source| PluginError::Source { path: from.to_owned(), source })? {
        return Ok(());
    }
    install(from, &target).map_err(|source| PluginError::Target { path: target.clone(), source })?;
    tracing::info!(file = %target.display(), "CNI plugin installed");
    Ok(())
}

/// Installs the plugin under its other names where nobody has. What is there is never touched, and where they cannot be
/// had, pods have their network without them.
pub fn keep_other_names(config: &Config) {
    let Some(from) = &config.cni_plugin else { return };
    for (name, leads_to) in OTHER_NAMES {
        if let Err(error) = keep_other_name(from, &config.cni_bin_dir, name, leads_to) {
            tracing::info!(%error, "not installed");
        }
    }
}

fn keep_other_name(from: &Path, dir: &Path, name: &str, leads_to: &str) -> Result<(), PluginError> {
    let target = dir.join(name);
    if target.symlink_metadata().is_ok() && !is_ours(&target) {
        return Ok(());
    }
    keep_as(from, dir.join(leads_to))?;
    link(&target, leads_to).map_err(|source| PluginError::Target { path: target, source })
}

/// A link shows whose it is. One of an older version may lead elsewhere.
fn link(target: &Path, leads_to: &str) -> io::Result<()> {
    match std::os::unix::fs::symlink(leads_to, target) {
        Ok(()) => tracing::info!(file = %target.display(), "there was no plugin of that name; installed"),
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) if !is_ours(target) || std::fs::read_link(target)? == Path::new(leads_to) => {}
        Err(_) => {
            let next = target.with_file_name(format!(".{leads_to}.{}", std::process::id()));
            let _ = std::fs::remove_file(&next);
            std::os::unix::fs::symlink(leads_to, &next)?;
            std::fs::rename(&next, target)?;
        }
    }
    Ok(())
}

/// Whether a plugin is there, of whatever version: those of other versions work or refuse by themselves. Without a
/// plugin to install that is taken for granted, since its directory is somebody else's business.
pub fn is_there(config: &Config) -> bool {
    config.cni_plugin.is_none() || config.cni_bin_dir.join(NAME).exists()
}

/// What is ours in the directory of plugins: the plugin, and those of its other names that lead there, which come first.
pub fn installed(config: &Config) -> Vec<PathBuf> {
    let file = |name| config.cni_bin_dir.join(name);
    let links = OTHER_NAMES.map(|(name, _)| file(name)).into_iter().filter(|file| is_ours(file));
    links.chain([LOOPBACK, NAME].map(file)).collect()
}

/// Whether a plugin of another name leads to ours.
fn is_ours(file: &Path) -> bool {
    std::fs::read_link(file).is_ok_and(|target| [NAME, LOOPBACK].map(Path::new).contains(&target.as_path()))
}

/// Whether the target is the source, byte for byte, and can be run. That it cannot be read means that it is not.
fn is_same(from: &Path, target: &Path) -> io::Result<bool> {
    let mut wanted = std::fs::File::open(from)?;
    let Ok(mut present) = std::fs::File::open(target) else { return Ok(false) };
    let Ok(meta) = present.metadata() else { return Ok(false) };
    if meta.permissions().mode() & 0o111 == 0 || meta.len() != wanted.metadata()?.len() {
        return Ok(false);
    }
    // Piece by piece: the plugin's size is not to be the agent's as well.
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let length = wanted.read(&mut a)?;
        let (Some(a), Some(b)) = (a.get(..length), b.get_mut(..length)) else { return Ok(false) };
        if length == 0 {
            return Ok(true);
        }
        if present.read_exact(b).is_err() || a != b {
            return Ok(false);
        }
    }
}

/// A runtime may start the plugin at any moment: it finds the old one or the new one, never a part. The new one is a new
/// file, so that one that runs is not disturbed (and `ETXTBSY` never comes).
fn install(from: &Path, target: &Path) -> io::Result<()> {
    let dir = target.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = dir.join(format!(".{name}.{}", std::process::id()));
    let _ = std::fs::remove_file(&unfinished);
    let written = std::fs::File::open(from).and_then(|mut content| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&unfinished)?;
        io::copy(&mut content, &mut file)?;
        // The umask has taken bits from the mode.
        file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
        file.sync_all()?;
        std::fs::rename(&unfinished, target)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    //! Must catch: a plugin that is written though the right one is there (a read-only directory would fail), or one
    //! that is not replaced though it differs; another's plugin that is taken for ours.
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn other_names_are_taken_only_where_nobody_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let (from, free, foreign) = (file("from"), file("overlane-ipam"), file("loopback"));
        std::fs::write(&from, "ours").unwrap();
        std::fs::write(&foreign, "another's").unwrap();
        let keep = || {
            for (name, leads_to) in OTHER_NAMES {
                keep_other_name(&from, dir.path(), name, leads_to).unwrap();
            }
        };
        keep();
        keep();
        assert!(is_ours(&free) && !is_ours(&foreign) && !file(LOOPBACK).exists());
        assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "another's");
        // An older version's link leads to the plugin itself: who writes through it must not write there.
        std::fs::remove_file(&foreign).unwrap();
        std::os::unix::fs::symlink(NAME, &foreign).unwrap();
        keep();
        std::fs::write(&foreign, "copied over it").unwrap();
        assert_eq!(std::fs::read_to_string(file(NAME)).unwrap(), "ours");
        keep();
        assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "ours");
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 5, "from, the plugin, its copy and two links");
    }

    #[test]
    fn written_only_where_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let (from, target) = (dir.path().join("from"), dir.path().join("bin").join(NAME));
        std::fs::write(&from, "one").unwrap();
        assert!(!is_same(&from, &target).unwrap());
        install(&from, &target).unwrap();
        assert!(is_same(&from, &target).unwrap());
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
        std::fs::write(&from, "two").unwrap();
        assert!(!is_same(&from, &target).unwrap(), "of the same length");
        install(&from, &target).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "two");
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!is_same(&from, &target).unwrap(), "nobody could run it");
        let left: Vec<_> = std::fs::read_dir(dir.path().join("bin")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(is_same(&dir.path().join("none"), &target).is_err());
    }
}
