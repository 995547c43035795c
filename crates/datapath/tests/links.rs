//! Must catch: a pod link that is made by half, left behind, or deleted although it is not ours; a fault that a check
//! does not see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use overlane_core::plan::EndpointSpec;
use overlane_datapath::link_del::{LinkDelError, delete_in};
use overlane_datapath::node::{self, PodRoutes};
use overlane_datapath::pod::{self, PodSpec, Retiring, WireError};

fn retiring(spec: &PodSpec) -> Retiring {
    Retiring { link: spec.link.clone(), addresses: spec.addresses.clone() }
}

fn links(ns: &Ns) -> String {
    ns.sh("ip -br link | awk '{print $1}' | sort | tr '\\n' ' '")
}

#[test]
fn each_familys_pod_is_wired_in_one_go() {
    for families in [&[V4][..], &[V6], &[V4, V6], &[V6, V4]] {
        let mut net = Net::new(families);
        let pod = net.a.pod(1);
        let link = &pod.spec.link;
        let shown = net.a.ns.sh(&format!("ip -d link show {link}"));
        assert!(
            shown.contains("alias overlane:default/a-pod:a-container") && shown.contains("addrgenmode none"),
            "{shown}"
        );
        assert!(shown.contains("02:6f:76:6c:00:01") && shown.contains("mtu 1500"), "{shown}");
        let inside = pod.ns.sh("ip addr show eth0");
        assert!(!inside.contains("tentative") && !inside.contains("fe80"), "{inside}");
        assert_eq!(inside.matches("inet6 ").count(), usize::from(families.contains(&V6)), "{inside}");
        assert_eq!(inside.matches("inet ").count(), usize::from(families.contains(&V4)), "{inside}");
        assert!(pod.ns.sh("ip link show lo").contains("UP"));
        for (family, route, gateway) in [(V4, "ip -4", "169.254.1.1"), (V6, "ip -6", "fe80::1")] {
            let routes = pod.ns.sh(&format!("{route} route show default"));
            assert_eq!(
                routes.contains(&format!("default via {gateway} dev eth0")),
                families.contains(&family),
                "{routes}"
            );
            let neighbours = pod.ns.sh(&format!("{route} neigh show dev eth0"));
            assert_eq!(neighbours.contains("PERMANENT"), families.contains(&family), "{neighbours}");
        }
        net.a.ns.run(|| {
            assert_eq!(net.a.wirer.check_host(&pod.spec).unwrap(), []);
            assert_eq!(net.a.wirer.check_pod(&pod.ns.0, &pod.spec).unwrap(), []);
        });
    }
}

/// Neither direction waits for anything: one datagram each, no second try.
#[test]
fn the_first_packet_passes() {
    let mut net = Net::new(&[V4, V6]);
    let _echo = net.a.ns.echo(7);
    for n in 1..=20 {
        let pod = Pod { ns: Ns::bare(), spec: net.a.spec(n) };
        let _echo = pod.ns.echo(7);
        net.a.allow(&pod);
        net.a.ns.run(|| net.a.wirer.wire(&pod.ns.0, &pod.spec).unwrap());
        for family in [V4, V6] {
            let (out, back) = (net.a.address(family), pod.address(family));
            if n % 2 == 0 {
                assert!(pod.ns.ask_once(std::net::SocketAddr::new(out, 7)), "{family} from pod {n}");
            } else {
                assert!(net.a.ns.ask_once(std::net::SocketAddr::new(back, 7)), "{family} to pod {n}");
            }
        }
    }
}

