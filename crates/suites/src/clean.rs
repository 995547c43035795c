//! Nothing stays behind: a janitor process outlives a crashed test, and each run sweeps what dead runs left.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use crate::exec;

/// First part of each name that these suites make: labs, namespaces, networks. The pid of the run follows.
pub const PREFIX: &str = "ovs";

/// To be called first by each test: needs root, sweeps once.
pub fn begin() {
    assert!(
        nix::unistd::Uid::effective().is_root(),
        "this suite makes network namespaces and needs root; it does not skip: run scripts/test-root.sh as root"
    );
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        sweep();
        // Never dismissed: its pipe closes when this process ends.
        std::mem::forget(Janitor::of_namespaces());
    });
}

/// The pid in a name of ours.
fn owner(name: &str) -> Option<i32> {
    name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-').next()?.parse().ok()
}

/// Whether the run of this name is over: no such process, or one that is no test (the pid was used again).
fn orphan(name: &str) -> bool {
    owner(name)
        .is_some_and(|pid| !exec::alive(pid) || !exec::cmdline(pid).first().is_some_and(|w| w.contains("/deps/")))
}

/// Removes namespaces and labs whose run is over.
pub fn sweep() {
    for name in names_in("/run/netns") {
        if orphan(&name) {
            exec::sh(&["ip", "netns", "del", &name]);
        }
    }
    for name in labs_left() {
        if orphan(&name) {
            exec::run(crate::lab::cli(&["lab", "down", "--name", &name]), b"", std::time::Duration::from_secs(120));
        }
    }
}

fn names_in(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Labs of which anything is left: a process, a record, a namespace. Each may be all there is.
fn labs_left() -> BTreeSet<String> {
    let running = labs_running().into_iter().map(|(name, _)| name);
    let recorded = names_in("/run/overlane-lab");
    // ovl-LAB-NODE, and LAB is PREFIX-PID-COUNT.
    let spaces = names_in("/run/netns").into_iter().filter_map(|space| {
        let lab: Vec<&str> = space.strip_prefix("ovl-")?.splitn(4, '-').take(3).collect();
        (lab.len() == 3).then(|| lab.join("-"))
    });
    running.chain(recorded).chain(spaces).collect()
}

/// Labs that have an agent now, by the agents' command lines: name and pid.
pub fn labs_running() -> Vec<(String, i32)> {
    let mut found = Vec::new();
    for pid in exec::pids() {
        let words = exec::cmdline(pid);
        if words.first().is_some_and(|w| w.ends_with("overlane-agent"))
            && let Some(lab) = words.iter().position(|w| w == "--lab").and_then(|i| words.get(i + 1))
        {
            found.push((lab.clone(), pid));
        }
    }
    found
}

/// A process that takes a lab down once this one is gone, however it went: its standard input is a pipe of ours.
pub struct Janitor {
    child: Option<Child>,
}

impl Janitor {
    /// Starts it for one lab.
    pub fn of_lab(name: &str) -> Janitor {
        let mut command = Command::new("sh");
        command.arg("-c").arg("read -r word; [ \"$word\" = done ] || exec \"$0\" lab down --name \"$1\"");
        command.arg(exec::bin("overlane")).arg(name);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Janitor { child: Some(command.spawn().expect("start a janitor")) }
    }

    /// Starts it for all namespaces that this process makes.
    fn of_namespaces() -> Janitor {
        let mut command = Command::new("sh");
        let script = "read -r word; for path in /run/netns/\"$0\"-*; do ip netns del \"${path##*/}\"; done";
        command.arg("-c").arg(script).arg(format!("{PREFIX}-{}", std::process::id()));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Janitor { child: Some(command.spawn().expect("start a janitor")) }
    }

    /// Tells it that there is nothing left to do.
    pub fn dismiss(&mut self) {
        if let Some(mut child) = self.child.take() {
            if let Some(mut stdin) = child.stdin.take() {
                let _ = std::io::Write::write_all(&mut stdin, b"done\n");
            }
            let _ = child.wait();
        }
    }
}
