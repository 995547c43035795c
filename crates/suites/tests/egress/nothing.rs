//! `outboundType: none`.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use overlane_suites::runtime::Sandbox;
use overlane_suites::wait::{millis, secs};
use overlane_suites::{ip, nft, packet, probe};
use serde_json::json;

use super::{FAMILIES, Stage, address_like, nothing_is_left, seen_as, seen_within};

#[test]
fn nothing_leaves_and_it_is_counted() {
    for families in FAMILIES {
        let stage = Stage::new(families, &[]);
        let (internet, vm) = (stage.lab.internet(), stage.lab.vm());
        let (pod, other) = (&stage.pods[0], &stage.pods[1]);
        let node = &stage.nodes[0].ns;
        let clean = ip::snapshot(node);
        // A connection that is there when the way is closed.
        let mut open = Vec::new();
        for own in &pod.ips {
            let at = SocketAddr::new(address_like(&internet, *own), probe::port());
            let listener = internet.listen(at);
            let client = pod.ns.connect(at, None, secs(2)).unwrap();
            let (server, _) = listener.accept().unwrap();
            server.set_read_timeout(Some(millis(700))).unwrap();
            open.push((client, server));
        }
        stage.egress("none", &json!({}));
        for own in &pod.ips {
            let before = nft::counter(node, "no_way_out");
            seen_as(pod, &internet, *own, None, "nothing reaches the internet");
            seen_as(pod, &vm, *own, None, "nothing reaches another host of the nodes' network");
            assert!(nft::counter(node, "no_way_out") > before, "it is counted");
            // Pods, nodes, and who asks from outside by a node's port.
            packet::ping(&pod.ns, other.ip_like(*own), 56, secs(2)).unwrap();
            packet::ping(&pod.ns, stage.node_like(0, *own), 56, secs(2)).unwrap();
            packet::ping(&pod.ns, stage.node_like(1, *own), 56, secs(2)).unwrap();
            packet::ping(node, *own, 56, secs(2)).unwrap();
            packet::ping(&stage.nodes[1].ns, *own, 56, secs(2)).unwrap();
        }
        for (client, server) in &mut open {
            client.write_all(b"still there?").unwrap();
            let read = server.read(&mut [0; 64]);
            assert!(read.is_err(), "what was open is cut: {read:?}");
        }
        // The node's own packets are not the pods'.
        for own in &pod.ips {
            packet::ping(node, address_like(&internet, *own), 56, secs(2)).unwrap();
        }
        exceptions(&stage);
        stage.egress("loadBalancer", &json!({"internalCIDRs": null}));
        for own in &pod.ips {
            seen_as(pod, &internet, *own, Some(stage.node_like(0, *own)), "as before");
        }
        nothing_is_left(node, &clean);
    }
}

/// What is internal goes out as ever; what is not masqueraded bears the pod's address.
fn exceptions(stage: &Stage) {
    let (internet, vm, pod) = (stage.lab.internet(), stage.lab.vm(), &stage.pods[0]);
    let maps = "/api/v1/namespaces/kube-system/configmaps/ip-masq-agent";
    let fragment = "nonMasqueradeCIDRs: [\"10.224.0.0/16\", \"fd10:224::/64\"]\n";
    stage.lab.api.config_map("kube-system", "ip-masq-agent", &json!({}), &json!({"config": fragment}));
    for own in &pod.ips {
        seen_as(pod, &vm, *own, Some(*own), "what is not masqueraded is inside");
    }
    stage.lab.api.delete(maps);
    let internal = json!({"internalCIDRs": ["203.0.113.0/24", "2001:db8:113::/64"]});
    stage.egress("none", &internal);
    for own in &pod.ips {
        seen_as(pod, &internet, *own, Some(stage.node_like(0, *own)), "what is internal is masqueraded as ever");
        assert_eq!(seen_within(pod, &vm, *own, millis(300)), None, "the rest is not");
    }
}

/// Who asks through a node's port is answered.
#[test]
fn answers_leave() {
    let stage = Stage::new("ipv4,ipv6", &[]);
    stage.egress("none", &json!({}));
    let vm = stage.lab.vm();
    let node = &stage.nodes[0];
    let runtime = node.runtime();
    let port = probe::port();
    let ports = json!([{"hostPort": port, "containerPort": 8080, "protocol": "tcp"}]);
    let mut sandbox = Sandbox::new();
    runtime.add_with(&mut sandbox, &json!({"runtimeConfig": {"portMappings": ports}})).must();
    for own in sandbox.ips() {
        let inside = sandbox.net.ns.listen(SocketAddr::new(own, 8080));
        let at = SocketAddr::new(stage.node_like(0, own), port);
        let mut client = vm.connect(at, None, secs(2)).unwrap_or_else(|e| panic!("{at}: {e}"));
        let (mut server, _) = inside.accept().unwrap();
        server.write_all(b"hello").unwrap();
        let mut word = [0; 5];
        client.read_exact(&mut word).unwrap();
    }
    runtime.del(&sandbox).must();
}
