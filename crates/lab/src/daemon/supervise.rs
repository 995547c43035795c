//! One program kept running: started again with back-off when it ends, taken over when the daemon itself starts again.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::files;
use crate::process::ProcessId;
use crate::spawn::{Launch, Running};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A program that ran this long is started again without a long pause.
const SETTLED: Duration = Duration::from_secs(10);
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What to do with a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// SIGTERM, and SIGKILL if that does not help; stays down.
    Stop,
    /// Run, if it does not.
    Start,
    /// Stop, then start.
    Restart,
    /// SIGKILL; started again with back-off, as after any other death.
    Kill,
    /// SIGKILL; stays down.
    Down,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
}

/// What is known of a program; also what is written down for the next daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramState {
    /// `agent-node-0`, `controller-0`.
    pub program: String,
    /// Its process, while it runs.
    pub process: Option<ProcessId>,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether it is told to stay down.
    pub down: bool,
    /// How it last ended.
    pub last_end: Option<String>,
}

enum Message {
    Act(Action, oneshot::Sender<Result<ProgramState>>),
    /// Leaves the program to itself, or ends it.
    Quit {
        end: bool,
        done: oneshot::Sender<()>,
    },
}

/// A program's keeper.
#[derive(Clone)]
pub struct Program {
    state: Arc<Mutex<ProgramState>>,
    messages: mpsc::UnboundedSender<Message>,
}

impl Program {
    /// Takes over what `record` says runs already, or starts `launch`.
    pub fn keep(name: &str, launch: Launch, record: PathBuf) -> Self {
        let state = match files::read_json::<ProgramState>(&record) {
            Ok(Some(state)) => state,
            _ => ProgramState { program: name.to_owned(), ..ProgramState::default() },
        };
        let state = Arc::new(Mutex::new(state));
        let (messages, inbox) = mpsc::unbounded_channel();
        let keeper = Keeper { launch, record, state: state.clone(), inbox, pause: FIRST_PAUSE };
        tokio::spawn(keeper.run());
        Self { state, messages }
    }

    /// What is known of it now.
    pub fn state(&self) -> ProgramState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does something to it; returns once that is done.
    pub async fn act(&self, action: Action) -> Result<ProgramState> {
        let (sender, answer) = oneshot::channel();
        self.messages.send(Message::Act(action, sender)).map_err(|_| anyhow!("its keeper has ended"))?;
        answer.await.map_err(|_| anyhow!("its keeper has ended"))?
    }

    /// Ends the program with SIGKILL, and its keeper.
    pub async fn end(&self) {
        let (done, ended) = oneshot::channel();
        if self.messages.send(Message::Quit { end: true, done }).is_ok() {
            let _ = ended.await;
        }
    }

    /// Ends the keeper and leaves the program running.
    pub async fn release(&self) {
        let (done, ended) = oneshot::channel();
        if self.messages.send(Message::Quit { end: false, done }).is_ok() {
            let _ = ended.await;
        }
    }
}

struct Keeper {
    launch: Launch,
    record: PathBuf,
    state: Arc<Mutex<ProgramState>>,
    inbox: mpsc::UnboundedReceiver<Message>,
    pause: Duration,
}

enum Next {
    Run,
    Wait,
    Quit,
}

impl Keeper {
    async fn run(mut self) {
        let known = self.get();
        let adopted = known.process.filter(|process| process.alive());
        let mut running = adopted.map(Running::Adopted);
        let mut next = if known.down { Next::Wait } else { Next::Run };
        loop {
            if running.is_none() {
                running = match next {
                    Next::Run => self.start().await,
                    Next::Wait => None,
                    Next::Quit => return,
                };
            }
            next = match running.take() {
                Some(mut process) => self.watch(&mut process).await,
                None => self.rest(matches!(next, Next::Run)).await,
            };
            if matches!(next, Next::Quit) {
                return;
            }
        }
    }

