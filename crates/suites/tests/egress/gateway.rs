//! Egress gateways: who is seen outside, by which way, and what is left alone.
//!
//! Must catch: a packet for the outside that is masqueraded at the pod's own node although a gateway is for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use overlane_suites::api::told;
use overlane_suites::far::Far;
use overlane_suites::lab::Pod;
use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::{ensure, eventually, secs};
use overlane_suites::{Ns, ip, packet};
use serde_json::json;

use super::office::{GATEWAYS, OFFICE, Office, alike, answered, bulk, is_seen};
use super::{FAMILIES, NETWORK, address_like, seen_as};

/// The tunnel's link on every node.
const TUNNEL: &str = "ovlx0";

/// Two pods of each node, of which one is chosen; the second node is the gateway.
struct Floor {
    office: Office,
    chosen: Vec<Pod>,
    others: Vec<Pod>,
}

impl Floor {
    fn new(families: &str, more: &[&str]) -> Floor {
        let office = Office::new(2, families, &[1], more);
        let chosen = vec![office.run("a", 0, true), office.run("b", 1, true)];
        let others = vec![office.run("c", 0, false), office.run("d", 1, false)];
        Floor { office, chosen, others }
    }

    fn outside(&self) -> [&Ns; 2] {
        [&self.office.internet, &self.office.vm]
    }

    /// Chosen pods are seen as the gateway, others as their nodes.
    fn is_divided(&self) {
        let office = &self.office;
        for outside in self.outside() {
            for (number, (chosen, other)) in self.chosen.iter().zip(&self.others).enumerate() {
                for own in &chosen.ips {
                    is_seen(chosen, outside, *own, office.egress(*own), "a chosen pod is seen as the gateway");
                }
                for own in &other.ips {
                    is_seen(other, outside, *own, office.node_like(number, *own), "another is seen as its node");
                }
            }
        }
    }

    /// Whom pods, nodes and a Service's pod see when a chosen pod speaks to them.
    fn inside(&self) -> Vec<(String, IpAddr)> {
        let mut seen = Vec::new();
        let Office { nodes, .. } = &self.office;
        for own in &self.chosen[0].ips {
            let mut ask = |name: &str, ns: &Ns, to: IpAddr| {
                let at = SocketAddr::new(to, probe::port());
                let _witness = Witness::new(ns, to, at.port());
                let by_udp = probe::udp(&self.chosen[0].ns, at, None, "who", secs(2)).unwrap();
                let by_tcp = probe::tcp(&self.chosen[0].ns, at, None, "who", secs(2)).unwrap();
                assert_eq!(by_udp, by_tcp, "{name}");
                seen.push((format!("{name} at {to}"), by_udp));
            };
            for pod in [&self.chosen[1], &self.others[0], &self.others[1]] {
                ask(&pod.name, &pod.ns, pod.ip_like(*own));
            }
            for (number, node) in nodes.iter().enumerate() {
                ask(&node.name, &node.ns, self.office.node_like(number, *own));
            }
            ask("a Service", &self.others[1].ns, service(*own));
        }
        seen
    }

    /// Does for one Service what kube-proxy would: its pod is `d`.
    fn serve(&self) {
        let mut rules = String::new();
        for own in &self.others[1].ips {
            let ip = if own.is_ipv4() { "ip" } else { "ip6" };
            rules += &format!("  {ip} daddr {} dnat {ip} to {own}\n", service(*own));
        }
        let script =
            format!("table inet svc {{\n chain c {{\n  type nat hook prerouting priority -100;\n{rules} }}\n}}\n");
        let out = self.office.nodes[0].ns.feed(&["nft", "-f", "-"], &script);
        assert!(out.ok(), "{out}");
    }
}

/// An address of the lab's Service CIDRs.
fn service(like: IpAddr) -> IpAddr {
    let text = if like.is_ipv4() { "10.0.0.50" } else { "fd12:3456:789a:1::50" };
    text.parse().unwrap()
}

