//! Packets of pods that Debian's ptp and bridge wire, in every family: nothing of ours is in their way.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use overlane_suites::probe::{self, Witness};
use overlane_suites::runtime::Sandbox;
use overlane_suites::wait::{eventually, millis, secs};
use overlane_suites::{Lab, NodeHandle, Ns, clean, ip, nft, packet};
use serde_json::json;

use crate::{gateways, node, runtime, settled};

const LIMIT: Duration = Duration::from_secs(2);

fn like(ips: &[IpAddr], other: IpAddr) -> IpAddr {
    *ips.iter().find(|ip| ip.is_ipv4() == other.is_ipv4()).unwrap_or_else(|| panic!("nothing like {other} in {ips:?}"))
}

fn reaches(from: &Ns, to: IpAddr, what: &str) {
    eventually(secs(5), what, || packet::ping(from, to, 56, millis(500)).map(|_| ()));
}

/// Both ways, by ICMP and TCP, and nobody changes an address.
fn talk(a: (&Ns, &[IpAddr]), b: (&Ns, &[IpAddr]), what: &str) {
    for (from, to) in [(a, b), (b, a)] {
        for address in to.1 {
            reaches(from.0, *address, &format!("{what}: {} to {address}", from.0.label));
            let port = probe::port();
            let _witness = Witness::new(to.0, *address, port);
            let seen = probe::tcp(from.0, SocketAddr::new(*address, port), None, "hello", LIMIT);
            assert_eq!(seen, Ok(like(from.1, *address)), "{what}: {} to {address}", from.0.label);
        }
    }
}

/// Two pods of the plugin among themselves, and with the node, pods of ours here and elsewhere, and the world.
fn judge(lab: &Lab, node: &NodeHandle, remote: Option<&NodeHandle>, plugin: &str) {
    let delegating = runtime(node, plugin, &format!("traffic-{plugin}"), &json!({}));
    let (mut one, mut two) = (Sandbox::new(), Sandbox::new());
    delegating.add(&mut one).must();
    delegating.add(&mut two).must();
    settled(node, &[&one, &two]);
    let dropped = |what: &str| nft::counter(&node.ns, what);
    let before = (dropped("forged"), dropped("spoofed"));
    let (ips_one, ips_two) = (one.ips(), two.ips());
    let at = |sandbox: &Sandbox| sandbox.net.ns.clone();
    let (ns_one, ns_two) = (at(&one), at(&two));
    talk((&ns_one, &ips_one), (&ns_two, &ips_two), &format!("{plugin}, one node"));
    for (address, gateway) in ips_one.iter().zip(gateways(&one)) {
        reaches(&ns_one, gateway, &format!("{plugin}: the gateway"));
        reaches(&node.ns, *address, &format!("{plugin}: from the node"));
        reaches(&ns_one, like(&node.ips(), *address), &format!("{plugin}: to the node"));
    }
    if plugin == "ptp" {
        let (own, mut pod) = (node.runtime(), Sandbox::new());
        own.add(&mut pod).must();
        talk((&ns_one, &ips_one), (&at(&pod), &pod.ips()), "ptp and a pod of ours");
        own.del(&pod).must();
    }
    if let Some(remote) = remote {
        let (own, mut pod) = (remote.runtime(), Sandbox::new());
        own.add(&mut pod).must();
        talk((&ns_one, &ips_one), (&at(&pod), &pod.ips()), &format!("{plugin} and a pod of another node"));
        for address in &ips_one {
            reaches(&remote.ns, *address, &format!("{plugin}: from another node"));
        }
        own.del(&pod).must();
    }
    let internet = lab.internet();
    for address in &ips_one {
        let to = like(&ip::global_addresses(&internet), *address);
        let port = probe::port();
        let _witness = Witness::new(&internet, to, port);
        let seen = probe::tcp(&ns_one, SocketAddr::new(to, port), None, "hello", LIMIT);
        assert_eq!(seen, Ok(like(&node.ips(), *address)), "{plugin}: outside, masqueraded");
    }
    assert_eq!((dropped("forged"), dropped("spoofed")), before, "{plugin}: nothing was taken for forged");
    delegating.check(&one).must();
    delegating.del(&one).must();
    settled(node, &[&two]);
    reaches(&node.ns, ips_two[0], "the other pod stays");
    delegating.del(&two).must();
    settled(node, &[]);
}

#[test]
fn ptp_and_bridge_with_both_families() {
    let (_lock, here) = node(0);
    let (_other, there) = node(1);
    for plugin in ["ptp", "bridge"] {
        judge(crate::lab(), &here, Some(&there), plugin);
    }
}

#[test]
fn ptp_and_bridge_with_one_family() {
    clean::begin();
    for families in ["ipv4", "ipv6"] {
        let lab = Lab::up(&["--nodes", "1", "--ip-families", families]);
        let node = lab.node(0);
        node.agent_ready();
        for plugin in ["ptp", "bridge"] {
            judge(&lab, &node, None, plugin);
        }
        link_local(&node, families);
    }
}

/// Why `block` is the default: ptp and bridge give pods a default route by the gateway while it is not on the link, which
/// the kernel takes of IPv6 alone; and a bridge has a link-local address of its own by then.
fn link_local(node: &NodeHandle, families: &str) {
    for plugin in ["ptp", "bridge"] {
        let delegating = runtime(node, plugin, "link-local", &json!({"gateway": "link-local"}));
        let mut sandbox = Sandbox::new();
        let answer = delegating.add(&mut sandbox);
        if (plugin, families) == ("ptp", "ipv6") {
            answer.must();
            reaches(&node.ns, sandbox.ips()[0], "ptp with fe80::1: from the node");
            reaches(&sandbox.net.ns, node.ips()[0], "ptp with fe80::1: to the node");
            delegating.del(&sandbox).must();
        } else {
            assert!(!answer.out.ok(), "{plugin} takes a link-local gateway of {families} by now: {}", answer.out);
            delegating.del(&sandbox).must();
        }
        // A main plugin that fails gives its address back.
        settled(node, &[]);
    }
}

/// A packet from the segment with such a pod's address is nobody's here.
#[test]
fn nobody_outside_is_taken_for_such_a_pod() {
    let (_lock, node) = node(0);
    let delegating = runtime(&node, "ptp", "forged", &json!({}));
    let mut sandbox = Sandbox::new();
    delegating.add(&mut sandbox).must();
    settled(&node, &[&sandbox]);
    let own = sandbox.ips()[0];
    let vm = crate::lab().vm();
    vm.must(&format!("ip addr add {own}/32 dev lo"));
    let before = nft::counter(&node.ns, "forged");
    let port = probe::port();
    let to = like(&node.ips(), own);
    let witness = Witness::new(&node.ns, to, port);
    probe::fire(&vm, SocketAddr::new(to, port), Some(own), "forged", 3);
    eventually(secs(5), "the drop is counted", || {
        let now = nft::counter(&node.ns, "forged");
        overlane_suites::wait::ensure(now > before, || format!("{now}"))
    });
    vm.must(&format!("ip addr del {own}/32 dev lo"));
    assert!(!witness.saw("forged"));
    delegating.del(&sandbox).must();
    settled(&node, &[]);
}
