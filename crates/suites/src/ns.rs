//! Network namespaces: entering one for the length of a closure, and making some of our own.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::exec::{self, Out};

/// A network namespace, kept by an open descriptor. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Ns {
    file: Arc<File>,
    /// What it is, for messages.
    pub label: String,
}

impl Ns {
    /// Opens `/run/netns/...` or `/proc/PID/ns/net`.
    pub fn open(path: impl AsRef<Path>, label: &str) -> Ns {
        let path = path.as_ref();
        let file = File::open(path).unwrap_or_else(|e| panic!("open namespace {}: {e}", path.display()));
        Ns { file: Arc::new(file), label: label.to_owned() }
    }

    /// The namespace of this process.
    pub fn here() -> Ns {
        Ns::open("/proc/thread-self/ns/net", "this machine")
    }

    /// The same under another name.
    pub fn labelled(self, label: &str) -> Ns {
        Ns { label: label.to_owned(), ..self }
    }

    /// The namespace's inode.
    pub fn inode(&self) -> u64 {
        self.file.metadata().expect("stat a namespace").ino()
    }

    /// Runs `f` on a fresh thread inside the namespace. Sockets that `f` makes stay there; they may be used anywhere.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&*self.file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("enter {}: {e}", self.label));
                f()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts a command inside.
    pub fn spawn(&self, mut command: Command) -> Child {
        self.run(move || command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}")))
    }

    /// Runs words inside to the end, 60 s at most.
    pub fn sh(&self, words: &[&str]) -> Out {
        self.run(|| exec::sh(words))
    }

    /// Runs a line of words inside; ends the test if it fails.
    pub fn must(&self, line: &str) -> Out {
        let words: Vec<&str> = line.split_whitespace().collect();
        let out = self.sh(&words);
        assert!(out.ok(), "in {}: {out}", self.label);
        out
    }

    /// Runs words inside with input.
    pub fn feed(&self, words: &[&str], input: &str) -> Out {
        self.run(|| exec::run(exec::command(words), input.as_bytes(), Duration::from_secs(60)))
    }

    /// A UDP socket inside, with a read limit.
    pub fn udp(&self, bind: SocketAddr, limit: Duration) -> UdpSocket {
        let socket =
            self.run(|| UdpSocket::bind(bind).unwrap_or_else(|e| panic!("bind udp {bind} in {}: {e}", self.label)));
        socket.set_read_timeout(Some(limit)).expect("set a read limit");
        socket
    }

    /// A TCP listener inside.
    pub fn listen(&self, bind: SocketAddr) -> TcpListener {
        self.run(|| TcpListener::bind(bind).unwrap_or_else(|e| panic!("listen on {bind} in {}: {e}", self.label)))
    }

    /// A TCP connection from inside, from `source` if given.
    pub fn connect(&self, to: SocketAddr, source: Option<IpAddr>, limit: Duration) -> std::io::Result<TcpStream> {
        self.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
            if let Some(source) = source {
                socket.bind(&SocketAddr::new(source, 0).into())?;
            }
            socket.connect_timeout(&to.into(), limit)?;
            socket.set_read_timeout(Some(limit))?;
            socket.set_write_timeout(Some(limit))?;
            Ok(socket.into())
        })
    }

    /// Reads a sysctl of the namespace, such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, name: &str) -> String {
        let path = format!("/proc/sys/{name}");
        self.run(|| std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {path}: {e}")).trim().to_owned())
    }

    /// Writes a sysctl of the namespace.
    pub fn set_sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{name}");
        self.run(|| std::fs::write(&path, value).unwrap_or_else(|e| panic!("write {path}: {e}")));
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name that no other test has: prefix, pid, counter.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A namespace made here; unmounted when dropped.
#[derive(Debug)]
pub struct OwnNs {
    /// The namespace.
    pub ns: Ns,
    /// Its name under /run/netns.
    pub name: String,
    kept: bool,
}

impl OwnNs {
    /// Makes one under /run/netns, as a container runtime does.
    pub fn new() -> OwnNs {
        let name = unique(crate::clean::PREFIX);
        exec::sh(&["ip", "netns", "add", &name]).must();
        let ns = Ns::open(path_of(&name), &format!("namespace {name}"));
        OwnNs { ns, name, kept: false }
    }

    /// Path under /run/netns.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Unmounts it now. The namespace lives on while something holds it: drop this to let go.
    pub fn unmount(&mut self) {
        if !self.kept {
            self.kept = true;
            exec::sh(&["ip", "netns", "del", &self.name]);
        }
    }
}

impl Default for OwnNs {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for OwnNs {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}
