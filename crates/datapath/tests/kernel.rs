//! Must catch: a flow that outlives its pod, a sysctl that is not put back, a router's default route lost, an event
//! that is not told, a list that is short, a refusal that goes unnoticed in a batch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::*;
use overlane_core::plan::{EgressPlan, NodePlan, Outside};
use overlane_datapath::conntrack::{self, Began, Heard, ListenError, Listener};
use overlane_datapath::echo::EchoSocket;
use overlane_datapath::events::{Event, Watcher};
use overlane_datapath::netlink::{NetlinkError, Socket};
use overlane_datapath::node::Surplus;
use overlane_datapath::rtnl::link::{self, Link};
use overlane_datapath::rtnl::route::{self, Hop, Route};
use overlane_datapath::sysctl::{self, Changed};
use overlane_datapath::uninstall::{self, Removal};
use overlane_datapath::{node, owned};

#[test]
fn flows_of_an_address_are_forgotten() {
    let mut net = Net::new(&[V4, V6]);
    let (pod, other) = (net.a.pod(1), net.a.pod(2));
    let _echoes = [net.internet.echo(7), pod.ns.echo(7), other.ns.echo(7)];
    let outside = |family| SocketAddr::new(if family == V4 { ip("198.51.100.7") } else { ip("2001:db8::7") }, 7);
    // A translated address, as a Service makes one: the flow has the pod's address only in its answers.
    net.a.ns.sh(
        "nft 'table inet svc { chain out { type nat hook output priority -100; ip daddr 192.0.2.1 dnat ip to 10.244.4.1; }; }'
         ip route add 192.0.2.1/32 via 10.224.0.1",
    );
    let count = |pattern: &str| -> usize {
        let script =
            format!("{{ conntrack -L -f ipv4; conntrack -L -f ipv6; }} 2>/dev/null | grep -cE '{pattern}' || true");
        net.a.ns.sh(&script).trim().parse().unwrap()
    };
    let flows = || {
        for family in [V4, V6] {
            for pod in [&pod, &other] {
                assert!(pod.ns.ask(None, outside(family)).is_some());
                assert!(net.b.ns.ask(None, SocketAddr::new(pod.address(family), 7)).is_some());
            }
        }
        assert!(net.a.ns.ask(None, SocketAddr::new(ip("192.0.2.1"), 7)).is_some());
    };
    let ours = "10\\.244\\.4\\.1 |fd12:3456:789a:0:4::1 ";
    let theirs = "10\\.244\\.4\\.2 |fd12:3456:789a:0:4::2 ";
    // Both ways of looking: by filter, and through all entries.
    for more in [vec![], vec![ip("10.244.4.77"), ip("fd12:3456:789a:0:4::77")]] {
        flows();
        let (before, kept) = (count(ours), count(theirs));
        assert!(before >= 5, "{before}");
        let addresses: Vec<_> = pod.spec.addresses.iter().copied().chain(more).collect();
        let forgotten = net.a.ns.run(|| conntrack::forget(&addresses).unwrap());
        assert_eq!(forgotten, before);
        assert_eq!((count(ours), count(theirs)), (0, kept));
        assert_eq!(net.a.ns.run(|| conntrack::forget(&addresses).unwrap()), 0);
    }
    assert_eq!(net.a.ns.run(|| conntrack::forget(&[]).unwrap()), 0);
}

