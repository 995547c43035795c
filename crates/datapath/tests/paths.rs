//! Must catch: a packet let in from outside, a forged source let through, an answer lost, in any family.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::net::SocketAddr;

use common::*;
use overlane_core::family::Family;
use overlane_datapath::mac;

const LISTS: [&[Family]; 3] = [&[V4], &[V6], &[V4, V6]];

fn at(address: std::net::IpAddr) -> SocketAddr {
    SocketAddr::new(address, 7)
}

#[test]
fn pods_and_nodes_reach_each_other() {
    for families in LISTS {
        let mut net = Net::new(families);
        let (one, two, far) = (net.a.pod(1), net.a.pod(2), net.b.pod(1));
        let _echoes = [&one.ns, &two.ns, &far.ns, &net.a.ns, &net.b.ns].map(|ns| ns.echo(7));
        for family in families {
            let pods = [&one, &two, &far];
            for from in pods {
                for to in pods.iter().filter(|to| to.spec != from.spec) {
                    let seen = from.ns.ask(None, at(to.address(*family)));
                    assert_eq!(seen.map(|s| s.ip()), Some(from.address(*family)), "{family} pod to pod, source kept");
                }
            }
            for (node, pod, what) in
                [(&net.a, &one, "node to its own pod"), (&net.b, &one, "node to another node's pod")]
            {
                let seen = node.ns.ask(None, at(pod.address(*family)));
                assert_eq!(seen.map(|s| s.ip()), Some(node.address(*family)), "{family} {what}");
            }
            assert!(one.ns.ask(None, at(net.a.address(*family))).is_some(), "{family} pod to its own node");
            let seen = one.ns.ask(None, at(net.b.address(*family))).map(|s| s.ip());
            assert_eq!(seen, Some(net.a.address(*family)), "{family} pod to another node, as its own node");
        }
        for counter in ["forged", "invalid", "no_way_in", "spoofed"] {
            assert_eq!((net.a.counted(counter), net.b.counted(counter)), (0, 0), "{counter}");
        }
    }
}

#[test]
fn full_size_packets_and_streams_pass() {
    use std::io::{Read, Write};
    let mut net = Net::new(&[V4, V6]);
    let (one, far) = (net.a.pod(1), net.b.pod(1));
    for family in [V4, V6] {
        let to = SocketAddr::new(far.address(family), 9);
        let listener = far.ns.run(|| std::net::TcpListener::bind(to).unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all.len()
        });
        one.ns.run(|| {
            let mut stream = std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_secs(10)).unwrap();
            stream.write_all(&vec![7; 1 << 20]).unwrap();
        });
        assert_eq!(server.join().unwrap(), 1 << 20, "{family}");
    }
}

#[test]
fn what_goes_out_bears_the_nodes_address() {
    for families in LISTS {
        let mut net = Net::new(families);
        let pod = net.a.pod(1);
        let _echoes = [net.internet.echo(7), net.vm.echo(7)];
        for family in families {
            let (internet, vm) = match *family {
                V4 => (ip("198.51.100.7"), ip("10.224.0.9")),
                V6 => (ip("2001:db8::7"), ip("fd10:224::9")),
            };
            for outside in [internet, vm] {
                let seen = pod.ns.ask(None, at(outside)).map(|s| s.ip());
                assert_eq!(seen, Some(net.a.address(*family)), "{family} to {outside}");
            }
        }
        // Switched off, the far side sees the pod's own address (and here finds the way back by a route).
        net.a.input.masquerade = None;
        net.a.agree();
        net.vm.sh("ip route add 10.244.0.0/16 via 10.224.0.4; ip -6 route add fd12:3456:789a::/64 via fd10:224::4");
        for family in families {
            let vm = if *family == V4 { ip("10.224.0.9") } else { ip("fd10:224::9") };
            assert_eq!(
                pod.ns.ask(None, at(vm)).map(|s| s.ip()),
                Some(pod.address(*family)),
                "{family} answers come in"
            );
        }
    }
}

#[test]
fn nothing_outside_reaches_a_pod() {
    for families in LISTS {
        let mut net = Net::new(families);
        let (pod, other) = (net.a.pod(1), net.b.pod(1));
        let _echo = pod.ns.echo(7);
        // Somebody routes the pods' space to a node; the router has the same route for those behind it.
        for ns in [&net.vm, &net.router] {
            ns.sh("ip route add 10.244.0.0/16 via 10.224.0.4; ip -6 route add fd12:3456:789a::/64 via fd10:224::4");
        }
        for family in families {
            let target = at(pod.address(*family));
            let before = net.a.counted("no_way_in");
            assert!(net.vm.silent(None, target), "{family} from the vm");
            assert!(net.internet.silent(None, target), "{family} from outside");
            assert!(net.a.comes_to("no_way_in", before + 2), "{family} counted");

            // The vm takes another node's pod's address, and that of a pod that does not exist.
            for forged in
                [other.address(*family), if *family == V4 { ip("10.244.77.7") } else { ip("fd12:3456:789a:0:77::7") }]
            {
                let before = net.a.counted("forged");
                let bits = family.bits();
                let nodad = if *family == V6 { "nodad" } else { "" };
                net.vm.sh(&format!("ip addr add {forged}/{bits} dev lo {nodad}"));
                assert!(net.vm.silent(Some(forged), target), "{family} forged {forged}");
                net.vm.sh(&format!("ip addr del {forged}/{bits} dev lo"));
                assert!(net.a.comes_to("forged", before + 1), "{family} forged {forged} counted");
            }
        }
    }
}

