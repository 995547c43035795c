//! The way to the agent: one connection, one frame there, one frame back, all of it before a deadline.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use overlane_api::cni::code;
use overlane_api::socket::{FrameError, PROTOCOL, Request, Response, frame, frame_length};
use serde::Deserialize;

use crate::clock;

/// Why the agent gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("{path} is too long for the path of a socket", path = path.display())]
    PathTooLong { path: PathBuf },
    #[error("connect to the agent at {path}: {source}", path = path.display())]
    Absent { path: PathBuf, source: io::Error },
    #[error("the agent at {path} has not answered in time", path = path.display())]
    Hangs { path: PathBuf },
    #[error("talk to the agent at {path}: {source}", path = path.display())]
    Lost { path: PathBuf, source: io::Error },
    #[error("write the request: {source}")]
    Request { source: FrameError },
    #[error("read the agent's answer: {source}")]
    Answer { source: FrameError },
    #[error("the agent speaks protocol {agent}, this plugin {PROTOCOL}")]
    Protocol { agent: u32 },
    #[error("the agent answered something else than was asked")]
    OtherQuestion,
}

impl AgentError {
    /// The CNI code, for verbs other than STATUS.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::PathTooLong { .. } | Self::Request { .. } => code::INVALID_NETWORK_CONFIG,
            Self::Absent { .. } | Self::Hangs { .. } | Self::Lost { .. } => code::TRY_AGAIN_LATER,
            Self::Answer { .. } | Self::Protocol { .. } | Self::OtherQuestion => code::PROTOCOL_MISMATCH,
        }
    }

    /// Whether an agent was there a moment ago: it ended during the call, or left its socket.
    pub(crate) fn may_come_back(&self) -> bool {
        match self {
            Self::Absent { source, .. } => source.kind() == io::ErrorKind::ConnectionRefused,
            Self::Lost { .. } => true,
            _ => false,
        }
    }

    /// What to do about it.
    pub(crate) fn details(&self) -> &'static str {
        match self {
            Self::PathTooLong { .. } | Self::Request { .. } => "",
            Self::Absent { .. } => "is overlane-agent running on this node?",
            Self::Hangs { .. } => "overlane-agent runs and does not answer; see its log and /debug/state",
            Self::Lost { .. } => "overlane-agent ended during the call; see its log",
            Self::Answer { .. } | Self::Protocol { .. } | Self::OtherQuestion => {
                "overlane-agent and overlane-cni are of versions too far apart; finish the upgrade of this node"
            }
        }
    }
}

/// Asks the agent, with a descriptor if there is one, and waits for its answer until the deadline.
pub(crate) fn ask(
    path: &Path,
    request: &Request,
    descriptor: Option<BorrowedFd<'_>>,
    deadline_ns: u64,
) -> Result<Response, AgentError> {
    let bytes = frame(request).map_err(|source| AgentError::Request { source })?;
    let mut call = Call { stream: connected(path, deadline_ns)?, path, deadline_ns };
    call.send(&bytes, descriptor)?;
    let answer = call.receive()?;
    serde_json::from_slice(&answer).map_err(|source| unreadable(&answer, source))
}

/// Connects. A listener that does not accept fills its backlog, at which connect waits: hence the send timeout.
fn connected(path: &Path, deadline_ns: u64) -> Result<UnixStream, AgentError> {
    let address = UnixAddr::new(path).map_err(|_| AgentError::PathTooLong { path: path.to_owned() })?;
    let absent = |errno: nix::Error| AgentError::Absent { path: path.to_owned(), source: errno.into() };
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(absent)?;
    let left = positive(clock::until(deadline_ns)).ok_or_else(|| AgentError::Hangs { path: path.to_owned() })?;
    setsockopt(&fd, sockopt::SendTimeout, &time_val(left)).map_err(absent)?;
    match connect(fd.as_raw_fd(), &address) {
        Ok(()) => Ok(UnixStream::from(fd)),
        Err(nix::Error::EAGAIN) => Err(AgentError::Hangs { path: path.to_owned() }),
        Err(errno) => Err(absent(errno)),
    }
}

/// One exchange over a connection.
struct Call<'a> {
    stream: UnixStream,
    path: &'a Path,
    deadline_ns: u64,
}

impl Call<'_> {
    /// Sends a frame, the descriptor with its first byte.
    fn send(&mut self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), AgentError> {
        self.stream.set_write_timeout(Some(self.left()?)).map_err(|source| self.failed(source))?;
        let descriptors = descriptor.map(|fd| [fd.as_raw_fd()]);
        let control: Vec<ControlMessage<'_>> = descriptors.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
        let parts = [IoSlice::new(bytes)];
        let fd = self.stream.as_fd().as_raw_fd();
        let mut sent = sendmsg::<()>(fd, &parts, &control, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(|errno| self.failed(errno.into()))?;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            self.stream.set_write_timeout(Some(self.left()?)).map_err(|source| self.failed(source))?;
            sent += self.stream.write(rest).map_err(|source| self.failed(source))?;
        }
        Ok(())
    }

    /// Receives a frame's content.
    fn receive(&mut self) -> Result<Vec<u8>, AgentError> {
        let mut head = [0; 4];
        self.fill(&mut head)?;
        let length = frame_length(head).map_err(|source| AgentError::Answer { source })?;
        let mut body = vec![0; length];
        self.fill(&mut body)?;
        Ok(body)
    }

    fn fill(&mut self, mut place: &mut [u8]) -> Result<(), AgentError> {
        while !place.is_empty() {
            self.stream.set_read_timeout(Some(self.left()?)).map_err(|source| self.failed(source))?;
            match self.stream.read(place) {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => place = place.get_mut(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    fn left(&self) -> Result<Duration, AgentError> {
        positive(clock::until(self.deadline_ns)).ok_or_else(|| self.hangs())
    }

    fn hangs(&self) -> AgentError {
        AgentError::Hangs { path: self.path.to_owned() }
    }

    /// A socket timeout shows as `EAGAIN`.
    fn failed(&self, source: io::Error) -> AgentError {
        if source.kind() == io::ErrorKind::WouldBlock {
            return self.hangs();
        }
        AgentError::Lost { path: self.path.to_owned(), source }
    }
}

/// A timeout of zero would mean none at all.
fn positive(left: Duration) -> Option<Duration> {
    (left >= Duration::from_micros(1)).then_some(left)
}

fn time_val(left: Duration) -> TimeVal {
    let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    TimeVal::new(seconds, i64::from(left.subsec_micros()))
}

/// An answer that does not decode is one of another protocol version, if it says so.
fn unreadable(answer: &[u8], source: serde_json::Error) -> AgentError {
    #[derive(Deserialize)]
    struct Head {
        protocol: u32,
    }
    match serde_json::from_slice(answer) {
        Ok(Head { protocol }) if protocol != PROTOCOL => AgentError::Protocol { agent: protocol },
        _ => AgentError::Answer { source: source.into() },
    }
}
