//! The daemon's socket: one request a connection, one line of JSON each way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tracing::{info, warn};

use super::Cluster;
use super::supervise::{Action, ProgramState};
use crate::state::NodeRecord;

/// What the daemon can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// What is there.
    Status,
    /// Does something to a program: `agent-node-0`, `controller-0`.
    Program {
        /// Its name.
        program: String,
        /// What to do.
        action: Action,
    },
    /// Takes the API away from the VNet, or gives it back.
    Api {
        /// Whether it is to be served.
        up: bool,
    },
    /// How many requests the API has served.
    Requests,
    /// Writes all objects of the API to a file.
    Snapshot {
        /// The file.
        file: PathBuf,
    },
    /// Puts a snapshot in place of all objects of the API.
    Restore {
        /// The file.
        file: PathBuf,
    },
    /// Drops the API's history, so that watches from an old revision must list anew.
    Compact,
    /// A new machine joins.
    AddNode {
        /// Its number; the lowest free one without.
        number: Option<u32>,
    },
    /// A machine is thrown away.
    RemoveNode {
        /// Its name.
        node: String,
        /// Whether its objects stay in the API, as when a machine dies without a goodbye.
        keep_objects: bool,
    },
    /// A machine loses everything in memory and starts again.
    RebootNode {
        /// Its name.
        node: String,
    },
    /// Stops or starts a node's kubelet; starting registers the node again.
    Kubelet {
        /// The node's name.
        node: String,
        /// Whether it is to run.
        up: bool,
    },
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done.
    Done,
    /// [`Command::Status`].
    Status(Box<DaemonStatus>),
    /// [`Command::Program`].
    Program(ProgramState),
    /// [`Command::Requests`]: verb, resource, and how often.
    Requests(Vec<(String, String, u64)>),
    /// [`Command::AddNode`].
    Node(NodeRecord),
    /// It could not be done.
    Error(String),
}

/// What the daemon knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// What the daemon is doing: `starting ...`, `running`, or `failed`.
    pub phase: Phase,
    /// Whether the API is served inside the VNet.
    pub api_up: bool,
    /// Programs that are kept running.
    pub programs: Vec<ProgramState>,
    /// Machines.
    pub nodes: Vec<NodeRecord>,
}

/// How far the daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "what", rename_all = "kebab-case")]
pub enum Phase {
    /// Making the lab.
    Starting(String),
    /// Everything was made; whether it is ready is the cluster's affair.
    Running,
    /// It gave up.
    Failed(String),
}

/// Answers on the socket until the process ends.
pub async fn serve(cluster: Arc<Cluster>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let cluster = cluster.clone();
                tokio::spawn(async move {
                    if let Err(error) = talk(cluster, stream).await {
                        info!("a command: {error:#}");
                    }
                });
            }
            Err(error) => {
                warn!("accept a command: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn talk(cluster: Arc<Cluster>, mut stream: UnixStream) -> Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Command>(&line) {
        Ok(command) => {
            if command != Command::Status {
                info!(?command, "asked");
            }
            cluster.execute(command).await.unwrap_or_else(|error| Answer::Error(format!("{error:#}")))
        }
        Err(error) => Answer::Error(format!("understand the command: {error}")),
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    Ok(())
}

/// Asks the daemon at `socket`.
pub async fn ask(socket: &Path, command: &Command) -> Result<Answer> {
    let mut stream =
        UnixStream::connect(socket).await.with_context(|| format!("reach the lab's daemon at {}", socket.display()))?;
    let mut bytes = serde_json::to_vec(command)?;
    bytes.push(b'\n');
    stream.write_all(&bytes).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    if line.is_empty() {
        bail!("the lab's daemon ended before it answered");
    }
    match serde_json::from_str(&line).context("understand the daemon's answer")? {
        Answer::Error(text) => Err(anyhow!(text)),
        answer => Ok(answer),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a command that one side writes and the other does not understand.

    use super::*;

    #[test]
    fn commands_survive_the_wire() {
        for command in [
            Command::Status,
            Command::Program { program: "agent-node-0".into(), action: Action::Kill },
            Command::Api { up: false },
            Command::Requests,
            Command::AddNode { number: Some(3) },
            Command::RemoveNode { node: "node-1".into(), keep_objects: true },
            Command::Restore { file: "/x".into() },
        ] {
            let text = serde_json::to_string(&command).unwrap();
            assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), command, "{text}");
        }
        assert!(serde_json::from_str::<Command>(r#"{"op": "nonsense"}"#).is_err());
    }

    #[test]
    fn phases_survive_the_wire() {
        for phase in [Phase::Starting("x".into()), Phase::Running, Phase::Failed("y".into())] {
            let text = serde_json::to_string(&phase).unwrap();
            assert_eq!(serde_json::from_str::<Phase>(&text).unwrap(), phase, "{text}");
        }
    }
}
