//! Packets with a source that their sender has not.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, OnceLock};

use overlane_suites::books::{self, Live};
use overlane_suites::lab::Pod;
use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::{eventually, millis, secs};
use overlane_suites::{Ns, clean, ip, nft, packet};

use crate::outside::ForeignRoute;
use crate::{LIMIT, NOBODY, Stage};

/// One dual-stack lab for the tests of forged packets; they change their pods' namespaces, so they take turns.
fn shared() -> (std::sync::MutexGuard<'static, ()>, &'static Stage) {
    static TURN: Mutex<()> = Mutex::new(());
    static STAGE: OnceLock<Stage> = OnceLock::new();
    clean::begin();
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    (turn, STAGE.get_or_init(|| Stage::new("ipv4,ipv6")))
}

/// Sends from `source`, which does not belong there, and sees that nothing arrives and that the node counts it.
fn forged_is_dropped(from: &Ns, source: IpAddr, into: &Pod, judge: &Ns, counter: &str) {
    let to = SocketAddr::new(into.ip_like(source), probe::port());
    let witness = Witness::new(&into.ns, source, to.port());
    let word = format!("forged-{source}");
    let before = nft::counter(judge, counter);
    probe::fire(from, to, Some(source), &word, 5);
    std::thread::sleep(millis(200));
    assert!(!witness.saw(&word), "{} sent as {source}, and {} got it", from.label, into.name);
    let after = nft::counter(judge, counter);
    let what = format!("5 packets of {} as {source} to {}", from.label, into.name);
    assert!(after >= before + 5, "counter {counter} of {}: {before} -> {after} after {what}", judge.label);
}

#[test]
fn a_pod_cannot_use_a_foreign_address() {
    let (_turn, stage) = shared();
    let node = stage.lab.node(0);
    let [a, b, c] = [&stage.pods[0], &stage.pods[1], &stage.pods[2]];
    let strangers =
        ["10.244.77.77", "198.51.100.7", "10.0.0.1", "127.9.9.9", "fd12:3456:789a:0:77::77", "2001:db8:113::77"];
    let mut sources: Vec<IpAddr> = strangers.iter().map(|s| s.parse().unwrap()).collect();
    sources.extend(b.ips.iter().chain(&c.ips).copied());
    sources.extend(node.ips());
    for source in sources {
        let bits = if source.is_ipv4() { 32 } else { 128 };
        // 127/8 leaves no host by itself: only the address check is asked here.
        if source.is_loopback() {
            continue;
        }
        a.ns.must(&format!("ip address add {source}/{bits} dev eth0 {}", if bits == 128 { "nodad" } else { "" }));
        // To a pod on the same node and to one on another; never to the address that is forged.
        for into in [b, c] {
            if !into.ips.contains(&source) {
                forged_is_dropped(&a.ns, source, into, &node.ns, "spoofed");
            }
        }
        a.ns.must(&format!("ip address del {source}/{bits} dev eth0"));
    }
    // Its own address still works.
    for to in &c.ips {
        packet::ping(&a.ns, *to, 56, LIMIT).unwrap();
    }
}

/// From the segment that it shares with the nodes, with its own MAC.
#[test]
fn a_vm_cannot_use_a_nodes_address() {
    let (_turn, stage) = shared();
    let (vm, node, other) = (stage.lab.vm(), stage.lab.node(0), stage.lab.node(1));
    let a = &stage.pods[0];
    let like = |to: &IpAddr| node.ips().into_iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).unwrap();
    let _routes: Vec<_> = a.ips.iter().map(|to| ForeignRoute::new(&vm, &to.to_string(), like(to))).collect();
    // It forges packets and no more: nobody's neighbour table is to learn of its address.
    vm.set_sysctl("net/ipv4/conf/all/arp_ignore", "1");
    vm.set_sysctl("net/ipv4/conf/all/arp_announce", "2");
    for ip in node.ips() {
        packet::ping(&vm, ip, 56, LIMIT).unwrap();
    }
    for source in other.ips() {
        let bits = if source.is_ipv4() { 32 } else { 128 };
        vm.must(&format!("ip address add {source}/{bits} dev lo {}", if bits == 128 { "nodad" } else { "" }));
        forged_is_dropped(&vm, source, a, &node.ns, "no_way_in");
        vm.must(&format!("ip address del {source}/{bits} dev lo"));
    }
    // The node itself is still let in.
    for to in &a.ips {
        eventually(secs(5), "the node whose address was taken", || packet::ping(&other.ns, *to, 56, LIMIT).map(|_| ()));
    }
}

#[test]
fn a_pod_cannot_use_a_foreign_mac() {
    let (_turn, stage) = shared();
    let node = stage.lab.node(0);
    let [a, b, c] = [&stage.pods[0], &stage.pods[1], &stage.pods[2]];
    let own = ip::link(&a.ns, "eth0").unwrap().mac;
    let neighbour = ip::link(&b.ns, "eth0").unwrap().mac;
    // The kernel forgets the neighbours of a link whose MAC changes, permanent ones too.
    let change = |mac: &str| {
        a.ns.must(&format!("ip link set eth0 address {mac}"));
        for gateway in ["169.254.1.1", "fe80::1"] {
            a.ns.must(&format!("ip neigh replace {gateway} lladdr 02:6f:76:6c:00:01 dev eth0 nud permanent"));
        }
    };
    for mac in ["02:00:00:00:00:77", neighbour.as_str()] {
        change(mac);
        for source in &a.ips {
            for into in [b, c] {
                forged_is_dropped(&a.ns, *source, into, &node.ns, "spoofed");
            }
        }
    }
    change(&own);
    for to in &c.ips {
        eventually(secs(3), "the pod with its own MAC again", || packet::ping(&a.ns, *to, 56, LIMIT).map(|_| ()));
    }
}

