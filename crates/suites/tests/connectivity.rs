//! Who reaches whom, in every family: blocks, addresses, pods, nodes, the world; nobody from outside; no forged source.
//!
//! Must catch: the source check of pod links passing what it does not know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use overlane_suites::books::{self, Live};
use overlane_suites::lab::Pod;
use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::{eventually, millis, secs};
use overlane_suites::{Lab, Ns, clean, ip, nft, packet};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(2);
/// How long to wait for what must not come; the witnesses are asked as well.
const NOBODY: Duration = Duration::from_millis(200);

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

/// A lab of two nodes with pods `a` and `b` on the first and `c` on the second.
struct Stage {
    lab: Lab,
    pods: Vec<Pod>,
}

impl Stage {
    fn new(families: &str) -> Stage {
        let lab = Lab::up(&["--nodes", "2", "--ip-families", families]);
        let nodes = lab.nodes();
        let pods = [("a", 0), ("b", 0), ("c", 1)].map(|(name, at)| lab.run_pod(name, &nodes[at].name));
        Stage { lab, pods: pods.into() }
    }

    fn outside(&self, ns: &Ns, like: IpAddr) -> IpAddr {
        let found = ip::global_addresses(ns).into_iter().find(|ip| ip.is_ipv4() == like.is_ipv4());
        found.unwrap_or_else(|| panic!("{} has no address like {like}", ns.label))
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

/// A route that a stranger adds, taken away again.
struct ForeignRoute {
    ns: Ns,
    line: String,
}

impl ForeignRoute {
    fn new(ns: &Ns, to: &str, via: IpAddr) -> ForeignRoute {
        let family = if via.is_ipv4() { "-4" } else { "-6" };
        ns.must(&format!("ip {family} route replace {to} via {via}"));
        ForeignRoute { ns: ns.clone(), line: format!("ip {family} route del {to} via {via}") }
    }
}

impl Drop for ForeignRoute {
    fn drop(&mut self) {
        let words: Vec<&str> = self.line.split_whitespace().collect();
        self.ns.sh(&words);
    }
}

fn nobody_outside_gets_in(stage: &Stage) {
    let nodes = stage.lab.nodes();
    for (pod, at) in [(&stage.pods[0], 0usize), (&stage.pods[2], 1)] {
        for to in &pod.ips {
            let port = probe::port();
            let witness = Witness::new(&pod.ns, *to, port);
            for outside in [stage.lab.vm(), stage.lab.internet()] {
                let word = format!("from-{}", outside.label.replace(' ', "-"));
                refused(&outside, SocketAddr::new(*to, port), &word, &witness);
                // Somebody routes the pods' space to a node: to the right one, and to the other.
                for hop in [at, 1 - at] {
                    let via = nodes[hop].ips().into_iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).unwrap();
                    let space = if to.is_ipv4() { "10.244.0.0/16" } else { "fd12:3456:789a::/64" };
                    let mut routes = Vec::new();
                    if outside.label.starts_with("internet") {
                        let family = if to.is_ipv4() { "-4" } else { "-6" };
                        let default = ip::family_routes(&outside, family, "main").into_iter().find(|r| r.dst == "default");
                        routes.push(ForeignRoute::new(&stage.lab.router(), space, via));
                        routes.push(ForeignRoute::new(&outside, space, default.unwrap().gateway.parse().unwrap()));
                    } else {
                        routes.push(ForeignRoute::new(&outside, space, via));
                    }
                    let before = nft::counter(&nodes[at].ns, "no_way_in");
                    refused(&outside, SocketAddr::new(*to, port), &word, &witness);
                    if hop == at {
                        assert!(nft::counter(&nodes[at].ns, "no_way_in") > before, "the drop is counted");
                    }
                }
            }
            // The pod still answers those who may ask.
            probe::tcp(&nodes[at].ns, SocketAddr::new(*to, port), None, "hello", LIMIT).unwrap();
        }
    }
}

fn refused(from: &Ns, to: SocketAddr, word: &str, witness: &Witness) {
    assert!(probe::tcp(from, to, None, word, NOBODY).is_err(), "{} reached {to} over TCP", from.label);
    assert!(probe::udp(from, to, None, word, NOBODY).is_err(), "{} reached {to} over UDP", from.label);
    assert!(packet::ping(from, to.ip(), 56, NOBODY).is_err(), "{} pinged {}", from.label, to.ip());
    assert!(!witness.saw(word), "a packet of {} reached {to}", from.label);
}

/// Faults that no agent repairs, because the objects are not its own.
fn check_catches_planted_faults(stage: &Stage) {
    let (node, other) = (stage.lab.node(0), stage.lab.node(1));
    let block = stage.lab.api.blocks(&other.name)[0].clone();
    let family = if block.contains(':') { "-6" } else { "-4" };
    // The check brings pods of its own.
    let match_pod = "oifname \"ovlp*\"";
    let hook = "add chain inet sabotage c { type filter hook forward priority 0 ; }";
    let faults: [(&str, Vec<String>, &str); 3] = [
        ("no way to another node's pods", vec![format!("ip {family} rule add pref 900 to {block} prohibit")], "ip rule"),
        ("UDP to the node's pods lost", vec![hook.into(), format!("add rule inet sabotage c {match_pod} meta l4proto udp drop")], "nft"),
        (
            "full-size packets to the node's pods lost",
            vec![hook.into(), format!("add rule inet sabotage c {match_pod} meta length > 1300 drop")],
            "nft",
        ),
    ];
    // A check that meets packets lost takes its time: all three in one lab, the first in each.
    let count = if stage.pods[0].ips.len() == 2 && stage.pods[0].ips[0].is_ipv4() { 3 } else { 1 };
    for (what, lines, tool) in faults.into_iter().take(count) {
        if tool == "nft" {
            node.ns.must("nft add table inet sabotage");
            for line in &lines {
                node.ns.sh(&["nft", line]).must();
            }
        } else {
            node.ns.must(&lines[0]);
        }
        let checked = stage.lab.cli("check", &[]);
        if tool == "nft" {
            node.ns.must("nft delete table inet sabotage");
        } else {
            node.ns.must(&lines[0].replace(" add ", " del "));
        }
        assert_eq!(checked.code, Some(1), "{what}: {checked}");
        assert!(checked.stdout.contains("pod to pod"), "{what} is found by packets: {checked}");
    }
    stage.lab.cli("check", &[]).must();
}

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
    let strangers = ["10.244.77.77", "198.51.100.7", "10.0.0.1", "127.9.9.9", "fd12:3456:789a:0:77::77", "2001:db8:113::77"];
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
    let dropped = || nft::counters(&node.ns).iter().filter(|(name, _)| *name != "no_way_in").map(|(_, n)| n).sum::<u64>();
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