/// Every kind of flow is told as it begins, by whom it is for and by who answers; what is lost is counted.
#[test]
fn flows_are_told_as_they_begin() {
    let mut net = Net::new(&[V4, V6]);
    let (pod, other) = (net.a.pod(1), net.a.pod(2));
    let _echo = other.ns.echo(7);
    // As kube-proxy leads a Service's packets to a pod.
    net.a.ns.sh("nft 'table inet svc { chain in { type nat hook prerouting priority -100;
            ip daddr 10.0.0.10 udp dport 53 dnat ip to 10.244.4.2:7
            ip6 daddr fd98::10 udp dport 53 dnat ip6 to [fd12:3456:789a:0:4::2]:7; }; }'");
    let mut listener = net.a.ns.run(|| Listener::open().unwrap());
    assert_eq!(listener.wait(Duration::ZERO).unwrap(), Heard::default(), "nothing of before");
    let services = [(V4, ip("10.0.0.10")), (V6, ip("fd98::10"))];
    for (family, service) in services {
        let to = other.address(family);
        assert!(pod.ns.ask(None, SocketAddr::new(to, 7)).is_some());
        assert!(pod.ns.ask(None, SocketAddr::new(service, 53)).is_some());
        pod.ns.run(|| {
            let socket = EchoSocket::open(pod.address(family), 7).unwrap();
            socket.ask(to, 1, 1, 64).unwrap();
            assert!(socket.answer(Instant::now() + Duration::from_secs(5)).unwrap().is_some());
        });
        // Refused, but begun all the same.
        let refused =
            pod.ns.run(|| std::net::TcpStream::connect_timeout(&SocketAddr::new(to, 9), Duration::from_secs(5)));
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let heard = listener.wait(Duration::from_secs(5)).unwrap();
    assert_eq!(heard.lost, 0);
    for (family, service) in services {
        let (from, to, icmp) = (pod.address(family), other.address(family), if family == V4 { 1 } else { 58 });
        for (protocol, port, asked) in [
            (17, 7, SocketAddr::new(to, 7)),
            (17, 7, SocketAddr::new(service, 53)),
            (6, 9, SocketAddr::new(to, 9)),
            (icmp, 0, SocketAddr::new(to, 0)),
        ] {
            let is = |began: &&Began| {
                let flow = began.flow;
                (flow.from, flow.to, flow.protocol, flow.to_port, began.asked) == (from, to, protocol, port, asked)
            };
            assert_eq!(heard.began.iter().filter(is).count(), 1, "{protocol} to {asked}: {:?}", heard.began);
        }
    }
    net.a.ns.sh("echo 0 > /proc/sys/net/netfilter/nf_conntrack_events");
    let error = net.a.ns.run(|| Listener::open().unwrap_err());
    assert!(matches!(error, ListenError::Silent), "{error}");
}

/// More flows than there is room for: what was not lost is told, and how many were.
#[test]
fn flows_that_are_lost_are_counted() {
    let ns = Ns::new();
    ns.sh("nft 'table inet t { chain c { type filter hook output priority 0; ct state new accept; }; }'");
    let mut listener = ns.run(|| Listener::open_with(4096).unwrap());
    let (count, receiver) = (2000_usize, ns.run(|| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()));
    let to = receiver.local_addr().unwrap();
    ns.run(|| {
        for _ in 0..count {
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", to).unwrap();
        }
    });
    let (mut told, mut lost) = (0, 0);
    for _ in 0..3 {
        let heard = listener.wait(Duration::from_millis(200)).unwrap();
        told += heard.began.len();
        lost += usize::try_from(heard.lost).unwrap();
    }
    assert!(told > 0 && lost > 0, "{told} told, {lost} lost");
    // A source port may come twice: then it is the same flow.
    let all = ns.sh("conntrack -L -p udp 2>/dev/null | wc -l").trim().parse::<usize>().unwrap();
    assert_eq!(told + lost, all);
}

/// A port that begins to lead to a pod takes its old senders from the node, and from nobody else.
#[test]
fn flows_to_the_nodes_ports_are_forgotten_and_no_others() {
    let mut net = Net::new(&[V4, V6]);
    let pod = net.a.pod(1);
    let _echoes = [net.internet.echo(7), net.a.ns.echo(7), net.a.ns.echo(8)];
    let at = |address: &str, port| SocketAddr::new(ip(address), port);
    for node in ["10.224.0.4", "fd10:224::4"] {
        for port in [7, 8] {
            assert!(net.b.ns.ask(None, at(node, port)).is_some());
        }
    }
    for outside in ["198.51.100.7", "2001:db8::7"] {
        assert!(pod.ns.ask(None, at(outside, 7)).is_some(), "masqueraded by the node");
    }
    let flows = || {
        net.a
            .ns
            .sh("{ conntrack -L -p udp -f ipv4; conntrack -L -p udp -f ipv6; } 2>/dev/null | grep -c dport=7")
            .trim()
            .to_owned()
    };
    let before: usize = flows().parse().unwrap();
    let forget = |ports: &[(Option<IpAddr>, u16)]| net.a.ns.run(|| conntrack::forget_udp_to(ports).unwrap());
    assert_eq!(forget(&[]), 0);
    assert_eq!(forget(&[(Some(ip("10.224.0.99")), 7)]), 0, "bound to an address that is not asked");
    assert_eq!(forget(&[(Some(ip("10.224.0.4")), 7)]), 1, "bound to one that is");
    assert_eq!(forget(&[(None, 7)]), 1, "to the node's other address");
    assert_eq!(flows(), (before - 2).to_string(), "what pods send elsewhere goes on");
    assert_eq!(forget(&[(None, 8)]), 2);
}

