//! What is not ours is not touched, and what is ours is put right when somebody else touches it.
//!
//! Must catch: an audit that removes a route because it does not know it, without asking whose it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::IpAddr;
use std::sync::MutexGuard;

use nix::sys::signal::Signal;
use overlane_suites::agent::Agent;
use overlane_suites::books::{self, Live};
use overlane_suites::faults::{self, Target};
use overlane_suites::runtime::Sandbox;
use overlane_suites::shared::SharedLab;
use overlane_suites::wait::{ensure, eventually, holds, millis, secs};
use overlane_suites::{Lab, NodeHandle, Ns, exec, ip, nft, packet};

static LAB: SharedLab<3> = SharedLab::new();

fn lab() -> &'static Lab {
    LAB.lab()
}

fn node(number: usize) -> (MutexGuard<'static, ()>, NodeHandle) {
    LAB.node(number)
}

/// Seconds between two full looks of the agents of this file.
const AUDIT: u64 = 2;

fn watchful(node: &NodeHandle) -> Agent {
    Agent::take_with(node, &["--audit-interval", &AUDIT.to_string()])
}

/// Docker, flannel, kube-router, ufw and people leave such things on a node. Some look much like ours.
const FOREIGN_LINKS: &str = "
    ip link add docker0 type bridge
    ip address add 172.17.0.1/16 dev docker0
    ip link set docker0 up
    ip link add veth1a2b3c4 type veth peer name veth1a2b3c5
    ip link set veth1a2b3c4 master docker0 up
    ip link set veth1a2b3c5 up
    ip link add cni0 type bridge
    ip address add 10.42.0.1/24 dev cni0
    ip link set cni0 up
    ip link add flannel.1 type vxlan id 1 dev eth0 dstport 8472 nolearning
    ip address add 10.42.0.0/32 dev flannel.1
    ip link set flannel.1 up
    ip route add 10.42.1.0/24 via 10.42.1.0 dev flannel.1 onlink
    ip neigh add 10.42.1.0 lladdr 02:42:00:00:00:01 dev flannel.1 nud permanent
    bridge fdb append 02:42:00:00:00:01 dev flannel.1 dst 10.224.0.99
    ip link add ovx type veth peer name xovlp
    ip link set ovx up
    ip route add 192.168.55.0/24 dev docker0 proto static table 100
    ip route add blackhole 192.168.56.0/24 proto 110
    ip route add 192.168.57.0/24 dev docker0 proto 112 metric 111
    ip route add 192.168.59.0/24 dev docker0 proto 111 metric 5
    ip route add 192.168.58.0/24 dev docker0 proto static metric 111
    ip -6 route add 2001:db8:58::/48 dev docker0 proto 112 metric 111
    ip -6 route add 2001:db8:57::/48 dev docker0 proto static
    ip rule add from 192.168.55.0/24 lookup 100 pref 1109
    ip rule add to 10.244.250.0/24 lookup 100 pref 1130
    ip -6 rule add from 2001:db8:57::/48 lookup 100 pref 1000
    ip neigh add 172.17.0.99 lladdr 02:42:ac:11:00:63 dev docker0 nud permanent
";

