//! Each family and order of families, from blocks to packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::{ensure, eventually, secs};
use overlane_suites::{Ns, ip, nft, packet};
use serde_json::Value;

use crate::outside::nobody_outside_gets_in;
use crate::{LIMIT, Stage};

/// A block as this file understands it: family, index within its pod CIDR.
fn index_of(block: &str) -> (bool, u128) {
    let (network, len) = block.split_once('/').unwrap();
    match network.parse().unwrap() {
        IpAddr::V4(v4) => {
            assert_eq!(len, "24", "{block}");
            (true, u128::from((u32::from(v4) - u32::from(Ipv4Addr::new(10, 244, 0, 0))) >> 8))
        }
        IpAddr::V6(v6) => {
            assert_eq!(len, "80", "{block}");
            let base: Ipv6Addr = "fd12:3456:789a::".parse().unwrap();
            (false, (u128::from(v6) - u128::from(base)) >> 48)
        }
    }
}

fn offset_of(ip: IpAddr, block: &str) -> u128 {
    let network: IpAddr = block.split('/').next().unwrap().parse().unwrap();
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => u128::from(u32::from(ip) - u32::from(network)),
        (IpAddr::V6(ip), IpAddr::V6(network)) => u128::from(ip) - u128::from(network),
        _ => panic!("{ip} and {block} are of two families"),
    }
}

fn whole_family_suite(families: &str) {
    let order: Vec<bool> = families.split(',').map(|f| f == "ipv4").collect();
    let stage = Stage::new(families);
    let mut began = Instant::now();
    let mut done = |what: &str| {
        println!("{families}: {what} took {:.1} s", began.elapsed().as_secs_f64());
        began = Instant::now();
    };
    blocks_and_addresses(&stage, &order);
    done("blocks and addresses");
    everybody_inside_reaches_everybody(&stage);
    done("everybody to everybody");
    the_world_sees_the_node(&stage);
    done("the world");
    nobody_outside_gets_in(&stage);
    done("no way in");
    stage.lab.cli("check", &[]).must();
    check_catches_planted_faults(&stage);
}

#[test]
fn ipv4_only() {
    whole_family_suite("ipv4");
}

#[test]
fn ipv6_only() {
    whole_family_suite("ipv6");
}

#[test]
fn dual_stack() {
    whole_family_suite("ipv4,ipv6");
}

#[test]
fn dual_stack_ipv6_first() {
    whole_family_suite("ipv6,ipv4");
}

fn blocks_and_addresses(stage: &Stage, order: &[bool]) {
    let mut indexes = std::collections::BTreeSet::new();
    for node in stage.lab.nodes() {
        let blocks = stage.lab.api.blocks(&node.name);
        let found: Vec<(bool, u128)> = blocks.iter().map(|b| index_of(b)).collect();
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), order, "{}: {blocks:?}", node.name);
        assert!(found.iter().all(|f| f.1 == found[0].1), "one index in both families: {blocks:?}");
        assert!(indexes.insert(found[0].1), "{}: block of another node: {blocks:?}", node.name);
        let spec = stage.lab.api.node(&node.name)["spec"].clone();
        assert_eq!(spec["podCIDRs"], serde_json::json!(blocks));
        assert_eq!(spec["podCIDR"], blocks[0].as_str());
        let nnc = stage.lab.api.nnc(&node.name).unwrap();
        for (entry, is_v4) in nnc["status"]["networkContainers"].as_array().unwrap().iter().zip(order) {
            let around = if *is_v4 { "10.244.0.0/16" } else { "fd12:3456:789a::/64" };
            assert_eq!(entry["subnetAddressSpace"], around);
            assert_eq!((&entry["type"], &entry["assignmentMode"]), (&Value::from("overlay"), &Value::from("static")));
            let node_ip: IpAddr = entry["nodeIP"].as_str().unwrap().parse().unwrap();
            assert!(node_ip.is_ipv4() == *is_v4 && node.ips().contains(&node_ip), "{entry}");
        }
    }
    for (pod, at) in stage.pods.iter().zip([0, 0, 1]) {
        let blocks = stage.lab.api.blocks(&stage.lab.node(at).name);
        assert_eq!(pod.ips.iter().map(IpAddr::is_ipv4).collect::<Vec<_>>(), order, "{pod:?}");
        let offsets: Vec<u128> = pod.ips.iter().zip(&blocks).map(|(ip, block)| offset_of(*ip, block)).collect();
        assert!(offsets.iter().all(|o| *o == offsets[0] && (1..=254).contains(o)), "{pod:?} in {blocks:?}");
        // In the kernel: these and no others, and nothing at all of a family that the cluster has not.
        let eth0: Vec<_> = ip::addresses(&pod.ns).into_iter().filter(|a| a.dev == "eth0").collect();
        assert_eq!(eth0.len(), pod.ips.len(), "{eth0:?}");
        assert!(eth0.iter().all(|a| pod.ips.contains(&a.ip) && a.prefix == if a.ip.is_ipv4() { 32 } else { 128 }));
        for (family, is_v4) in [("-4", true), ("-6", false)] {
            let routes = ip::family_routes(&pod.ns, family, "main");
            assert_eq!(routes.iter().any(|r| r.dst == "default"), order.contains(&is_v4), "{family} {routes:?}");
        }
    }
}

