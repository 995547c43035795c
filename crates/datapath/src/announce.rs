//! Says on a segment who has an address now: a gratuitous ARP request (RFC 5227, section 3) or an unsolicited neighbour
//! advertisement (RFC 4861, section 7.2.6), so that neighbours do not send to who had it before.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use nix::libc;
use socket2::{Domain, Socket, Type};

use crate::echo::checksum;
use crate::mac::Mac;

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
const BROADCAST: Mac = [0xff; 6];
/// All nodes, `ff02::1`, and its Ethernet address (RFC 2464, section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// Says on the link `index` that `address` is at `mac`. Needs `CAP_NET_RAW`.
///
/// # Errors
/// The kernel did not send it.
pub fn announce(index: u32, mac: Mac, address: IpAddr) -> io::Result<()> {
    let (to, kind, frame) = match address {
        IpAddr::V4(address) => (BROADCAST, ETH_P_ARP, arp(mac, address)),
        IpAddr::V6(address) => (ALL_NODES_MAC, ETH_P_IPV6, advertisement(mac, address)),
    };
    // Without a protocol nothing is received.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    let mut halen = [0; 8];
    halen.iter_mut().zip(to).for_each(|(byte, value)| *byte = value);
    let destination = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: kind.to_be(),
        sll_ifindex: i32::try_from(index).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: halen,
    };
    let length = libc::socklen_t::try_from(size_of_val(&destination)).unwrap_or_default();
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: the kernel reads the frame and the address, which live as long as the call, and keeps no reference.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const destination).cast(), length)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// RFC 826: a request of an address for itself.
fn arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let header = [0, 1, 8, 0, 6, 4, 0, 1];
    let ip = address.octets();
    [&header[..], &mac, &ip, &[0; 6], &ip].concat()
}

fn advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let option = [&[TARGET_LINK_LAYER_ADDRESS, 1][..], &mac].concat();
    let mut message = [&[NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0][..], &address.octets(), &option].concat();
    let length = u16::try_from(message.len()).unwrap_or_default().to_be_bytes();
    let pseudo = [&address.octets()[..], &ALL_NODES.octets(), &[0, 0], &length, &[0, 0, 0, ICMPV6], &message].concat();
    let sum = checksum(&pseudo).to_be_bytes();
    message.iter_mut().skip(2).zip(sum).for_each(|(byte, value)| *byte = value);
    let header = [&[0x60, 0, 0, 0][..], &length, &[ICMPV6, 255], &address.octets(), &ALL_NODES.octets()].concat();
    [header, message].concat()
}

#[cfg(test)]
mod tests {
    //! Must catch: an advertisement that every host drops.

    use super::*;

    #[test]
    fn frames() {
        let mac = [2, 1, 2, 3, 4, 5];
        let arp = arp(mac, [10, 224, 0, 200].into());
        assert_eq!(arp.len(), 28);
        assert_eq!(
            (&arp[6..8], &arp[14..18], &arp[24..]),
            (&[0, 1][..], &[10, 224, 0, 200][..], &[10, 224, 0, 200][..])
        );
        let own = Ipv6Addr::new(0xfd10, 0x224, 0, 0, 0, 0, 0, 0x200);
        let packet = advertisement(mac, own);
        assert_eq!((packet.len(), &packet[4..8]), (72, &[0, 32, 58, 255][..]));
        let pseudo = [&packet[8..40], &[0, 0, 0, 32, 0, 0, 0, 58], &packet[40..]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }
}