fn every_family(routing: &str) {
    for families in FAMILIES {
        let floor = Floor::new(families, &["--routing", routing]);
        let office = &floor.office;
        if routing == "auto" {
            let path = format!("/apis/overlane.io/v1alpha1/nodestates/{}", office.nodes[0].name);
            eventually(secs(10), "the fabric carries pods' addresses", || {
                let said = told(&office.lab.api.get(&path)["spec"]["conditions"], "NativeRouting");
                ensure(said.0 == "True", || format!("{said:?}"))
            });
        }
        floor.serve();
        let inside = floor.inside();
        let before = office.snapshot();
        office.open(1);
        floor.is_divided();
        assert_eq!(office.settled(0, &[0, 1], secs(5)), 1);
        for node in &office.nodes {
            assert!(ip::link(&node.ns, TUNNEL).is_some(), "{}: {routing} needs the tunnel too", node.name);
        }
        let rules = ip::rules(&office.nodes[0].ns);
        let leads = |rule: &&String| rule.contains("lookup 286") && rule.contains("proto 111");
        assert!(rules.iter().filter(leads).count() >= office.slot(0).len(), "{rules:?}");
        assert_eq!(floor.inside(), inside, "what stays inside goes as before");
        full_size(&floor);
        office.close();
        for (number, pod) in floor.chosen.iter().enumerate() {
            for own in &pod.ips {
                let node = office.node_like(number, *own);
                seen_as(pod, &office.internet, *own, Some(node), "no gateway, no other way");
            }
        }
        office.is_as_before(&before);
        for node in &office.nodes {
            assert_eq!(ip::link(&node.ns, TUNNEL).is_some(), routing != "native", "{}", node.name);
        }
    }
}

/// What fills the pod's link or the far side's does not fit into the tunnel; whoever sends it is told.
fn full_size(floor: &Floor) {
    let internet = &floor.office.internet;
    for pod in &floor.chosen {
        for own in &pod.ips {
            let to = address_like(internet, *own);
            let header = if own.is_ipv4() { 28 } else { 48 };
            for size in [1500 - header, 4000] {
                eventually(secs(5), "a large packet", || packet::ping(&pod.ns, to, size, secs(1)).map(drop));
            }
            bulk(pod, internet, *own);
        }
    }
}

#[test]
fn chosen_pods_leave_by_it_in_native_routing() {
    every_family("native");
}

#[test]
fn chosen_pods_leave_by_it_in_vxlan() {
    every_family("vxlan");
}

#[test]
fn chosen_pods_leave_by_it_in_auto_routing() {
    every_family("auto");
}

/// A fabric that has been told where the addresses are, as a cloud is of a machine's secondary ones.
#[test]
fn other_fabrics_carry_it() {
    for (underlay, routing) in
        [("routed", "native"), ("routed", "vxlan"), ("antispoof", "vxlan"), ("antispoof", "auto")]
    {
        let floor = Floor::new("ipv4,ipv6", &["--underlay", underlay, "--routing", routing]);
        floor.office.admit(1, underlay);
        floor.office.open(1);
        floor.is_divided();
        full_size(&floor);
    }
}

/// Each pod has a slot, the same whenever it comes again; each slot has a node.
#[test]
fn several_addresses_are_spread() {
    for families in FAMILIES {
        let office = Office::new(3, families, &[1, 2], &[]);
        office.open(2);
        let all = [0, 1, 2];
        eventually(secs(30), "one at each node", || {
            let at: BTreeSet<usize> = [0, 1].into_iter().map(|slot| office.settled(slot, &all, secs(10))).collect();
            ensure(at == BTreeSet::from([1, 2]), || format!("{at:?}"))
        });
        let seen_of = |pod: &Pod| {
            let began = std::time::Instant::now();
            let seen = pod.ips.iter().map(|own| answered(pod, &office.internet, *own, began, secs(10)));
            let seen: Vec<IpAddr> = seen.collect();
            let slot = [0, 1].into_iter().find(|slot| seen.iter().all(|ip| office.slot(*slot).contains(ip)));
            slot.unwrap_or_else(|| panic!("{} is seen as {seen:?}: no slot has them all", pod.name))
        };
        let mut slots = BTreeMap::new();
        for number in 0..16 {
            let pod = office.run(&format!("p{number}"), number % 3, true);
            slots.insert(pod.name.clone(), seen_of(&pod));
            if slots.len() >= 3 && slots.values().collect::<BTreeSet<_>>().len() == 2 {
                break;
            }
        }
        println!("{slots:?}");
        assert_eq!(slots.values().collect::<BTreeSet<_>>().len(), 2, "both are used: {slots:?}");
        for (name, slot) in &slots {
            office.lab.delete_pod(name);
            assert_eq!(seen_of(&office.run(name, 0, true)), *slot, "{name} has the slot that it had");
        }
    }
}

/// The addresses are for what pods begin. What a program of the node listens on is reached by the node's own.
#[test]
fn nobody_gets_in_by_its_addresses() {
    for families in FAMILIES {
        let floor = Floor::new(families, &[]);
        let office = &floor.office;
        office.open(1);
        floor.is_divided();
        for own in &floor.chosen[0].ips {
            let (egress, port) = (office.egress(*own), probe::port());
            let witness = Witness::new(&office.nodes[1].ns, *own, port);
            for outside in floor.outside() {
                let node = SocketAddr::new(office.node_like(1, *own), port);
                probe::tcp(outside, node, None, "by the node's address", secs(2)).unwrap();
                let at = SocketAddr::new(egress, port);
                let error = outside.connect(at, None, secs(1)).err().map(|error| error.kind());
                assert_eq!(error, Some(ErrorKind::TimedOut), "{} to {at}", outside.label);
                probe::udp(outside, at, None, "by the gateway's address", secs(1)).unwrap_err();
                packet::ping(outside, egress, 56, secs(1)).unwrap_err();
            }
            assert!(!witness.saw("by the gateway's address"), "{:?}", witness.seen());
        }
        floor.is_divided();
    }
}

