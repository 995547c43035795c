//! The node's ports, which flows of pods share.

use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;

use overlane_suites::lab::Pod;
use overlane_suites::probe;
use overlane_suites::wait::{ensure, eventually, secs};

use super::{Stage, address_like};

#[test]
fn ports_that_are_held_are_counted_by_destination() {
    let stage = Stage::new("ipv4,ipv6", &["--agent-arg=--audit-interval=1"]);
    let (pod, node, internet) = (&stage.pods[0], &stage.nodes[0], stage.lab.internet());
    for own in &pod.ips {
        let family = if own.is_ipv4() { "IPv4" } else { "IPv6" };
        let to = address_like(&internet, *own);
        // Each from a port of its own: 150 flows to one destination, 60 to another.
        for (port, count) in [(probe::port(), 150), (probe::port(), 60)] {
            hold(pod, SocketAddr::new(to, port), 31_000..31_000 + count);
        }
        eventually(secs(10), "the busiest destination's ports", || {
            let label = format!("family=\"{family}\",protocol=\"udp\"");
            let held = node.metric("overlane_snat_ports_used", &label);
            ensure((held - 150.0).abs() < 0.5, || format!("{family}: {held}"))
        });
    }
    assert!((node.metric("overlane_snat_ports_limit", "") - 64_512.0).abs() < 0.5);
    assert!(node.metric("overlane_conntrack_entries", "") >= 400.0);
    assert!(node.metric("overlane_conntrack_limit", "") >= node.metric("overlane_conntrack_entries", ""));
    scarce(&stage);
}

/// Has a pod send once from each of these ports.
fn hold(pod: &Pod, to: SocketAddr, ports: Range<u16>) {
    pod.ns.run(|| {
        for port in ports {
            let socket = UdpSocket::bind((probe::any(to.ip()), port)).unwrap();
            let _ = socket.send_to(b"hold", to);
        }
    });
}

/// Four ports of five are held: that is said.
fn scarce(stage: &Stage) {
    let node = &stage.nodes[0];
    let path = format!("/apis/overlane.io/v1alpha1/nodestates/{}", node.name);
    let says = || stage.lab.api.get(&path)["spec"]["conditions"].to_string();
    assert!(!says().contains("SnatPortsScarce"), "{}", says());
    let own = stage.pods[0].ips[0];
    let to = SocketAddr::new(address_like(&stage.lab.internet(), own), probe::port());
    let second = stage.lab.run_pod("second", &node.name);
    for pod in [&stage.pods[0], &second] {
        hold(pod, to, 32_000..58_500);
    }
    eventually(secs(20), "ports run out", || {
        let said = says();
        ensure(said.contains("SnatPortsScarce") && said.contains(&to.to_string()), || said.clone())
    });
}