#[test]
fn a_pod_sends_only_what_is_its_own() {
    for families in LISTS {
        let mut net = Net::new(families);
        let (pod, neighbour) = (net.a.pod(1), net.a.pod(2));
        let _echoes = [neighbour.ns.echo(7), net.a.ns.echo(7)];
        for family in families {
            let bits = family.bits();
            let unknown = if *family == V4 { ip("192.0.2.5") } else { ip("2001:db8:5::5") };
            for forged in [neighbour.address(*family), net.b.address(*family), unknown] {
                let before = net.a.counted("spoofed");
                let nodad = if *family == V6 { "nodad" } else { "" };
                pod.ns.sh(&format!("ip addr add {forged}/{bits} dev eth0 {nodad}"));
                assert!(pod.ns.silent(Some(forged), at(net.a.address(*family))), "{family} as {forged}");
                pod.ns.sh(&format!("ip addr del {forged}/{bits} dev eth0"));
                assert!(net.a.exceeds("spoofed", before), "{family} as {forged} counted");
            }
            assert!(pod.ns.ask(None, at(neighbour.address(*family))).is_some(), "{family} as itself");
        }
        // Its own address with another ethernet address.
        let before = net.a.counted("spoofed");
        pod.ns.sh("ip link set eth0 address 02:aa:bb:cc:dd:ee");
        for family in families {
            // The neighbours are flushed with the address: say again who the gateway is.
            pod.ns.sh(&format!(
                "ip neigh replace {} lladdr {} dev eth0 nud permanent",
                if *family == V4 { "169.254.1.1" } else { "fe80::1" },
                mac::text(overlane_datapath::owned::HOST_MAC)
            ));
            assert!(pod.ns.silent(None, at(neighbour.address(*family))), "{family} with another ethernet address");
        }
        assert!(net.a.exceeds("spoofed", before));
        pod.ns.sh(&format!("ip link set eth0 address {}", mac::text(pod.spec.mac)));
    }
}

#[test]
fn an_ipv4_pod_has_no_ipv6_way_to_its_node() {
    let mut net = Net::new(&[V4]);
    let pod = net.a.pod(1);
    let _echo = net.a.ns.echo(7);
    // The worst a pod can do: link-local addresses on both ends (the host's end has none by itself).
    let link = &pod.spec.link;
    assert_eq!(net.a.ns.sh(&format!("ip -6 addr show dev {link} scope link")), "");
    net.a.ns.sh(&format!("ip -6 addr add fe80::77/64 dev {link} nodad"));
    pod.ns.sh("ip -6 addr add fe80::5/64 dev eth0 nodad
         ip -6 neigh replace fe80::77 lladdr 02:6f:76:6c:00:01 dev eth0 nud permanent
         ip -6 addr add fd99::5/64 dev eth0 nodad; ip -6 route add default via fe80::77 dev eth0");
    let scope = pod.ns.run(|| nix::net::if_::if_nametoindex("eth0").unwrap());
    let (noise, spoofed) = (net.a.counted("noise"), net.a.counted("spoofed"));
    let link_local = std::net::SocketAddrV6::new("fe80::77".parse().unwrap(), 7, 0, scope);
    assert!(pod.ns.silent(Some(ip("::")), link_local.into()), "link-local");
    assert!(net.a.exceeds("noise", noise), "link-local counted");
    assert!(pod.ns.silent(Some(ip("fd99::5")), at(ip("fd10:224::4"))), "global");
    assert!(net.a.exceeds("spoofed", spoofed), "global counted");
}

#[test]
fn a_pod_without_an_element_is_dropped() {
    let mut net = Net::new(&[V4, V6]);
    let (pod, other) = (net.a.pod(1), net.b.pod(1));
    let _echo = other.ns.echo(7);
    for family in [V4, V6] {
        assert!(pod.ns.ask(None, at(other.address(family))).is_some());
    }
    net.a.forbid(&pod);
    for family in [V4, V6] {
        assert!(pod.ns.silent(None, at(other.address(family))), "{family}");
    }
    net.a.allow(&pod);
    for family in [V4, V6] {
        assert!(pod.ns.ask(None, at(other.address(family))).is_some(), "{family}");
    }
}

#[test]
fn an_address_that_nobody_has_is_unreachable_at_once() {
    let mut net = Net::new(&[V4, V6]);
    let pod = net.a.pod(1);
    for target in ["10.244.4.99", "10.244.200.1", "fd12:3456:789a:0:4::99", "fd12:3456:789a:0:200::1"] {
        let error = pod.ns.run(|| {
            let long = std::time::Duration::from_secs(5);
            std::net::TcpStream::connect_timeout(&at(ip(target)), long).unwrap_err()
        });
        assert!(
            matches!(error.raw_os_error(), Some(nix::libc::EHOSTUNREACH | nix::libc::ENETUNREACH)),
            "{target}: {error}"
        );
    }
    for target in ["10.244.200.1", "fd12:3456:789a:0:200::1"] {
        let output = net.a.ns.output(&format!("ip route get {target}"));
        assert!(!output.status.success(), "{target} leaves by the default route");
    }
}
