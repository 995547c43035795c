//! How long wiring, retiring and reaping take, beside the floor: the kernel making a bare veth pair into a namespace.
//!
//! `cargo run --release -p overlane-datapath --example wire [COUNT]`, as root. Works in namespaces of its own.

#![allow(clippy::print_stdout, reason = "the program's result")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use overlane_core::cidr::Cidr;
use overlane_core::cluster::Routing;
use overlane_core::family::Family;
use overlane_core::masq::MasqConfig;
use overlane_core::plan::{self, NodeInput, NodePlan, Peer, PodElement, PodMember};
use overlane_core::rate::Bandwidth;
use overlane_datapath::netlink::Socket;
use overlane_datapath::netns::Netns;
use overlane_datapath::nft::{PodChange, Table};
use overlane_datapath::node::{self, PodRoutes, Underlay};
use overlane_datapath::owned;
use overlane_datapath::pod::{PodSpec, Retiring, Wirer};
use overlane_datapath::rtnl::address;
use overlane_datapath::rtnl::link::{self, Link, VethEnd};
use overlane_datapath::rtnl::route::{Hop, Route};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let count: usize = std::env::args().nth(1).map_or(Ok(200), |n| n.parse())?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{file}"), "1")?;
    }
    let node = [(Family::V4, "127.0.0.1".parse()?), (Family::V6, "fd00::1".parse()?)];
    let mut socket = Socket::route()?;
    socket.request(link::set_up(1, "lo"))?;
    socket.request(address::add_alone(1, "lo", "fd00::1".parse()?))?;

    let mut floor = Vec::new();
    for n in 0..count {
        let ns = new_netns()?;
        let (near, far) = (format!("floor{n}"), "eth0");
        let started = Instant::now();
        let end = |name| VethEnd { name, mac: Some([2, 0, 0, 0, 0, 1]), mtu: 1500 };
        socket.request(link::add_veth(end(&near), end(far), ns.as_fd()))?;
        floor.push(started.elapsed());
        socket.request(link::delete_by_name(&near))?;
    }
    report("floor: bare veth into a namespace", &mut floor);

    let wirer = Wirer::new();
    for families in [vec![Family::V4], vec![Family::V6], vec![Family::V4, Family::V6]] {
        let (mut wire, mut cpu, mut retire, mut reap) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for n in 0..count {
            let ns = new_netns()?;
            let spec = spec(n, &families, node.into())?;
            let (started, cpu_started) = (Instant::now(), cpu_time()?);
            wirer.wire(&ns, &spec)?;
            wire.push(started.elapsed());
            cpu.push(cpu_time()?.saturating_sub(cpu_started));
            let started = Instant::now();
            wirer.retire(&[Retiring { link: spec.link.clone(), addresses: spec.addresses.clone() }])?;
            retire.push(started.elapsed());
            let started = Instant::now();
            wirer.reap(&[spec.link])?;
            reap.push(started.elapsed());
        }
        println!("{families:?}");
        report("  wire", &mut wire);
        report("  wire, CPU of the process", &mut cpu);
        report("  retire", &mut retire);
        report("  reap one", &mut reap);
    }

    let mut reap = Vec::new();
    for _ in 0..5 {
        let mut links = Vec::new();
        for n in 0..50 {
            let spec = spec(n, &[Family::V4, Family::V6], node.into())?;
            wirer.wire(&new_netns()?, &spec)?;
            links.push(spec.link);
        }
        let started = Instant::now();
        wirer.reap(&links)?;
        reap.push(started.elapsed());
    }
    report("reap fifty at once", &mut reap);
    beside_reaping(&wirer, node.into(), count)?;
    elements(count)?;
    new_netns()?.run(|| big_cluster(5_000))?
}

