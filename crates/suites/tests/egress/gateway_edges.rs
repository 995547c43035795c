//! Gateways where packets are larger than the network's, and where the kernel lacks what leads to them.
//!
//! Must catch: a pod that leaves by its own node because there is no way to its gateway.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use overlane_suites::far::Far;
use overlane_suites::lab::Pod;
use overlane_suites::wait::{ensure, eventually, holds, secs};
use overlane_suites::{Ns, probe};

use super::office::{Office, is_seen};
use super::{FAMILIES, address_like, seen_within};

/// More than an Ethernet frame takes, less than a datagram's most.
const LARGE: usize = 20_000;

/// A datagram in many fragments there and back; whom the far side saw.
fn there_and_back(pod: &Pod, outside: &Ns, own: IpAddr) -> IpAddr {
    let at = SocketAddr::new(address_like(outside, own), probe::port());
    let far = outside.udp(at, secs(2));
    let any: SocketAddr = if own.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let near = pod.ns.udp(any, secs(2));
    let sent: Vec<u8> = (0..LARGE).map(|i| (i % 251) as u8).collect();
    let mut room = vec![0; 1 << 16];
    let mut carry = |by: &UdpSocket, to: SocketAddr, at: &UdpSocket, what: &str| {
        // In IPv6 the sender alone makes fragments: of the first it hears that they are too large for the tunnel (RFC 8201).
        let arrived = (0..3).find_map(|_| {
            let _ = by.send_to(&sent, to);
            at.recv_from(&mut room).ok()
        });
        let (length, from) = arrived.unwrap_or_else(|| panic!("{} {what} {to}: nothing arrives", pod.name));
        assert!(room[..length] == sent, "{} {what} {to}: {length} bytes of {LARGE}", pod.name);
        from
    };
    let from = carry(&near, at, &far, "to");
    carry(&far, from, &near, "hears by");
    from.ip()
}

#[test]
fn what_is_larger_than_a_packet_arrives_whole() {
    for routing in ["native", "vxlan"] {
        let office = Office::new(2, FAMILIES[0], &[1], &["--routing", routing]);
        office.open(1);
        for node in [0, 1] {
            let pod = office.run(&format!("p{node}"), node, true);
            for own in &pod.ips {
                is_seen(&pod, &office.internet, *own, office.egress(*own), routing);
                for _ in 0..3 {
                    let seen = there_and_back(&pod, &office.internet, *own);
                    assert_eq!(seen, office.egress(*own), "{routing}: from node {node}");
                }
            }
        }
    }
}

/// A tunnel by entries of the link's forwarding table leads to nodes, and not to slots.
#[test]
fn without_routes_that_encapsulate_other_nodes_pods_are_cut_and_it_is_said() {
    let office = Office::new(2, FAMILIES[0], &[1], &[]);
    office.open(1);
    let pods = [office.run("p0", 0, true), office.run("p1", 1, true)];
    for own in &pods[0].ips {
        is_seen(&pods[0], &office.internet, *own, office.egress(*own), "before");
    }
    let far = Far::on(&office.internet);
    let agents =
        [0, 1].map(|number| overlane_suites::agent::Agent::take_with(&office.nodes[number], &["--tunnel", "entries"]));
    office.at(1);
    eventually(secs(20), "what is missing is said", || {
        let name = &office.nodes[0].name;
        let state = office.lab.api.get(&format!("/apis/overlane.io/v1alpha1/nodestates/{name}"));
        let text = state.to_string();
        ensure(text.contains("no routes that encapsulate"), || text.clone())
    });
    for own in &pods[0].ips {
        holds(secs(2), "it is cut", || {
            let seen = seen_within(&pods[0], &office.internet, *own, secs(1));
            ensure(seen.is_none(), || format!("{own} is seen as {seen:?}"))
        });
    }
    // At the gateway itself nothing has to lead anywhere.
    for own in &pods[1].ips {
        is_seen(&pods[1], &office.internet, *own, office.egress(*own), "at the gateway");
    }
    far.only(&office.slot(0)).unwrap();
    drop(agents);
}
