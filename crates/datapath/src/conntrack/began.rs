//! Flows as they begin, told by the kernel while somebody listens.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::flows::flow;
use super::{CTA_PROTO_DST_PORT, CTA_TUPLE_IP, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, ENDS_TO, Flow, HEADER_LEN, SUBSYSTEM};
use crate::netlink::{Message, NetlinkError, Socket, find, ip_of};

/// `NFNLGRP_CONNTRACK_NEW` of linux/netfilter/nfnetlink_compat.h.
const GROUP_NEW: u32 = 1;
/// `IPCTNL_MSG_CT_NEW` of linux/netfilter/nfnetlink_conntrack.h.
const NEW: u16 = SUBSYSTEM;
/// Room for a burst: some thirty thousand flows.
const BUFFER: usize = 32 << 20;
/// Whether the kernel tells of flows at all: 0 no, 1 yes, 2 of those that begin while somebody listens.
const EVENTS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";

/// A flow that has begun. One whose first packet was dropped is none: the kernel forgets it unsaid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Began {
    /// Who opened it, and who answers.
    pub flow: Flow,
    /// Whom its first packet was for, before any translation; the port is 0 where the protocol has none.
    pub asked: SocketAddr,
}

/// The kernel tells nobody of flows.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The sysctl says so.
    #[error(
        "listen for flows that begin: the kernel tells nobody of them (net.netfilter.nf_conntrack_events is 0); \
         `sysctl -w net.netfilter.nf_conntrack_events=2` lets it"
    )]
    Silent,
    /// Netlink does not work.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What was heard.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Flows that began, in order.
    pub began: Vec<Began>,
    /// How many were lost since the last time: they came faster than they were read.
    pub lost: u64,
}

/// A subscription, in the namespace of the thread that opened it. While it is there each connection costs the kernel more.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// What the socket had dropped when it was last looked at.
    dropped: u32,
}

impl Listener {
    /// Subscribes in the calling thread's namespace.
    ///
    /// # Errors
    /// Netlink does not work, the caller may not listen (`CAP_NET_ADMIN`), or the kernel tells nobody.
    pub fn open() -> Result<Self, ListenError> {
        Self::open_with(BUFFER)
    }

    /// The same with room for so many bytes of what was not read yet.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_with(buffer: usize) -> Result<Self, ListenError> {
        // Where it cannot be read, connection tracking is not loaded: then nothing begins either, and subscribing loads it.
        if std::fs::read_to_string(EVENTS).is_ok_and(|value| value.trim() == "0") {
            return Err(ListenError::Silent);
        }
        let mut socket = Socket::netfilter()?;
        socket.set_receive_buffer(buffer);
        socket.subscribe(GROUP_NEW)?;
        Ok(Self { socket, dropped: 0 })
    }

    /// Waits for flows, at most so long.
    ///
    /// # Errors
    /// The socket failed: what begins from now on is not told.
    pub fn wait(&mut self, at_most: Duration) -> Result<Heard, NetlinkError> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let millis = i32::try_from(at_most.as_millis()).unwrap_or(i32::MAX);
        match poll(&mut fds, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                return Err(NetlinkError::Receive { what: "wait for flows".into(), source: errno.into() });
            }
        }
        let (messages, full) = self.socket.notifications_left()?;
        let dropped = self.socket.dropped().unwrap_or(self.dropped);
        // Without a count it is one at least.
        let lost = u64::from(dropped.wrapping_sub(self.dropped)).max(u64::from(full));
        self.dropped = dropped;
        Ok(Heard { began: messages.iter().filter_map(began).collect(), lost })
    }
}

fn began(message: &Message) -> Option<Began> {
    (message.kind == NEW).then(|| read(message.after(HEADER_LEN)))?
}

fn read(attributes: &[u8]) -> Option<Began> {
    let flow = flow(attributes)?;
    let asks = find(attributes, CTA_TUPLE_ORIG)?;
    let ip = find(asks, CTA_TUPLE_IP)?;
    let to: IpAddr = ENDS_TO.iter().find_map(|end| find(ip, *end)).and_then(ip_of)?;
    let port = find(asks, CTA_TUPLE_PROTO).and_then(|proto| find(proto, CTA_PROTO_DST_PORT));
    let port = port.and_then(|port| port.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(Began { flow, asked: SocketAddr::new(to, port) })
}

#[cfg(test)]
mod tests {
    //! Must catch: a Service's address taken for that of the pod behind it, or a panic on what is no flow.
    #![allow(clippy::unwrap_used, reason = "tests")]

    use nix::libc;
    use proptest::prelude::*;

    use super::*;
    use crate::conntrack::{CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_TUPLE_REPLY};
    use crate::netlink::Request;

    /// One direction of a flow, as the kernel writes it.
    fn tuple(kind: u16, from: &str, to: &str, protocol: u8, ports: Option<(u16, u16)>) -> impl Fn(Request) -> Request {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let (source, destination) = if from.is_ipv4() { (1, 2) } else { (3, 4) };
        move |message| {
            message.nest(kind, |tuple| {
                let tuple = tuple.nest(CTA_TUPLE_IP, |ends| ends.ip(source, from).ip(destination, to));
                tuple.nest(CTA_TUPLE_PROTO, |proto| {
                    let proto = proto.u8(CTA_PROTO_NUM, protocol);
                    let Some((source, destination)) = ports else { return proto.attr(4, &[0, 7]).u8(5, 8) };
                    let proto = proto.attr(CTA_PROTO_SRC_PORT, &source.to_be_bytes());
                    proto.attr(CTA_PROTO_DST_PORT, &destination.to_be_bytes())
                })
            })
        }
    }

    fn attributes(request: &Request) -> Vec<u8> {
        request.payload().to_vec()
    }

    #[test]
    fn what_answers_is_behind_the_translation() {
        let asks = tuple(CTA_TUPLE_ORIG, "10.244.1.2", "10.0.0.10", libc::IPPROTO_TCP as u8, Some((40_000, 80)));
        let answers = tuple(CTA_TUPLE_REPLY, "10.244.0.5", "10.244.1.2", libc::IPPROTO_TCP as u8, Some((8080, 40_000)));
        let told = read(&attributes(&answers(asks(Request::new(NEW, 0, "x"))))).unwrap();
        assert_eq!((told.flow.from.to_string(), told.flow.from_port), ("10.244.1.2".to_owned(), 40_000));
        assert_eq!((told.flow.to.to_string(), told.flow.to_port), ("10.244.0.5".to_owned(), 8080));
        assert_eq!(told.asked, "10.0.0.10:80".parse().unwrap());
    }

    #[test]
    fn echoes_have_no_ports() {
        let asks = tuple(CTA_TUPLE_ORIG, "fd00::1", "fd00::2", libc::IPPROTO_ICMPV6 as u8, None);
        let answers = tuple(CTA_TUPLE_REPLY, "fd00::2", "fd00::1", libc::IPPROTO_ICMPV6 as u8, None);
        let told = read(&attributes(&answers(asks(Request::new(NEW, 0, "x"))))).unwrap();
        assert_eq!((told.flow.from_port, told.flow.to_port, told.asked.port()), (0, 0, 0));
        assert_eq!(told.asked.ip(), told.flow.to);
    }

    proptest! {
        #[test]
        fn anything_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
