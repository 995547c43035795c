//! Must catch: a verb that says yes to a pod whose network is not whole, in any family.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use overlane_api::cni::code;
use overlane_api::socket::{Call, Outcome, Request};

use crate::client::now_ns;
use crate::world::{Objects, Pod, World, eventually, reaches};

fn families() -> Vec<(&'static str, Objects)> {
    let dual = Objects::dual;
    let v4 = Objects {
        families: "[IPv4]",
        pod_cidrs: "[10.244.0.0/16]",
        service_cidrs: "[10.0.0.0/16]",
        own: dual().own[..1].to_vec(),
        peers: Vec::new(),
        ..dual()
    };
    let v6 = Objects {
        families: "[IPv6]",
        pod_cidrs: "['fd12:3456:789a::/64']",
        service_cidrs: "['fd12:3456:789a:1::/108']",
        own: dual().own[1..].to_vec(),
        peers: Vec::new(),
        ..dual()
    };
    let mut v6_first = Objects {
        families: "[IPv6, IPv4]",
        pod_cidrs: "['fd12:3456:789a::/64', 10.244.0.0/16]",
        service_cidrs: "['fd12:3456:789a:1::/108', 10.0.0.0/16]",
        ..dual()
    };
    v6_first.own.reverse();
    vec![("dual", dual()), ("v4", v4), ("v6", v6), ("v6-first", v6_first)]
}

#[test]
fn a_pod_comes_and_goes_in_every_family() {
    for (name, objects) in families() {
        let world = World::new(&objects);
        let (a, b) = (Pod::new(), Pod::new());
        let one = world.client.add("a", &a.path());
        let two = world.client.add("b", &b.path());
        assert_eq!(one.addresses.len(), objects.own.len(), "{name}");
        assert_eq!(one.mtu, 1500);
        let first_is_v6 = objects.families.starts_with("[IPv6");
        assert_eq!(one.addresses[0].is_ipv6(), first_is_v6, "{name}: {:?}", one.addresses);
        world.client.check("a", &a.path(), &one.addresses).unwrap();
        for address in &two.addresses {
            assert!(reaches(&a.name, &b.name, *address), "{name}: pod to pod {address}");
            assert!(reaches(&world.ns, &b.name, *address), "{name}: node to pod {address}");
        }
        for (_, ip) in &objects.own {
            assert!(reaches(&a.name, &world.ns, ip.parse().unwrap()), "{name}: pod to node {ip}");
        }
        // The conflist is written last, after ADDs are served.
        let file = world.dir.path().join("net.d/05-overlane.conflist");
        let conflist = eventually("the conflist", || std::fs::read_to_string(&file).ok());
        assert!(conflist.contains("overlane-cni"), "{conflist}");
        world.client.del("a");
        world.client.del("a");
        world.client.del("never-was");
        world.client.del("b");
        world.empty();
    }
}

