//! DEL with no agent: the pod's interface goes, the agent learns of it later, the runtime may go on.
//!
//! The address is not free by this: only the agent frees it, once it has read the tombstone and removed the host's side.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use overlane_api::cni::{NetConf, PrevResult};
use overlane_api::socket::DelCall;
use overlane_api::tombstone::{DIR, Mode, Tombstone};
use overlane_datapath::link_del;
use overlane_datapath::netns::Netns;
use overlane_datapath::owned;

use crate::error::PluginError;

/// Ends the attachment as far as that goes without an agent.
pub(crate) fn del(conf: &NetConf, call: DelCall, netns: Option<&OsStr>) -> Result<(), PluginError> {
    if let Some(path) = netns
        && !is_foreign(conf.prev_result.as_ref(), &call.attachment.ifname)
    {
        remove_link(path, &call.attachment.ifname);
    }
    leave_word(&conf.run_dir, call, Mode::Interface)
}

/// Leaves word of a DEL for the next agent.
pub(crate) fn leave_word(run_dir: &Path, call: DelCall, mode: Mode) -> Result<(), PluginError> {
    let tombstone = Tombstone::new(call.attachment, call.network, call.began_ns, mode);
    let dir = run_dir.join(DIR);
    write(&dir, &tombstone).map_err(|source| PluginError::Tombstone { path: dir, source })
}

/// Removes the pod's interface. No failure counts: the tombstone makes up for all of them, and the namespace itself is
/// about to go.
fn remove_link(path: &OsStr, ifname: &str) {
    let Ok(netns) = Netns::open(path) else { return };
    // A node inside a container has an eth0 that is a veth as well.
    if Netns::current().is_ok_and(|own| own.inode() != netns.inode())
        && let Err(error) = link_del::delete_in(&netns, ifname)
    {
        let _ = writeln!(io::stderr(), "overlane-cni: no agent, and the interface stays: {error}");
    }
}

/// Whether the result of ADD shows another plugin's work: a pair whose host's side does not bear our prefix.
fn is_foreign(prev: Option<&PrevResult>, ifname: &str) -> bool {
    let Some(prev) = prev else { return false };
    let mut host_side = prev.interfaces.iter().filter(|interface| interface.sandbox.is_empty()).peekable();
    prev.interfaces.iter().any(|interface| interface.name == ifname)
        && host_side.peek().is_some()
        && !host_side.any(|interface| interface.name.starts_with(owned::POD_LINK_PREFIX))
}

/// Writes the file under a dotted name first, so that a reader sees only whole ones. No fsync: the directory is on
/// tmpfs, where a crash of the machine ends every lease as well.
fn write(dir: &Path, tombstone: &Tombstone) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let name = tombstone.file_name();
    let unfinished = dir.join(format!(".{name}.{}", std::process::id()));
    let outcome = serde_json::to_vec(tombstone).map_err(io::Error::from).and_then(|content| {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?.write_all(&content)?;
        fs::rename(&unfinished, dir.join(name))
    });
    if outcome.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    outcome
}

#[cfg(test)]
mod tests {
    //! Must catch: plugin and datapath that differ on where the run directory is; a pair of ours taken for foreign.
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn one_run_directory() {
        assert_eq!(overlane_api::cni::DEFAULT_RUN_DIR, owned::RUN_DIR);
    }

    #[test]
    fn only_a_result_that_says_so_is_foreign() {
        let foreign = |json: &str| is_foreign(Some(&serde_json::from_str(json).unwrap()), "eth0");
        assert!(!is_foreign(None, "eth0"));
        assert!(!foreign("{}"));
        assert!(!foreign(r#"{"interfaces":[{"name":"eth0","sandbox":"/x"}]}"#));
        assert!(!foreign(r#"{"interfaces":[{"name":"ovlpabc"},{"name":"eth0","sandbox":"/x"}]}"#));
        assert!(!foreign(r#"{"interfaces":[{"name":"br0"},{"name":"ovlpabc"},{"name":"eth0","sandbox":"/x"}]}"#));
        assert!(!foreign(r#"{"interfaces":[{"name":"cali1"},{"name":"net1","sandbox":"/x"}]}"#));
        assert!(foreign(r#"{"interfaces":[{"name":"cali1"},{"name":"eth0","sandbox":"/x"}]}"#));
    }
}
