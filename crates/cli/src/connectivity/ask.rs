//! Questions carried to a pod and answers carried back: `overlane probe` runs there by exec.
//!
//! One line of JSON goes in, the questions; a line of JSON comes out for each answer, so that progress shows.

use std::io::{BufRead as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use overlane_lab::check::probe::{self, Kind, Target};
use serde::{Deserialize, Serialize};

/// Questions asked at once, in one pod.
const THREADS: usize = 8;

/// What a pod is asked to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "try", rename_all = "camelCase")]
pub enum Task {
    /// Ask an echo server.
    Echo {
        /// How.
        kind: Kind,
        /// Where.
        to: SocketAddr,
        /// Size of a full packet, bytes.
        mtu: usize,
    },
    /// Open a connection.
    Connect {
        /// Where.
        to: SocketAddr,
    },
    /// Look a name up, which has to have these addresses and no others.
    Resolve {
        /// The name.
        name: String,
        /// The addresses.
        want: Vec<IpAddr>,
    },
}

/// What came of the task at a place in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The task's place.
    pub task: usize,
    /// Why it failed; nothing if it did not.
    pub failure: Option<String>,
    /// Who answered, of echo servers.
    pub name: Option<String>,
    /// The peer's address as the far side saw it.
    pub peer: Option<IpAddr>,
    /// How long it took, microseconds.
    pub micros: u64,
}

/// `overlane probe`: the pod's side.
pub fn probe(patience: Duration) -> Result<ExitCode> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("read the questions")?;
    let tasks: Vec<Task> = serde_json::from_str(&line).context("read the questions")?;
    let next = AtomicUsize::new(0);
    let out = Mutex::new(std::io::stdout());
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(tasks.len()) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = tasks.get(place) else { return };
                    let answer = answer(place, task, patience);
                    let Ok(text) = serde_json::to_string(&answer) else { return };
                    let Ok(mut out) = out.lock() else { return };
                    // Nobody listens any more: nothing is left to do.
                    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(ExitCode::SUCCESS)
}

fn answer(place: usize, task: &Task, patience: Duration) -> Answer {
    let began = Instant::now();
    let outcome = attempt(task, patience);
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut answer = Answer { task: place, failure: None, name: None, peer: None, micros };
    match outcome {
        Ok(Some(seen)) => {
            answer.name = Some(seen.name);
            answer.peer = Some(seen.peer);
        }
        Ok(None) => {}
        Err(error) => answer.failure = Some(format!("{error:#}")),
    }
    answer
}

fn attempt(task: &Task, patience: Duration) -> Result<Option<overlane_lab::echo::Answer>> {
    match task {
        Task::Echo { kind, to, mtu } => {
            let target = Target { ip: to.ip(), port: to.port(), mtu: *mtu };
            Ok(probe::ask(*kind, &target, patience)?.answer)
        }
        Task::Connect { to } => {
            TcpStream::connect_timeout(to, patience).context("connect")?;
            Ok(None)
        }
        Task::Resolve { name, want } => {
            let found = (name.as_str(), 0).to_socket_addrs().with_context(|| format!("look up {name}"))?;
            let mut found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            let mut want = want.clone();
            found.sort_unstable();
            found.dedup();
            want.sort_unstable();
            if found != want {
                bail!("{name} is {found:?}, not {want:?}");
            }
            Ok(None)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a question that is asked otherwise in the pod than it was put; a failure that comes back as success.

    use super::*;

    #[test]
    fn tasks_come_through_whole() {
        let to: SocketAddr = "[fd00::1]:8080".parse().unwrap();
        for task in [
            Task::Echo { kind: Kind::UdpFull, to, mtu: 1500 },
            Task::Connect { to },
            Task::Resolve { name: "a.b".into(), want: vec![to.ip()] },
        ] {
            let text = serde_json::to_string(&task).unwrap();
            assert_eq!(serde_json::from_str::<Task>(&text).unwrap(), task, "{text}");
        }
    }

    #[test]
    fn failures_are_told() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let patience = Duration::from_secs(1);
        assert!(answer(0, &Task::Connect { to: closed }, patience).failure.is_some());
        let want = vec!["192.0.2.1".parse().unwrap()];
        let wrong = Task::Resolve { name: "127.0.0.1".into(), want };
        assert!(answer(0, &wrong, patience).failure.unwrap().contains("192.0.2.1"));
        let right = Task::Resolve { name: "127.0.0.1".into(), want: vec!["127.0.0.1".parse().unwrap()] };
        assert_eq!(answer(0, &right, patience).failure, None);
    }
}