#[test]
fn check_names_each_fault() {
    let world = World::new(&Objects::dual());
    let v4 = |addresses: &[IpAddr]| addresses.iter().find(|a| a.is_ipv4()).unwrap().to_string();
    let fault = |id: &str, break_it: &dyn Fn(&Pod, &str, &str), expected: &str| {
        let pod = Pod::new();
        let endpoint = world.client.add(id, &pod.path());
        world.client.check(id, &pod.path(), &endpoint.addresses).unwrap();
        break_it(&pod, &endpoint.host_ifname, &v4(&endpoint.addresses));
        let failure = world.client.check(id, &pod.path(), &endpoint.addresses).unwrap_err();
        assert_eq!(failure.code, code::CHECK_FAILED, "{failure:?}");
        assert!(failure.details.contains(expected), "{id}: {failure:?} does not say {expected:?}");
        world.client.del(id);
    };
    fault("address", &|pod, _, ip| drop(pod.run(&format!("ip addr del {ip}/32 dev eth0"))), "address 10.244");
    fault("route", &|pod, _, _| drop(pod.run("ip route del default")), "route to 0.0.0.0/0");
    fault("route6", &|pod, _, _| drop(pod.run("ip -6 route del default")), "route to ::/0");
    fault("neighbour", &|pod, _, _| drop(pod.run("ip neigh del 169.254.1.1 dev eth0")), "neighbour 169.254.1.1");
    fault("down", &|pod, _, _| drop(pod.run("ip link set eth0 down")), "link eth0 is down");
    fault("link", &|_, link, _| drop(world.run(&format!("ip link del {link}"))), "is missing");

    let pod = Pod::new();
    let endpoint = world.client.add("prev", &pod.path());
    let wrong: Vec<IpAddr> = vec!["10.244.1.200".parse().unwrap()];
    let failure = world.client.check("prev", &pod.path(), &wrong).unwrap_err();
    assert!(failure.details.contains("prevResult has address 10.244.1.200"), "{failure:?}");
    assert!(failure.details.contains(&format!("the lease has address {}", endpoint.addresses[0])), "{failure:?}");
    let other = Pod::new();
    assert!(world.client.check("prev", &other.path(), &[]).is_err());
    assert_eq!(world.client.check("stranger", &pod.path(), &[]).unwrap_err().code, code::UNKNOWN_CONTAINER);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let world = World::new(&Objects::dual());
    let pod = Pod::new();
    // The node's own namespace, something that is no namespace, no descriptor at all.
    let own = std::path::PathBuf::from("/run/netns").join(&world.ns);
    assert_eq!(world.client.try_add("x", &own).unwrap_err().code, code::INVALID_ENVIRONMENT);
    let file = world.dir.path().join("boot_id");
    assert_eq!(world.client.try_add("x", &file).unwrap_err().code, code::INVALID_ENVIRONMENT);
    // A deadline that has passed.
    let late = world.client.begin_add("x", &pod.path(), now_ns() - 1_000_000, Duration::from_nanos(1)).answer();
    assert!(matches!(late, Outcome::Failed(f) if f.code == code::TRY_AGAIN_LATER), "late");
    // A protocol of another time.
    let request = Request { protocol: 99, plugin_version: String::new(), call: Call::Status };
    let answer = world.client.send(&request, None).answer();
    assert!(matches!(answer, Outcome::Failed(f) if f.code == code::PROTOCOL_MISMATCH), "version");
    // An interface that is there already.
    pod.run("ip link add eth0 type veth peer name other");
    let failure = world.client.try_add("x", &pod.path()).unwrap_err();
    assert_eq!(failure.code, code::KERNEL_REFUSED, "{failure:?}");
    pod.run("ip link del eth0");
    world.empty();
    // The same attachment twice.
    world.client.add("x", &pod.path());
    let failure = world.client.try_add("x", &pod.path()).unwrap_err();
    assert!(failure.msg.contains("already has lease"), "{failure:?}");
    world.client.del("x");
    world.empty();
}

#[test]
fn gc_ends_what_the_runtime_does_not_name() {
    let world = World::new(&Objects::dual());
    let pods: Vec<Pod> = (0..3).map(|_| Pod::new()).collect();
    for (n, pod) in pods.iter().enumerate() {
        world.client.add(&format!("c{n}"), &pod.path());
    }
    world.client.gc(&["c1"]);
    eventually("two are gone", || (world.links().len() == 1).then_some(()));
    assert_eq!(world.leases("active"), ["c1"]);
    world.client.gc(&[]);
    world.empty();
}

#[test]
fn a_pod_without_ipv6_of_its_own_gets_it() {
    let world = World::new(&Objects::dual());
    let pod = Pod::new();
    pod.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let endpoint = world.client.add("six", &pod.path());
    world.client.check("six", &pod.path(), &endpoint.addresses).unwrap();
    assert!(reaches(&pod.name, &world.ns, "fd10:224::4".parse().unwrap()));
}

#[test]
fn latency() {
    let world = World::new(&Objects::dual());
    let mut rows = Vec::new();
    // Ended with the test, not with the round.
    let mut stay: Vec<Pod> = Vec::new();
    for round in ["0 pods", "100 pods"] {
        let pods: Vec<Pod> = (0..50).map(|_| Pod::new()).collect();
        let (mut adds, mut dels) = (Vec::new(), Vec::new());
        for (n, pod) in pods.iter().enumerate() {
            let id = format!("{}-{n}", round.len());
            let since = Instant::now();
            world.client.add(&id, &pod.path());
            adds.push(since.elapsed());
        }
        for n in 0..pods.len() {
            let since = Instant::now();
            world.client.del(&format!("{}-{n}", round.len()));
            dels.push(since.elapsed());
        }
        for times in [&mut adds, &mut dels] {
            times.sort();
        }
        let p = |times: &[Duration], q: usize| times[times.len() * q / 100].as_secs_f64() * 1e3;
        rows.push(format!(
            "at {round}: ADD p50 {:.2} ms p99 {:.2} ms, DEL p50 {:.2} ms p99 {:.2} ms",
            p(&adds, 50),
            p(&adds, 98),
            p(&dels, 50),
            p(&dels, 98)
        ));
        if round == "0 pods" {
            let more: Vec<Pod> = (0..100).map(|_| Pod::new()).collect();
            for (n, pod) in more.iter().enumerate() {
                world.client.add(&format!("stay-{n}"), &pod.path());
            }
            stay.extend(more);
        }
    }
    println!("{}", rows.join("\n"));
}
