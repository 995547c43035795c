//! The socket: one conversation at a time.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::codec::Request;
use super::message::{Message, MessageRef};
use super::protocol::{Protocol, ports};
use super::{NetlinkError, Refused};

/// How long the kernel may take: deletions of many links wait for grace periods, so this is generous.
const TIMEOUT_SECONDS: i64 = 30;
/// Messages in one send. The answers to all of them must fit into the default receive buffer.
const CHUNK: usize = 64;
/// Bytes in one send, well below the default send buffer (208 KiB).
const CHUNK_BYTES: usize = 96 * 1024;
/// Datagrams of notifications that are read in one go.
const NOTIFICATIONS: usize = 4096;
/// How often a dump is read again when the kernel says that it changed meanwhile.
const DUMP_TRIES: u32 = 16;
/// Room for the largest datagram that the kernel makes of a dump (32 KiB), and for one message beyond that.
const BUFFER: usize = 128 * 1024;

/// Counts of `SO_MEMINFO`, as far as that of dropped messages (`SK_MEMINFO_DROPS` of linux/sock_diag.h), which is the last.
#[cfg(feature = "node")]
const MEMINFO: usize = 9;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;

/// A netlink socket in the namespace of the thread that opened it; it stays in that namespace for ever.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    protocol: Protocol,
    port: u32,
    seq: u32,
    buffer: Vec<u8>,
}

/// What one `recv` brought.
enum Received {
    Some,
    TimedOut,
    Overrun,
}

