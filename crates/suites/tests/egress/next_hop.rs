//! `outboundType: userDefinedRouting` with next hops: the VM of the lab is the firewall.

use std::net::{IpAddr, SocketAddr};

use overlane_suites::lab::NodeHandle;
use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Ns, ip, nft, packet};
use serde_json::json;

use super::{FAMILIES, NETWORK, Stage, address_like, nothing_is_left, seen_as, seen_within};

/// The port that the firewall does not let through.
const FORBIDDEN: u16 = 19_999;

/// Makes a router of the VM that counts whom it forwards for, and lets one port not through.
fn firewall(stage: &Stage) -> Ns {
    let vm = stage.lab.vm();
    for line in [
        "sysctl -qw net.ipv4.ip_forward=1",
        "sysctl -qw net.ipv4.conf.all.send_redirects=0",
        "sysctl -qw net.ipv4.conf.eth0.send_redirects=0",
        "sysctl -qw net.ipv6.conf.all.forwarding=1",
    ] {
        vm.must(line);
    }
    let script = format!(
        "table inet fw {{
           counter nodes {{}}
           counter pods {{}}
           counter refused {{}}
           chain forward {{
             type filter hook forward priority 0;
             ip saddr 10.224.0.0/16 counter name nodes
             ip6 saddr fd10:224::/64 counter name nodes
             ip saddr 10.244.0.0/16 counter name pods
             ip6 saddr fd12:3456:789a::/64 counter name pods
             udp dport {FORBIDDEN} counter name refused drop
           }}
           chain post {{
             type nat hook postrouting priority 100;
             ip saddr 10.244.0.0/16 masquerade
             ip6 saddr fd12:3456:789a::/64 masquerade
           }}
         }}"
    );
    vm.sh(&["nft", &script]).must();
    // The way back to pods.
    for node in &stage.nodes {
        for block in stage.lab.api.blocks(&node.name) {
            let v4 = !block.contains(':');
            let family = if v4 { "-4" } else { "-6" };
            let via = node.ips().into_iter().find(|ip| ip.is_ipv4() == v4).unwrap();
            vm.must(&format!("ip {family} route add {block} via {via}"));
        }
    }
    vm
}

fn counted(vm: &Ns, counter: &str) -> u64 {
    nft::packets(vm, "inet fw", counter)
}

fn hops(stage: &Stage, vm: &Ns) -> Vec<IpAddr> {
    stage.pods[0].ips.iter().map(|own| address_like(vm, *own)).collect()
}

#[test]
fn the_firewall_sees_and_filters_what_leaves() {
    for families in FAMILIES {
        let stage = Stage::new(families, &[]);
        let clean: Vec<String> = stage.nodes.iter().map(|node| ip::snapshot(&node.ns)).collect();
        let (vm, internet) = (firewall(&stage), stage.lab.internet());
        let hops = hops(&stage, &vm);
        stage.egress("userDefinedRouting", &json!({"nextHops": hops}));
        for (number, pod) in stage.pods.iter().enumerate() {
            for own in &pod.ips {
                let want = Some(stage.node_like(number, *own));
                let before = counted(&vm, "nodes");
                eventually(secs(10), "packets go by the firewall, as the node's", || {
                    let seen = seen_within(pod, &internet, *own, millis(300));
                    ensure(seen == want && counted(&vm, "nodes") > before, || format!("{seen:?}, not {want:?}"))
                });
                packet::ping(&pod.ns, address_like(&internet, *own), 1400, secs(2)).unwrap();
                filtered(&stage, number, *own, &vm, &internet);
            }
        }
        // What does not leave goes by no firewall.
        let before = (counted(&vm, "nodes"), counted(&vm, "pods"));
        for own in &stage.pods[0].ips {
            packet::ping(&stage.pods[0].ns, stage.pods[1].ip_like(*own), 56, secs(2)).unwrap();
            packet::ping(&stage.pods[0].ns, stage.node_like(1, *own), 56, secs(2)).unwrap();
            packet::ping(&stage.nodes[0].ns, address_like(&internet, *own), 56, secs(2)).unwrap();
        }
        assert_eq!((counted(&vm, "nodes"), counted(&vm, "pods")), before);
        keeps_the_pods_address(&stage, &vm, &internet);
        stage.egress("loadBalancer", &json!({"nextHops": null, "keepPodAddress": null}));
        for own in &stage.pods[0].ips {
            seen_as(&stage.pods[0], &internet, *own, Some(stage.node_like(0, *own)), "as before");
        }
        for (node, clean) in stage.nodes.iter().zip(&clean) {
            nothing_is_left(&node.ns, clean);
        }
    }
}

