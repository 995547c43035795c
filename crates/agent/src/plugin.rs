//! The CNI plugin, put where the container runtime looks for it: whole or not at all, and only where it differs.

use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::Config;

/// The plugin's name, which the network configuration calls it by.
pub const NAME: &str = "overlane-cni";

/// Names under which the plugin is another: the one that runtimes run for each pod's `lo`, which a bare runtime has
/// none of, and the one that other main plugins ask for addresses.
const OTHER_NAMES: [&str; 2] = ["loopback", "overlane-ipam"];
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
    let target = config.cni_bin_dir.join(NAME);
    if is_same(from, &target).map_err(|source| PluginError::Source { path: from.clone(), source })? {
        return Ok(());
    }
    install(from, &target).map_err(|source| PluginError::Target { path: target.clone(), source })?;
    tracing::info!(file = %target.display(), "CNI plugin installed");
    Ok(())
}

/// Installs the plugin under its other names where nobody has. What is there is never touched.
pub fn keep_other_names(config: &Config) -> Result<(), PluginError> {
    if config.cni_plugin.is_none() {
        return Ok(());
    }
    OTHER_NAMES.into_iter().try_for_each(|name| link(config.cni_bin_dir.join(name)))
}

/// A link shows whose it is, and is of the plugin's version at any time.
fn link(target: PathBuf) -> Result<(), PluginError> {
    match std::os::unix::fs::symlink(NAME, &target) {
        Ok(()) => tracing::info!(file = %target.display(), "there was no plugin of that name; installed"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(PluginError::Target { path: target, source }),
    }
    Ok(())
}

/// Whether a plugin is there, of whatever version: those of other versions work or refuse by themselves. Without a
/// plugin to install that is taken for granted, since its directory is somebody else's business.
pub fn is_there(config: &Config) -> bool {
    config.cni_plugin.is_none() || config.cni_bin_dir.join(NAME).exists()
}

/// What is ours in the directory of plugins: the plugin, and those of its other names that lead there.
pub fn installed(config: &Config) -> Vec<PathBuf> {
    let mut files = vec![config.cni_bin_dir.join(NAME)];
    files.extend(OTHER_NAMES.map(|name| config.cni_bin_dir.join(name)).into_iter().filter(|file| is_ours(file)));
    files
}

/// Whether a plugin of another name leads to ours.
fn is_ours(file: &Path) -> bool {
    std::fs::read_link(file).is_ok_and(|target| target == Path::new(NAME))
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
    let unfinished = dir.join(format!(".{NAME}.{}", std::process::id()));
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
        let (free, foreign) = (dir.path().join("overlane-ipam"), dir.path().join("loopback"));
        std::fs::write(&foreign, "another's").unwrap();
        for _ in 0..2 {
            link(free.clone()).unwrap();
            link(foreign.clone()).unwrap();
        }
        assert!(is_ours(&free) && !is_ours(&foreign));
        assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "another's");
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
