//! Nodes whose addresses change, that have several interfaces, and that go without a word.
//!
//! Must catch: a route to an address that a node no longer has.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use overlane_suites::lab::NodeHandle;
use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Ns, ip, packet};
use serde_json::{Value, json};

use crate::{LINK, Stage};

/// Says to the API that a node has these addresses, as its kubelet would.
fn say(stage: &Stage, node: &NodeHandle, addresses: &[&str]) {
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    let path = format!("/api/v1/nodes/{}/status", node.name);
    stage.lab.api.merge(&path, &json!({"status": {"addresses": addresses}}));
}

/// What leads to other nodes from a namespace: next hops, of routes and inside their encapsulation.
fn ways(ns: &Ns) -> String {
    let list = |family: &str| ns.must(&format!("ip {family} route show proto 111")).stdout;
    list("-4") + &list("-6")
}

fn all_reach_each_other(stage: &Stage) {
    for from in &stage.pods {
        for to in stage.pods.iter().filter(|to| to.name != from.name) {
            for address in &to.ips {
                let what = format!("{} to {} at {address}", from.name, to.name);
                eventually(secs(5), &what, || packet::ping(&from.ns, *address, 1300, millis(500)));
            }
        }
    }
}

#[test]
fn a_nodes_new_addresses_are_followed() {
    for routing in ["native", "vxlan", "auto"] {
        let stage = Stage::new(3, "ipv4,ipv6", &["--routing", routing]);
        let moved = &stage.nodes[1];
        let old = moved.ips();
        let new = ["10.224.0.77", "fd10:224::77"];
        // Else the kernel takes the second address away with the first.
        moved.ns.set_sysctl("net/ipv4/conf/eth0/promote_secondaries", "1");
        moved.ns.must("ip address add 10.224.0.77/16 dev eth0");
        moved.ns.must("ip address add fd10:224::77/64 dev eth0 nodad");
        say(&stage, moved, &new);
        let said = Instant::now();
        for node in [&stage.nodes[0], &stage.nodes[2]] {
            eventually(secs(5), &format!("{}: {routing} routes follow", node.name), || {
                let ways = ways(&node.ns);
                let there = new.iter().any(|ip| ways.contains(&format!("{ip} ")));
                let gone = old.iter().all(|ip| !ways.contains(&format!("{ip} ")));
                ensure(there && gone, || ways.clone())
            });
        }
        println!("{routing}: routes followed {} ms after the API's word", said.elapsed().as_millis());
        for ip in &old {
            let bits = if ip.is_ipv4() { 16 } else { 64 };
            moved.ns.must(&format!("ip address del {ip}/{bits} dev eth0"));
        }
        all_reach_each_other(&stage);
        // Nodes reach pods, and pods nodes, by the new address.
        for own in &stage.pods[2].ips {
            eventually(secs(5), "another node reaches its pod", || {
                packet::ping(&stage.nodes[0].ns, *own, 56, millis(500))
            });
            eventually(secs(5), "it reaches its own pod", || packet::ping(&moved.ns, *own, 56, millis(500)));
        }
        for to in new {
            packet::ping(&stage.pods[0].ns, to.parse().unwrap(), 56, secs(2)).unwrap();
        }
    }
}

/// The address that the API says decides which interface is the primary one.
#[test]
fn of_several_interfaces_the_one_with_the_nodes_address_counts() {
    for routing in ["native", "vxlan"] {
        let stage = Stage::new(2, "ipv4,ipv6", &["--routing", routing]);
        let [one, two] = [&stage.nodes[0], &stage.nodes[1]];
        let path = format!("/run/netns/ovl-{}-{}", stage.lab.name, two.name);
        one.ns.must(&format!(
            "ip link add back0 mtu 1400 type veth peer name back0 mtu 1400 netns {}",
            path.rsplit('/').next().unwrap()
        ));
        let ends = [(one, "192.168.66.1", "fd66::1"), (two, "192.168.66.2", "fd66::2")];
        for (node, v4, v6) in ends {
            node.ns.must(&format!("ip address add {v4}/24 dev back0"));
            node.ns.must(&format!("ip address add {v6}/64 dev back0 nodad"));
            node.ns.must("ip link set back0 up");
        }
        for (node, v4, v6) in ends {
            say(&stage, node, &[v4, v6]);
        }
        let count = |ns: &Ns| {
            let link = ip::json(ns, "-s link show dev back0").swap_remove(0);
            link["stats64"]["tx"]["packets"].as_u64().unwrap()
        };
        for node in [one, two] {
            eventually(secs(10), &format!("{}: routes by the second interface", node.name), || {
                let ways = ways(&node.ns);
                ensure(ways.contains("192.168.66.") && !ways.contains("10.224.0."), || ways.clone())
            });
        }
        let before = count(&one.ns);
        all_reach_each_other(&stage);
        assert!(count(&one.ns) > before, "{routing}: pod packets go by the second interface");
        if routing == "vxlan" {
            let mtu = ip::link(&one.ns, LINK).unwrap().mtu;
            assert!((1330..=1350).contains(&mtu), "the tunnel fits the second interface: {mtu}");
        }
        // What leaves the cluster leaves by the first one, with its address.
        let internet = stage.lab.internet();
        for own in &stage.pods[0].ips {
            let to = ip::global_addresses(&internet).into_iter().find(|ip| ip.is_ipv4() == own.is_ipv4()).unwrap();
            let at = SocketAddr::new(to, probe::port());
            let _witness = Witness::new(&internet, to, at.port());
            let seen: IpAddr = probe::udp(&stage.pods[0].ns, at, None, "who", secs(2)).unwrap();
            let first = ip::global_addresses(&one.ns).into_iter();
            let first: Vec<IpAddr> = first
                .filter(|ip| ip.to_string().starts_with("10.224.") || ip.to_string().starts_with("fd10:224:"))
                .collect();
            assert!(first.contains(&seen), "{routing}: {own} is seen as {seen}, not one of {first:?}");
        }
    }
}

/// A machine that is thrown away, and its objects with it: nobody says goodbye.
#[test]
fn a_node_that_is_gone_is_routed_to_no_more() {
    for routing in ["native", "vxlan"] {
        let stage = Stage::new(3, "ipv4,ipv6", &["--routing", routing]);
        let gone = stage.nodes[2].name.clone();
        let blocks = stage.lab.api.blocks(&gone);
        let is_routed = |ns: &Ns| {
            let ways = ways(ns);
            blocks.iter().any(|block| ways.lines().any(|line| line.starts_with(&format!("{block} "))))
        };
        assert!(is_routed(&stage.nodes[0].ns), "{routing}: {blocks:?}");
        stage.lab.remove_node(&gone, false);
        let said = Instant::now();
        for node in &stage.nodes[..2] {
            eventually(secs(10), &format!("{}: {routing} routes go", node.name), || {
                ensure(!is_routed(&node.ns), || ways(&node.ns))
            });
        }
        println!("{routing}: routes went {} ms after the machine", said.elapsed().as_millis());
        for to in &stage.pods[2].ips {
            packet::ping(&stage.pods[0].ns, *to, 1300, secs(2)).unwrap();
        }
    }
}
