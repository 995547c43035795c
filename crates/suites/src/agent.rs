//! An agent whose life is in the test's hands.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::exec::{self, Running};
use crate::lab::NodeHandle;
use crate::ns::unique;
use crate::tracer::Tracer;
use crate::wait::{ensure, eventually, millis, secs};

/// The agent of one node, started with the very command line that the lab gave it.
pub struct Agent {
    node: NodeHandle,
    words: Vec<String>,
    env: Vec<(String, String)>,
    log: std::path::PathBuf,
    running: Mutex<Option<Running>>,
}

impl Agent {
    /// Ends the lab's instance and starts one of our own.
    pub fn take(node: &NodeHandle) -> Agent {
        Agent::take_with(node, &[])
    }

    /// The same with further arguments.
    pub fn take_with(node: &NodeHandle, more: &[&str]) -> Agent {
        let pid = node.agent_pid().unwrap_or_else(|| panic!("no agent runs for {}", node.name));
        let (mut words, env) = (exec::cmdline(pid), exec::environ(pid));
        for pair in more.chunks(2) {
            // A flag that the lab gave already counts once only.
            if let Some(at) = words.iter().position(|w| w == pair[0]) {
                words.drain(at..at + 2);
            }
            words.extend(pair.iter().map(|w| (*w).to_owned()));
        }
        act(node, "down").unwrap_or_else(|e| panic!("end the lab's agent of {}: {e}", node.name));
        eventually(secs(10), "end of the lab's agent", || ensure(!exec::alive(pid), || format!("pid {pid} lives")));
        let log = std::env::temp_dir().join(format!("{}.log", unique(crate::clean::PREFIX)));
        let agent = Agent { node: node.clone(), words, env, log, running: Mutex::new(None) };
        agent.start();
        agent
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Starts it and waits until it would serve an ADD.
    pub fn start(&self) {
        self.launch();
        let ready = || self.node.page("/readyz").is_ok_and(|reply| reply.status == 200);
        let until = Instant::now() + secs(30);
        while !ready() {
            // An agent that does not get ready has said why.
            let name = &self.node.name;
            assert!(self.alive(), "the agent of {name} ended at its start: {}", self.last_words());
            assert!(Instant::now() < until, "the agent of {name} does not get ready: {}", self.last_words());
            std::thread::sleep(millis(20));
        }
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Starts it.
    pub fn launch(&self) {
        let mut slot = self.lock();
        assert!(slot.is_none(), "the agent of {} runs already", self.node.name);
        let log = std::fs::File::options().create(true).append(true).open(&self.log).expect("open the agent's log");
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).env_clear().envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("one descriptor more")).stderr(log);
        *slot = Some(Running::new(self.node.ns.spawn(command)));
    }

    /// From its next start on `program` takes so many seconds longer, each time that it is called.
    pub fn slow_down(&mut self, program: &str, seconds: u32) {
        let dir = self.log.with_extension("slow");
        let path = self.env.iter_mut().find(|(name, _)| name == "PATH").expect("the lab's agents have a PATH");
        std::fs::create_dir_all(&dir).expect("make a directory for a program");
        let script = format!("#!/bin/sh\nsleep {seconds}\nPATH='{}' exec {program} \"$@\"\n", path.1);
        let file = dir.join(program);
        std::fs::write(&file, script).expect("write a slow program");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("let it be run");
        path.1 = format!("{}:{}", dir.display(), path.1);
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.lock().as_ref().unwrap_or_else(|| panic!("the agent of {} does not run", self.node.name)).pid
    }

    /// kill -9, and waits for the end.
    pub fn kill(&self) {
        if let Some(mut running) = self.lock().take() {
            running.end();
        }
    }

    /// Whether it runs.
    pub fn alive(&self) -> bool {
        self.lock().as_mut().is_some_and(Running::alive)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        assert!(exec::signal(self.pid(), signal), "the agent of {} is gone", self.node.name);
    }

    /// Lets it live for `n` more system calls.
    pub fn doomed_after(&self, n: u64) -> Tracer {
        Tracer::kill_after(self.pid(), n)
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("last lines of the agent of {}:", self.node.name);
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
        let _ = std::fs::remove_file(&self.log);
        let _ = std::fs::remove_dir_all(self.log.with_extension("slow"));
        // The lab takes it back, for the next test. A lab that is gone has none to start.
        if let Err(error) = act(&self.node, "start") {
            eprintln!("give the agent of {} back: {error}", self.node.name);
        }
    }
}

/// Tells the lab's daemon what to do with its instance.
fn act(node: &NodeHandle, action: &str) -> Result<Value, String> {
    let program = format!("agent-{}", node.name);
    crate::lab::control(&node.lab, &json!({"op": "program", "program": program, "action": action}))
}