/// What pods send out is forgotten, what they send each other is not; and the busiest destination is told.
#[test]
fn flows_that_leave_are_counted_and_forgotten() {
    let mut net = Net::new(&[V4, V6]);
    let (pod, far) = (net.a.pod(1), net.b.pod(1));
    let _echoes = [net.internet.echo(7), net.internet.echo(9), far.ns.echo(7)];
    let (v4, v6) = ("198.51.100.7", "2001:db8::7");
    for (outside, family) in [(v4, V4), (v6, V6)] {
        for _ in 0..3 {
            assert!(pod.ns.ask(None, SocketAddr::new(ip(outside), 7)).is_some());
        }
        assert!(pod.ns.ask(None, SocketAddr::new(ip(outside), 9)).is_some());
        assert!(pod.ns.ask(None, SocketAddr::new(far.address(family), 7)).is_some());
    }
    let nodes = [net.a.address(V4), net.a.address(V6)].into();
    let sources = [cidr("10.244.4.0/24"), cidr("fd12:3456:789a:0:4::/80")];
    let busiest = net.a.ns.run(|| conntrack::busiest(&sources, &nodes).unwrap());
    let told: Vec<_> = busiest.iter().map(|found| (found.to.to_string(), found.protocol, found.flows)).collect();
    assert_eq!(told, [("[2001:db8::7]:7".to_owned(), 17, 3), ("198.51.100.7:7".to_owned(), 17, 3)]);
    for (sources, nodes) in [(&sources[..], [ip("10.224.0.99")].into()), (&[], nodes)] {
        assert!(net.a.ns.run(|| conntrack::busiest(sources, &nodes).unwrap()).is_empty());
    }

    let pods = [cidr("10.244.0.0/16"), cidr("fd12:3456:789a::/64")];
    let forget =
        |inside: &[_]| net.a.ns.run(|| conntrack::forget_from(&sources, &inside.iter().copied().collect()).unwrap());
    let forget_to =
        |networks: &[_]| net.a.ns.run(|| conntrack::forget_to(&sources, &networks.iter().copied().collect()).unwrap());
    assert_eq!((forget_to(&[]), forget_to(&[cidr("192.0.2.0/24")])), (0, 0));
    assert_eq!(forget_to(&[cidr("2001:db8::/64")]), 4);
    let all = [&pods[..], &[cidr("198.51.100.0/24"), cidr("2001:db8::/64")]].concat();
    assert_eq!(forget(&all), 0, "nothing is outside");
    assert_eq!(forget(&pods), 4);
    assert_eq!(forget(&pods), 0);
    assert_eq!(forget(&[]), 2, "what went to the other pod was left");
}

/// Ways out: whole before a rule leads there, gone only when asked, and nobody else's touched.
#[test]
fn exits_are_kept_and_removed() {
    let net = Net::new(&[V4, V6]);
    let hop = |text: &str| text.parse().ok();
    let plan = |v4, v6| {
        let outside = Outside::NextHops { by: [(V4, v4), (V6, v6)].into(), keep_pod_address: false };
        NodePlan { egress: Some(EgressPlan { outside, ..EgressPlan::default() }), ..NodePlan::default() }
    };
    let none = NodePlan::default();
    net.a.ns.sh(
        "ip rule add fwmark 0x100000/0xff00000 lookup 28601 priority 110; ip route add default via 10.224.0.5 table 28601 metric 9",
    );
    let foreign = || {
        net.a.ns.sh("ip rule; ip -6 rule; ip route show table 28601; ip -6 route show table 28601 2>/dev/null || true")
    };
    let before = foreign();
    let underlays =
        || -> BTreeMap<_, _> { [V4, V6].map(|family| (family, node::underlay(net.a.address(family)).unwrap())).into() };
    let keep = |plan: &NodePlan, surplus| net.a.ns.run(|| node::keep_exits(plan, &underlays(), None, surplus).unwrap());
    let both = plan(hop("10.224.0.5"), hop("fd10:224::5"));
    let first = keep(&both, Surplus::Kept);
    assert_eq!((first.changes, first.failed, first.surplus), (6, vec![], 0), "two rules, two routes a table");
    // Without its rule a route is found all the same.
    net.a.ns.sh("ip rule del priority 111");
    assert_eq!(keep(&both, Surplus::Kept).changes, 1);
    let again = keep(&both, Surplus::Removed);
    assert_eq!((again.changes, again.surplus), (0, 0), "a second call writes nothing");
    let lost = keep(&plan(hop("10.224.0.6"), None), Surplus::Kept);
    assert_eq!((lost.changes, lost.surplus), (1, 1), "one is replaced, the other stays while it may be used");
    let other = keep(&plan(hop("192.0.2.9"), None), Surplus::Removed);
    assert_eq!((other.changes, other.not_on_link), (2, vec![ip("192.0.2.9")]));
    assert_eq!(keep(&none, Surplus::Kept).surplus, 4);
    assert_eq!(keep(&none, Surplus::Removed).changes, 4);
    assert_eq!(foreign(), before);
    keep(&both, Surplus::Removed);
    let removed = net.a.ns.run(|| uninstall::remove_all(&Removal { links: false, sysctls: &[] }));
    assert_eq!(removed.failed, Vec::<String>::new());
    assert_eq!(foreign(), before);
}

