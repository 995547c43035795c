//! Must catch: a socket that others may open, a stale one that is in the way, a caller that takes the place of all
//! others, a call that ends the agent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use overlane_agent::server::{self, Connection, IN_FLIGHT, Serve};
use overlane_api::socket::{Call, Outcome, PROTOCOL, Request, Response, frame};

#[derive(Default)]
struct Slow {
    now: AtomicUsize,
    most: AtomicUsize,
    served: AtomicUsize,
}

impl Serve for Slow {
    fn serve(&self, call: Call, _fd: Option<OwnedFd>, conn: &Connection<'_>) {
        if matches!(call, Call::Gc(_)) {
            panic!("a fault in a call");
        }
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        self.now.fetch_sub(1, Ordering::SeqCst);
        self.served.fetch_add(1, Ordering::SeqCst);
        conn.answer(Outcome::Done).unwrap();
    }
}

fn ask(path: &Path, call: Call) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    let request = Request { protocol: PROTOCOL, plugin_version: String::new(), call };
    stream.write_all(&frame(&request).unwrap()).unwrap();
    stream
}

fn answer(mut stream: UnixStream) -> Option<Response> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).ok()?;
    let mut body = vec![0; u32::from_be_bytes(head) as usize];
    stream.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

#[test]
fn many_callers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(UnixStream::connect(&path).is_err(), "stale");
    let listener = server::listen(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let slow = Arc::new(Slow::default());
    let of = Arc::clone(&slow);
    std::thread::spawn(move || server::run(&listener, &of));

    // Callers that say nothing, or nonsense, or make the server fault.
    let silent: Vec<_> = (0..10).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut garbage = UnixStream::connect(&path).unwrap();
    garbage.write_all(b"\0\0\0\x03abc").unwrap();
    assert!(matches!(answer(garbage).unwrap().outcome, Outcome::Failed(_)));
    let gc = overlane_api::socket::GcCall { network: "n".into(), valid: Vec::new(), began_ns: 0 };
    assert!(answer(ask(&path, Call::Gc(gc))).is_none());

    let calls: Vec<_> = (0..3 * IN_FLIGHT).map(|_| ask(&path, Call::Status)).collect();
    for call in calls {
        assert_eq!(answer(call).unwrap().outcome, Outcome::Done);
    }
    assert_eq!(slow.served.load(Ordering::SeqCst), 3 * IN_FLIGHT);
    let most = slow.most.load(Ordering::SeqCst);
    assert!(most > 1 && most <= IN_FLIGHT - silent.len(), "{most} at once");
}
