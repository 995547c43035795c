//! What the packets look like.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use super::{Carries, Shot};
use crate::packet::{UDP, checksum, ip, sum_between};

pub const TCP: u8 = 6;
pub const SCTP: u8 = 132;
pub const ICMP: u8 = 1;
pub const ICMP6: u8 = 58;

/// What datagrams and echoes begin with.
const MAGIC: [u8; 8] = *b"ovsvolly";
/// The first source port: none that a kernel gives by itself.
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 20_000;
/// Types of echoes.
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO6: u8 = 128;
const ECHO6_REPLY: u8 = 129;
/// Flags of TCP.
const SYN: u8 = 2;
const ACK: u8 = 16;
/// Types of SCTP's chunks.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A packet of ours. An answer has to be made unless the kernel does that.
    Question(u32),
    /// The answer to one.
    Answer(u32),
}

/// A source port that no packet has had for long: what is remembered of an older flow must not let this one pass.
fn fresh_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let next = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |port| Some((port + 1) % PORTS));
    FIRST_PORT + next.unwrap_or_default()
}

/// The packet that bears this number.
pub fn question(shot: &Shot, id: u32) -> Vec<u8> {
    let port = fresh_port();
    let (protocol, payload) = match shot.carries {
        Carries::Tcp(to) => (TCP, tcp(shot.source, shot.to, (port, to), id)),
        Carries::Udp(to) => (UDP, datagram(shot.source, shot.to, (port, to), id, 0)),
        Carries::Sctp(to) => (SCTP, sctp((port, to), 0, INIT, id)),
        Carries::Echo => echo(shot.source, shot.to, port, id),
    };
    ip(shot.source, shot.to, protocol, &payload)
}

/// The answer that no kernel gives, to a question as it was heard.
pub fn answer(from: IpAddr, to: IpAddr, protocol: u8, question: &[u8], id: u32) -> Option<Vec<u8>> {
    let ports = (be16(question, 2)?, be16(question, 0)?);
    let payload = match protocol {
        UDP => datagram(from, to, ports, id, 1),
        SCTP => sctp(ports, id, INIT_ACK, !id),
        _ => return None,
    };
    Some(ip(from, to, protocol, &payload))
}

fn tcp(from: IpAddr, to: IpAddr, (port, to_port): (u16, u16), id: u32) -> Vec<u8> {
    let mut segment = [port.to_be_bytes(), to_port.to_be_bytes()].concat();
    segment.extend(id.to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x60, SYN, 0xfa, 0xf0, 0, 0, 0, 0]);
    // The largest segment, without which some take the packet for a forgery.
    segment.extend([2, 4, 5, 0xb4]);
    let sum = sum_between(from, to, TCP, &segment).to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    segment
}

fn datagram(from: IpAddr, to: IpAddr, (port, to_port): (u16, u16), id: u32, kind: u8) -> Vec<u8> {
    let payload = [&MAGIC[..], &id.to_be_bytes(), &[kind]].concat();
    let length = u16::try_from(8 + payload.len()).unwrap_or_default().to_be_bytes();
    let mut datagram = [port.to_be_bytes(), to_port.to_be_bytes(), length, [0, 0]].concat();
    datagram.extend(payload);
    let sum = sum_between(from, to, UDP, &datagram).to_be_bytes();
    datagram[6..8].copy_from_slice(&sum);
    datagram
}

fn sctp((port, to_port): (u16, u16), tag: u32, chunk: u8, initiate: u32) -> Vec<u8> {
    let mut packet = [port.to_be_bytes(), to_port.to_be_bytes()].concat();
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(initiate.to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

fn echo(from: IpAddr, to: IpAddr, number: u16, id: u32) -> (u8, Vec<u8>) {
    let (protocol, kind) = if to.is_ipv4() { (ICMP, ECHO) } else { (ICMP6, ECHO6) };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(number.to_be_bytes());
    message.extend([0, 1]);
    message.extend(MAGIC);
    message.extend(id.to_be_bytes());
    let sum = if to.is_ipv4() { checksum(&message) } else { sum_between(from, to, ICMP6, &message) }.to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    (protocol, message)
}

/// What a message of this protocol is to us, if anything.
pub fn read(protocol: u8, message: &[u8]) -> Option<Heard> {
    match protocol {
        TCP => match message.get(13)? & (SYN | ACK) {
            SYN => Some(Heard::Question(be32(message, 4)?)),
            0 => None,
            _ => Some(Heard::Answer(be32(message, 8)?.wrapping_sub(1))),
        },
        UDP => {
            let id = marked(message.get(8..)?)?;
            Some(if *message.get(20)? == 0 { Heard::Question(id) } else { Heard::Answer(id) })
        }
        SCTP => match *message.get(12)? {
            INIT => Some(Heard::Question(be32(message, 16)?)),
            INIT_ACK => Some(Heard::Answer(be32(message, 4)?)),
            _ => None,
        },
        ICMP | ICMP6 => match (protocol, *message.first()?) {
            (ICMP, ECHO) | (ICMP6, ECHO6) => marked(message.get(8..)?).map(Heard::Question),
            (ICMP, ECHO_REPLY) | (ICMP6, ECHO6_REPLY) => marked(message.get(8..)?).map(Heard::Answer),
            _ => None,
        },
        _ => None,
    }
}

fn marked(payload: &[u8]) -> Option<u32> {
    (payload.get(..8)? == MAGIC).then(|| be32(payload, 8))?
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The checksum of SCTP (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82F6_3B78 & (0u32.wrapping_sub(sum & 1)));
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    //! Must catch: a packet that is not known again, or a checksum that kernels refuse.

    use super::*;

    #[test]
    fn the_check_value_of_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn each_packet_is_known_again() {
        let [from, to]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().expect("an address"));
        for (carries, protocol) in
            [(Carries::Tcp(80), TCP), (Carries::Udp(53), UDP), (Carries::Sctp(9), SCTP), (Carries::Echo, ICMP)]
        {
            let shot = Shot { from: 0, source: from, to, into: 1, at: to, carries };
            let packet = question(&shot, 0xA1B2_C3D4);
            assert_eq!((packet[0], packet[9]), (0x45, protocol));
            assert_eq!(read(protocol, &packet[20..]), Some(Heard::Question(0xA1B2_C3D4)), "{carries:?}");
            if let Some(answer) = answer(to, from, protocol, &packet[20..], 0xA1B2_C3D4) {
                assert_eq!(read(protocol, &answer[20..]), Some(Heard::Answer(0xA1B2_C3D4)), "{carries:?}");
                assert_eq!(answer[20..22], packet[22..24], "the port that was asked answers");
            }
        }
        assert_eq!(read(UDP, b"nothing of ours at all"), None);
        assert_eq!(read(TCP, &[]), None);
    }
}