impl Socket {
    /// Opens a socket.
    ///
    /// # Errors
    /// The system has none, or is short of memory or descriptors.
    pub fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<(netlink_sys::Socket, u32)> {
            let mut socket = netlink_sys::Socket::new(protocol.number())?;
            let port = socket.bind_auto()?.port_number();
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            if protocol == Protocol::Route {
                // With it, the kernel filters dumps by what the request's header and attributes say.
                socket.set_netlink_get_strict_chk(true)?;
            }
            setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS))?;
            Ok((socket, port))
        };
        let (inner, port) = open().map_err(|source| NetlinkError::Open { protocol: protocol.name(), source })?;
        ports().insert((protocol, port));
        Ok(Self { inner, protocol, port, seq: 0, buffer: Vec::new() })
    }

    /// Opens a rtnetlink socket.
    ///
    /// # Errors
    /// See [`Socket::open`].
    pub fn route() -> Result<Self, NetlinkError> {
        Self::open(Protocol::Route)
    }

    /// Opens a netfilter socket.
    ///
    /// # Errors
    /// See [`Socket::open`].
    pub fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(Protocol::Netfilter)
    }

    /// One request, acknowledged; gives the messages that came before the acknowledgement (echoes).
    ///
    /// # Errors
    /// The kernel refused it, or the conversation failed.
    pub fn request(&mut self, request: Request) -> Result<Vec<Message>, NetlinkError> {
        let what = request.what.clone();
        let mut replies = Vec::new();
        match self.send_chunk(&mut [request], &mut replies)?.pop() {
            Some(Ok(())) => Ok(replies),
            Some(Err(refused)) => Err(refused.into()),
            None => Err(NetlinkError::Malformed { what }),
        }
    }

    /// Sends many requests with few system calls; each is judged on its own: the answers are in the same order.
    ///
    /// # Errors
    /// The conversation failed; what the kernel did with the requests is then unknown.
    pub fn batch(&mut self, requests: Vec<Request>) -> Result<Vec<Result<(), Refused>>, NetlinkError> {
        let mut replies = Vec::new();
        self.batch_with_replies(requests, &mut replies)
    }

    /// As [`Socket::batch`]; what the kernel says besides acknowledgements (echoes) goes to `replies`.
    ///
    /// # Errors
    /// See [`Socket::batch`].
    pub fn batch_with_replies(
        &mut self,
        mut requests: Vec<Request>,
        replies: &mut Vec<Message>,
    ) -> Result<Vec<Result<(), Refused>>, NetlinkError> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut rest = requests.as_mut_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take(CHUNK).take_while(|r| {
                bytes += r.bytes.len();
                bytes <= CHUNK_BYTES
            });
            let count = fitting.count().max(1);
            let (chunk, others) = rest.split_at_mut(count);
            answers.extend(self.send_chunk(chunk, replies)?);
            rest = others;
        }
        Ok(answers)
    }

    /// One nfnetlink transaction of a subsystem: all requests or none, in one send.
    ///
    /// # Errors
    /// One was refused (the first that was is told), or the conversation failed.
    pub fn transaction(&mut self, subsystem: u8, mut requests: Vec<Request>) -> Result<(), NetlinkError> {
        let Some(last) = requests.last() else { return Ok(()) };
        let what = last.what.clone();
        let edge = |kind| Request::new(kind, 0, what.clone()).body(&[0, 0, 0, subsystem]);
        requests.insert(0, edge(NFNL_MSG_BATCH_BEGIN));
        let (bytes, first_seq) = self.number(&mut requests)?;
        let mut end = edge(NFNL_MSG_BATCH_END);
        end.finish(self.next_seq(), 0);
        let bytes = [bytes, end.bytes].concat();
        if bytes.len() > CHUNK_BYTES {
            // It must go in one piece. If the buffer stays too small, the send is refused.
            let _ = setsockopt(&self.inner.as_fd(), sockopt::SndBufForce, &(bytes.len() * 2));
        }
        self.send(&what, &bytes)?;
        let answers = self.collect(&what, &requests, first_seq, &mut Vec::new())?;
        answers.into_iter().find_map(Result::err).map_or(Ok(()), |refused| Err(refused.into()))
    }

    /// Reads a whole list. A list that changed while it was read is read again.
    ///
    /// # Errors
    /// The list could not be read whole; there is no partial result.
    pub fn dump(&mut self, request: Request) -> Result<Vec<Message>, NetlinkError> {
        self.dump_some(request, Some)
    }

    /// Reads a whole list and keeps what `keep` makes of its messages: for lists that are longer than what is wanted.
    ///
    /// # Errors
    /// See [`Self::dump`].
    pub fn dump_some<T>(
        &mut self,
        request: Request,
        mut keep: impl FnMut(Message) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let what = request.what.clone();
        for _ in 0..DUMP_TRIES {
            let mut request = request.clone();
            if let Some(list) = self.dump_once(&mut request, &mut keep)? {
                return Ok(list);
            }
        }
        Err(NetlinkError::Interrupted { what, tries: DUMP_TRIES })
    }

    /// Joins a multicast group (`RTNLGRP_...`).
    ///
    /// # Errors
    /// The kernel has no such group.
    pub fn subscribe(&mut self, group: u32) -> Result<(), NetlinkError> {
        self.inner
            .add_membership(group)
            .map_err(|source| NetlinkError::Send { what: format!("subscribe to group {group}").into(), source })
    }

    /// The notifications that have come by now, up to some thousand; none if none have. `None`: some were lost (the
    /// buffer was full): look at everything.
    ///
    /// # Errors
    /// The socket failed.
    pub fn notifications(&mut self) -> Result<Option<Vec<Message>>, NetlinkError> {
        let (list, lost) = self.notifications_left()?;
        Ok((!lost).then_some(list))
    }

    /// As [`Self::notifications`], for whom those count that were not lost: they, and whether others were.
    pub(crate) fn notifications_left(&mut self) -> Result<(Vec<Message>, bool), NetlinkError> {
        let what = "read notifications";
        let (mut list, mut lost) = (Vec::new(), false);
        for _ in 0..NOTIFICATIONS {
            match self.receive(what, libc::MSG_DONTWAIT)? {
                Received::TimedOut => break,
                Received::Overrun => lost = true,
                Received::Some => self.each_message(what, |message, _| list.push(message.to_owned()))?,
            }
        }
        Ok((list, lost))
    }

    /// How many messages the kernel has dropped because the buffer was full, since the socket was opened; it begins again after
    /// 4 billion.
    #[cfg(feature = "node")]
    pub(crate) fn dropped(&self) -> Option<u32> {
        use std::os::fd::AsRawFd as _;
        let mut counts = [0_u32; MEMINFO];
        let mut length = libc::socklen_t::try_from(size_of_val(&counts)).ok()?;
        let (level, option) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
        #[expect(unsafe_code, reason = "no safe wrapper exists")]
        // SAFETY: the descriptor is open, and the kernel writes no more than `length` bytes, which is the array's size.
        let done = unsafe {
            libc::getsockopt(self.inner.as_raw_fd(), level, option, counts.as_mut_ptr().cast(), &raw mut length)
        };
        let written = usize::try_from(length).is_ok_and(|length| length == size_of_val(&counts));
        if done == 0 && written { counts.last().copied() } else { None }
    }

    /// Whether a notification tells what this process did, through a socket that is still open.
    #[cfg(feature = "node")]
    pub(crate) fn is_own(&self, message: &Message) -> bool {
        ports().contains(&(self.protocol, message.port))
    }

    #[cfg(feature = "node")]
    pub(crate) fn set_receive_buffer(&self, bytes: usize) {
        // Beyond net.core.rmem_max if we may; a smaller buffer only means that notifications are lost sooner, which
        // is noticed and handled.
        let fd = self.inner.as_fd();
        if setsockopt(&fd, sockopt::RcvBufForce, &bytes).is_err() {
            let _ = setsockopt(&fd, sockopt::RcvBuf, &bytes);
        }
    }

    fn next_seq(&mut self) -> u32 {
        // 0 is what notifications carry.
        self.seq = self.seq.checked_add(1).unwrap_or(1);
        self.seq
    }

    fn send(&self, what: &str, bytes: &[u8]) -> Result<(), NetlinkError> {
        loop {
            match self.inner.send_to(bytes, &netlink_sys::SocketAddr::new(0, 0), 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(NetlinkError::Send { what: owned(what), source }),
            }
        }
    }

    fn send_chunk(
        &mut self,
        chunk: &mut [Request],
        replies: &mut Vec<Message>,
    ) -> Result<Vec<Result<(), Refused>>, NetlinkError> {
        let Some(last) = chunk.last() else { return Ok(Vec::new()) };
        let what = last.what.clone();
        let (bytes, first_seq) = self.number(chunk)?;
        self.send(&what, &bytes)?;
        self.collect(&what, chunk, first_seq, replies)
    }

    /// Numbers the requests and puts them behind each other. Only the last one asks for an acknowledgement: refusals
    /// come in any case, and the kernel works in order.
    fn number(&mut self, requests: &mut [Request]) -> Result<(Vec<u8>, u32), NetlinkError> {
        let last = requests.len().saturating_sub(1);
        // Numbers of one chunk follow each other: begin again before they would wrap.
        if self.seq > u32::MAX / 2 {
            self.seq = 0;
        }
        let first_seq = self.seq + 1;
        let mut bytes = Vec::with_capacity(requests.iter().map(|r| r.bytes.len()).sum());
        for (n, request) in requests.iter_mut().enumerate() {
            if request.too_long {
                return Err(NetlinkError::TooLong { what: request.what.clone() });
            }
            let seq = self.next_seq();
            request.finish(seq, if n == last { libc::NLM_F_ACK } else { 0 });
            bytes.extend_from_slice(&request.bytes);
        }
        Ok((bytes, first_seq))
    }

    /// Reads until the last request is acknowledged or refused.
    fn collect(
        &mut self,
        what: &str,
        requests: &[Request],
        first_seq: u32,
        replies: &mut Vec<Message>,
    ) -> Result<Vec<Result<(), Refused>>, NetlinkError> {
        let mut answers = vec![Ok(()); requests.len()];
        let mut ended = false;
        while !ended {
            match self.receive(what, 0)? {
                Received::Some => {}
                Received::TimedOut => {
                    return Err(NetlinkError::TimedOut { what: owned(what), seconds: TIMEOUT_SECONDS });
                }
                Received::Overrun => return Err(NetlinkError::Overrun { what: owned(what) }),
            }
            self.each_message(what, |message, seq| {
                let Some(index) = position(first_seq, seq, requests.len()) else { return };
                if i32::from(message.kind) != libc::NLMSG_ERROR {
                    replies.push(message.to_owned());
                    return;
                }
                if let Some((errno, kernel)) = message.refusal() {
                    answers[index] = Err(Refused { what: requests[index].what.clone(), errno, kernel });
                    // A transaction that is refused as a whole gets no other answer.
                    ended |= i32::from(requests[index].kind()) == i32::from(NFNL_MSG_BATCH_BEGIN);
                }
                ended |= index + 1 == requests.len();
            })?;
        }
        Ok(answers)
    }

    /// `None`: the list changed while it was read.
    fn dump_once<T>(
        &mut self,
        request: &mut Request,
        keep: &mut impl FnMut(Message) -> Option<T>,
    ) -> Result<Option<Vec<T>>, NetlinkError> {
        if request.too_long {
            return Err(NetlinkError::TooLong { what: request.what.clone() });
        }
        let what = request.what.clone();
        let wanted = self.next_seq();
        request.finish(wanted, libc::NLM_F_DUMP);
        self.send(&what, &request.bytes)?;
        let (mut list, mut changed, mut ended) = (Vec::new(), false, None);
        while ended.is_none() {
            match self.receive(&what, 0)? {
                Received::Some => {}
                Received::TimedOut => return Err(NetlinkError::TimedOut { what, seconds: TIMEOUT_SECONDS }),
                Received::Overrun => return Err(NetlinkError::Overrun { what }),
            }
            self.each_message(&what, |message, seq| {
                if seq != wanted || ended.is_some() {
                    return;
                }
                changed |= i32::from(message.flags) & libc::NLM_F_DUMP_INTR != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => ended = Some(message.refusal()),
                    libc::NLMSG_NOOP => {}
                    _ => list.extend(keep(message.to_owned())),
                }
            })?;
        }
        match ended.flatten() {
            // nf_tables and ctnetlink say so when the list changed between two parts.
            Some((Errno::EINTR, _)) => Ok(None),
            Some((errno, kernel)) => Err(Refused { what, errno, kernel }.into()),
            None => Ok((!changed).then_some(list)),
        }
    }

    fn receive(&mut self, what: &str, flags: i32) -> Result<Received, NetlinkError> {
        loop {
            self.buffer.resize(BUFFER, 0);
            match receive_datagram(&self.inner, &mut self.buffer, flags) {
                // Only the kernel is believed: any process may send to a netlink port.
                Ok((_, from)) if from != 0 => {}
                Ok((length, _)) if length > BUFFER => {
                    return Err(NetlinkError::Malformed { what: owned(what) });
                }
                Ok((length, _)) => {
                    self.buffer.truncate(length);
                    return Ok(Received::Some);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::TimedOut),
                Err(Errno::ENOBUFS) => return Ok(Received::Overrun),
                Err(errno) => return Err(NetlinkError::Receive { what: owned(what), source: errno.into() }),
            }
        }
    }

    fn each_message(&self, what: &str, mut f: impl FnMut(MessageRef<'_>, u32)) -> Result<(), NetlinkError> {
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let Some((message, seq, length)) = MessageRef::first(rest) else {
                return Err(NetlinkError::Malformed { what: owned(what) });
            };
            f(message, seq);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        ports().remove(&(self.protocol, self.port));
    }
}

fn owned(what: &str) -> Cow<'static, str> {
    Cow::Owned(what.to_owned())
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Which request of a chunk a number belongs to.
fn position(first: u32, seq: u32, count: usize) -> Option<usize> {
    let index = usize::try_from(seq.checked_sub(first)?).ok()?;
    (index < count).then_some(index)
}

/// The datagram's real length (even if it was cut) and the sender's port.
fn receive_datagram(socket: &netlink_sys::Socket, mut buffer: &mut [u8], flags: i32) -> nix::Result<(usize, u32)> {
    match socket.recv_from(&mut buffer, libc::MSG_TRUNC | flags) {
        Ok((length, from)) => Ok((length, from.port_number())),
        Err(error) => Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
    }
}
