//! ICMP echoes (RFC 792; RFC 4443, section 4) from an address that routes lead to this node and no interface has.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use overlane_core::family::Family;
use socket2::{Domain, Protocol, Socket, Type};

const HEADER: usize = 8;
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
    pub fn open(own: IpAddr, identifier: u16, patience: Duration) -> io::Result<Self> {
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
        socket.set_read_timeout(Some(patience))?;
        Ok(Self { socket: socket.into(), family, identifier })
    }

    /// Asks, in an IP packet of `size` bytes.
    ///
    /// # Errors
    /// The kernel could not send it, for want of a route or because it does not fit.
    pub fn ask(&self, to: IpAddr, sequence: u16, size: usize) -> io::Result<()> {
        let (kind, ip) = match self.family {
            Family::V4 => (REQUEST_V4, 20),
            Family::V6 => (REQUEST_V6, 40),
        };
        let mut packet = vec![0; size.clamp(ip + HEADER, LARGEST) - ip];
        let [id_high, id_low] = self.identifier.to_be_bytes();
        let [high, low] = sequence.to_be_bytes();
        let header = [kind, 0, 0, 0, id_high, id_low, high, low];
        packet.iter_mut().zip(header).for_each(|(byte, value)| *byte = value);
        // IPv6's is the kernel's work.
        if self.family == Family::V4 {
            let sum = checksum(&packet).to_be_bytes();
            packet.iter_mut().skip(2).zip(sum).for_each(|(byte, value)| *byte = value);
        }
        self.socket.send_to(&packet, SocketAddr::new(to, 0)).map(drop)
    }

    /// The next answer, of those to this socket; `None` once none came for the time of patience.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub fn answer(&self) -> io::Result<Option<Answer>> {
        let mut buffer = [0; 256];
        loop {
            let (length, from) = match self.socket.recv_from(&mut buffer) {
                Ok(read) => read,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Some(sequence) = buffer.get(..length).and_then(|packet| self.sequence_of(packet)) {
                return Ok(Some(Answer { from: from.ip(), sequence }));
            }
        }
    }

    /// The number of an answer to this socket. IPv4's has its IP header before it.
    fn sequence_of(&self, packet: &[u8]) -> Option<u16> {
        let (kind, message) = match self.family {
            Family::V4 => (REPLY_V4, packet.get(usize::from(packet.first()? & 0x0f) * 4..)?),
            Family::V6 => (REPLY_V6, packet),
        };
        let [found, _, _, _, a, b, c, d] = *message.first_chunk::<HEADER>()?;
        (found == kind && u16::from_be_bytes([a, b]) == self.identifier).then(|| u16::from_be_bytes([c, d]))
    }
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
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
