//! The node's ports, which flows of pods share.

use std::net::{SocketAddr, UdpSocket};

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
            for _ in 0..count {
                probe::fire(&pod.ns, SocketAddr::new(to, port), None, "hold", 1);
            }
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
        pod.ns.run(|| {
            for port in 32_000..58_500 {
                let socket = UdpSocket::bind((probe::any(own), port)).unwrap();
                let _ = socket.send_to(b"hold", to);
            }
        });
    }
    eventually(secs(20), "ports run out", || {
        let said = says();
        ensure(said.contains("SnatPortsScarce") && said.contains(&to.to_string()), || said.clone())
    });
}
