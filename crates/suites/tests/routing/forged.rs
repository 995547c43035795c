//! Outer and inner packets made by hand: from a VM, from a pod, from a node that speaks for another.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use overlane_suites::lab::Pod;
use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::millis;
use overlane_suites::{Ns, ip, nft, packet};

use crate::{LINK, PORT, Stage};

/// The network that labs have unless they are told another.
const VNI: u32 = 28_534;

struct Forger<'a> {
    /// Where it is sent from.
    ns: &'a Ns,
    /// The outer source, if it is not the sender's own.
    outer: Option<IpAddr>,
    /// The tunnel's identifier.
    vni: u32,
    /// The Ethernet source inside.
    mac: [u8; 6],
    /// The inner source.
    source: IpAddr,
}

fn mac(ns: &Ns, link: &str) -> [u8; 6] {
    let text = ip::link(ns, link).unwrap().mac;
    let octets: Vec<u8> = text.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    octets.try_into().unwrap()
}

impl Forger<'_> {
    /// Whether the pod gets it, by the tunnel of its node.
    fn reaches(&self, node: &Ns, outer_to: IpAddr, pod: &Pod) -> bool {
        let port = probe::port();
        let to = SocketAddr::new(pod.ip_like(self.source), port);
        let witness = Witness::new(&pod.ns, self.source, port);
        let word = format!("forged-{}-{port}", self.source);
        let inner = packet::udp(SocketAddr::new(self.source, 7777), to, word.as_bytes());
        let frame = packet::vxlan(self.vni, mac(node, LINK), self.mac, &inner);
        self.ns.run(|| {
            let any: IpAddr = if outer_to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((self.outer.unwrap_or(any), 0)).unwrap();
            for _ in 0..5 {
                socket.send_to(&frame, (outer_to, PORT)).unwrap();
            }
        });
        std::thread::sleep(millis(300));
        witness.saw(&word)
    }
}

#[test]
fn the_tunnel_takes_packets_from_nodes_alone_and_of_their_own_pods_alone() {
    let stage = Stage::new(3, "ipv4,ipv6", &["--routing", "vxlan"]);
    let (vm, [here, there, third]) = (stage.lab.vm(), [0, 1, 2].map(|number| &stage.nodes[number]));
    let [a, b, c, d] = [0, 1, 2, 3].map(|number| &stage.pods[number]);
    let forged = || nft::counter(&here.ns, "forged");
    for outer_to in here.ips() {
        for source in &c.ips {
            let honest = Forger { ns: &there.ns, outer: None, vni: VNI, mac: mac(&there.ns, LINK), source: *source };
            assert!(
                honest.reaches(&here.ns, outer_to, a),
                "by {outer_to} from {source}: what a node sends for its pod"
            );
            let before = forged();
            // Nobody else may send it, whatever is inside.
            let by_vm = Forger { ns: &vm, ..honest };
            assert!(!by_vm.reaches(&here.ns, outer_to, a), "a VM, by {outer_to} as {source}");
            let by_pod = Forger { ns: &b.ns, ..honest };
            assert!(!by_pod.reaches(&here.ns, outer_to, a), "a pod of the node, by {outer_to} as {source}");
            // What it sends leaves as its node's, which is the one that may.
            let by_neighbour = Forger { ns: &c.ns, ..honest };
            assert!(!by_neighbour.reaches(&here.ns, outer_to, a), "a pod of the other node, by {outer_to} as {source}");
            // A node for another's pods, by its own endpoint and by the other's.
            let for_another = Forger { ns: &third.ns, mac: mac(&third.ns, LINK), ..honest };
            assert!(!for_another.reaches(&here.ns, outer_to, a), "another node, by {outer_to} as {source}");
            let as_another = Forger { ns: &third.ns, ..honest };
            assert!(!as_another.reaches(&here.ns, outer_to, a), "another node's endpoint, by {outer_to} as {source}");
            // An address that is in no block of a peer.
            let own = Forger { source: b.ip_like(*source), ..honest };
            assert!(!own.reaches(&here.ns, outer_to, a), "a node as a pod of this one");
            let of_another = Forger { vni: VNI + 1, ..honest };
            assert!(!of_another.reaches(&here.ns, outer_to, a), "another network's, by {outer_to} as {source}");
            assert!(forged() >= before + 25, "dropped packets are counted: {before} -> {}", forged());
        }
    }
    // Bare, from a VM with a pod's address: as without a tunnel.
    for source in &d.ips {
        let bits = if source.is_ipv4() { 32 } else { 128 };
        vm.must(&format!("ip address add {source}/{bits} dev lo {}", if bits == 128 { "nodad" } else { "" }));
        let to = a.ip_like(*source);
        let via = here.ips().into_iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).unwrap();
        vm.must(&format!("ip route add {to}/{bits} via {via}"));
        let at = SocketAddr::new(to, probe::port());
        let witness = Witness::new(&a.ns, *source, at.port());
        probe::fire(&vm, at, Some(*source), "bare", 5);
        std::thread::sleep(millis(200));
        assert!(!witness.saw("bare"), "a bare packet of {source}");
        vm.must(&format!("ip route del {to}/{bits} via {via}"));
        vm.must(&format!("ip address del {source}/{bits} dev lo"));
    }
}

/// From the segment, with a node's address and its own MAC.
#[test]
fn a_vm_cannot_send_with_a_nodes_address() {
    let stage = Stage::new(2, "ipv4,ipv6", &["--routing", "vxlan"]);
    let (vm, here, there) = (stage.lab.vm(), &stage.nodes[0], &stage.nodes[1]);
    let (a, c) = (&stage.pods[0], &stage.pods[2]);
    // It forges packets and no more: nobody's neighbour table is to learn of its address.
    vm.set_sysctl("net/ipv4/conf/all/arp_ignore", "1");
    vm.set_sysctl("net/ipv4/conf/all/arp_announce", "2");
    for ip in here.ips() {
        packet::ping(&vm, ip, 56, std::time::Duration::from_secs(2)).unwrap();
    }
    for outer in there.ips() {
        let bits = if outer.is_ipv4() { 32 } else { 128 };
        let outer_to = here.ips().into_iter().find(|ip| ip.is_ipv4() == outer.is_ipv4()).unwrap();
        vm.must(&format!("ip address add {outer}/{bits} dev lo {}", if bits == 128 { "nodad" } else { "" }));
        for source in &c.ips {
            let forger = Forger { ns: &vm, outer: Some(outer), vni: VNI, mac: mac(&there.ns, LINK), source: *source };
            assert!(!forger.reaches(&here.ns, outer_to, a), "a VM as {outer}, inside {source}");
        }
        vm.must(&format!("ip address del {outer}/{bits} dev lo"));
    }
}
