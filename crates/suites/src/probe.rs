//! Small servers and clients that say who saw whom.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::ns::Ns;

/// The unspecified address of a family.
pub fn any(family_of: IpAddr) -> IpAddr {
    if family_of.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() }
}

/// A server on one port, TCP and UDP, one family: answers each message with the peer's address as it saw it, and
/// keeps a list of all peers.
pub struct Witness {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Something that reached a [`Witness`].
#[derive(Clone, Debug)]
pub struct Seen {
    /// `tcp` or `udp`.
    pub proto: &'static str,
    /// Who sent it, as the socket says.
    pub peer: SocketAddr,
    /// What was sent.
    pub data: String,
}

impl Witness {
    /// Listens in `ns`.
    pub fn new(ns: &Ns, family_of: IpAddr, port: u16) -> Witness {
        let at = SocketAddr::new(any(family_of), port);
        let listener = ns.listen(at);
        listener.set_nonblocking(true).expect("non-blocking listener");
        let socket = ns.udp(at, Duration::from_millis(50));
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        let (s, k) = (stop.clone(), seen.clone());
        threads.push(std::thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                let Ok((mut stream, peer)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
                let mut buffer = [0u8; 2048];
                let n = stream.read(&mut buffer).unwrap_or(0);
                let data = String::from_utf8_lossy(&buffer[..n]).into_owned();
                k.lock().expect("list of peers").push(Seen { proto: "tcp", peer, data });
                let _ = stream.write_all(peer.ip().to_string().as_bytes());
            }
        }));
        let (s, k) = (stop.clone(), seen.clone());
        threads.push(std::thread::spawn(move || {
            let mut buffer = [0u8; 2048];
            while !s.load(Ordering::Relaxed) {
                let Ok((n, peer)) = socket.recv_from(&mut buffer) else { continue };
                let data = String::from_utf8_lossy(&buffer[..n]).into_owned();
                k.lock().expect("list of peers").push(Seen { proto: "udp", peer, data });
                let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
            }
        }));
        Witness { stop, threads, seen }
    }

    /// Everything that reached it so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("list of peers").clone()
    }

    /// Whether something carrying `data` reached it.
    pub fn saw(&self, data: &str) -> bool {
        self.seen().iter().any(|s| s.data.contains(data))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Asks a [`Witness`] over TCP; returns the address that it saw.
pub fn tcp(ns: &Ns, to: SocketAddr, source: Option<IpAddr>, word: &str, limit: Duration) -> Result<IpAddr, String> {
    let fail = |what: &str, e: std::io::Error| format!("tcp {} -> {to}: {what}: {e}", ns.label);
    let mut stream = ns.connect(to, source, limit).map_err(|e| fail("connect", e))?;
    stream.write_all(word.as_bytes()).map_err(|e| fail("write", e))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| fail("read", e))?;
    answer.trim().parse().map_err(|e| format!("tcp {} -> {to}: answer `{answer}`: {e}", ns.label))
}

/// Asks a [`Witness`] over UDP; returns the address that it saw.
pub fn udp(ns: &Ns, to: SocketAddr, source: Option<IpAddr>, word: &str, limit: Duration) -> Result<IpAddr, String> {
    let bind = SocketAddr::new(source.unwrap_or_else(|| any(to.ip())), 0);
    let socket = ns.udp(bind, limit);
    let fail = |what: &str, e: std::io::Error| format!("udp {} -> {to}: {what}: {e}", ns.label);
    socket.connect(to).map_err(|e| fail("connect", e))?;
    socket.send(word.as_bytes()).map_err(|e| fail("send", e))?;
    let mut buffer = [0u8; 2048];
    let n = socket.recv(&mut buffer).map_err(|e| fail("receive", e))?;
    let answer = String::from_utf8_lossy(&buffer[..n]).into_owned();
    answer.trim().parse().map_err(|e| format!("udp {} -> {to}: answer `{answer}`: {e}", ns.label))
}

/// Sends datagrams without expecting anything.
pub fn fire(ns: &Ns, to: SocketAddr, source: Option<IpAddr>, word: &str, times: usize) {
    let bind = SocketAddr::new(source.unwrap_or_else(|| any(to.ip())), 0);
    let socket = ns.udp(bind, Duration::from_millis(1));
    for _ in 0..times {
        // A refusal of the one before arrives here: not this call's business.
        let _ = socket.send_to(word.as_bytes(), to);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A port that no other probe of this run uses, 20000 and up.
pub fn port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000
}

/// Runs `f` on a thread and hands its value over a channel, so that a caller may wait with a limit.
pub fn background<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (tx, rx) = channel();
    std::thread::spawn(move || {
        let _ = tx.send(f());
    });
    rx
}
