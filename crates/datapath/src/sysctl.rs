//! The node's sysctls that we set: one list, each with its reason. Read and written in the calling thread's namespace.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use overlane_core::family::Family;

use crate::owned::LINK_PREFIX;

/// Where the kernel shows its settings.
pub const ROOT: &str = "/proc/sys";
const V6_CONF: &str = "net/ipv6/conf";

/// In place of [`ROOT`], where that may not be written: a container's runtime mounts it read-only, but the agent's has
/// the host's `net` part of it elsewhere. Which namespace's values it shows depends on who reads, not on the mount.
static OTHER_ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Reads and writes below another directory from now on, for this process. Only the first call counts.
pub fn use_root(root: &Path) {
    let _ = OTHER_ROOT.set(root.to_owned());
}

/// A value that we want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Below `/proc/sys`, with slashes: `net/ipv4/ip_forward`.
    pub key: String,
    /// The value.
    pub value: String,
    /// Why.
    pub reason: &'static str,
}

/// A value that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Below `/proc/sys`.
    pub key: String,
    /// What it was.
    pub before: String,
    /// What it is now.
    pub after: String,
}

/// Why a sysctl was not read or written.
#[derive(Debug, thiserror::Error)]
#[error("{verb} sysctl {key}: {source}")]
pub struct SysctlError {
    /// `read`, `write` or `list`.
    pub verb: &'static str,
    /// Below `/proc/sys`.
    pub key: String,
    /// The system's answer.
    pub source: io::Error,
}

/// What a node with these families needs, in the order in which it must be set. `underlays` are the links with the
/// node's addresses. Looks at the links that are there, so ask again when links have come.
///
/// # Errors
/// The links' settings cannot be read.
pub fn wanted(families: &[Family], underlays: &BTreeSet<String>) -> Result<Vec<Setting>, SysctlError> {
    let mut settings = Vec::new();
    if families.contains(&Family::V4) {
        settings.push(Setting {
            key: "net/ipv4/ip_forward".to_owned(),
            value: "1".to_owned(),
            reason: "packets of pods are forwarded between their links and the node's",
        });
    }
    if families.contains(&Family::V6) {
        // Before forwarding goes on: with it, a link whose accept_ra is 1 ignores router advertisements, and the
        // node's default route vanishes when it expires.
        for link in links()? {
            if needs_accept_ra(&link, underlays)? {
                settings.push(Setting {
                    key: format!("{V6_CONF}/{link}/accept_ra"),
                    value: "2".to_owned(),
                    reason: "a router's advertisements are heard although the node forwards",
                });
            }
        }
        settings.push(Setting {
            key: format!("{V6_CONF}/all/forwarding"),
            value: "1".to_owned(),
            reason: "packets of pods are forwarded between their links and the node's",
        });
    }
    for family in families {
        settings.extend(neighbour_room(*family)?);
    }
    Ok(settings)
}

/// The kernel's own limits of the neighbour table (128, 512, 1024 entries) are less than the nodes that one segment may
/// hold: beyond the last it refuses to speak to one more. More is left as it is. A network namespace other than the
/// machine's first has no such keys (neighbour tables are the machine's).
fn neighbour_room(family: Family) -> Result<Vec<Setting>, SysctlError> {
    let ip = if family == Family::V4 { "ipv4" } else { "ipv6" };
    let mut settings = Vec::new();
    // From the last: each must not be less than the one before it.
    for (threshold, least) in [(3, 16384_u32), (2, 12288), (1, 8192)] {
        let key = format!("net/{ip}/neigh/default/gc_thresh{threshold}");
        match read(&key) {
            Ok(now) => settings.push(Setting {
                key,
                value: now.parse().map_or(least, |now: u32| now.max(least)).to_string(),
                reason: "the neighbour table has room for 5,000 nodes on one segment",
            }),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(settings)
}

/// Reads one value.
///
/// # Errors
/// There is no such key, or it may not be read.
pub fn read(key: &str) -> Result<String, SysctlError> {
    let text = std::fs::read_to_string(path(key)).map_err(|source| error("read", key, source))?;
    Ok(text.trim_end().to_owned())
}

/// Sets what differs, in order, and gives what was changed, to be kept for [`restore`]. On an error what was changed
/// before it comes along.
///
/// # Errors
/// The first value that could not be read or written.
pub fn apply(wanted: &[Setting]) -> Result<Vec<Changed>, (Vec<Changed>, SysctlError)> {
    let mut changed = Vec::new();
    for Setting { key, value, .. } in wanted {
        match set(key, value) {
            Ok(None) => {}
            Ok(Some(before)) => changed.push(Changed { key: key.clone(), before, after: value.clone() }),
            Err(error) => return Err((changed, error)),
        }
    }
    Ok(changed)
}

/// Puts back, in reverse order, what still has the value that we gave it; what somebody changed since, or what went
/// with its link, stays as it is. Gives the keys that were put back.
///
/// # Errors
/// The first value that could not be written; the rest is tried all the same.
pub fn restore(changed: &[Changed]) -> Result<Vec<String>, SysctlError> {
    let (mut restored, mut failed) = (Vec::new(), None);
    for Changed { key, before, after } in changed.iter().rev() {
        match read(key) {
            Ok(now) if now == *after => match set(key, before) {
                Ok(_) => restored.push(key.clone()),
                Err(error) => failed = failed.or(Some(error)),
            },
            Ok(_) => {}
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(restored), Err)
}

/// Writes one value.
///
/// # Errors
/// There is no such key, or it may not be written.
pub fn write(key: &str, value: &str) -> Result<(), SysctlError> {
    std::fs::write(path(key), value).map_err(|source| error("write", key, source))
}

/// What it was before, if it was not so already.
fn set(key: &str, value: &str) -> Result<Option<String>, SysctlError> {
    let before = read(key)?;
    if before == value {
        return Ok(None);
    }
    write(key, value)?;
    Ok(Some(before))
}

/// Links that hear advertisements today; on the node's own links also when somebody switched forwarding on already.
fn needs_accept_ra(link: &str, underlays: &BTreeSet<String>) -> Result<bool, SysctlError> {
    if link.starts_with(LINK_PREFIX) || matches!(link, "all" | "default" | "lo") {
        return Ok(false);
    }
    let value = |name: &str| match read(&format!("{V6_CONF}/{link}/{name}")) {
        Ok(value) => Ok(value),
        // The link went meanwhile.
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    };
    Ok(match value("accept_ra")?.as_str() {
        "1" => underlays.contains(link) || value("forwarding")? == "0",
        // Set already; named so that it is kept.
        "2" => underlays.contains(link),
        _ => false,
    })
}

fn links() -> Result<BTreeSet<String>, SysctlError> {
    let list = match std::fs::read_dir(path(V6_CONF)) {
        Ok(list) => list,
        Err(source) => return Err(error("list", V6_CONF, source)),
    };
    Ok(list.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// Only below the root: a key never holds `..` (link names cannot contain a slash).
fn path(key: &str) -> PathBuf {
    OTHER_ROOT.get().map_or(Path::new(ROOT), PathBuf::as_path).join(key)
}

fn error(verb: &'static str, key: &str, source: io::Error) -> SysctlError {
    SysctlError { verb, key: key.to_owned(), source }
}