/// Routes and elements of a big cluster, and one more node that joins it.
fn big_cluster(nodes: u32) -> Outcome<()> {
    let mut socket = Socket::route()?;
    let near = VethEnd { name: "eth0", mac: None, mtu: 1500 };
    let far = VethEnd { name: "far", mac: None, mtu: 1500 };
    let index = socket.request(link::add_veth(near, far, Netns::current()?.as_fd()))?;
    let index = index.iter().find_map(Link::read).ok_or("no echo")?.index;
    let node_ips: BTreeMap<Family, IpAddr> =
        [(Family::V4, "10.224.0.4".parse()?), (Family::V6, "fd10:224::4".parse()?)].into();
    for address in node_ips.values() {
        socket.request(address::add_alone(index, "eth0", *address))?;
    }
    let underlays = node_ips.iter().map(|(family, node_ip)| {
        let on_link = vec![Cidr::around(*node_ip, if node_ip.is_ipv4() { 11 } else { 64 })?];
        let underlay = Underlay { node_ip: *node_ip, link: "eth0".to_owned(), index, mac: None, mtu: 1500, on_link };
        Ok((*family, underlay))
    });
    let underlays: BTreeMap<_, _> = underlays.collect::<Outcome<_>>()?;
    let primary = [(Family::V4, "eth0".to_owned()), (Family::V6, "eth0".to_owned())].into();
    let peer = |n: u32| -> Outcome<Peer> {
        let [_, b, c, d] = (n + 10).to_be_bytes();
        Ok(Peer {
            name: format!("node-{n}"),
            blocks: vec![format!("10.{}.{d}.0/24", 32 + c).parse()?, format!("fd12:3456:789a:0:{n:x}::/80").parse()?],
            node_ips: [
                (Family::V4, format!("10.224.{c}.{d}").parse()?),
                (Family::V6, format!("fd10:224::1:{n:x}").parse()?),
            ]
            .into(),
            mac: Some([2, 0, 0, b, c, d]),
        })
    };
    let mut input = NodeInput {
        service_cidrs: Vec::new(),
        pod_cidrs: vec!["10.32.0.0/11".parse()?, "fd12:3456:789a::/64".parse()?],
        routing: Routing::Native,
        node_ips,
        masquerade: Some(MasqConfig::default()),
        peers: (1..nodes).map(peer).collect::<Outcome<_>>()?,
        ..NodeInput::default()
    };
    for route in ["10.224.0.0/11", "fd10:224::/64"] {
        let hop = Hop::Link { index };
        let destination = route.parse()?;
        socket.request(Route { table: 254, protocol: 4, destination, hop, prefsrc: None, metric: 0 }.set())?;
    }
    let table = Table::new(BTreeSet::new());
    for what in ["from nothing", "nothing to do", "one more node"] {
        let started = Instant::now();
        let plan = plan::plan(&input);
        let planned = started.elapsed();
        let started = Instant::now();
        let members = table.apply(&plan, &primary)?;
        let elements = started.elapsed();
        let started = Instant::now();
        let routes = node::apply(&plan, &underlays, None, PodRoutes::LeftAlone, node::AwayRoutes::Planned, None)?;
        println!(
            "{nodes} nodes, {what}: plan {planned:.1?}, table {elements:.1?} (+{}), routes {:.1?} (+{}, {} refused)",
            members.added,
            started.elapsed(),
            routes.added.len(),
            routes.failed.len()
        );
        if what == "nothing to do" {
            input.peers.push(peer(nodes)?);
        }
    }
    let started = Instant::now();
    table.audit()?;
    println!("{nodes} nodes, nft audit {:.1?}", started.elapsed());
    println!(
        "{}",
        std::fs::read_to_string("/proc/self/status")?.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("")
    );
    Ok(())
}

