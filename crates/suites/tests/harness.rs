//! The checkers themselves, without the product: what they must see, they see.
//!
//! Must catch: nothing of the product; a checker that has gone blind, which would let every other suite pass.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use overlane_suites::books::{self, Live};
use overlane_suites::far::Far;
use overlane_suites::monitor::Monitor;
use overlane_suites::ns::OwnNs;
use overlane_suites::probe::{self, Witness};
use overlane_suites::stream::Stream;
use overlane_suites::tracer::Tracer;
use overlane_suites::wait::{eventually, holds, millis, secs};
use overlane_suites::{Ns, clean, exec, ip, nft, packet};

/// Two namespaces with a wire between them.
struct Wire {
    a: OwnNs,
    b: OwnNs,
}

impl Wire {
    fn new() -> Wire {
        clean::begin();
        let (a, b) = (OwnNs::new(), OwnNs::new());
        a.ns.must(&format!("ip link add w0 type veth peer name w0 netns {}", b.name));
        for (ns, host) in [(&a.ns, 1), (&b.ns, 2)] {
            ns.must("ip link set lo up");
            ns.must("ip link set w0 up");
            ns.must(&format!("ip address add 10.9.0.{host}/24 dev w0"));
            ns.must(&format!("ip address add fd09::{host}/64 dev w0 nodad"));
        }
        for ns in [&a.ns, &b.ns] {
            eventually(secs(10), "the kernel's own addresses", || {
                let shown = ns.must("ip -6 address show dev w0").stdout;
                if shown.contains("fe80") && !shown.contains("tentative") { Ok(()) } else { Err(shown) }
            });
        }
        Wire { a, b }
    }
}

const FAR: [&str; 2] = ["10.9.0.2", "fd09::2"];

#[test]
fn packets_arrive_or_do_not() {
    let wire = Wire::new();
    for to in FAR.map(|t| t.parse::<IpAddr>().unwrap()) {
        for payload in [0, 56, 1400, 4000] {
            eventually(secs(3), "a ping", || packet::ping(&wire.a.ns, to, payload, secs(1)).map(|_| ()));
        }
        let port = probe::port();
        let witness = Witness::new(&wire.b.ns, to, port);
        let at = SocketAddr::new(to, port);
        let own: IpAddr = if to.is_ipv4() { "10.9.0.1".parse().unwrap() } else { "fd09::1".parse().unwrap() };
        assert_eq!(probe::tcp(&wire.a.ns, at, None, "one", secs(2)), Ok(own));
        assert_eq!(probe::udp(&wire.a.ns, at, Some(own), "two", secs(2)), Ok(own));
        assert!(witness.saw("one") && witness.saw("two") && !witness.saw("three"));
    }
    let stream = Stream::start(&wire.a.ns, &wire.b.ns, FAR[0].parse().unwrap(), millis(1));
    std::thread::sleep(millis(300));
    // Nothing waits for a drop to end, as it may for a link or a neighbour to come back.
    let dropped = "table inet lose {\n chain in {\n type filter hook input priority 0; policy drop\n }\n}\n";
    wire.b.ns.feed(&["nft", "-f", "-"], dropped).must();
    std::thread::sleep(millis(300));
    wire.b.ns.must("nft delete table inet lose");
    std::thread::sleep(secs(1));
    let report = stream.finish();
    assert!(report.lost() + report.refused > 0 && report.received > 300, "{report:?}");
    assert!(report.longest_gap >= millis(250), "{report:?}");
    wire.b.ns.must("ip link set w0 down");
    for to in FAR {
        assert!(packet::ping(&wire.a.ns, to.parse().unwrap(), 56, millis(300)).is_err());
    }
}

#[test]
fn whoever_speaks_is_counted() {
    let wire = Wire::new();
    let far = Far::on(&wire.b.ns);
    let own = ["10.9.0.1", "fd09::1"].map(|own| own.parse::<IpAddr>().unwrap());
    for (to, from) in FAR.map(|to| to.parse::<IpAddr>().unwrap()).into_iter().zip(own) {
        // To ports where nobody listens.
        probe::fire(&wire.a.ns, SocketAddr::new(to, 99), None, "x", 3);
        probe::fire(&wire.a.ns, SocketAddr::new(to, 98), None, "x", 1);
        assert_eq!((far.udp(99).get(&from), far.udp(98).get(&from)), (Some(&3), Some(&1)));
        assert!(wire.a.ns.connect(SocketAddr::new(to, 97), None, secs(1)).is_err());
        packet::ping(&wire.a.ns, to, 56, secs(1)).unwrap();
        assert_eq!((far.echoes().get(&from), far.sources().get(&from)), (Some(&1), Some(&6)));
        let fresh = Far::on(&wire.b.ns);
        assert!(fresh.sources().is_empty());
    }
    assert_eq!(far.only(&own), Ok(()));
    assert!(far.only(&own[..1]).is_err());
}

#[test]
fn advertised_routers_are_heard() {
    let wire = Wire::new();
    eventually(secs(5), "a default route", || {
        packet::advertise_router(&wire.b.ns, "w0", 1800);
        std::thread::sleep(millis(50));
        let routes = ip::family_routes(&wire.a.ns, "-6", "main");
        if routes.iter().any(|r| r.dst == "default" && r.proto == "ra") { Ok(()) } else { Err(format!("{routes:?}")) }
    });
}