    fn get(&self) -> ProgramState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut ProgramState)) -> ProgramState {
        let state = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state);
            state.clone()
        };
        if let Err(error) = files::write_json(&self.record, &state) {
            warn!(program = state.program, "{error:#}");
        }
        state
    }

    async fn start(&mut self) -> Option<Running> {
        match self.launch.start() {
            Ok(child) => {
                let running = Running::Child(Box::new(child));
                let process = running.process();
                let state = self.update(|state| {
                    state.process = process;
                    state.down = false;
                });
                info!(program = state.program, pid = process.map(|p| p.pid), "started");
                Some(running)
            }
            Err(error) => {
                let text = format!("{error:#}");
                let state = self.update(|state| state.last_end = Some(text));
                warn!(program = state.program, "{error:#}");
                None
            }
        }
    }

    /// Waits for the program's end or a command.
    async fn watch(&mut self, running: &mut Running) -> Next {
        let since = Instant::now();
        loop {
            let message = tokio::select! {
                end = running.ended() => return self.ended(since, end.text).await,
                message = self.inbox.recv() => message,
            };
            let process = self.get().process;
            match message {
                None => return Next::Quit,
                Some(Message::Quit { end, done }) => {
                    if end {
                        self.stop(running, process, Duration::ZERO).await;
                        let _ = files::remove(&self.record);
                    }
                    let _ = done.send(());
                    return Next::Quit;
                }
                Some(Message::Act(Action::Start, answer)) => _ = answer.send(Ok(self.get())),
                Some(Message::Act(Action::Pause, answer)) => {
                    signal(process, Signal::SIGSTOP);
                    let _ = answer.send(Ok(self.get()));
                }
                Some(Message::Act(Action::Resume, answer)) => {
                    signal(process, Signal::SIGCONT);
                    let _ = answer.send(Ok(self.get()));
                }
                Some(Message::Act(Action::Kill, answer)) => {
                    signal(process, Signal::SIGKILL);
                    let end = running.ended().await.text;
                    let next = self.note_end(&end);
                    let _ = answer.send(Ok(next));
                    return self.pause_after(since).await;
                }
                Some(Message::Act(action @ (Action::Stop | Action::Down), answer)) => {
                    let patience = if action == Action::Stop { STOP_PATIENCE } else { Duration::ZERO };
                    self.stop(running, process, patience).await;
                    let _ = answer.send(Ok(self.update(|state| state.down = true)));
                    return Next::Wait;
                }
                Some(Message::Act(Action::Restart, answer)) => {
                    self.stop(running, process, STOP_PATIENCE).await;
                    self.pause = FIRST_PAUSE;
                    let _ = answer.send(Ok(self.update(|state| state.restarts += 1)));
                    return Next::Run;
                }
            }
        }
    }

    async fn ended(&mut self, since: Instant, end: String) -> Next {
        let state = self.note_end(&end);
        warn!(program = state.program, end, "ended by itself");
        self.pause_after(since).await
    }

    fn note_end(&self, end: &str) -> ProgramState {
        self.update(|state| {
            state.process = None;
            state.restarts += 1;
            state.last_end = Some(end.to_owned());
        })
    }

    async fn pause_after(&mut self, since: Instant) -> Next {
        if since.elapsed() >= SETTLED {
            self.pause = FIRST_PAUSE;
        }
        self.rest(true).await
    }

    /// Waits for a command, or for the back-off to pass if the program is to run.
    async fn rest(&mut self, wanted: bool) -> Next {
        let pause = self.pause;
        if wanted {
            self.pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let until = tokio::time::Instant::now() + pause;
        loop {
            let message = tokio::select! {
                () = tokio::time::sleep_until(until), if wanted => return Next::Run,
                message = self.inbox.recv() => message,
            };
            match message {
                None => return Next::Quit,
                Some(Message::Quit { end, done }) => {
                    if end {
                        let _ = files::remove(&self.record);
                    }
                    let _ = done.send(());
                    return Next::Quit;
                }
                Some(Message::Act(Action::Start | Action::Restart, answer)) => {
                    self.pause = FIRST_PAUSE;
                    let _ = answer.send(Ok(self.update(|state| state.down = false)));
                    return Next::Run;
                }
                Some(Message::Act(Action::Stop | Action::Down, answer)) => {
                    let _ = answer.send(Ok(self.update(|state| state.down = true)));
                    return Box::pin(self.rest(false)).await;
                }
                Some(Message::Act(action, answer)) => {
                    let _ = answer.send(Err(anyhow!("it does not run, so it cannot be told to {action:?}")));
                }
            }
        }
    }

    async fn stop(&mut self, running: &mut Running, process: Option<ProcessId>, patience: Duration) {
        if !patience.is_zero() {
            signal(process, Signal::SIGTERM);
            // One that is stopped (SIGSTOP) would not see it.
            signal(process, Signal::SIGCONT);
            if let Ok(end) = tokio::time::timeout(patience, running.ended()).await {
                self.update(|state| (state.process, state.last_end) = (None, Some(end.text)));
                return;
            }
        }
        signal(process, Signal::SIGKILL);
        let end = running.ended().await;
        self.update(|state| (state.process, state.last_end) = (None, Some(end.text)));
    }
}

fn signal(process: Option<ProcessId>, signal: Signal) {
    if let Some(process) = process {
        process.signal(signal);
    }
}
