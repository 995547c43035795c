//! A device that does not make the checksums that it promises to make.
//!
//! Must catch: a tunnel whose packets all arrive and are all thrown away.

use std::net::IpAddr;

use overlane_suites::wait::{ensure, eventually, secs};
use overlane_suites::{Ns, ip};

use super::fabric::said;
use crate::{LINK, Stage};

/// Bytes of what the agent asks with: a UDP header, and the question.
const LENGTH: u16 = 8 + 22;

/// What stands for the checksum while somebody is still to make it: the sum of the pseudo header (RFC 768; RFC 8200,
/// section 8.1).
fn unmade(from: IpAddr, to: IpAddr) -> u16 {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let all = [bytes(from), bytes(to)].concat();
    let words = all.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum::<u32>() + 17 + u32::from(LENGTH);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

fn in_tunnel(ns: &Ns) -> Vec<IpAddr> {
    let found = ip::addresses(ns).into_iter().filter(|found| found.dev == LINK);
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    found.map(|found| found.ip).filter(|ip| !link_local(ip)).collect()
}

#[test]
fn they_are_made_in_software() {
    let stage = Stage::new(2, "ipv4,ipv6", &["--routing", "vxlan"]);
    let (near, far) = (&stage.nodes[0], &stage.nodes[1]);
    let agent = near.take_agent();
    agent.kill();
    let mut rules = String::new();
    for to in in_tunnel(&far.ns) {
        let from = in_tunnel(&near.ns).into_iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).unwrap();
        let family = if to.is_ipv4() { "ip" } else { "ip6" };
        rules += &format!("{family} daddr {to} udp dport 1 udp checksum {} counter drop\n", unmade(from, to));
    }
    let table =
        format!("table inet nic {{\n chain in {{\n type filter hook prerouting priority -500\n{rules} }}\n}}\n");
    far.ns.feed(&["nft", "-f", "-"], &table).must();
    agent.start();
    let degraded = |node: &str| said(&stage.lab, node, "Degraded");
    eventually(secs(20), "the node says so", || {
        let now = degraded(&near.name);
        ensure(now.1 == "ChecksumOffloadBroken", || format!("{now:?}"))
    });
    eventually(secs(5), "the device has dropped what nobody had made", || {
        let listed = far.ns.sh(&["nft", "list", "table", "inet", "nic"]).stdout;
        let dropped = listed.matches("counter packets").count() - listed.matches("counter packets 0").count();
        ensure(dropped > 0, || listed)
    });
    assert_eq!(degraded(&far.name).1, "AsItShouldBe", "the other node's is sound");
    far.ns.must("nft delete table inet nic");
}