#[test]
fn only_destinations_that_it_is_for_go_by_it() {
    for families in FAMILIES {
        let floor = Floor::new(families, &[]);
        let (office, pod) = (&floor.office, &floor.chosen[0]);
        office.open(1);
        let ranges: Vec<&str> = ["203.0.113.0/24", "2001:db8:113::/64"]
            .into_iter()
            .filter(|range| pod.ips.iter().any(|own| own.is_ipv6() == range.contains(':')))
            .collect();
        let goes = |outside: &Ns, by_gateway: bool, why: &str| {
            for own in &pod.ips {
                let want = if by_gateway { office.egress(*own) } else { office.node_like(0, *own) };
                is_seen(pod, outside, *own, want, why);
            }
        };
        goes(&office.vm, true, "everything outside");
        office.change(&json!({"destinationCIDRs": ranges}));
        goes(&office.vm, false, "not what it is for");
        goes(&office.internet, true, "what it is for");
        office.change(&json!({"destinationCIDRs": ["198.51.100.0/24"]}));
        goes(&office.internet, false, "no more what it is for");
        office.change(&json!({"destinationCIDRs": []}));
        goes(&office.vm, true, "everything outside again");
        // What the cluster calls internal.
        office.lab.api.merge(NETWORK, &json!({"spec": {"egress": {"internalCIDRs": ranges}}}));
        goes(&office.internet, false, "what is internal goes as ever");
        goes(&office.vm, true, "the rest does not");
        office.lab.api.merge(NETWORK, &json!({"spec": {"egress": {"internalCIDRs": null}}}));
        goes(&office.internet, true, "internal no more");
        // What is not masqueraded bears the pod's address, which the VM does not know the way to.
        let fragment = json!({"config": "nonMasqueradeCIDRs: [\"10.224.0.0/16\", \"fd10:224::/64\"]\n"});
        office.lab.api.config_map("kube-system", "ip-masq-agent", &json!({}), &fragment);
        for own in &pod.ips {
            seen_as(pod, &office.vm, *own, Some(*own), "what is not masqueraded goes by no gateway");
        }
        goes(&office.internet, true, "the rest does");
        office.lab.api.delete("/api/v1/namespaces/kube-system/configmaps/ip-masq-agent");
        goes(&office.vm, true, "masqueraded again");
    }
}

/// A wrong one is refused with a reason, and changes nothing.
#[test]
fn what_is_wrong_is_refused_and_what_was_in_force_stays() {
    let floor = Floor::new("ipv4,ipv6", &[]);
    let (office, pod) = (&floor.office, &floor.chosen[0]);
    office.open(1);
    floor.is_divided();
    let far = Far::on(&office.internet);
    let good = office.slot(0);
    for wrong in [
        json!({"egressIPs": ["10.244.0.9", "fd10:224::200"]}),
        json!({"egressIPs": ["10.224.0.200", "fd12:3456:789a::9"]}),
        json!({"egressIPs": ["10.0.0.9", "fd10:224::200"]}),
        json!({"egressIPs": ["10.224.0.200", "10.224.0.201", "fd10:224::200"]}),
        json!({"egressIPs": ["10.224.0.200", "10.224.0.200"]}),
        json!({"egressIPs": ["127.0.0.1", "fd10:224::200"]}),
        json!({"destinationCIDRs": ["203.0.113.7/24"]}),
    ] {
        println!("{wrong}");
        office.ask(&wrong);
        office.told("False", "Invalid");
        let status = &office.lab.api.get(&format!("{GATEWAYS}/{OFFICE}"))["status"];
        assert_eq!(status["applied"]["egressIPs"], json!(good), "{status}");
        for own in &pod.ips {
            is_seen(pod, &office.internet, *own, alike(&good, *own), "as before");
        }
        office.change(&json!({"egressIPs": good, "destinationCIDRs": []}));
    }
    far.only(&good).unwrap();
    assert_eq!(office.settled(0, &[0, 1], secs(5)), 1);
}

/// What a gateway and its answers bear comes by no way that the node itself would take to it.
#[test]
fn strict_reverse_paths_are_no_matter() {
    let floor = Floor::new("ipv4", &["--routing", "native"]);
    for node in &floor.office.nodes {
        node.ns.must("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1");
    }
    floor.office.open(1);
    floor.is_divided();
}
