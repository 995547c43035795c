//! Packets that the packet filter logs to this process (`nfnetlink_log`): what network policy drops, or would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netlink::{NetlinkError, Request, Socket, find};
use crate::owned::NFLOG_GROUP;

const SUBSYSTEM: u16 = 4 << 8;
const PACKET: u16 = SUBSYSTEM;
const CONFIG: u16 = SUBSYSTEM | 1;
const CFG_CMD: u16 = 1;
const CFG_MODE: u16 = 2;
const CMD_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const PAYLOAD: u16 = 9;
const HEADER_LEN: usize = 4;
/// As much of a packet as tells who sends what to whom: both headers, with some options.
pub const SNAP_LENGTH: u32 = 128;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// Extension headers of IPv6 that are passed over (RFC 8200, section 4.1): hop by hop, routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const FRAGMENT: u8 = 44;

/// What a packet is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Logged {
    /// Where it comes from.
    pub from: IpAddr,
    /// Where it goes.
    pub to: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Ports at both ends, of a protocol that has them.
    pub ports: Option<(u16, u16)>,
}

/// The subscription, in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Log {
    socket: Socket,
}

impl Log {
    /// Subscribes.
    ///
    /// # Errors
    /// The kernel has no such log (`CONFIG_NETFILTER_NETLINK_LOG`), or another program has the group.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::netfilter()?;
        let [high, low] = NFLOG_GROUP.to_be_bytes();
        let body = [libc::AF_UNSPEC as u8, 0, high, low];
        let config = |what: &'static str| Request::new(CONFIG, 0, what).body(&body);
        socket.request(config("take the packet filter's log").attr(CFG_CMD, &[CMD_BIND]))?;
        let mut mode = SNAP_LENGTH.to_be_bytes().to_vec();
        mode.extend([COPY_PACKET, 0]);
        socket.request(config("ask for packets in the log").attr(CFG_MODE, &mode))?;
        Ok(Self { socket })
    }

    /// Waits for packets, at most so long. Some may have been lost: it is a log.
    ///
    /// # Errors
    /// The socket failed.
    pub fn wait(&mut self, at_most: PollTimeout) -> Result<Vec<Logged>, NetlinkError> {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // An interrupted wait is a short one.
        let _ = poll(&mut ready, at_most);
        let messages = self.socket.notifications()?.unwrap_or_default();
        let packets = messages.iter().filter(|message| message.kind == PACKET);
        Ok(packets.filter_map(|message| logged(find(message.after(HEADER_LEN), PAYLOAD)?)).collect())
    }
}

/// Reads a packet's headers; `None` of what is none.
fn logged(packet: &[u8]) -> Option<Logged> {
    let (from, to, protocol, rest) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?).into());
            (address(12)?, address(16)?, *packet.get(9)?, packet.get(header..)?)
        }
        6 => {
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?).into());
            let (mut next, mut rest) = (*packet.get(6)?, packet.get(40..)?);
            while EXTENSIONS.contains(&next) || next == FRAGMENT {
                let length = if next == FRAGMENT { 8 } else { (usize::from(*rest.get(1)?) + 1) * 8 };
                (next, rest) = (*rest.first()?, rest.get(length..)?);
            }
            (address(8)?, address(24)?, next, rest)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
    let ports = if matches!(protocol, TCP | UDP | SCTP) { port(0).zip(port(2)) } else { None };
    Some(Logged { from, to, protocol, ports })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: options of IPv4, or extension headers of IPv6, that are taken for ports.

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_are_read() {
        let mut packet = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 1];
        packet.extend([0x1f, 0x90, 0, 80, 0, 0]);
        let (from, to) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!(logged(&packet), Some(Logged { from, to, protocol: TCP, ports: Some((8080, 80)) }));

        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 60, 64];
        packet.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend([UDP, 0, 0, 0, 0, 0, 0, 0, 0, 53, 0, 54]);
        let (from, to) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        assert_eq!(logged(&packet), Some(Logged { from, to, protocol: UDP, ports: Some((53, 54)) }));
    }

    proptest! {
        #[test]
        fn anything_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = logged(&bytes);
        }
    }
}
