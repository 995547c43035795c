//! Packets made by hand: ICMP echoes, router advertisements, what goes into a VXLAN.

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::ns::Ns;

/// The Internet's checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// One ICMP echo from inside `ns` with `payload` bytes. The error says what came instead.
pub fn ping(ns: &Ns, to: IpAddr, payload: usize, limit: Duration) -> Result<Duration, String> {
    ns.run(|| echo(to, payload, limit))
}

fn echo(to: IpAddr, payload: usize, limit: Duration) -> Result<Duration, String> {
    let (domain, protocol, request, answer) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8u8, 0u8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let fail = |what: &str, e: std::io::Error| format!("ping {to}: {what}: {e}");
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).map_err(|e| fail("open a raw socket", e))?;
    let id =
        (crate::ns::unique("x").bytes().fold(7u16, |h, b| h.wrapping_mul(31).wrapping_add(u16::from(b)))).to_be_bytes();
    let mut packet = vec![request, 0, 0, 0, id[0], id[1], 0, 1];
    packet.extend((0..payload).map(|i| i as u8));
    if to.is_ipv4() {
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    socket.connect(&SocketAddr::new(to, 0).into()).map_err(|e| fail("connect", e))?;
    let began = Instant::now();
    socket.send(&packet).map_err(|e| fail("send", e))?;
    let mut buffer = vec![0u8; 70_000];
    loop {
        let left = limit
            .checked_sub(began.elapsed())
            .filter(|d| !d.is_zero())
            .ok_or(format!("ping {to}: no answer in {limit:?}"))?;
        socket.set_read_timeout(Some(left)).map_err(|e| fail("set a limit", e))?;
        let n = match (&socket).read(&mut buffer) {
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(fail("receive", e)),
        };
        let message = if to.is_ipv4() { &buffer[usize::from(buffer[0] & 15) * 4..n] } else { &buffer[..n] };
        if message.len() >= 8 && message[0] == answer && message[4..6] == id {
            if message[8..] == packet[8..] {
                return Ok(began.elapsed());
            }
            return Err(format!("ping {to}: the answer's payload differs"));
        }
    }
}

/// Sends one router advertisement from `ifname` inside `ns` to all nodes, with this lifetime in seconds.
pub fn advertise_router(ns: &Ns, ifname: &str, lifetime: u16) {
    let index = crate::ip::link(ns, ifname).unwrap_or_else(|| panic!("no link {ifname} in {}", ns.label)).index;
    let index = u32::try_from(index).expect("an interface index fits");
    ns.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).expect("open a raw socket");
        // RFC 4861, 6.1.2: hosts drop what has not come with hop limit 255.
        socket.set_multicast_hops_v6(255).expect("set the hop limit");
        socket.set_multicast_if_v6(index).expect("set the interface");
        let mut packet = vec![134u8, 0, 0, 0, 64, 0];
        packet.extend(lifetime.to_be_bytes());
        packet.extend([0u8; 8]);
        let all_nodes = std::net::SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        socket.send_to(&packet, &SocketAddr::V6(all_nodes).into()).expect("send a router advertisement");
    });
}

/// An IP packet with a UDP datagram in it, checksums and all.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a short payload").to_be_bytes();
    let mut datagram = [from.port().to_be_bytes(), to.port().to_be_bytes(), length, [0, 0]].concat();
    datagram.extend(payload);
    let sum = sum_between(from.ip(), to.ip(), UDP, &datagram).to_be_bytes();
    datagram[6..8].copy_from_slice(&sum);
    ip(from.ip(), to.ip(), UDP, &datagram)
}

/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// An IP packet of this protocol.
pub fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = |header: usize| u16::try_from(header + payload.len()).expect("a short payload").to_be_bytes();
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = length(20);
            let head = [0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, protocol, 0, 0];
            let mut packet = [&head[..], &from.octets(), &to.octets()].concat();
            let sum = checksum(&packet).to_be_bytes();
            packet[10..12].copy_from_slice(&sum);
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = length(0);
            let head = [0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            [&head[..], &from.octets(), &to.octets()].concat()
        }
        _ => panic!("{from} and {to} are of two families"),
    };
    packet.extend(payload);
    packet
}

/// The checksum of what an IP packet of this protocol carries, where its own is nought (RFC 9293, section 3.1; RFC 8200,
/// section 8.1).
pub fn sum_between(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    checksum(&[&octets(from)[..], &octets(to), &length, &[0, 0, 0, protocol], payload].concat())
}

/// What a VXLAN packet carries behind its UDP header (RFC 7348, section 5).
pub fn vxlan(vni: u32, to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let [_, a, b, c] = vni.to_be_bytes();
    [&[0x08, 0, 0, 0, a, b, c, 0][..], &to, &from, &kind, packet].concat()
}