/// How many lines a shell wrote before it died after `n` system calls.
fn lines_after(n: u64) -> (usize, bool) {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -STOP $$; i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo $i; done"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pid = child.id().cast_signed();
    eventually(secs(5), "a stopped shell", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        if stat.contains(") T ") { Ok(()) } else { Err(stat) }
    });
    let tracer = Tracer::kill_after(pid, n);
    exec::signal(pid, nix::sys::signal::Signal::SIGCONT);
    while exec::alive(pid) {
        std::thread::sleep(millis(1));
    }
    let reached = tracer.end();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut text).unwrap();
    let _ = child.wait();
    (text.lines().count(), reached)
}

#[test]
fn the_tracer_counts_system_calls() {
    clean::begin();
    let (few, reached) = lines_after(20);
    assert!(reached && (10..=20).contains(&few), "{few}");
    assert_eq!(lines_after(20), (few, true), "the same call, the same moment");
    assert_eq!(lines_after(21), (few + 1, true), "one call more, one line more");
    assert_eq!(lines_after(5000), (200, false));
}

#[test]
fn monitors_see_what_changes() {
    let wire = Wire::new();
    let quiet = Monitor::start(&wire.a.ns);
    packet::ping(&wire.a.ns, FAR[0].parse().unwrap(), 56, secs(1)).unwrap();
    std::thread::sleep(millis(300));
    assert_eq!(quiet.finish(), Vec::<String>::new());
    for change in [
        "ip route add 10.8.0.0/16 dev w0",
        "ip rule add pref 77 lookup main",
        "ip neigh add 10.9.0.7 lladdr 02:00:00:00:00:07 dev w0 nud permanent",
        "ip address add 10.9.0.77/32 dev w0",
        "ip link set w0 alias x",
        "nft add table inet x",
        "nft add chain inet x y",
    ] {
        let monitor = Monitor::start(&wire.a.ns);
        wire.a.ns.must(change);
        let seen = monitor.finish();
        assert!(!seen.is_empty(), "not seen: {change}");
    }
}

#[test]
fn books_see_what_does_not_fit() {
    let wire = Wire::new();
    let names = |list: &[(&str, &Ns)]| list.iter().map(|(n, ns)| ((*n).to_owned(), (*ns).clone())).collect::<Vec<_>>();
    assert!(books::doubled(&names(&[("a", &wire.a.ns), ("b", &wire.b.ns)])).is_empty());
    wire.b.ns.must("ip address add 10.9.0.1/32 dev w0");
    assert_eq!(books::doubled(&names(&[("a", &wire.a.ns), ("b", &wire.b.ns)])).len(), 1);
    // A node with one pod, right in all, and then with each object missing or too many.
    let (node, pod) = (OwnNs::new(), OwnNs::new());
    node.ns.must(&format!("ip link add ovlpaaaaaaaaaaa type veth peer name eth0 netns {}", pod.name));
    node.ns.must("ip link set ovlpaaaaaaaaaaa up");
    pod.ns.must("ip link set eth0 up");
    pod.ns.must("ip address add 10.244.0.9/32 dev eth0");
    let route = "ip route add 10.244.0.9/32 dev ovlpaaaaaaaaaaa proto 111 metric 111";
    let neighbour = "ip neigh add 10.244.0.9 lladdr 02:00:00:00:00:09 dev ovlpaaaaaaaaaaa nud permanent";
    let element = "nft add element inet overlane pod4 { \"ovlpaaaaaaaaaaa\" . 02:00:00:00:00:09 . 10.244.0.9 }";
    node.ns.must(route);
    node.ns.must(neighbour);
    node.ns.must("nft add table inet overlane");
    node.ns.sh(&["nft", "add set inet overlane pod4 { type ifname . ether_addr . ipv4_addr ; }"]).must();
    node.ns.must(element);
    let live = [Live { name: "pod".into(), ns: pod.ns.clone(), ips: vec!["10.244.0.9".parse().unwrap()] }];
    let right = || books::faults(&node.ns, &live, &[]);
    assert_eq!(right(), Vec::<String>::new());
    assert!(!books::faults(&node.ns, &[], &[]).is_empty(), "objects of nobody");
    assert!(!books::faults(&node.ns, &live, &[("pod".into(), pod.ns.clone())]).is_empty(), "the dead hold nothing");
    for add in [route, neighbour, element] {
        let del = add.replacen(" add ", " del ", 1).replacen("nft del ", "nft delete ", 1);
        node.ns.must(&del);
        assert_eq!(right().len(), 1, "{del}: {:?}", right());
        node.ns.must(add);
    }
    let extra = add_other(route);
    node.ns.must(&extra);
    assert_eq!(right().len(), 1, "{extra}");
    node.ns.must(&extra.replacen(" add ", " del ", 1));
    pod.ns.must("ip address add 10.244.0.10/32 dev eth0");
    assert_eq!(right().len(), 1);
    assert_eq!(nft::pod_elements(&node.ns).len(), 1);
    holds(millis(1), "nothing", || Ok::<(), String>(()));
}

fn add_other(route: &str) -> String {
    route.replace("10.244.0.9/32", "10.244.0.11/32")
}
