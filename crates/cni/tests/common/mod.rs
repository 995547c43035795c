//! What the plugin's tests share: a way to run it, and an agent that says what it is told to.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use overlane_api::socket::{Endpoint, Failure, Outcome, PROTOCOL, Request, Response, frame};
use serde_json::{Value, json};

/// The timeout where a test waits for one.
pub const HASTE: Duration = Duration::from_millis(600);

/// How long a call may take at all; above every timeout that a test waits for.
const PATIENCE: Duration = Duration::from_secs(40);

/// A run directory of its own, with the configuration that points to it.
pub struct Site {
    pub dir: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    pub fn listen(&self) -> UnixListener {
        UnixListener::bind(self.socket()).unwrap()
    }

    /// A configuration with long timeouts, so that what must be quick can be told from what waited; `more` is merged
    /// into it.
    pub fn conf(&self, version: &str, more: Value) -> Value {
        let mut conf = json!({
            "cniVersion": version, "name": "overlane", "type": "overlane-cni", "runDir": self.dir.path(),
            "timeouts": {"add": 60, "del": 60, "check": 60, "gc": 60, "status": 60},
        });
        for (key, value) in more.as_object().unwrap() {
            conf[key] = value.clone();
        }
        conf
    }

    /// The same with timeouts of [`HASTE`].
    pub fn hasty(&self, version: &str, more: Value) -> Value {
        let mut conf = self.conf(version, more);
        for verb in ["add", "del", "check", "gc", "status"] {
            conf["timeouts"][verb] = json!(HASTE.as_secs_f64());
        }
        conf
    }

    pub fn tombstones(&self) -> Vec<Value> {
        let Ok(dir) = std::fs::read_dir(self.dir.path().join("tombstones")) else {
            return Vec::new();
        };
        let mut names: Vec<_> = dir.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.iter().map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
    }
}

/// What came of a call.
pub struct Outcomes {
    pub output: Output,
    pub took: Duration,
}

impl Outcomes {
    pub fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.output.stdout).unwrap_or_else(|error| panic!("{error}: {:?}", self.output))
    }

    /// Asserts an error object with this code, exit code 1, and no panic.
    #[track_caller]
    pub fn fails(&self, code: u64) -> Value {
        let object = self.json();
        assert_eq!(object["code"], json!(code), "{object}");
        assert_eq!(self.output.status.code(), Some(1), "{:?}", self.output);
        assert!(object["msg"].as_str().is_some_and(|msg| !msg.is_empty() && !msg.contains('\n')), "{object}");
        assert!(object["cniVersion"].is_string(), "{object}");
        self.no_panic();
        object
    }

    /// Asserts that the call was over long before any timeout. Bounds are wide: the machine may be busy.
    #[track_caller]
    pub fn at_once(&self) {
        assert!(self.took < Duration::from_secs(20), "{:?}", self.took);
    }

    /// Asserts that the call waited for [`HASTE`] and not for much longer.
    #[track_caller]
    pub fn waited(&self) {
        assert!((HASTE..HASTE + Duration::from_secs(15)).contains(&self.took), "{:?}", self.took);
    }

    /// Asserts success without output.
    #[track_caller]
    pub fn is_quiet(&self) {
        assert_eq!((self.output.status.code(), self.stdout().as_str()), (Some(0), ""), "{:?}", self.output);
        self.no_panic();
    }

    #[track_caller]
    fn no_panic(&self) {
        assert!(!String::from_utf8_lossy(&self.output.stderr).contains("panicked"), "{:?}", self.output);
    }
}

pub fn plugin() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlane-cni"));
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a prepared command with this standard input.
pub fn feed(mut command: Command, stdin: &[u8]) -> Outcomes {
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    // The plugin may refuse before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    // A plugin that never ends is a failed test, not a test that never ends. Its output fits into the pipe.
    while child.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    Outcomes { output, took: began.elapsed() }
}

/// A call with the usual environment of a pod; an empty value means that the variable is not set.
pub fn call_with(verb: &str, env: &[(&str, &str)], stdin: &[u8]) -> Outcomes {
    let mut command = plugin();
    command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", "c0ffee").env("CNI_IFNAME", "eth0");
    for (name, value) in env {
        if value.is_empty() {
            command.env_remove(name)
        } else {
            command.env(name, value)
        };
    }
    feed(command, stdin)
}

pub fn call(verb: &str, netns: &str, conf: &Value) -> Outcomes {
    call_with(verb, &[("CNI_NETNS", netns)], conf.to_string().as_bytes())
}

/// What the fake agent saw.
pub struct Seen {
    pub request: Request,
    /// Descriptors that came with it; they stay open until the test ends.
    pub descriptors: Vec<RawFd>,
}

/// Serves one connection: reads a request, answers it.
pub fn serve(listener: UnixListener, answer: impl FnOnce(&Request) -> Vec<u8> + Send + 'static) -> JoinHandle<Seen> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let seen = receive(&mut stream);
        let _ = stream.write_all(&answer(&seen.request));
        seen
    })
}

pub fn answering(outcome: Outcome) -> impl FnOnce(&Request) -> Vec<u8> + Send + 'static {
    move |_| frame(&Response { protocol: PROTOCOL, outcome }).unwrap()
}

pub fn failing(code: u32, msg: &str, details: &str) -> Outcome {
    Outcome::Failed(Failure { code, msg: msg.to_owned(), details: details.to_owned() })
}

pub fn endpoint() -> Endpoint {
    Endpoint {
        host_ifname: "ovlpabcdefghijk".to_owned(),
        host_mac: "02:6f:76:6c:00:01".to_owned(),
        mac: "02:11:22:33:44:55".to_owned(),
        mtu: 1450,
        addresses: vec!["10.244.2.2".parse().unwrap(), "fd12:3456:789a:0:2::2".parse().unwrap()],
    }
}

/// Reads a frame; descriptors are taken from its first byte's message.
pub fn receive(stream: &mut UnixStream) -> Seen {
    let mut first = [0; 1];
    let mut descriptors = Vec::new();
    {
        let mut parts = [IoSliceMut::new(&mut first)];
        let mut space = nix::cmsg_space!([i32; 4]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
        assert_eq!(message.bytes, 1, "the connection ended before a request");
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(fds) = control {
                descriptors.extend(fds);
            }
        }
    }
    let mut rest = [0; 3];
    stream.read_exact(&mut rest).unwrap();
    let mut body = vec![0; u32::from_be_bytes([first[0], rest[0], rest[1], rest[2]]) as usize];
    stream.read_exact(&mut body).unwrap();
    Seen { request: serde_json::from_slice(&body).unwrap(), descriptors }
}

/// A process that holds a network namespace of its own, made without privileges.
pub struct Holder(Child);

impl Holder {
    pub fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sh", "-c", "echo; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        let got = child.stdout.take().unwrap().read_exact(&mut line);
        got.expect("unshare --user --net must work for these tests (unprivileged user namespaces)");
        Self(child)
    }

    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn inode(path: impl AsRef<Path>) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().ino()
}