/// What an ADD waits for while DELs are being finished behind their answers.
fn beside_reaping(wirer: &Wirer, node: BTreeMap<Family, IpAddr>, count: usize) -> Outcome<()> {
    let mut wire = std::thread::scope(|scope| -> Outcome<Vec<Duration>> {
        let (to_reap, reaping) = std::sync::mpsc::channel::<String>();
        let reaper = scope.spawn(|| -> Outcome<()> {
            let reaping = reaping;
            while let Ok(first) = reaping.recv() {
                let links: Vec<_> = std::iter::once(first).chain(reaping.try_iter()).collect();
                wirer.reap(&links)?;
            }
            Ok(())
        });
        let mut times = Vec::new();
        for n in 0..count {
            let ns = new_netns()?;
            let spec = spec(n + 1000, &[Family::V4, Family::V6], node.clone())?;
            let started = Instant::now();
            wirer.wire(&ns, &spec)?;
            times.push(started.elapsed());
            to_reap.send(spec.link)?;
        }
        drop(to_reap);
        reaper.join().map_err(|_| "a thread panicked")??;
        Ok(times)
    })?;
    report("wire dual stack while others are reaped", &mut wire);
    Ok(())
}

/// Elements of a pod of two families, one transaction each way.
fn elements(count: usize) -> Outcome<()> {
    let table = Table::new(BTreeSet::new());
    let plan = NodePlan { pod_space: ["10.244.0.0/16".parse()?].into(), ..NodePlan::default() };
    let started = Instant::now();
    table.apply(&plan, &BTreeMap::new())?;
    println!("{:40} {:>13.3?}", "nft structure, from nothing", started.elapsed());
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for n in 0..count {
        let spec = spec(n, &[Family::V4, Family::V6], BTreeMap::new())?;
        let member = |address: &IpAddr| {
            PodElement::Source(PodMember { link: spec.link.clone(), mac: spec.mac, address: *address })
        };
        let members: Vec<_> = spec.addresses.iter().map(member).collect();
        let changes = |change: fn(PodElement) -> PodChange| members.iter().cloned().map(change).collect::<Vec<_>>();
        let started = Instant::now();
        table.pods(&changes(PodChange::Add))?;
        add.push(started.elapsed());
        let started = Instant::now();
        table.pods(&changes(PodChange::Remove))?;
        remove.push(started.elapsed());
    }
    report("nft elements of a pod, add", &mut add);
    report("nft elements of a pod, remove", &mut remove);
    let mut audit = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        table.audit()?;
        audit.push(started.elapsed());
    }
    report("nft audit, nothing wrong", &mut audit);
    Ok(())
}

fn spec(n: usize, families: &[Family], prefsrc: BTreeMap<Family, IpAddr>) -> Outcome<PodSpec> {
    let link = owned::pod_link_name("0123456789", "eth0", u64::try_from(n)?);
    let address = |family: &Family| match family {
        Family::V4 => format!("10.244.{}.{}", n / 250, n % 250 + 1).parse(),
        Family::V6 => format!("fd12:3456:789a::{:x}", n + 1).parse(),
    };
    let addresses = families.iter().map(address).collect::<Result<_, _>>()?;
    let mac = owned::pod_mac(&link);
    let alias = owned::pod_alias("default", "a-pod", "0123456789");
    Ok(PodSpec {
        link,
        alias,
        ifname: "eth0".to_owned(),
        mac,
        mtu: 1500,
        addresses,
        from_loopback: false,
        bandwidth: Bandwidth::default(),
        prefsrc,
    })
}

/// A namespace that lives for as long as the value.
fn new_netns() -> Outcome<Netns> {
    let thread = std::thread::spawn(|| -> Outcome<Netns> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(Netns::current()?)
    });
    thread.join().map_err(|_| "a thread panicked")?
}

/// CPU time of all threads of this process, those that ended included.
fn cpu_time() -> Outcome<Duration> {
    let stat = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let micros = |t: nix::sys::time::TimeVal| {
        Duration::new(t.tv_sec().try_into().unwrap_or(0), u32::try_from(t.tv_usec()).unwrap_or(0) * 1000)
    };
    Ok(micros(stat.user_time()) + micros(stat.system_time()))
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let at =
        |percent: usize| times.get((times.len() * percent / 100).min(times.len() - 1)).copied().unwrap_or_default();
    println!("{what:40} p50 {:>9.3?}  p99 {:>9.3?}  p10 {:>9.3?}  min {:>9.3?}", at(50), at(99), at(10), at(0));
}
