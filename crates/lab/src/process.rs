//! Processes as the lab remembers them: by pid and start time, so that a pid given to somebody else is never taken for
//! ours.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// One process, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`, see proc(5).
    pub start: u64,
}

impl ProcessId {
    /// The process that has `pid` now.
    pub fn of(pid: i32) -> Option<Self> {
        let (_, start) = stat(pid)?;
        Some(Self { pid, start })
    }

    /// Whether it runs; a zombie does not.
    pub fn alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, start)| start == self.start && state != 'Z' && state != 'X')
    }

    /// Sends a signal, if the process still runs.
    pub fn signal(self, signal: Signal) {
        if self.alive() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Sends a signal to the process group that it leads, if it still runs.
    pub fn signal_group(self, signal: Signal) {
        if self.alive() {
            let _ = kill(Pid::from_raw(-self.pid), signal);
        }
    }
}

/// State and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(line: &str) -> Option<(char, u64)> {
    // The command's name is in parentheses and may hold anything, parentheses too.
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // State is field 3, the start time is field 22.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Waits until none of `processes` runs; those that still do after `patience`.
pub fn wait_gone(processes: &[ProcessId], patience: Duration) -> Vec<ProcessId> {
    let deadline = Instant::now() + patience;
    loop {
        let left: Vec<ProcessId> = processes.iter().copied().filter(|p| p.alive()).collect();
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The pids of all processes but this one.
fn others() -> impl Iterator<Item = i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(move |pid| *pid != own)
}

/// Every process whose network namespace is one of `inodes` (of nsfs), without this one.
pub fn in_namespaces(inodes: &std::collections::BTreeSet<u64>) -> Vec<ProcessId> {
    let inside = |pid: &i32| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|meta| inodes.contains(&meta.ino()));
    let mut found: Vec<ProcessId> = others().filter(inside).filter_map(ProcessId::of).collect();
    found.sort();
    found
}

/// Every process that was started with exactly these arguments, whatever its program's path, without this one.
pub fn with_arguments(arguments: &[&str]) -> Vec<ProcessId> {
    let is_one = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
        words.next().is_some() && words.eq(arguments.iter().map(|word| word.as_bytes()))
    };
    others().filter(is_one).filter_map(ProcessId::of).collect()
}

/// Makes this process the leader of a session of its own, without a terminal.
pub fn new_session() -> Result<()> {
    nix::unistd::setsid().map(drop).context("start a session")
}

/// The program `name` beside this executable.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own path")?;
    let path = own.parent().unwrap_or_else(|| Path::new("/")).join(name);
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() => Ok(path),
        Ok(_) => bail!("{} is no file", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{name} is not beside {}: build it with `cargo build --workspace --bins`", own.display())
        }
        Err(error) => Err(error).with_context(|| format!("look for {}", path.display())),
    }
}

/// 32 hex digits of the kernel's randomness.
pub fn random_hex() -> Result<String> {
    // As the kernel gives one UUID a read.
    let uuid = random_uuid()?;
    Ok(uuid.chars().filter(char::is_ascii_hexdigit).collect())
}

/// A random UUID.
pub fn random_uuid() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a pid that was given again being taken for the old process.

    use super::*;

    #[test]
    fn stat_is_read_past_odd_names() {
        let tail: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let line = format!("77 (a b) S ) R {}", tail.join(" "));
        assert_eq!(parse_stat(&line), Some(('R', 22)));
        assert_eq!(parse_stat("77 (x"), None);
    }

    #[test]
    fn a_process_is_pid_and_start() {
        let own = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.alive());
        assert!(!ProcessId { start: own.start + 1, ..own }.alive());
    }

    #[test]
    fn a_zombie_does_not_run() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        if let Some(id) = id {
            assert!(!id.alive());
        }
        child.wait().unwrap();
    }
}
