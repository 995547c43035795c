//! The agent socket: accepts the plugin's connections and runs each on a thread of its own.
//!
//! No async here: a call is a handful of blocking system calls, and a start of many pods must not wait for what else
//! the agent does.

pub mod frame;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use overlane_api::cni::code;
use overlane_api::socket::{Call, Failure, Outcome, PROTOCOL, Response};

use frame::FrameError;

/// Calls that run at once; the rest waits in the socket's queue.
pub const IN_FLIGHT: usize = 64;
/// How long a peer may take to send its request or to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Calls need little: the deepest are the netlink batches.
const STACK: usize = 512 * 1024;

/// What serves the calls.
pub trait Serve: Send + Sync + 'static {
    /// Serves one call and answers on `conn`.
    fn serve(&self, call: Call, fd: Option<std::os::fd::OwnedFd>, conn: &Connection<'_>);
}

/// One connection, for the answer.
pub struct Connection<'a> {
    stream: &'a UnixStream,
}

impl Connection<'_> {
    /// Sends the answer; an error means that nobody got it.
    pub fn answer(&self, outcome: Outcome) -> io::Result<()> {
        frame::write_response(self.stream, &Response { protocol: PROTOCOL, outcome })
    }

    /// Whether the plugin has hung up.
    pub fn gone(&self) -> bool {
        frame::peer_gone(self.stream)
    }

    /// Whether the answer was read; waits for the plugin's end at most `patience`.
    pub fn delivery(&self, patience: Duration) -> frame::Delivery {
        frame::delivery(self.stream, patience)
    }
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen on {}: {what}: {source}", path.display())]
pub struct ListenError {
    /// The socket.
    pub path: PathBuf,
    /// The step that failed.
    pub what: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// Opens the socket for root alone, in place of a stale one. The caller holds the run dir's lock, so that whatever is
/// there was left by an agent that is gone.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let fail = |what| move |source| ListenError { path: path.to_owned(), what, source };
    // Bound beside and renamed over: a plugin never finds the name missing.
    let fresh = path.with_extension("sock.new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail("remove an old socket")(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(fail("bind"))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).map_err(fail("set mode 0600"))?;
    std::fs::rename(&fresh, path).map_err(fail("rename into place"))?;
    Ok(listener)
}

#[derive(Default)]
struct Slots {
    taken: Mutex<usize>,
    freed: Condvar,
}

impl Slots {
    fn take(&self) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self.freed.wait_while(taken, |n| *n >= IN_FLIGHT).unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
    }
}

struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
    }
}

/// Serves connections until the process ends. Runs on its own thread.
pub fn run(listener: &UnixListener, server: &Arc<impl Serve>) {
    let slots = Arc::new(Slots::default());
    loop {
        slots.take();
        let slot = Slot(Arc::clone(&slots));
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept on the agent socket");
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        let server = Arc::clone(server);
        let spawned = std::thread::Builder::new().name("cni".into()).stack_size(STACK).spawn(move || {
            let _slot = slot;
            connection(&stream, &*server);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "start a thread for a CNI call");
        }
    }
}

fn connection(stream: &UnixStream, server: &impl Serve) {
    let timeouts = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    if let Err(error) = timeouts {
        tracing::warn!(%error, "set timeouts on a connection");
        return;
    }
    let conn = Connection { stream };
    let received = match frame::read_request(stream) {
        Ok(received) => received,
        Err(FrameError::HungUp { got: 0 }) => return,
        Err(error) => {
            tracing::warn!(%error, "refuse a request");
            let _ = conn.answer(refusal(error));
            return;
        }
    };
    server.serve(received.request.call, received.fd, &conn);
}

fn refusal(error: FrameError) -> Outcome {
    let code = match error {
        FrameError::Version(answer) => return answer.outcome,
        FrameError::Io { .. } | FrameError::HungUp { .. } => code::IO_FAILURE,
        FrameError::TooLong | FrameError::Json { .. } => code::DECODING_FAILURE,
    };
    Outcome::Failed(Failure { code, msg: error.to_string(), details: String::new() })
}
