//! Nothing stays behind: a janitor process outlives a crashed test, and each run sweeps what dead runs left.

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

/// Removes namespaces and labs whose run is dead.
fn sweep() {
    let names =
        std::fs::read_dir("/run/netns").map(|d| d.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect());
    for name in names.unwrap_or_else(|_| Vec::new()) {
        let name: String = name;
        if owner(&name).is_some_and(|pid| !exec::alive(pid)) {
            exec::sh(&["ip", "netns", "del", &name]);
        }
    }
    for (name, _) in labs_running() {
        if owner(&name).is_some_and(|pid| !exec::alive(pid)) {
            exec::run(crate::lab::cli(&["lab", "down", "--name", &name]), b"", std::time::Duration::from_secs(120));
        }
    }
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