#[test]
fn a_runtime_that_switches_ipv6_off_is_overruled_for_our_link() {
    let mut net = Net::new(&[V4, V6]);
    // On both sides: the host's default, too.
    net.a.ns.sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
    let pod = Pod { ns: Ns::bare(), spec: net.a.spec(9) };
    pod.ns
        .sh("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
    net.a.allow(&pod);
    net.a.ns.run(|| net.a.wirer.wire(&pod.ns.0, &pod.spec).unwrap());
    let _echo = pod.ns.echo(7);
    for family in [V4, V6] {
        let to = std::net::SocketAddr::new(pod.address(family), 7);
        assert!(net.a.ns.ask(None, to).is_some(), "{family}");
    }
    assert_eq!(pod.ns.sh("cat /proc/sys/net/ipv6/conf/default/disable_ipv6").trim(), "1", "the rest is left as it was");
}

#[test]
fn a_failure_leaves_nothing() {
    let mut net = Net::new(&[V4, V6]);
    let before = links(&net.a.ns);

    // The pod's interface is taken: nothing of the pair is made, and what was there stays.
    let taken = Ns::bare();
    taken.sh("ip link add eth0 type veth peer name other");
    let spec = net.a.spec(1);
    let error = net.a.ns.run(|| net.a.wirer.wire(&taken.0, &spec).unwrap_err());
    assert!(matches!(error, WireError::Taken { .. }), "{error}");
    assert_eq!((links(&net.a.ns), links(&taken)), (before.clone(), "eth0@other lo other@eth0 ".to_owned()));

    // The host's link's name is taken.
    let spec = net.a.spec(1);
    net.a.ns.sh(&format!("ip link add {} type bridge", spec.link));
    let error = net.a.ns.run(|| net.a.wirer.wire(&Ns::bare().0, &spec).unwrap_err());
    assert!(matches!(error, WireError::Taken { .. }), "{error}");
    net.a.ns.sh(&format!("ip link del {}", spec.link));

    // A later step fails: the source address is not the node's; the pod's address cannot be.
    for (address, prefsrc) in
        [("10.244.4.1", "10.224.0.200"), ("fd12:3456:789a:0:4::1", "fd10:224::200"), ("ff05::77", "fd10:224::4")]
    {
        let mut spec = net.a.spec(1);
        spec.addresses = vec![ip(address)];
        for family in [V4, V6] {
            if ip(prefsrc).is_ipv4() == (family == V4) {
                spec.prefsrc.insert(family, ip(prefsrc));
            }
        }
        let ns = Ns::bare();
        let error = net.a.ns.run(|| net.a.wirer.wire(&ns.0, &spec).unwrap_err());
        assert!(error.to_string().starts_with(&format!("wire pod link {}: add ", spec.link)), "{error}");
        assert_eq!(links(&net.a.ns), before, "{address}");
        assert_eq!(links(&ns), "lo ", "{address}");
        let routes = net.a.ns.sh("ip route show proto 111; ip -6 route show proto 111");
        assert!(!routes.contains("ovlp"), "{routes}");
    }
    // And the wirer still works.
    net.a.pod(1);
}

#[test]
fn a_foreign_route_to_a_pods_address_is_named_and_left_alone() {
    let mut net = Net::new(&[V4, V6]);
    for (family, ip_command, to) in [(V4, "ip", "10.244.4.1"), (V6, "ip -6", "fd12:3456:789a:0:4::1")] {
        let bits = family.bits();
        net.a.ns.sh(&format!("{ip_command} route add {to}/{bits} dev eth0 proto 99 metric 111"));
        let before = net.a.ns.sh(&format!("{ip_command} route show proto 99"));
        assert!(before.contains(to), "{before}");
        let spec = net.a.spec(1);
        let ns = Ns::bare();
        let error = net.a.ns.run(|| net.a.wirer.wire(&ns.0, &spec).unwrap_err());
        let said = error.to_string();
        assert!(said.contains(&format!("foreign route to {to}/{bits} (protocol 99, metric 111)")), "{said}");
        assert_eq!(net.a.ns.sh(&format!("{ip_command} route show proto 99")), before);
        assert_eq!(links(&ns), "lo ");
        net.a.ns.sh(&format!("{ip_command} route del {to}/{bits} proto 99 metric 111"));
    }
    // One of ours is written over: here the route of a link that was not retired.
    let stale = net.a.pod(1);
    let fresh = Pod { ns: Ns::bare(), spec: net.a.spec(1) };
    net.a.allow(&fresh);
    net.a.ns.run(|| {
        net.a.wirer.wire(&fresh.ns.0, &fresh.spec).unwrap();
        assert_eq!(net.a.wirer.check_host(&fresh.spec).unwrap(), []);
        // With nothing to repair, a repair changes nothing.
        net.a.wirer.repair_host(&fresh.spec).unwrap();
        assert_eq!(net.a.wirer.check_host(&fresh.spec).unwrap(), []);
    });
    drop(stale);
    // A repair leaves a foreign one alone, too.
    net.a.ns.sh("ip route replace 10.244.4.1/32 dev eth0 proto 99 metric 111");
    let error = net.a.ns.run(|| net.a.wirer.repair_host(&fresh.spec).unwrap_err());
    assert!(matches!(error, WireError::ForeignRoute { .. }), "{error}");
    let left = net.a.ns.sh("ip route show table main proto 99");
    assert!(left.contains("10.244.4.1 dev eth0"), "{left}");
}

#[test]
fn retired_is_out_of_service_at_once_and_reaped_is_gone() {
    let mut net = Net::new(&[V4, V6]);
    let pods = [net.a.pod(1), net.a.pod(2), net.a.pod(3)];
    let _echoes: Vec<_> = pods.iter().map(|pod| pod.ns.echo(7)).collect();
    let target = |pod: &Pod, family| std::net::SocketAddr::new(pod.address(family), 7);
    let [gone, kept, _] = &pods;
    net.a.ns.run(|| net.a.wirer.retire(&[retiring(&gone.spec)]).unwrap());
    for family in [V4, V6] {
        assert!(net.a.ns.silent(None, target(gone, family)), "{family}");
        assert!(net.a.ns.ask(None, target(kept, family)).is_some(), "{family}");
    }
    let neighbours = net.a.ns.sh(&format!("ip neigh show dev {0}; ip -6 neigh show dev {0}", gone.spec.link));
    assert_eq!(neighbours, "");
    // Its address can go to a new pod while the old link still stands.
    let second = Pod { ns: Ns::bare(), spec: net.a.spec(1) };
    net.a.allow(&second);
    net.a.ns.run(|| net.a.wirer.wire(&second.ns.0, &second.spec).unwrap());
    let _echo = second.ns.echo(7);
    // Again, and with a link that never was: success, and the new owner keeps its routes.
    net.a.ns.run(|| {
        let never = Retiring { link: "ovlpaaaaaaaaaaa".into(), addresses: gone.spec.addresses.clone() };
        net.a.wirer.retire(&[retiring(&gone.spec), never]).unwrap();
    });
    for family in [V4, V6] {
        assert!(net.a.ns.ask(None, target(&second, family)).is_some(), "{family} of the new owner");
    }
    // A namespace that ends takes its link along.
    let died = pods[2].spec.link.clone();
    net.a.ns.sh(&format!("ip link del {died}"));
    let doomed: Vec<_> = [&gone.spec.link, &second.spec.link, &died].map(String::clone).into();
    net.a.ns.run(|| {
        net.a.wirer.reap(&doomed).unwrap();
        net.a.wirer.reap(&doomed).unwrap();
        net.a.wirer.reap(&[]).unwrap();
    });
    let left = links(&net.a.ns);
    assert!(left.contains(&kept.spec.link) && doomed.iter().all(|link| !left.contains(link)), "{left}");
    assert!(!second.ns.sh("ip -br link").contains("eth0"));
}

#[test]
fn links_that_are_not_ours_are_not_reaped() {
    let net = Net::new(&[V4]);
    let other = Ns::new();
    net.a.ns.connect("veth0", &other, "eth0");
    net.a.ns.sh("ip link add ovlpbridge type bridge; ip link set veth0 group 5");
    let names = ["veth0", "ovlpbridge", "eth0", "lo", "", "a name that is much too long for a link"].map(str::to_owned);
    net.a.ns.run(|| net.a.wirer.reap(&names).unwrap());
    let left = links(&net.a.ns);
    assert!(left.contains("veth0") && left.contains("ovlpbridge"), "{left}");
    assert!(net.a.ns.sh("ip link show veth0").contains("group 5"));
}

#[test]
fn the_plugin_deletes_a_veth_and_nothing_else() {
    let mut net = Net::new(&[V4]);
    let pod = net.a.pod(1);
    assert!(delete_in(&pod.ns.0, "eth0").unwrap());
    assert!(!delete_in(&pod.ns.0, "eth0").unwrap());
    assert!(!net.a.ns.sh("ip -br link").contains("ovlp"));
    pod.ns.sh("ip link add eth0 type bridge");
    assert!(matches!(delete_in(&pod.ns.0, "eth0"), Err(LinkDelError::NotAVeth { .. })));
    assert!(matches!(delete_in(&pod.ns.0, "lo"), Err(LinkDelError::NotAVeth { .. })));
}

#[test]
fn a_check_sees_each_fault() {
    let mut net = Net::new(&[V4, V6]);
    let host = |link: &str| -> Vec<(String, &'static str)> {
        vec![
            (format!("ip link set {link} mtu 1400"), "has mtu 1400, not 1500"),
            (format!("ip link set {link} alias other"), "has not the alias"),
            (format!("ip link set {link} address 02:00:00:00:00:99"), "has not the address 02:6f:76:6c:00:01"),
            (format!("ip route del 10.244.4.1/32 dev {link} metric 111"), "route to 10.244.4.1/32 is missing"),
            (
                format!("ip -6 route del fd12:3456:789a:0:4::1/128 dev {link} metric 111"),
                "route to fd12:3456:789a:0:4::1/128 is missing",
            ),
            (format!("ip neigh del 10.244.4.1 dev {link}"), "neighbour 10.244.4.1 is missing"),
            (
                format!("ip neigh replace 10.244.4.1 dev {link} lladdr 02:00:00:00:00:99 nud permanent"),
                "neighbour 10.244.4.1 is missing",
            ),
            (format!("ip neigh del fd12:3456:789a:0:4::1 dev {link}"), "neighbour fd12:3456:789a:0:4::1 is missing"),
            (format!("ip link set {link} down"), "is down"),
            (format!("ip link del {link}"), "is missing"),
        ]
    };
    let inside = [
        ("ip link set eth0 mtu 1400", "has mtu 1400"),
        ("ip addr del 10.244.4.1/32 dev eth0", "address 10.244.4.1 is missing"),
        ("ip addr del fd12:3456:789a:0:4::1/128 dev eth0", "address fd12:3456:789a:0:4::1 is missing"),
        ("ip route del default", "route to 0.0.0.0/0 is missing"),
        ("ip route del default; ip route del 169.254.1.1", "route to 169.254.1.1/32 is missing"),
        ("ip -6 route del default", "route to ::/0 is missing"),
        ("ip neigh del 169.254.1.1 dev eth0", "neighbour 169.254.1.1 is missing"),
        ("ip neigh del fe80::1 dev eth0", "neighbour fe80::1 is missing"),
        ("ip link set eth0 address 02:00:00:00:00:99", "has not the address"),
        ("ip link set eth0 down", "is down"),
        ("ip link del eth0", "is missing"),
    ];
    for n in 0..10 {
        let pod = net.a.pod(1);
        let (fault, said) = &host(&pod.spec.link)[n];
        net.a.ns.sh(fault);
        let faults = net.a.ns.run(|| net.a.wirer.check_host(&pod.spec).unwrap());
        assert!(faults.iter().any(|f| f.to_string().contains(said)), "{fault}: {faults:?}");
        net.a.ns.run(|| net.a.wirer.reap(std::slice::from_ref(&pod.spec.link)).unwrap());
    }
    for (fault, said) in inside {
        let pod = net.a.pod(1);
        pod.ns.sh(fault);
        let faults = net.a.ns.run(|| net.a.wirer.check_pod(&pod.ns.0, &pod.spec).unwrap());
        assert!(faults.iter().any(|f| f.to_string().contains(said)), "{fault}: {faults:?}");
        net.a.ns.run(|| net.a.wirer.reap(std::slice::from_ref(&pod.spec.link)).unwrap());
    }
}

#[test]
fn routes_agree_with_the_plan_and_then_rest() {
    let mut net = Net::new(&[V4, V6]);
    let (one, two) = (net.a.pod(1), net.a.pod(2));
    let endpoint = |pod: &Pod| EndpointSpec {
        ports: Vec::new(),
        link: pod.spec.link.clone(),
        foreign_link: false,
        mac: pod.spec.mac,
        addresses: pod.spec.addresses.clone(),
    };
    net.a.input.endpoints = vec![endpoint(&one), endpoint(&two)];
    let apply = |net: &Net, pods| {
        net.a
            .ns
            .run(|| node::apply(&net.a.plan(), &net.a.underlays, None, pods, node::AwayRoutes::Planned, None).unwrap())
    };
    assert!(apply(&net, PodRoutes::Planned).changed_nothing(), "wire makes the very routes of the plan");

    let routes = net.a.ns.sh("ip route show proto 111; ip -6 route show proto 111");
    let faults = [
        "ip route flush proto 111; ip -6 route flush proto 111",
        "ip route replace 10.244.5.0/24 via 10.224.0.9 dev eth0 proto 111 metric 111",
        "ip -6 route replace fd12:3456:789a:0:5::/80 via fd10:224::9 dev eth0 proto 111 metric 111",
        "ip route add 10.244.77.0/24 via 10.224.0.9 dev eth0 proto 111 metric 111",
        "ip route add unreachable 10.244.4.9/32 proto 111 metric 111",
    ];
    for fault in faults {
        net.a.ns.sh(fault);
        let applied = apply(&net, PodRoutes::Planned);
        assert!(applied.failed.is_empty() && !applied.changed_nothing(), "{fault}: {applied:?}");
        assert!(apply(&net, PodRoutes::Planned).changed_nothing(), "{fault}");
        let now = net.a.ns.sh("ip route show proto 111; ip -6 route show proto 111");
        assert_eq!(now, routes, "{fault}");
    }
    // A plan that does not know of the pods yet leaves their routes alone.
    net.a.input.endpoints.clear();
    assert!(apply(&net, PodRoutes::LeftAlone).changed_nothing());
    assert_eq!(apply(&net, PodRoutes::Planned).removed.len(), 4);
    // A peer that is not on the link, and a pod whose link is gone.
    net.a.input.peers[0].node_ips = [(V4, ip("10.99.0.5")), (V6, ip("fd99::5"))].into();
    net.a.input.endpoints = vec![endpoint(&one)];
    net.a.ns.run(|| net.a.wirer.reap(std::slice::from_ref(&one.spec.link)).unwrap());
    let applied = apply(&net, PodRoutes::Planned);
    let blocks: Vec<_> = applied.not_on_link.iter().map(|n| n.block.to_string()).collect();
    assert_eq!(blocks, ["10.244.5.0/24", "fd12:3456:789a:0:5::/80"]);
    assert!(applied.without_link.iter().all(|link| *link == one.spec.link) && !applied.without_link.is_empty());
    assert!(!net.a.ns.sh("ip route show proto 111").contains("10.244.5.0/24"));
}

#[test]
fn the_pods_end_is_known_by_name_from_the_host() {
    let mut net = Net::new(&[V4, V6]);
    for ifname in ["eth0", "net1"] {
        let spec = PodSpec { ifname: ifname.into(), ..net.a.spec(1) };
        let ns = Ns::bare();
        let (wired, nsid) = net.a.ns.run(|| {
            let wired = net.a.wirer.wire(&ns.0, &spec).unwrap();
            (wired, pod::netnsid_of(&ns.0).unwrap().unwrap())
        });
        net.a.ns.run(|| {
            assert_eq!(pod::interface_name(nsid, wired.pod_index).unwrap().as_deref(), Some(ifname));
            assert_eq!(pod::interface_name(nsid, wired.pod_index + 1).unwrap(), None);
            assert_eq!(pod::interface_name(nsid + 1000, wired.pod_index).unwrap(), None);
            net.a.wirer.reap(std::slice::from_ref(&spec.link)).unwrap();
        });
    }
}

#[test]
fn a_namespaces_number_proves_its_end() {
    let node = Ns::new();
    let pod = Ns::bare();
    let nsid = node.run(|| {
        assert_eq!(pod::netnsid_of(&pod.0).unwrap(), None);
        let nsid = pod::netnsid_assign(&pod.0).unwrap();
        assert_eq!(pod::netnsid_assign(&pod.0).unwrap(), nsid);
        assert_eq!(pod::netnsid_of(&pod.0).unwrap(), Some(nsid));
        assert!(pod::is_alive(nsid).unwrap());
        assert!(!pod::is_alive(nsid + 1000).unwrap());
        nsid
    });
    let mut watcher = node.run(|| overlane_datapath::events::Watcher::open().unwrap());
    drop(pod);
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.run(|| pod::is_alive(nsid).unwrap()) {
        assert!(Instant::now() < deadline, "the number outlives its namespace");
        std::thread::sleep(Duration::from_millis(10));
    }
    let events = watcher.wait(Duration::from_secs(5)).unwrap();
    assert!(events.contains(&overlane_datapath::events::Event::NetnsGone { nsid }), "{events:?}");
}