#[test]
fn a_pod_cannot_speak_link_local_to_its_node() {
    let (_turn, stage) = shared();
    link_local_is_cut(stage);
}

#[test]
fn a_pod_cannot_speak_the_family_that_the_cluster_has_not() {
    let stage = Stage::new("ipv4");
    link_local_is_cut(&stage);
    drop(stage);
    let stage = Stage::new("ipv6");
    let (node, a) = (stage.lab.node(0), &stage.pods[0]);
    let link = link_of(&node.ns, a);
    // Only the check stands between a pod that takes an IPv4 address and a node that has one on its side.
    node.ns.must(&format!("ip address add 169.254.9.1/32 dev {link}"));
    node.ns.must(&format!("ip route add 169.254.9.2/32 dev {link}"));
    a.ns.must("ip address add 169.254.9.2/32 dev eth0");
    a.ns.must("ip route add 169.254.9.1/32 dev eth0");
    let at: SocketAddr = format!("169.254.9.1:{}", probe::port()).parse().unwrap();
    let witness = Witness::new(&node.ns, at.ip(), at.port());
    probe::fire(&a.ns, at, None, "forbidden", 5);
    assert!(probe::tcp(&a.ns, at, None, "forbidden", NOBODY).is_err());
    assert!(!witness.saw("forbidden"));
}

fn link_of(node: &Ns, pod: &Pod) -> String {
    let routes = ip::routes(node, ip::TABLE);
    routes.into_iter().find(|r| r.dst == pod.ips[0].to_string()).expect("a route to the pod").dev
}

fn link_local_is_cut(stage: &Stage) {
    let (node, a) = (stage.lab.node(0), &stage.pods[0]);
    let link = link_of(&node.ns, a);
    let index = |ns: &Ns, name: &str| u32::try_from(ip::link(ns, name).unwrap().index).unwrap();
    // Give the node's side what the product leaves out, so that only the check stands in the way.
    node.ns.sh(&["sh", "-c", &format!("echo 0 > /proc/sys/net/ipv6/conf/{link}/disable_ipv6")]);
    node.ns.must(&format!("ip address add fe80::aaaa/64 dev {link} nodad"));
    a.ns.set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "0");
    a.ns.must("ip address add fe80::bbbb/64 dev eth0 nodad");
    let port = probe::port();
    let witness = Witness::new(&node.ns, Ipv6Addr::UNSPECIFIED.into(), port);
    let dropped =
        || nft::counters(&node.ns).iter().filter(|(name, _)| *name != "no_way_in").map(|(_, n)| n).sum::<u64>();
    let before = dropped();
    for to in ["fe80::aaaa", "ff02::1", "fe80::1"] {
        let to = std::net::SocketAddrV6::new(to.parse().unwrap(), port, 0, index(&a.ns, "eth0"));
        probe::fire(&a.ns, to.into(), None, "link-local", 3);
    }
    std::thread::sleep(millis(200));
    assert!(!witness.saw("link-local"), "{:?}", witness.seen());
    assert!(dropped() > before, "counted: {:?}", nft::counters(&node.ns));
    node.ns.must(&format!("ip address del fe80::aaaa/64 dev {link}"));
    a.ns.must("ip address del fe80::bbbb/64 dev eth0");
}

#[test]
fn a_stranger_on_the_subnet_cannot_send_as_a_pod() {
    let (_turn, stage) = shared();
    let (vm, nodes) = (stage.lab.vm(), stage.lab.nodes());
    let [a, _, c] = [&stage.pods[0], &stage.pods[1], &stage.pods[2]];
    // As a living pod of the other node, as a pod of the same node, as an address of a block that nobody runs.
    for (into, at) in [(a, 0usize), (c, 1)] {
        let unused = ["10.244.0.250", "10.244.1.250", "10.244.200.9", "fd12:3456:789a::250", "fd12:3456:789a:0:200::9"];
        let mut sources: Vec<IpAddr> = unused.iter().map(|s| s.parse().unwrap()).collect();
        sources.extend(stage.pods.iter().filter(|p| p.name != into.name).flat_map(|p| p.ips.clone()));
        for source in sources {
            let to = into.ip_like(source);
            let via = nodes[at].ips().into_iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).unwrap();
            let bits = if source.is_ipv4() { 32 } else { 128 };
            let _route = ForeignRoute::new(&vm, &format!("{to}/{bits}"), via);
            // Nothing but the packets in question: the node would not answer a forged address that asks for its MAC.
            let mac = ip::link(&nodes[at].ns, "eth0").unwrap().mac;
            vm.must(&format!("ip neigh replace {via} lladdr {mac} dev eth0 nud permanent"));
            vm.must(&format!("ip address add {source}/{bits} dev eth0 {}", if bits == 128 { "nodad" } else { "" }));
            forged_is_dropped(&vm, source, into, &nodes[at].ns, "forged");
            // To the node itself as well: a node trusts a pod's address no further.
            let at_node = SocketAddr::new(via, probe::port());
            let witness = Witness::new(&nodes[at].ns, via, at_node.port());
            probe::fire(&vm, at_node, Some(source), "forged", 3);
            std::thread::sleep(millis(100));
            assert!(!witness.saw("forged"), "the vm reached {} as {source}", nodes[at].name);
            vm.must(&format!("ip address del {source}/{bits} dev eth0"));
        }
    }
    let live: Vec<Live> =
        stage.pods[..2].iter().map(|p| Live { name: p.name.clone(), ns: p.ns.clone(), ips: p.ips.clone() }).collect();
    books::reachable(&nodes[0].ns, &live, LIMIT);
}
