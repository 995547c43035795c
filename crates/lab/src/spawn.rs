//! Programs started inside a namespace, as the daemon starts agents, controllers, CNI plugins and pods.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, unshare};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use crate::files;
use crate::netns;
use crate::process::ProcessId;

const ADOPTED_POLL: Duration = Duration::from_millis(50);

/// A program to be started.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Path of the network namespace.
    pub namespace: PathBuf,
    /// Name of the host that the program finds itself on; the machine's own without.
    pub hostname: Option<String>,
    /// The program, by path or by name.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Environment variables beside those of this process.
    pub env: BTreeMap<String, String>,
    /// Whether nothing else of this process' environment is handed on.
    pub bare: bool,
    /// The file that its output is added to; without, output is piped to the caller.
    pub log: Option<PathBuf>,
}

impl Launch {
    /// Starts the program as the leader of a process group of its own. Needs the runtime that will wait for it.
    pub fn start(&self) -> Result<Child> {
        let runtime = Handle::current();
        let what = || format!("start {} in {}", self.program.display(), self.namespace.display());
        // Namespaces belong to threads and are inherited by what a thread starts.
        std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, || -> Result<Child> {
                    let _runtime = runtime.enter();
                    netns::enter(&self.namespace)?;
                    if let Some(hostname) = &self.hostname {
                        unshare(CloneFlags::CLONE_NEWUTS).context("make a UTS namespace")?;
                        nix::unistd::sethostname(hostname).context("set the host's name")?;
                    }
                    Ok(self.command()?.spawn()?)
                })?;
            thread.join().map_err(|_| anyhow!("the starting thread died"))?
        })
        .with_context(what)
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir("/").process_group(0);
        if self.bare {
            command.env_clear();
        }
        command.envs(&self.env);
        match &self.log {
            Some(path) => {
                // A file is no terminal.
                command.env("NO_COLOR", "1");
                let log = open_log(path)?;
                command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            }
            None => {
                // Nobody reads its answer once the caller is gone.
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            }
        }
        Ok(command)
    }
}

/// A running program: a child of this process, or one that an earlier daemon started.
#[derive(Debug)]
pub enum Running {
    /// A child.
    Child(Box<Child>),
    /// Somebody else's child by now.
    Adopted(ProcessId),
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, 128 and the number for a signal; none where nobody saw it.
    pub code: Option<i32>,
    /// The same in words.
    pub text: String,
}

impl Running {
    /// The program's process.
    pub fn process(&self) -> Option<ProcessId> {
        match self {
            Self::Child(child) => ProcessId::of(i32::try_from(child.id()?).ok()?),
            Self::Adopted(process) => Some(*process),
        }
    }

    /// Waits for its end. May be given up and called again.
    pub async fn ended(&mut self) -> Ended {
        match self {
            Self::Child(child) => match child.wait().await {
                Ok(status) => Ended {
                    code: status.code().or_else(|| status.signal().map(|signal| 128 + signal)),
                    text: status.to_string(),
                },
                Err(error) => Ended { code: None, text: error.to_string() },
            },
            Self::Adopted(process) => {
                while process.alive() {
                    tokio::time::sleep(ADOPTED_POLL).await;
                }
                Ended { code: None, text: "ended while nobody looked".to_owned() }
            }
        }
    }
}

/// Opens a log to add to.
pub fn open_log(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        files::make_dir(parent)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}
