//! The socket: one conversation at a time.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::codec::{HEADER, Request, find, text, u16_of, u32_of};
use super::{NetlinkError, Refused};

/// How long the kernel may take: deletions of many links wait for grace periods, so this is generous.
const TIMEOUT_SECONDS: i64 = 30;
/// Messages in one send. The answers to all of them must fit into the default receive buffer.
const CHUNK: usize = 64;
/// Bytes in one send, well below the default send buffer (208 KiB).
const CHUNK_BYTES: usize = 96 * 1024;
/// How often a dump is read again when the kernel says that it changed meanwhile.
const DUMP_TRIES: u32 = 16;
/// Room for the largest datagram that the kernel makes of a dump (32 KiB), and for one message beyond that.
const BUFFER: usize = 128 * 1024;

/// `NLMSGERR_ATTR_MSG` of linux/netlink.h.
const NLMSGERR_ATTR_MSG: u16 = 1;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

/// What the socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, rules, neighbours.
    Route,
    /// nftables and conntrack.
    Netfilter,
}

impl Protocol {
    fn number(self) -> isize {
        match self {
            Self::Route => 0,
            Self::Netfilter => 12,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Netfilter => "netfilter",
        }
    }
}

/// One message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its kind (`RTM_NEWLINK` ...).
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// The answered request's number; 0 in a notification.
    pub seq: u32,
    /// What follows the netlink header.
    pub payload: Vec<u8>,
}

impl Message {
    /// The payload after a fixed header of `len` bytes (that is: the attributes); empty if it is shorter.
    #[must_use]
    pub fn after(&self, len: usize) -> &[u8] {
        self.payload.get(len..).unwrap_or(&[])
    }
}