fn everybody_inside_reaches_everybody(stage: &Stage) {
    // Namespace, addresses, whether it is a pod, number of its node.
    let mut seats: Vec<(Ns, Vec<IpAddr>, bool, usize)> = Vec::new();
    for (pod, at) in stage.pods.iter().zip([0, 0, 1]) {
        seats.push((pod.ns.clone(), pod.ips.clone(), true, at));
    }
    for (at, node) in stage.lab.nodes().into_iter().enumerate() {
        seats.push((node.ns.clone(), node.ips(), false, at));
    }
    for (into, ips, to_pod, into_at) in &seats {
        for to in ips {
            let port = probe::port();
            let witness = Witness::new(into, *to, port);
            let at = SocketAddr::new(*to, port);
            for (from, own, from_pod, from_at) in &seats {
                if from.label == into.label {
                    continue;
                }
                // Only a pod that speaks to another node leaves the pod CIDRs: that node sees the pod's node.
                let leaves = *from_pod && !to_pod && from_at != into_at;
                let node = stage.lab.node(*from_at).ips();
                let own = if leaves { &node } else { own };
                let source = *own.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).unwrap();
                assert_eq!(probe::tcp(from, at, None, "hello", LIMIT), Ok(source), "{} -> {}", from.label, into.label);
                assert_eq!(probe::udp(from, at, None, "hello", LIMIT), Ok(source), "{} -> {}", from.label, into.label);
                packet::ping(from, *to, 56, LIMIT).unwrap();
                // Full-size, and larger than a packet.
                packet::ping(from, *to, 1400, LIMIT).unwrap();
                packet::ping(from, *to, 4000, LIMIT).unwrap();
            }
            assert!(witness.seen().len() >= 2 * (seats.len() - 1));
        }
    }
}

fn the_world_sees_the_node(stage: &Stage) {
    for outside in [stage.lab.internet(), stage.lab.vm()] {
        for (pod, at) in stage.pods.iter().zip([0, 0, 1]) {
            for own in &pod.ips {
                let to = SocketAddr::new(stage.outside(&outside, *own), probe::port());
                let _witness = Witness::new(&outside, *own, to.port());
                let node = stage.lab.node(at).ips().into_iter().find(|ip| ip.is_ipv4() == own.is_ipv4()).unwrap();
                assert_eq!(probe::tcp(&pod.ns, to, None, "hello", LIMIT), Ok(node), "source at {}", outside.label);
                assert_eq!(probe::udp(&pod.ns, to, None, "hello", LIMIT), Ok(node), "source at {}", outside.label);
                packet::ping(&pod.ns, to.ip(), 1400, LIMIT).unwrap();
            }
        }
    }
}

/// Faults that no agent repairs, because the objects are not its own.
fn check_catches_planted_faults(stage: &Stage) {
    let (node, other) = (stage.lab.node(0), stage.lab.node(1));
    let block = stage.lab.api.blocks(&other.name)[0].clone();
    let family = if block.contains(':') { "-6" } else { "-4" };
    let hook = "add chain inet sabotage c { type filter hook forward priority 0 ; }";
    let drop_some =
        |what: &str| vec![hook.to_owned(), format!("add rule inet sabotage c oifname \"ovlp*\" {what} drop")];
    let faults: [(&str, Vec<String>, &str); 6] = [
        (
            "no way to another node's pods",
            vec![format!("ip {family} rule add pref 900 to {block} prohibit")],
            "pod to pod",
        ),
        ("UDP to the node's pods lost", drop_some("meta l4proto udp"), "pod to pod"),
        ("full-size packets to the node's pods lost", drop_some("meta length > 1300"), "pod to pod"),
        ("pings of the node's pods lost", drop_some("meta l4proto { icmp, ipv6-icmp }"), "pod to pod"),
        ("strangers let in", vec!["flush chain inet overlane to_pod".into()], "vm to pod"),
        ("pods' own addresses seen outside", vec!["flush chain inet overlane masq".into()], "pod to internet"),
    ];
    // A check that meets packets lost takes its time: all of them in one lab, the first in each.
    let count = if stage.pods[0].ips.len() == 2 && stage.pods[0].ips[0].is_ipv4() { faults.len() } else { 1 };
    for (what, lines, word) in faults.into_iter().take(count) {
        let by_rule = lines[0].starts_with("ip ");
        if by_rule {
            node.ns.must(&lines[0]);
        } else {
            node.ns.must("nft add table inet sabotage");
            lines.iter().for_each(|line| drop(node.ns.sh(&["nft", line]).must()));
        }
        let over = AtomicBool::new(false);
        let checked = std::thread::scope(|scope| {
            // What is ours the agent puts right whenever it looks.
            scope.spawn(|| {
                while lines[0].starts_with("flush") && !over.load(Ordering::Relaxed) {
                    node.ns.sh(&["nft", &lines[0]]);
                }
            });
            let checked = stage.lab.cli("check", &[]);
            over.store(true, Ordering::Relaxed);
            checked
        });
        if by_rule {
            node.ns.must(&lines[0].replace(" add ", " del "));
        } else {
            node.ns.must("nft delete table inet sabotage");
        }
        assert_eq!(checked.code, Some(1), "{what}: {checked}");
        assert!(checked.stdout.contains(word), "{what} is found by packets: {checked}");
    }
    eventually(secs(90), "the audit puts right what the last faults broke", || {
        let text = nft::own_text(&node.ns);
        ensure(text.contains("no way in: all else") && text.contains("masquerade: as the"), || text.clone())
    });
    stage.lab.cli("check", &[]).must();
}
