//! Programs: run to the end with a limit, or kept running and ended by pid.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Out {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the limit passed and the program was killed for it.
    pub timed_out: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Out {
    /// Whether it exited with 0.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Ends the test unless it exited with 0.
    pub fn must(self) -> Out {
        assert!(self.ok(), "{self}");
        self
    }

    /// Everything it printed.
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl std::fmt::Display for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match (self.timed_out, self.code, self.signal) {
            (true, ..) => "was killed at its limit".to_owned(),
            (_, Some(code), _) => format!("exited with {code}"),
            (_, _, signal) => format!("ended by signal {signal:?}"),
        };
        write!(
            f,
            "`{}` {end} after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.line, self.took, self.stdout, self.stderr
        )
    }
}

fn line_of(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// A command from words.
pub fn command<S: AsRef<OsStr>>(words: &[S]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Runs to the end, feeding `input`; after `limit` it is killed.
pub fn run(mut command: Command, input: &[u8], limit: Duration) -> Out {
    let line = line_of(&command);
    let began = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|e| panic!("start `{line}`: {e}"));
    finish(child, line, input, began, limit, |_| ())
}

/// Waits for a started child whose output streams are piped, and its input if that is still open. `each_poll` is
/// called while it runs.
pub fn finish(
    mut child: Child,
    line: String,
    input: &[u8],
    began: Instant,
    limit: Duration,
    mut each_poll: impl FnMut(&Child),
) -> Out {
    let stdin = child.stdin.take();
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let input = input.to_vec();
    let feed = std::thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input is not at fault.
            let _ = stdin.write_all(&input);
        }
    });
    let out = std::thread::spawn(move || slurp(&mut stdout));
    let err = std::thread::spawn(move || slurp(&mut stderr));
    let mut timed_out = false;
    let mut step = Duration::from_micros(200);
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            break status;
        }
        each_poll(&child);
        if !timed_out && began.elapsed() > limit {
            timed_out = true;
            let _ = child.kill();
        }
        std::thread::sleep(step);
        step = (step * 2).min(Duration::from_millis(10));
    };
    let took = began.elapsed();
    let _ = feed.join();
    // A grandchild may keep the pipes open (a daemon that the program left): do not wait for it for ever.
    let stdout = join_within(out, Duration::from_secs(5));
    let stderr = join_within(err, Duration::from_secs(5));
    Out { line, code: status.code(), signal: status.signal(), timed_out, stdout, stderr, took }
}

fn slurp(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn join_within(handle: std::thread::JoinHandle<String>, limit: Duration) -> String {
    let began = Instant::now();
    while !handle.is_finished() {
        if began.elapsed() > limit {
            return "(a process left behind still holds this pipe open)".to_owned();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    handle.join().unwrap_or_default()
}

/// Runs words in the caller's namespaces, 60 s at most.
pub fn sh<S: AsRef<OsStr>>(words: &[S]) -> Out {
    run(command(words), b"", Duration::from_secs(60))
}

/// A process that this test started; killed and reaped when dropped.
pub struct Running {
    child: Option<Child>,
    /// Its process id.
    pub pid: i32,
    /// When it started: a tracer may have reaped it, and its pid may be another's by then.
    start: Option<String>,
}

impl Running {
    /// Takes over a child.
    pub fn new(child: Child) -> Running {
        let pid = i32::try_from(child.id()).expect("a pid fits");
        Running { child: Some(child), pid, start: start_time(pid) }
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// Kills and reaps it; nothing if that was done.
    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take()
            && self.start.is_some()
            && start_time(self.pid) == self.start
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// The product's programs: the directory in `OVERLANE_BIN`, else the one that this test was built into.
pub fn bin(name: &str) -> PathBuf {
    let dir = match std::env::var_os("OVERLANE_BIN") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let exe = std::env::current_exe().expect("path of this test");
            // target/debug/deps/kill-0123 -> target/debug
            exe.ancestors().nth(2).expect("a test lies two directories deep").to_path_buf()
        }
    };
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is missing: build it first (cargo build --workspace --bins), or set OVERLANE_BIN",
        path.display()
    );
    path
}

/// Whether a process exists and is no zombie.
pub fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X')))
        .unwrap_or(false)
}

/// Field 22 of /proc/PID/stat.
fn start_time(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}

/// Sends a signal to one process. False if it is gone.
pub fn signal(pid: i32, signal: nix::sys::signal::Signal) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).is_ok()
}

/// A process's arguments.
pub fn cmdline(pid: i32) -> Vec<String> {
    split_nul(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
}

/// A process's environment.
pub fn environ(pid: i32) -> Vec<(String, String)> {
    split_nul(&std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default())
        .into_iter()
        .filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
        .collect()
}

fn split_nul(bytes: &[u8]) -> Vec<String> {
    bytes.split(|b| *b == 0).filter(|w| !w.is_empty()).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

/// Pids of all processes.
pub fn pids() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("list /proc");
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect()
}
