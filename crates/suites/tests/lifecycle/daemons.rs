//! Agents and API away: what runs goes on.

use std::net::{IpAddr, SocketAddr};

use overlane_suites::monitor::Monitor;
use overlane_suites::probe::{self, Witness};
use overlane_suites::runtime::Sandbox;
use overlane_suites::stream::Stream;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Lab, NodeHandle, books, ip, nft};

use crate::{added, live, mesh, routed, same_family, shared};

#[test]
fn pods_start_and_end_while_the_api_is_away() {
    let lab = Lab::up(&["--nodes", "2"]);
    let (node, other) = (lab.node(0), lab.node(1));
    let runtime = node.runtime();
    let far = added(&other.runtime());
    let (kept, ended) = (added(&runtime), added(&runtime));
    let stream = Stream::start(&kept.net.ns, &far.net.ns, far.ips()[0], millis(2));
    lab.api_up(false);
    std::thread::sleep(secs(60));
    runtime.del(&ended).must();
    let fresh = added(&runtime);
    runtime.status().must();
    runtime.check(&kept).must();
    assert_eq!(node.page("/healthz").unwrap().status, 200, "liveness does not depend on the API");
    assert_eq!(node.page("/readyz").unwrap().status, 200, "an address can be given");
    mesh(&[&kept, &fresh, &far], secs(5));
    // Also an agent that starts meanwhile.
    let agent = node.take_agent();
    let again = added(&runtime);
    runtime.del(&fresh).must();
    books::balanced(&node.ns, &[live(&kept), live(&again)], &[], secs(10));
    mesh(&[&kept, &again, &far], secs(5));
    lab.api_up(true);
    let newcomer = lab.add_node();
    eventually(secs(30), "the route to a node that joined afterwards", || {
        let blocks = lab.api.blocks(&newcomer);
        ensure(blocks.len() == 2, || format!("{blocks:?}"))?;
        let ips = lab.api.node_ips(&newcomer);
        blocks
            .iter()
            .try_for_each(|b| routed(&node, b, Some(same_family(&ips, b.split('/').next().unwrap().parse().unwrap()))))
    });
    books::balanced(&node.ns, &[live(&kept), live(&again)], &[], secs(10));
    let report = stream.finish();
    assert_eq!(report.lost(), 0, "{report:?}");
    drop(agent);
}

#[test]
fn packets_flow_while_agents_die() {
    let (_turn, lab) = shared();
    let nodes = lab.nodes();
    let (a, b) = (added(&nodes[0].runtime()), added(&nodes[1].runtime()));
    let c = added(&nodes[0].runtime());
    let streams: Vec<Stream> = a
        .ips()
        .iter()
        .flat_map(|ip| {
            let (from, into) = (&b.net.ns, &a.net.ns);
            [Stream::start(from, into, *ip, millis(1)), Stream::start(&c.net.ns, into, *ip, millis(1))]
        })
        .collect();
    let outside = lab.internet();
    let to = ip::global_addresses(&outside).into_iter().find(IpAddr::is_ipv4).unwrap();
    let at = SocketAddr::new(to, probe::port());
    let _witness = Witness::new(&outside, to, at.port());
    let agents: Vec<_> = nodes.iter().map(NodeHandle::take_agent).collect();
    for _ in 0..3 {
        agents.iter().for_each(|agent| agent.kill());
        // With no agent at all: new connections in, out and across; and no forgery.
        probe::tcp(&a.net.ns, at, None, "hello", secs(2)).unwrap();
        mesh(&[&a, &b, &c], secs(2));
        let before = nft::counter(&nodes[0].ns, "spoofed");
        a.net.ns.must("ip address add 10.244.99.99/32 dev eth0");
        probe::fire(&a.net.ns, SocketAddr::new(b.ips()[0], 9), Some("10.244.99.99".parse().unwrap()), "x", 5);
        a.net.ns.must("ip address del 10.244.99.99/32 dev eth0");
        assert!(nft::counter(&nodes[0].ns, "spoofed") >= before + 5);
        agents.iter().for_each(|agent| agent.launch());
        nodes.iter().for_each(NodeHandle::agent_ready);
        std::thread::sleep(millis(500));
    }
    for stream in streams {
        let report = stream.finish();
        println!("{report:?}");
        assert_eq!((report.lost(), report.refused), (0, 0), "{report:?}");
    }
    drop(agents);
    nodes.iter().for_each(NodeHandle::agent_ready);
    for (node, sandbox) in [(0, &a), (1, &b), (0, &c)] {
        nodes[node].runtime().del(sandbox).must();
    }
}

#[test]
fn a_restart_writes_nothing_that_is_right() {
    let (_turn, lab) = shared();
    let node = lab.node(0);
    let runtime = node.runtime();
    let sandboxes: Vec<Sandbox> = (0..3).map(|_| added(&runtime)).collect();
    let agent = node.take_agent();
    std::thread::sleep(secs(2));
    let before = (ip::snapshot(&node.ns), nft::own_text(&node.ns));
    for _ in 0..2 {
        agent.kill();
        let monitor = Monitor::start(&node.ns);
        agent.start();
        std::thread::sleep(secs(3));
        let changes = monitor.finish();
        assert!(changes.is_empty(), "written by a restart that found all right: {changes:#?}");
        assert_eq!(node.repairs(), 0.0, "nothing was broken");
    }
    let after = (ip::snapshot(&node.ns), nft::own_text(&node.ns));
    assert_eq!(before, after);
    drop(agent);
    node.agent_ready();
    sandboxes.iter().for_each(|s| {
        runtime.del(s).must();
    });
}