fn filtered(stage: &Stage, number: usize, own: IpAddr, vm: &Ns, internet: &Ns) {
    let at = SocketAddr::new(address_like(internet, own), FORBIDDEN);
    let witness = Witness::new(internet, at.ip(), FORBIDDEN);
    let refused = counted(vm, "refused");
    probe::fire(&stage.pods[number].ns, at, None, "let me out", 5);
    std::thread::sleep(millis(100));
    assert!(counted(vm, "refused") >= refused + 5 && witness.seen().is_empty(), "{own}: {:?}", witness.seen());
}

fn keeps_the_pods_address(stage: &Stage, vm: &Ns, internet: &Ns) {
    stage.egress("userDefinedRouting", &json!({"nextHops": hops(stage, vm), "keepPodAddress": true}));
    for own in &stage.pods[0].ips {
        let before = counted(vm, "pods");
        let want = Some(address_like(vm, *own));
        eventually(secs(10), "the firewall sees the pod's address, and is seen itself", || {
            let seen = seen_within(&stage.pods[0], internet, *own, millis(300));
            ensure(seen == want && counted(vm, "pods") > before, || format!("{seen:?}, not {want:?}"))
        });
        packet::ping(&stage.pods[0].ns, address_like(internet, *own), 1400, secs(2)).unwrap();
    }
}

/// What an agent made holds while there is none, and is made again when a hand has taken it away.
#[test]
fn it_outlives_the_agent_and_foreign_hands() {
    let stage = Stage::new("ipv4,ipv6", &["--routing", "vxlan"]);
    let (vm, internet) = (firewall(&stage), stage.lab.internet());
    stage.egress("userDefinedRouting", &json!({"nextHops": hops(&stage, &vm)}));
    let pod = &stage.pods[0];
    let node = &stage.nodes[0];
    let by_firewall = |why: &str| {
        for own in &pod.ips {
            let want = Some(stage.node_like(0, *own));
            let before = counted(&vm, "nodes");
            eventually(secs(10), why, || {
                let seen = seen_within(pod, &internet, *own, millis(300));
                ensure(seen == want && counted(&vm, "nodes") > before, || format!("{own} is seen as {seen:?}"))
            });
        }
    };
    eventually(secs(10), "the rules are there", || rules(node, 2));
    by_firewall("with an agent");
    // A node needs no route of its own for what goes to the next hop.
    for family in ["-4", "-6"] {
        node.ns.must(&format!("ip {family} route del default"));
    }
    by_firewall("without a default route");
    // Whatever was about to be looked at has been.
    std::thread::sleep(secs(5));
    for family in ["-4", "-6"] {
        node.ns.must(&format!("ip {family} rule del priority 111"));
    }
    eventually(secs(10), "the rules are there again", || rules(node, 2));
    by_firewall("after a foreign hand");
    for family in ["-4", "-6"] {
        node.ns.must(&format!("ip {family} route flush table 28601"));
    }
    eventually(secs(10), "the routes are there again", || {
        let routes =
            node.ns.must("ip -4 route show table 28601").stdout + &node.ns.must("ip -6 route show table 28601").stdout;
        ensure(routes.lines().count() == 4, || routes.clone())
    });
    by_firewall("after another");
    let agent = node.take_agent();
    agent.kill();
    by_firewall("without an agent");
    agent.start();
    node.agent_ready();
    by_firewall("with an agent again");
    for own in &pod.ips {
        packet::ping(&pod.ns, stage.pods[1].ip_like(*own), 1300, secs(2)).unwrap();
    }
}

fn rules(node: &NodeHandle, count: usize) -> Result<(), String> {
    let all = ip::rules(&node.ns);
    let ours = all.iter().filter(|rule| rule.contains("28601")).count();
    ensure(ours == count, || format!("{all:?}"))
}

