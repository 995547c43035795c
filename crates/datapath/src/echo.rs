//! ICMP echoes (RFC 792; RFC 4443, section 4) from an address that routes lead to this node and no interface has.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use nix::libc;
use overlane_core::family::Family;
use socket2::{Domain, Protocol, Socket, Type};

const HEADER: usize = 8;
const TOKEN: usize = 8;
/// Bytes of answers that may wait: some thousand small ones.
const BUFFER: usize = 4 << 20;
const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;
/// Larger than any link's packets.
const LARGEST: usize = 65_000;

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who answered.
    pub from: IpAddr,
    /// The number that was asked with.
    pub sequence: u16,
    /// The token that was asked with.
    pub token: u64,
}

/// A socket that asks from one address. Needs `CAP_NET_RAW` and `CAP_NET_ADMIN`.
#[derive(Debug)]
pub struct EchoSocket {
    /// Not of UDP; its calls are those of every socket of datagrams.
    socket: UdpSocket,
    family: Family,
    identifier: u16,
}

impl EchoSocket {
    /// Opens a socket in the calling thread's namespace. `identifier` tells its answers from others'.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn open(own: IpAddr, identifier: u16) -> io::Result<Self> {
        let family = Family::of(&own);
        let (domain, protocol) = match family {
            Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
            Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        match family {
            Family::V4 => socket.set_ip_transparent_v4(true)?,
            Family::V6 => socket.set_freebind_v6(true)?,
        }
        socket.bind(&SocketAddr::new(own, 0).into())?;
        answers_only(&socket, family)?;
        socket.set_recv_buffer_size(BUFFER)?;
        Ok(Self { socket: socket.into(), family, identifier })
    }

    /// Asks, in an IP packet of `size` bytes, with a `token` that an answer has to bear.
    ///
    /// # Errors
    /// The kernel could not send it, for want of a route or because it does not fit.
    pub fn ask(&self, to: IpAddr, sequence: u16, token: u64, size: usize) -> io::Result<()> {
        let (kind, ip) = match self.family {
            Family::V4 => (REQUEST_V4, 20),
            Family::V6 => (REQUEST_V6, 40),
        };
        let mut packet = vec![0; size.clamp(ip + HEADER + TOKEN, LARGEST) - ip];
        let [id_high, id_low] = self.identifier.to_be_bytes();
        let [high, low] = sequence.to_be_bytes();
        let header = [kind, 0, 0, 0, id_high, id_low, high, low];
        let start = header.into_iter().chain(token.to_be_bytes());
        packet.iter_mut().zip(start).for_each(|(byte, value)| *byte = value);
        // IPv6's is the kernel's work.
        if self.family == Family::V4 {
            let sum = checksum(&packet).to_be_bytes();
            packet.iter_mut().skip(2).zip(sum).for_each(|(byte, value)| *byte = value);
        }
        self.socket.send_to(&packet, SocketAddr::new(to, 0)).map(drop)
    }

    /// The next answer, of those to this socket; `None` if none comes before the deadline.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub fn answer(&self, deadline: Instant) -> io::Result<Option<Answer>> {
        let mut buffer = [0; 256];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let (length, from) = match self.socket.recv_from(&mut buffer) {
                Ok(read) => read,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Some((sequence, token)) = buffer.get(..length).and_then(|packet| self.read(packet)) {
                return Ok(Some(Answer { from: from.ip(), sequence, token }));
            }
        }
    }

    /// Number and token of an answer to this socket. IPv4's has its IP header before it.
    fn read(&self, packet: &[u8]) -> Option<(u16, u64)> {
        let (kind, message) = match self.family {
            Family::V4 => (REPLY_V4, packet.get(usize::from(packet.first()? & 0x0f) * 4..)?),
            Family::V6 => (REPLY_V6, packet),
        };
        let [found, _, _, _, a, b, c, d] = *message.first_chunk::<HEADER>()?;
        let token = u64::from_be_bytes(*message.get(HEADER..)?.first_chunk::<TOKEN>()?);
        (found == kind && u16::from_be_bytes([a, b]) == self.identifier).then(|| (u16::from_be_bytes([c, d]), token))
    }
}

/// Has the kernel drop what is no answer: others' questions would fill the buffer.
fn answers_only(socket: &Socket, family: Family) -> io::Result<()> {
    // linux/icmp.h: bit n of the filter drops type n. linux/icmpv6.h: the same of 256 bits.
    const ICMP_FILTER: libc::c_int = 1;
    const ICMPV6_FILTER: libc::c_int = 1;
    const SOL_RAW: libc::c_int = 255;
    let mut blocked = [u32::MAX; 8];
    let (level, option, length) = match family {
        Family::V4 => {
            blocked[0] = !(1 << REPLY_V4);
            (SOL_RAW, ICMP_FILTER, size_of::<u32>())
        }
        Family::V6 => {
            blocked[usize::from(REPLY_V6 >> 5)] = !(1 << (REPLY_V6 & 31));
            (libc::IPPROTO_ICMPV6, ICMPV6_FILTER, size_of_val(&blocked))
        }
    };
    let length = libc::socklen_t::try_from(length).unwrap_or(0);
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: the kernel reads `length` bytes of `blocked`, which has as many, and keeps no reference.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, blocked.as_ptr().cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// RFC 1071.
pub(crate) fn checksum(packet: &[u8]) -> u16 {
    let words = packet
        .chunks(2)
        .map(|pair| u32::from(pair.first().copied().unwrap_or(0)) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    //! Must catch: a packet that every host drops.

    use super::*;

    #[test]
    fn sums() {
        assert_eq!(checksum(&[8, 0, 0, 0, 0, 1, 0, 1]), 0xf7fd);
        assert_eq!(checksum(&[8, 0, 0xf7, 0xfd, 0, 1, 0, 1]), 0);
        assert_eq!(checksum(&[0xff; 64_000]), 0);
    }
}