#[test]
fn sysctls_are_set_and_put_back() {
    let ns = Ns::new();
    let other = Ns::new();
    ns.connect("eth0", &other, "eth0");
    ns.connect("eth1", &other, "eth1");
    ns.connect("ovlpaaaaaaaaaaa", &other, "eth2");
    ns.sh("echo 0 > /proc/sys/net/ipv6/conf/eth1/accept_ra");
    let state = || ns.sh("cd /proc/sys/net; grep . ipv4/ip_forward ipv6/conf/*/forwarding ipv6/conf/*/accept_ra");
    let before = state();
    let underlays: BTreeSet<_> = ["eth0".to_owned()].into();
    let wanted = |families: &[_]| ns.run(|| sysctl::wanted(families, &underlays).unwrap());

    let v4: Vec<_> = wanted(&[V4]).into_iter().map(|s| s.key).collect();
    assert_eq!(v4, ["net/ipv4/ip_forward"], "IPv4 alone touches nothing of IPv6");
    let dual = wanted(&[V4, V6]);
    let keys: Vec<_> = dual.iter().map(|s| s.key.as_str()).collect();
    assert_eq!(keys, ["net/ipv4/ip_forward", "net/ipv6/conf/eth0/accept_ra", "net/ipv6/conf/all/forwarding"]);

    let changed = ns.run(|| sysctl::apply(&dual).unwrap());
    assert_eq!(changed.len(), 3);
    assert_eq!(ns.run(|| sysctl::apply(&wanted(&[V4, V6])).unwrap()), []);
    let read = |key: &str| ns.run(|| sysctl::read(key).unwrap());
    assert_eq!(read("net/ipv6/conf/eth0/accept_ra"), "2");
    assert_eq!(read("net/ipv6/conf/eth1/accept_ra"), "0", "who does not listen is left alone");
    assert_eq!(read("net/ipv6/conf/ovlpaaaaaaaaaaa/accept_ra"), "1", "pods are no routers");

    // Drift is repaired.
    ns.sh("echo 0 > /proc/sys/net/ipv6/conf/all/forwarding; echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_ra");
    assert_eq!(ns.run(|| sysctl::apply(&wanted(&[V4, V6])).unwrap()).len(), 2);

    let restored = ns.run(|| sysctl::restore(&changed).unwrap());
    assert_eq!(restored, ["net/ipv6/conf/all/forwarding", "net/ipv6/conf/eth0/accept_ra", "net/ipv4/ip_forward"]);
    assert_eq!(state(), before);
    // What somebody else has changed since, and what is gone, stays.
    let foreign = Changed { key: "net/ipv4/ip_forward".into(), before: "1".into(), after: "2".into() };
    let gone = Changed { key: "net/ipv6/conf/nope/accept_ra".into(), before: "1".into(), after: "2".into() };
    assert_eq!(ns.run(|| sysctl::restore(&[foreign, gone]).unwrap()), Vec::<String>::new());
    assert!(ns.run(|| sysctl::read("net/no/such/key")).is_err());
}

