//! Echo requests over raw sockets. The kernel sets "don't fragment" on its own for IPv4 packets that fit the device
//! (`ip_dont_fragment` of the kernel, with path MTU discovery on as is the default); IPv6 knows nothing else.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::probe::NoAnswer;

// RFC 792 and RFC 4443.
const ECHO_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const ECHO_V6: u8 = 128;
const REPLY_V6: u8 = 129;
const HEADER: usize = 8;
/// Lost requests are sent again after this time.
const AGAIN: Duration = Duration::from_millis(400);

static NEXT_ID: AtomicU16 = AtomicU16::new(1);

/// Sends echo requests with `length` bytes of data until one is answered; how long that one took.
pub fn ping(ip: IpAddr, length: usize, patience: Duration) -> Result<Duration> {
    let (domain, protocol) = match ip {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).context("open a raw socket")?;
    socket.connect(&SocketAddr::new(ip, 0).into()).context("connect")?;
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let deadline = Instant::now() + patience;
    for sequence in 0.. {
        let began = Instant::now();
        socket.send(&request(ip.is_ipv4(), id, sequence, length)).with_context(|| format!("send {length} bytes"))?;
        if await_reply(&socket, ip.is_ipv4(), id, length, (began + AGAIN).min(deadline))? {
            return Ok(began.elapsed());
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Err(NoAnswer.into())
}

/// Reads until the reply comes; false once it is `deadline`.
fn await_reply(socket: &Socket, v4: bool, id: u16, length: usize, deadline: Instant) -> Result<bool> {
    let mut buffer = vec![0; 65_536];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        let mut reader = socket;
        match reader.read(&mut buffer) {
            Ok(received) if is_reply(buffer.get(..received).unwrap_or_default(), v4, id, length) => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("receive"),
        }
    }
}

fn request(v4: bool, id: u16, sequence: u16, length: usize) -> Vec<u8> {
    let mut packet = vec![if v4 { ECHO_V4 } else { ECHO_V6 }, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.resize(HEADER + length, b'p');
    if v4 {
        // For ICMPv6 the kernel does this, as the sum covers addresses (RFC 3542, section 3.1).
        let sum = checksum(&packet).to_be_bytes();
        packet.splice(2..4, sum);
    }
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair.first().copied().unwrap_or(0)) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .fold(0, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Whether a packet as a raw socket gives it is the whole answer to our request. IPv4 comes with its header.
fn is_reply(packet: &[u8], v4: bool, id: u16, length: usize) -> bool {
    let skip = match packet.first() {
        Some(first) if v4 => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let Some(message) = packet.get(skip..) else { return false };
    let kind = if v4 { REPLY_V4 } else { REPLY_V6 };
    message.first() == Some(&kind) && message.get(4..6) == Some(&id.to_be_bytes()) && message.len() == HEADER + length
}

#[cfg(test)]
mod tests {
    //! Must catch: another's reply taken for ours, or a request that the far side drops.

    use super::*;

    #[test]
    fn a_checksum_makes_the_sum_zero() {
        for length in [0, 1, 56, 1472] {
            assert_eq!(checksum(&request(true, 7, 1, length)), 0, "{length}");
        }
    }

    #[test]
    fn only_our_own_reply_counts() {
        let mut reply = request(false, 7, 1, 56);
        assert!(!is_reply(&reply, false, 7, 56), "that is the request");
        reply.splice(0..1, [REPLY_V6]);
        assert!(is_reply(&reply, false, 7, 56));
        assert!(!is_reply(&reply, false, 8, 56), "another's");
        assert!(!is_reply(&reply, false, 7, 57), "cut short");
        assert!(!is_reply(&[], false, 7, 56));
        let mut with_header = vec![0x45; 20];
        with_header.extend(request(true, 9, 1, 4));
        with_header.splice(20..21, [REPLY_V4]);
        assert!(is_reply(&with_header, true, 9, 4));
        assert!(!is_reply(&[0x4f], true, 9, 4));
    }
}