const FOREIGN_TABLES: &str = "
    table ip filter {
        chain DOCKER-USER { counter return; }
        chain DOCKER { ip daddr 172.17.0.2 tcp dport 80 accept; }
        chain FORWARD { type filter hook forward priority filter; policy accept; jump DOCKER-USER; jump DOCKER; }
        chain ufw-user-input { tcp dport 22 accept; }
        chain INPUT { type filter hook input priority filter; policy accept; jump ufw-user-input; }
    }
    table ip nat {
        chain DOCKER { iifname \"docker0\" return; }
        chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade; }
        chain FLANNEL-POSTRTG { ip saddr 10.42.0.0/16 ip daddr 10.42.0.0/16 return; }
    }
    table ip overlane { chain mine { type filter hook forward priority filter; policy accept; ip saddr 10.9.9.9 drop comment \"not theirs\"; }; }
    table inet overlane2 { set pod4 { type ipv4_addr; elements = { 10.9.9.9 }; }; }
    table bridge overlane { chain c { }; }
";

fn plant_foreign(ns: &Ns) {
    FOREIGN_LINKS.lines().map(str::trim).filter(|l| !l.is_empty()).for_each(|line| {
        ns.must(line);
    });
    let out = ns.feed(&["nft", "-f", "-"], FOREIGN_TABLES);
    assert!(out.ok(), "{out}");
}

/// The node without what is ours.
fn foreign_view(ns: &Ns) -> String {
    let ours = |line: &&str| {
        line.contains(" ovl")
            || line.contains("\"ovl")
            || line.contains("proto: \"111\"") && !line.contains("192.168.59.0")
    };
    let kernel: Vec<String> = ip::snapshot(ns).lines().filter(|l| !ours(l)).map(str::to_owned).collect();
    let fdb = ns.must("bridge fdb show dev flannel.1").stdout;
    let sysctls =
        ["net/ipv4/conf/docker0/forwarding", "net/ipv6/conf/docker0/accept_ra", "net/ipv4/conf/all/rp_filter"];
    let sysctls: Vec<String> = sysctls.iter().map(|name| format!("{name}={}", ns.sysctl(name))).collect();
    format!("{}\n{fdb}\n{}\n{}", kernel.join("\n"), nft::foreign_text(ns), sysctls.join("\n"))
}

#[test]
fn foreign_objects_are_left_alone() {
    let (_lock, node) = node(0);
    let agent = watchful(&node);
    agent.kill();
    plant_foreign(&node.ns);
    // Addresses that the kernel makes up itself settle within two seconds.
    std::thread::sleep(secs(2));
    let before = foreign_view(&node.ns);
    agent.start();
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    runtime.add(&mut sandbox).must();
    std::thread::sleep(secs(2 * AUDIT + 1));
    let same = |when: &str| {
        let now = foreign_view(&node.ns);
        assert!(now == before, "{when}:\n{}", difference(&before, &now));
    };
    same("after start, an ADD and audits");
    // Damage to ours makes the agent write: still nothing else.
    node.ns.must("nft delete table inet overlane");
    for block in lab().api.blocks("node-1") {
        node.ns.must(&format!("ip route del {block} metric {}", ip::METRIC));
    }
    let live = [Live { name: "pod".into(), ns: sandbox.net.ns.clone(), ips: sandbox.ips() }];
    books::balanced(&node.ns, &live, &[], secs(2 * AUDIT + 10));
    books::reachable(&node.ns, &live, secs(5));
    same("after a repair");
    runtime.del(&sandbox).must();
    same("after a DEL");
    let other = lab().node(1);
    packet::ping(&node.ns, other.ips()[0], 56, secs(1)).unwrap();
    drop(agent);
    node.agent_ready();
    same("after another start");
}

#[test]
fn stale_objects_of_ours_go() {
    let (_lock, node) = node(1);
    let agent = watchful(&node);
    agent.kill();
    node.ns.must("ip link add ovlpstaleaaaaaa type veth peer name stalepeer");
    node.ns.must("ip link set ovlpstaleaaaaaa up address 02:6f:76:6c:00:01 alias overlane:stale/pod:deadbeef");
    node.ns.must(&format!("ip route add 10.244.1.222/32 dev ovlpstaleaaaaaa metric {} proto 111", ip::METRIC));
    node.ns.must(&format!("ip route add 10.244.123.0/24 via 10.224.0.4 metric {} proto 111", ip::METRIC));
    node.ns.must("nft add element inet overlane pod4 { \"ovlpstaleaaaaaa\" . 02:00:00:00:00:09 . 10.244.1.222 }");
    agent.start();
    eventually(secs(2 * AUDIT + 10), "removal of what a dead agent left", || {
        let routes = ip::routes(&node.ns, ip::TABLE);
        let stale = routes.iter().any(|r| r.dst.contains("10.244.1.222") || r.dst.contains("10.244.123.0"));
        ensure(!stale, || format!("{routes:?}"))?;
        let elements = nft::pod_elements(&node.ns);
        ensure(!elements.iter().any(|e| e.contains("ovlpstaleaaaaaa")), || format!("{elements:?}"))?;
        ensure(ip::link(&node.ns, "ovlpstaleaaaaaa").is_none(), || "the link is there".to_owned())
    });
}

/// A forward chain of somebody else that drops.
const DROPPING: &str = "table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; }; }";

#[test]
fn doctor_names_a_foreign_drop() {
    let (_lock, node) = node(2);
    let doctor = || overlane_suites::lab::overlane(&["doctor", "--lab", &node.lab, "--node", &node.name]);
    let healthy = doctor();
    assert!(!healthy.all().contains("FORWARD"), "{healthy}");
    let out = node.ns.feed(&["nft", "-f", "-"], DROPPING);
    assert!(out.ok(), "{out}");
    let sick = doctor();
    node.ns.must("nft delete table ip filter");
    assert_eq!(sick.code, Some(1), "{sick}");
    assert!(sick.all().contains("FORWARD") && sick.all().contains("filter"), "names the chain: {sick}");
    assert!(sick.all().to_lowercase().contains("drop"), "says what it does: {sick}");
    assert!(sick.all().contains("iptables -I FORWARD -i ovlp+ -j ACCEPT"), "says what to do: {sick}");
    // A route that goes before ours.
    let block = lab().api.blocks("node-0").into_iter().find(|block| block.contains('.')).unwrap();
    let narrower = block.replace("/24", "/25");
    node.ns.must(&format!("ip route add {narrower} dev eth0"));
    let astray = doctor();
    node.ns.must(&format!("ip route del {narrower} dev eth0"));
    assert!(astray.code == Some(1) && astray.all().contains(&format!("ip route del {narrower}")), "{astray}");
    // An agent that does not answer, and a setting that it cannot put right meanwhile.
    let agent = node.agent_pid().unwrap();
    exec::signal(agent, Signal::SIGSTOP);
    node.ns.set_sysctl("net/ipv4/ip_forward", "0");
    let deaf = doctor();
    // On the node itself, where there is no lab to be asked: what an agent left that does not answer.
    let program = exec::bin("overlane");
    let alone = || node.ns.sh(&[program.to_str().unwrap(), "doctor"]);
    let left = alone();
    node.ns.set_sysctl("net/ipv4/ip_forward", "1");
    exec::signal(agent, Signal::SIGCONT);
    assert_eq!(deaf.code, Some(1), "{deaf}");
    for word in ["agent on node-2: does not answer", "look at its log", "net/ipv4/ip_forward is 0, not 1"] {
        assert!(deaf.all().contains(word), "no `{word}` in {deaf}");
    }
    assert_eq!(doctor().code, Some(0));
    assert_eq!(left.code, Some(1), "{left}");
    for word in ["no agent answers, and there are:", "routes, nft table inet overlane", "ip route flush proto 111"] {
        assert!(left.all().contains(word), "no `{word}` in {left}");
    }
    let living = alone();
    assert!(!living.all().contains("no agent answers") && living.all().contains("ready"), "{living}");
}

fn repairs(node: &NodeHandle) -> f64 {
    node.repairs()
}

#[test]
fn drift_is_repaired_and_counted() {
    let (_lock, node) = node(2);
    let _agent = watchful(&node);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    runtime.add(&mut sandbox).must();
    let live = [Live { name: "pod".into(), ns: sandbox.net.ns.clone(), ips: sandbox.ips() }];
    let limit = secs(AUDIT * 2 + 8);
    let mut cases: Vec<(String, Vec<String>)> = Vec::new();
    let peer = lab().api.blocks("node-0");
    for block in &peer {
        let family = if block.contains(':') { "-6" } else { "-4" };
        cases.push((format!("route to {block}"), vec![format!("ip {family} route del {block} metric {}", ip::METRIC)]));
    }
    let flush = |family: &str| format!("ip {family} route flush proto {}", ip::PROTO);
    cases.push(("all routes".into(), vec![flush("-4"), flush("-6")]));
    cases.push(("nft table".into(), vec!["nft delete table inet overlane".into()]));
    cases.push(("nft chain".into(), vec!["nft flush chain inet overlane forward".into()]));
    cases.push(("nft rule".into(), vec!["nft flush chain inet overlane from_pod".into()]));
    cases.push(("IPv4 forwarding".into(), vec!["sysctl -qw net.ipv4.ip_forward=0".into()]));
    cases.push(("IPv6 forwarding".into(), vec!["sysctl -qw net.ipv6.conf.all.forwarding=0".into()]));
    // The last that an agent hears of its peers is their MACs, told by their agents to the controller to this one.
    eventually(secs(10), "MACs of the peers", || {
        let sets = nft::elements(&node.ns);
        let known = sets.iter().filter(|(name, _)| name.starts_with("peer") && !name.ends_with("any"));
        let count: usize = known.map(|(_, elements)| elements.len()).sum();
        ensure(count == 4, || format!("{sets:?}"))
    });
    for (name, lines) in &cases {
        let picture = || {
            (
                stable(&node.ns),
                structure(&node.ns),
                node.ns.sysctl("net/ipv4/ip_forward"),
                node.ns.sysctl("net/ipv6/conf/all/forwarding"),
            )
        };
        let (before, counted) = (picture(), repairs(&node));
        lines.iter().for_each(|line| {
            node.ns.must(line);
        });
        eventually(limit, &format!("repair of {name}"), || {
            let now = picture();
            ensure(now == before, || difference(&format!("{before:#?}"), &format!("{now:#?}")))
        });
        eventually(secs(3), &format!("count of the repair of {name}"), || {
            ensure(repairs(&node) > counted, || format!("overlane_repairs_total stays at {counted}"))
        });
        books::reachable(&node.ns, &live, secs(3));
    }
    for fault in faults::host_side(&Target::of(&node.ns, &sandbox)) {
        let counted = repairs(&node);
        fault.plant();
        eventually(limit, &format!("repair of {}", fault.name), || ensure(!fault.still(), || "still broken".into()));
        eventually(limit, &format!("count of the repair of {}", fault.name), || {
            ensure(repairs(&node) > counted, || format!("overlane_repairs_total stays at {counted}"))
        });
        books::reachable(&node.ns, &live, secs(5));
    }
    runtime.del(&sandbox).must();
}

/// The table as text, without the mark that tells one writing of it from the next.
fn structure(ns: &Ns) -> String {
    nft::own_text(ns).lines().filter(|l| !l.contains("overlane structure")).collect::<Vec<_>>().join("\n")
}

/// Routes of ours, as text.
fn stable(ns: &Ns) -> String {
    let mut routes: Vec<String> =
        ip::routes(ns, ip::TABLE).iter().filter(|r| r.proto == ip::PROTO).map(|r| format!("{r:?}")).collect();
    routes.sort();
    format!("{routes:#?}")
}

#[test]
fn a_default_route_from_router_advertisements_survives() {
    let (_lock, node) = node(1);
    let agent = watchful(&node);
    agent.kill();
    // As a machine is before anything of ours runs: a host, no router.
    node.ns.must("sysctl -qw net.ipv6.conf.all.forwarding=0");
    node.ns.must("sysctl -qw net.ipv6.conf.eth0.accept_ra=1");
    let had = ip::family_routes(&node.ns, "-6", "main").into_iter().find(|r| r.dst == "default");
    node.ns.sh(&["ip", "-6", "route", "del", "default"]);
    let router = lab().router();
    let port = ip::links(&router).into_iter().find(|l| l.kind == "bridge").expect("the router's bridge").name;
    let learnt = || -> Result<(), String> {
        let routes = ip::family_routes(&node.ns, "-6", "main");
        ensure(routes.iter().any(|r| r.dst == "default" && r.proto == "ra"), || format!("{routes:?}"))
    };
    eventually(secs(10), "a default route by router advertisement", || {
        packet::advertise_router(&router, &port, 1800);
        std::thread::sleep(millis(100));
        learnt()
    });
    agent.start();
    assert_eq!(node.ns.sysctl("net/ipv6/conf/all/forwarding"), "1");
    holds(secs(3), "the default route while forwarding is on", learnt);
    // And the next advertisement is still heard.
    node.ns.must("ip -6 route del default");
    eventually(secs(10), "a default route by a later advertisement", || {
        packet::advertise_router(&router, &port, 1800);
        std::thread::sleep(millis(100));
        learnt()
    });
    if let Some(route) = had {
        node.ns.sh(&["ip", "-6", "route", "del", "default"]);
        let via: IpAddr = route.gateway.parse().unwrap();
        node.ns.must(&format!("ip -6 route add default via {via} dev {}", route.dev));
    }
}

/// Lines that only one of two texts has.
fn difference(before: &str, now: &str) -> String {
    let text = |text: &str| text.replace("\\n", "\n").lines().map(str::to_owned).collect::<Vec<_>>();
    let (before, now) = (text(before), text(now));
    let gone = before.iter().filter(|l| !now.contains(l)).map(|l| format!("- {l}"));
    let new = now.iter().filter(|l| !before.contains(l)).map(|l| format!("+ {l}"));
    gone.chain(new).collect::<Vec<_>>().join("\n")
}