/// A netlink socket in the namespace of the thread that opened it; it stays in that namespace for ever.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
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
        let open = || -> io::Result<netlink_sys::Socket> {
            let mut socket = netlink_sys::Socket::new(protocol.number())?;
            socket.bind_auto()?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            if protocol == Protocol::Route {
                // With it, the kernel filters dumps by what the request's header and attributes say.
                socket.set_netlink_get_strict_chk(true)?;
            }
            setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS))?;
            Ok(socket)
        };
        let inner = open().map_err(|source| NetlinkError::Open { protocol: protocol.name(), source })?;
        Ok(Self { inner, seq: 0, buffer: Vec::new() })
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
        let what = request.what.clone();
        for _ in 0..DUMP_TRIES {
            let mut request = request.clone();
            if let Some(list) = self.dump_once(&mut request)? {
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

    /// One datagram of notifications, which must be there (poll first). `None`: some were lost (the buffer was full):
    /// look at everything.
    ///
    /// # Errors
    /// The socket failed.
    pub fn notifications(&mut self) -> Result<Option<Vec<Message>>, NetlinkError> {
        let what = Cow::Borrowed("read notifications");
        match self.receive(&what)? {
            Received::TimedOut => Ok(Some(Vec::new())),
            Received::Overrun => Ok(None),
            Received::Some => {
                let mut list = Vec::new();
                self.each_message(&what, |message, _| list.push(message.to_owned()))?;
                Ok(Some(list))
            }
        }
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

    fn send(&self, what: &Cow<'static, str>, bytes: &[u8]) -> Result<(), NetlinkError> {
        loop {
            match self.inner.send_to(bytes, &netlink_sys::SocketAddr::new(0, 0), 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(NetlinkError::Send { what: what.clone(), source }),
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
        what: &Cow<'static, str>,
        requests: &[Request],
        first_seq: u32,
        replies: &mut Vec<Message>,
    ) -> Result<Vec<Result<(), Refused>>, NetlinkError> {
        let mut answers = vec![Ok(()); requests.len()];
        let mut ended = false;
        while !ended {
            match self.receive(what)? {
                Received::Some => {}
                Received::TimedOut => {
                    return Err(NetlinkError::TimedOut { what: what.clone(), seconds: TIMEOUT_SECONDS });
                }
                Received::Overrun => return Err(NetlinkError::Overrun { what: what.clone() }),
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
    fn dump_once(&mut self, request: &mut Request) -> Result<Option<Vec<Message>>, NetlinkError> {
        if request.too_long {
            return Err(NetlinkError::TooLong { what: request.what.clone() });
        }
        let what = request.what.clone();
        let wanted = self.next_seq();
        request.finish(wanted, libc::NLM_F_DUMP);
        self.send(&what, &request.bytes)?;
        let (mut list, mut changed, mut ended) = (Vec::new(), false, None);
        while ended.is_none() {
            match self.receive(&what)? {
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
                    _ => list.push(message.to_owned()),
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

    fn receive(&mut self, what: &Cow<'static, str>) -> Result<Received, NetlinkError> {
        loop {
            self.buffer.resize(BUFFER, 0);
            match receive_datagram(&self.inner, &mut self.buffer) {
                // Only the kernel is believed: any process may send to a netlink port.
                Ok((_, from)) if from != 0 => {}
                Ok((length, _)) if length > BUFFER => {
                    return Err(NetlinkError::Malformed { what: what.clone() });
                }
                Ok((length, _)) => {
                    self.buffer.truncate(length);
                    return Ok(Received::Some);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::TimedOut),
                Err(Errno::ENOBUFS) => return Ok(Received::Overrun),
                Err(errno) => return Err(NetlinkError::Receive { what: what.clone(), source: errno.into() }),
            }
        }
    }

    fn each_message(
        &self,
        what: &Cow<'static, str>,
        mut f: impl FnMut(MessageRef<'_>, u32),
    ) -> Result<(), NetlinkError> {
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let Some((message, seq, length)) = MessageRef::first(rest) else {
                return Err(NetlinkError::Malformed { what: what.clone() });
            };
            f(message, seq);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Ok(())
    }
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
fn receive_datagram(socket: &netlink_sys::Socket, mut buffer: &mut [u8]) -> nix::Result<(usize, u32)> {
    match socket.recv_from(&mut buffer, libc::MSG_TRUNC) {
        Ok((length, from)) => Ok((length, from.port_number())),
        Err(error) => Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
    }
}

#[derive(Clone, Copy)]
struct MessageRef<'a> {
    kind: u16,
    flags: u16,
    seq: u32,
    payload: &'a [u8],
}

impl<'a> MessageRef<'a> {
    fn first(bytes: &'a [u8]) -> Option<(Self, u32, usize)> {
        let length = usize::try_from(u32_of(bytes)?).ok()?;
        let kind = u16_of(bytes.get(4..)?)?;
        let flags = u16_of(bytes.get(6..)?)?;
        let seq = u32_of(bytes.get(8..)?)?;
        let payload = bytes.get(HEADER..length)?;
        Some((Self { kind, flags, seq, payload }, seq, length))
    }

    fn to_owned(self) -> Message {
        Message { kind: self.kind, flags: self.flags, seq: self.seq, payload: self.payload.to_vec() }
    }

    /// Of an acknowledgement or an end of dump: the error number, if it is one, and the kernel's words.
    fn refusal(&self) -> Option<(Errno, Option<String>)> {
        let code = u32_of(self.payload)?.cast_signed();
        if code >= 0 {
            return None;
        }
        // The request's header follows, and its payload too unless it was cut (we ask for that).
        let attributes = match i32::from(self.kind) {
            libc::NLMSG_DONE => 4,
            _ if self.flags & NLM_F_CAPPED != 0 => 4 + HEADER,
            _ => 4 + usize::try_from(u32_of(self.payload.get(4..)?)?).ok()?.next_multiple_of(4),
        };
        let words = (self.flags & NLM_F_ACK_TLVS != 0)
            .then(|| find(self.payload.get(attributes..)?, NLMSGERR_ATTR_MSG).map(text))
            .flatten();
        Some((Errno::from_raw(code.wrapping_neg()), words))
    }
}