/// A router's advertisement is heard after forwarding went on, and its default route is there.
#[test]
fn a_forwarding_node_keeps_its_advertised_default_route() {
    let (router, node) = (Ns::new(), Ns::new());
    router.connect("eth0", &node, "eth0");
    let advertise = || {
        // Hop limit 255, router lifetime 1800 s, prefix 2001:db8:9::/64 on the link.
        let program = "import socket,struct;s=socket.socket(socket.AF_INET6,socket.SOCK_RAW,58);\
            s.setsockopt(41,18,255);i=socket.if_nametoindex('eth0');s.setsockopt(41,17,i);\
            p=socket.inet_pton(socket.AF_INET6,'2001:db8:9::');\
            m=struct.pack('!BBHBBHII',134,0,0,64,0,1800,0,0)+struct.pack('!BBBBIII',3,4,64,0xc0,86400,14400,0)+p;\
            s.sendto(m,('ff02::1',0,0,i))";
        // Refused until the router's link has its link-local address.
        router.output(&format!("python3 -c \"{program}\""));
    };
    let has_default = || {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            advertise();
            if node.sh("ip -6 route show default").contains("proto ra") {
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    };
    assert!(has_default(), "before");
    let underlays = ["eth0".to_owned()].into();
    node.run(|| sysctl::apply(&sysctl::wanted(&[V6], &underlays).unwrap()).unwrap());
    assert!(node.sh("ip -6 route show default").contains("proto ra"), "kept");
    node.sh("ip -6 route flush proto ra");
    assert!(has_default(), "heard again while forwarding");
}

#[test]
fn the_underlay_is_the_link_with_the_nodes_address() {
    let net = Net::new(&[V4, V6]);
    net.a.ns.sh("ip addr add 10.225.0.4/24 dev eth0; ip route add 10.226.0.0/24 dev eth0; ip route add 10.227.0.0/24 via 10.224.0.1");
    let v4 = net.a.ns.run(|| node::underlay(ip("10.224.0.4")).unwrap());
    assert_eq!((v4.link.as_str(), v4.mtu, v4.mac), ("eth0", 1500, Some(mac_of(&net.a.ns, "eth0"))));
    let on_link: Vec<_> = v4.on_link.iter().map(ToString::to_string).collect();
    assert_eq!(on_link, ["10.224.0.0/16", "10.225.0.0/24", "10.226.0.0/24"]);
    let v6 = net.a.ns.run(|| node::underlay(ip("fd10:224::4")).unwrap());
    assert_eq!(v6.on_link.iter().map(ToString::to_string).collect::<Vec<_>>(), ["fd10:224::/64"]);
    let error = net.a.ns.run(|| node::underlay(ip("10.224.0.77")).unwrap_err());
    assert_eq!(error.to_string(), "no link has the node's address 10.224.0.77");
}

#[test]
fn what_a_foreign_hand_does_is_told() {
    let mut net = Net::new(&[V4, V6]);
    let pod = net.a.pod(1);
    let link = pod.spec.link.clone();
    let mut watcher = net.a.ns.run(|| Watcher::open().unwrap());
    let mut told = |expected: &Event| {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut all = BTreeSet::new();
        while Instant::now() < deadline && !all.contains(expected) {
            all.extend(watcher.wait(Duration::from_millis(100)).unwrap());
        }
        assert!(all.contains(expected), "{expected:?} not in {all:?}");
        while !watcher.wait(Duration::from_millis(50)).unwrap().is_empty() {}
    };
    let acts = [
        (format!("ip link set {link} mtu 1400"), Event::LinkChanged { name: link.clone(), ours: true }),
        ("ip addr add 10.224.0.44/32 dev eth0".to_owned(), Event::Addresses),
        (format!("ip route del 10.244.4.1/32 dev {link} metric 111"), Event::Routes),
        ("ip -6 route del fd12:3456:789a:0:5::/80 metric 111".to_owned(), Event::Routes),
        (format!("ip neigh del 10.244.4.1 dev {link}"), Event::Neighbours),
        ("nft add rule inet overlane pre accept".to_owned(), Event::Nft),
        ("nft flush set inet overlane pod6".to_owned(), Event::Nft),
        ("ip link add br7 type bridge".to_owned(), Event::LinkChanged { name: "br7".into(), ours: false }),
        (format!("ip link del {link}"), Event::LinkGone { name: link.clone(), ours: true }),
    ];
    for (act, event) in acts {
        net.a.ns.sh(&act);
        told(&event);
    }
    // Not: what this process does to the table, and other people's tables, routes and rules.
    net.a.allow(&pod);
    net.a.ns.sh("nft add table inet other; ip route add 192.0.2.0/24 via 10.224.0.1 metric 111; ip rule add pref 99 lookup main");
    net.a.ns.run(|| {
        node::apply(&net.a.plan(), &net.a.underlays, None, node::PodRoutes::Planned, node::AwayRoutes::Planned, None)
            .unwrap()
    });
    let all = watcher.wait(Duration::from_millis(200)).unwrap();
    assert!(all.iter().all(|event| *event == Event::Routes), "routes alone: their socket is closed again: {all:?}");
}

/// Each message of a batch is judged on its own, in the kernel's words, and names its object.
#[test]
fn a_batch_tells_what_was_refused_and_why() {
    let ns = Ns::new();
    ns.run(|| {
        let mut socket = Socket::route().unwrap();
        let route = |destination: &str, index| {
            let hop = Hop::Link { index };
            let (table, protocol) = (owned::ROUTE_TABLE, owned::PROTOCOL);
            Route { table, protocol, destination: cidr(destination), hop, prefsrc: None, metric: 7 }
        };
        let requests = vec![
            route("192.0.2.0/24", 1).set(),
            route("198.51.100.0/24", 99).set(),
            route("2001:db8::/64", 1).set(),
            route("2001:db8:1::/64", 99).set(),
        ];
        let answers = socket.batch(requests).unwrap();
        assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
        let said: Vec<_> = answers.into_iter().filter_map(Result::err).map(|r| r.to_string()).collect();
        assert!(said[0].starts_with("add route 198.51.100.0/24 dev #99 table 254: no such device"), "{}", said[0]);
        assert!(said[1].starts_with("add route 2001:db8:1::/64 dev #99 table 254: no such device"), "{}", said[1]);

        // More than goes into one send, some of it refused.
        let many = |index: u32| {
            (0..1000_u32)
                .map(|n| route(&format!("10.{}.{}.0/24", n >> 8, n & 255), if n % 10 == 9 { 99 } else { index }).set())
                .collect()
        };
        let answers = socket.batch(many(1)).unwrap();
        assert_eq!(answers.len(), 1000);
        assert!(answers.iter().enumerate().all(|(n, answer)| answer.is_err() == (n % 10 == 9)));
        let list = socket.dump(route::list(V4, owned::ROUTE_TABLE, owned::PROTOCOL, 0)).unwrap();
        assert_eq!(list.iter().filter_map(Route::read).count(), 901, "a list of many parts is whole");
        assert_eq!(socket.batch(Vec::new()).unwrap(), []);
    });
}

/// Lists that change while they are read are whole or an error, never short.
#[test]
fn a_list_that_changes_meanwhile_is_never_short() {
    let ns = Ns::new();
    ns.sh("for n in $(seq 1 40); do ip link add b$n type bridge; done");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                ns.sh("ip link add flicker type veth peer name flacker; ip link del flicker");
            }
        });
        ns.run(|| {
            let mut socket = Socket::route().unwrap();
            for _ in 0..200 {
                match socket.dump(link::list(None)) {
                    Ok(list) => {
                        let names: BTreeSet<_> = list.iter().filter_map(Link::read).map(|l| l.name).collect();
                        assert_eq!(names.iter().filter(|n| n.starts_with('b')).count(), 40, "{names:?}");
                    }
                    Err(NetlinkError::Interrupted { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn lost_events_are_told() {
    let ns = Ns::new();
    let mut watcher = ns.run(|| Watcher::open().unwrap());
    // More than four megabytes of news, unread.
    ns.run(|| {
        let mut socket = Socket::route().unwrap();
        let route = |n: u32, index| {
            let (table, protocol) = (owned::ROUTE_TABLE, owned::PROTOCOL);
            let destination = cidr(&format!("10.{}.{}.0/24", n >> 8, n & 255));
            Route { table, protocol, destination, hop: Hop::Link { index }, prefsrc: None, metric: owned::METRIC }
        };
        for _ in 0..4 {
            assert!(socket.batch((0..4000).map(|n| route(n, 1).set()).collect()).unwrap().iter().all(Result::is_ok));
            assert!(socket.batch((0..4000).map(|n| route(n, 1).delete()).collect()).unwrap().iter().all(Result::is_ok));
        }
    });
    let mut all = BTreeSet::new();
    while !all.contains(&Event::Lost) {
        let events = watcher.wait(Duration::from_millis(100)).unwrap();
        assert!(!events.is_empty(), "the queue ended without a word of what was lost");
        all.extend(events);
    }
    // It goes on.
    while !watcher.wait(Duration::from_millis(50)).unwrap().is_empty() {}
    ns.sh("ip link add br9 type bridge");
    assert!(!watcher.wait(Duration::from_secs(2)).unwrap().is_empty());
}
