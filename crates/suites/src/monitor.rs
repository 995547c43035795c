//! What changes in a namespace while one looks: `ip monitor` and `nft monitor`.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::exec::{self, Running};
use crate::ns::{Ns, unique};

/// Both monitors of one namespace.
pub struct Monitor {
    running: Vec<Running>,
    logs: Vec<PathBuf>,
}

impl Monitor {
    /// Starts listening.
    pub fn start(ns: &Ns) -> Monitor {
        let lines = ["ip -o monitor link address route rule neigh", "nft monitor"];
        let (mut running, mut logs) = (Vec::new(), Vec::new());
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            let path = std::env::temp_dir().join(format!("{}.monitor", unique(crate::clean::PREFIX)));
            let log = File::create(&path).expect("make a file for a monitor");
            let mut command = exec::command(&words);
            command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
            running.push(Running::new(ns.spawn(command)));
            logs.push(path);
        }
        // Both subscribe within a few milliseconds of their start.
        std::thread::sleep(Duration::from_millis(200));
        Monitor { running, logs }
    }

    /// Stops; returns what changed. Left out: the kernel's own states of learnt neighbours, and nft's remarks on who
    /// made a generation.
    pub fn finish(mut self) -> Vec<String> {
        std::thread::sleep(Duration::from_millis(100));
        self.running.iter_mut().for_each(Running::end);
        let mut lines = Vec::new();
        for log in &self.logs {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            lines.extend(text.lines().map(str::to_owned));
        }
        lines.retain(|l| !l.trim().is_empty() && !l.starts_with('#') && !learnt_neighbour(l));
        lines
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.running.iter_mut().for_each(Running::end);
        for log in &self.logs {
            let _ = std::fs::remove_file(log);
        }
    }
}

/// `10.224.0.5 dev eth0 lladdr 02:... REACHABLE`: a line that begins with an address and is not permanent.
fn learnt_neighbour(line: &str) -> bool {
    let words: Vec<&str> = line.trim_start_matches("Deleted ").split_whitespace().collect();
    let address = words.first().is_some_and(|w| w.parse::<std::net::IpAddr>().is_ok());
    let state = words.iter().any(|w| matches!(*w, "REACHABLE" | "STALE" | "DELAY" | "PROBE" | "FAILED" | "INCOMPLETE"));
    address && state && words.get(1) == Some(&"dev")
}