/// A family without a next hop has no way out, and a next hop that is nowhere leads nowhere; both are said.
#[test]
fn what_has_no_next_hop_does_not_leave() {
    let stage = Stage::new("ipv4,ipv6", &[]);
    let (vm, internet) = (firewall(&stage), stage.lab.internet());
    let (pod, api) = (&stage.pods[0], &stage.lab.api);
    let own = |v4: bool| *pod.ips.iter().find(|ip| ip.is_ipv4() == v4).unwrap();
    let v4 = address_like(&vm, own(true));
    stage.egress("userDefinedRouting", &json!({"nextHops": [v4]}));
    seen_as(pod, &internet, own(false), None, "IPv6 has no next hop");
    seen_as(pod, &internet, own(true), Some(stage.node_like(0, own(true))), "IPv4 has one");
    stage.egress("userDefinedRouting", &json!({"nextHops": ["192.0.2.7", "fe80::7:7"]}));
    for own in [own(true), own(false)] {
        seen_as(pod, &internet, own, None, "no such next hop");
    }
    let path = format!("/apis/overlane.io/v1alpha1/nodestates/{}", stage.nodes[0].name);
    eventually(secs(10), "it is said", || {
        let conditions = api.get(&path)["spec"]["conditions"].to_string();
        ensure(conditions.contains("NextHopNotOnLink") && conditions.contains("192.0.2.7"), || conditions.clone())
    });
    // One that is no next hop is refused, and what was in force stays.
    api.merge(NETWORK, &json!({"spec": {"egress": {"nextHops": ["10.244.0.9"]}}}));
    eventually(secs(10), "it is refused", || {
        let status = &api.get(NETWORK)["status"];
        let refused = status["conditions"].to_string().contains("egress.nextHops[0]");
        ensure(refused && status["applied"]["egress"]["nextHops"][0] == "192.0.2.7", || status.to_string())
    });
}

/// A mark that no rule leads anywhere is no way out, and a connection by the next hop outlives an upgrade of the agent.
#[test]
fn nothing_goes_past_the_next_hop() {
    let stage = Stage::new("ipv4,ipv6", &[]);
    let (vm, internet) = (firewall(&stage), stage.lab.internet());
    stage.egress("userDefinedRouting", &json!({"nextHops": hops(&stage, &vm)}));
    let (pod, node) = (&stage.pods[0], &stage.nodes[0]);
    for own in &pod.ips {
        let before = counted(&vm, "nodes");
        eventually(secs(10), "by the firewall", || {
            let seen = seen_within(pod, &internet, *own, millis(300));
            ensure(seen.is_some() && counted(&vm, "nodes") > before, || format!("{seen:?}"))
        });
    }
    // Until then the agent ends what may have left by the way before; the next one would, if this one is stopped at it.
    eventually(secs(10), "flows by the way before are ended", || {
        let last = std::fs::read_to_string(node.run_dir.join("egress-way")).unwrap_or_default();
        ensure(last.contains("NextHops"), || last.clone())
    });
    let mut open: Vec<_> = pod
        .ips
        .iter()
        .map(|own| {
            let at = SocketAddr::new(address_like(&internet, *own), probe::port());
            let listener = internet.listen(at);
            let client = pod.ns.connect(at, None, secs(2)).unwrap();
            (client, listener.accept().unwrap().0)
        })
        .collect();
    let agent = node.take_agent();
    agent.kill();
    agent.start();
    node.agent_ready();
    for (client, server) in &mut open {
        use std::io::{Read as _, Write as _};
        client.write_all(b"on").unwrap();
        server.set_read_timeout(Some(secs(2))).unwrap();
        let read = server.read_exact(&mut [0; 2]);
        assert!(read.is_ok(), "{read:?}: {}", agent.log());
    }
    // Nobody puts them back.
    agent.kill();
    for family in ["-4", "-6"] {
        node.ns.must(&format!("ip {family} rule del priority 111"));
    }
    let before = nft::counter(&node.ns, "no_way_out");
    for own in &pod.ips {
        seen_as(pod, &internet, *own, None, "without a rule nothing leaves");
    }
    assert!(nft::counter(&node.ns, "no_way_out") > before);
    agent.start();
    node.agent_ready();
    for own in &pod.ips {
        seen_as(pod, &internet, *own, Some(stage.node_like(0, *own)), "with the rule again");
    }
}
