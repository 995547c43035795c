//! Bad days of nodes, of the API and of the daemons, over a cluster's life.
//!
//! Must catch: an agent that, at its start, writes its rules anew although they are right, and so cuts what runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use overlane_suites::api::{self, OVERLANE};
use overlane_suites::books::{self, Live};
use overlane_suites::monitor::Monitor;
use overlane_suites::ns::unique;
use overlane_suites::probe::{self, Witness};
use overlane_suites::runtime::{Runtime, Sandbox};
use overlane_suites::stream::Stream;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Lab, NodeHandle, Ns, clean, ip, nft, packet};
use serde_json::json;

fn full() -> bool {
    std::env::var_os("OVERLANE_FULL").is_some()
}

/// A lab of two nodes for the tests that change nothing but pods and agents; they take turns.
fn shared() -> (MutexGuard<'static, ()>, &'static Lab) {
    static TURN: Mutex<()> = Mutex::new(());
    static LAB: OnceLock<Lab> = OnceLock::new();
    clean::begin();
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    (turn, LAB.get_or_init(|| Lab::up(&["--nodes", "2"])))
}

fn live(sandbox: &Sandbox) -> Live {
    Live { name: sandbox.pod.clone(), ns: sandbox.net.ns.clone(), ips: sandbox.ips() }
}

fn added(runtime: &Runtime) -> Sandbox {
    let mut sandbox = Sandbox::new();
    runtime.add(&mut sandbox).must();
    sandbox
}

fn same_family(ips: &[IpAddr], like: IpAddr) -> IpAddr {
    *ips.iter().find(|ip| ip.is_ipv4() == like.is_ipv4()).unwrap()
}

/// All sandboxes ping each other, every family.
fn mesh(sandboxes: &[&Sandbox], limit: Duration) {
    for from in sandboxes {
        for into in sandboxes {
            for to in into.ips() {
                eventually(limit, &format!("{} pings {}", from.pod, into.pod), || {
                    packet::ping(&from.net.ns, to, 56, millis(300)).map(|_| ())
                });
            }
        }
    }
}

/// Blocks by node, as NodeNetworkConfigs say; each block once.
fn blocks(lab: &Lab) -> BTreeMap<String, Vec<String>> {
    let all: BTreeMap<String, Vec<String>> =
        lab.nodes().into_iter().map(|n| (n.name.clone(), lab.api.blocks(&n.name))).collect();
    let flat: Vec<&String> = all.values().flatten().collect();
    let set: BTreeSet<&String> = flat.iter().copied().collect();
    assert_eq!(flat.len(), set.len(), "a block with two owners: {all:?}");
    all
}

fn routed(node: &NodeHandle, block: &str, via: Option<IpAddr>) -> Result<(), String> {
    let routes = ip::routes(&node.ns, ip::TABLE);
    let found: Vec<_> = routes.iter().filter(|r| r.dst == block && r.kind == "unicast").collect();
    match via {
        Some(via) => ensure(found.len() == 1 && found[0].gateway == via.to_string(), || format!("{block}: {found:?}")),
        None => ensure(found.is_empty(), || format!("{block}: {found:?}")),
    }
}

#[test]
fn a_new_machine_under_an_old_name_gets_a_fresh_block() {
    let lab = Lab::up(&["--nodes", "3"]);
    let before = blocks(&lab);
    let (first, second) = (added(&lab.node(0).runtime()), added(&lab.node(1).runtime()));
    let stream = Stream::start(&first.net.ns, &second.net.ns, second.ips()[0], millis(2));
    let old_uid = api::uid_of(&lab.api.node("node-2"));
    lab.remove_node("node-2", false);
    eventually(secs(10), "withdrawal of the dead node's routes", || {
        before["node-2"].iter().try_for_each(|block| routed(&lab.node(0), block, None))
    });
    lab.control(&json!({"op": "add-node", "number": 2}));
    assert_ne!(api::uid_of(&lab.api.node("node-2")), old_uid);
    let node = lab.node_named("node-2");
    node.agent_ready();
    let after = blocks(&lab);
    assert!(after["node-2"].iter().all(|b| !before["node-2"].contains(b)), "{before:?} -> {after:?}");
    assert_eq!((&after["node-0"], &after["node-1"]), (&before["node-0"], &before["node-1"]));
    // The old block waits, by name, for its hold-down to pass.
    for block in &before["node-2"] {
        let all = lab.api.list(&format!("{OVERLANE}/nodeblocks"));
        let claim = all.iter().find(|b| b["spec"]["cidr"] == block.as_str()).unwrap_or_else(|| panic!("{block} is gone"));
        assert!(claim["spec"]["releasedAt"].is_string(), "{claim}");
    }
    for other in [lab.node(0), lab.node(1)] {
        for block in &after["node-2"] {
            let via = same_family(&node.ips(), block.split('/').next().unwrap().parse().unwrap());
            eventually(secs(5), "a route to the new block", || routed(&other, block, Some(via)));
        }
        before["node-2"].iter().for_each(|block| routed(&other, block, None).unwrap());
    }
    let third = added(&node.runtime());
    mesh(&[&first, &second, &third], secs(5));
    let report = stream.finish();
    assert_eq!(report.lost(), 0, "between the other two nodes: {report:?}");
}

#[test]
fn a_node_object_made_again_keeps_block_and_pods() {
    let lab = Lab::up(&["--nodes", "2"]);
    let before = blocks(&lab);
    let (first, second) = (added(&lab.node(0).runtime()), added(&lab.node(1).runtime()));
    let beside = added(&lab.node(1).runtime());
    let across = Stream::start(&first.net.ns, &second.net.ns, second.ips()[0], millis(2));
    let within = Stream::start(&beside.net.ns, &second.net.ns, second.ips()[1], millis(2));
    for round in 0..2 {
        let node = lab.api.node("node-1");
        lab.api.delete("/api/v1/nodes/node-1");
        std::thread::sleep(millis(300 + 1500 * round));
        // The kubelet, or whoever comes first, registers the node again.
        lab.control(&json!({"op": "kubelet", "node": "node-1", "up": false}));
        lab.control(&json!({"op": "kubelet", "node": "node-1", "up": true}));
        eventually(secs(20), "the node's block under its new UID", || {
            let now = lab.api.find("/api/v1/nodes/node-1").unwrap_or_default();
            let uid = api::uid_of(&now);
            ensure(!uid.is_empty() && uid != api::uid_of(&node), || format!("uid {uid}"))?;
            let claims = lab.api.list(&format!("{OVERLANE}/nodeblocks"));
            for block in &before["node-1"] {
                let claim = claims.iter().find(|c| c["spec"]["cidr"] == block.as_str()).ok_or(format!("no {block}"))?;
                ensure(claim["spec"]["nodeUID"] == uid.as_str() && claim["spec"]["releasedAt"].is_null(), || claim.to_string())?;
            }
            ensure(lab.api.blocks("node-1") == before["node-1"], || format!("{:?}", lab.api.blocks("node-1")))
        });
    }
    assert_eq!(blocks(&lab), before);
    mesh(&[&first, &second, &beside], secs(10));
    let (across, within) = (across.finish(), within.finish());
    // A node that is gone loses its routes everywhere at once, so what other nodes send meanwhile has no way.
    println!("while the Node object was gone: across nodes {across:?}, within the node {within:?}");
    assert_eq!(within.lost(), 0, "{within:?}");
    let fresh = added(&lab.node(1).runtime());
    mesh(&[&first, &fresh], secs(5));
}

#[test]
fn an_api_restored_from_before_ten_nodes_takes_no_block_away() {
    let lab = Lab::up(&["--nodes", "2"]);
    let file = std::env::temp_dir().join(format!("{}.snapshot", unique(clean::PREFIX)));
    lab.control(&json!({"op": "snapshot", "file": file}));
    for _ in 0..10 {
        lab.add_node();
    }
    let nodes = lab.nodes();
    assert_eq!(nodes.len(), 12);
    nodes.iter().for_each(NodeHandle::agent_ready);
    let before = blocks(&lab);
    let mut sandboxes: Vec<Sandbox> = nodes.iter().map(|n| added(&n.runtime())).collect();
    // Half of the ten have pods, half have none: only the former have something to lose.
    for (node, sandbox) in nodes.iter().zip(&sandboxes).filter(|(n, _)| n.name.ends_with(['3', '5', '7', '9'])) {
        node.runtime().del(sandbox).must();
    }
    sandboxes.retain(|s| !ip::global_addresses(&s.net.ns).is_empty());
    let held: BTreeMap<&String, &Vec<String>> =
        before.iter().filter(|(name, _)| !name.ends_with(['3', '5', '7', '9'])).collect();
    let probe = Stream::start(&sandboxes[0].net.ns, &sandboxes[1].net.ns, sandboxes[1].ips()[0], millis(5));
    lab.control(&json!({"op": "restore", "file": file}));
    let _ = std::fs::remove_file(&file);
    // A newcomer asks for a block at once, while the ten are still to be heard of.
    let newcomer = lab.add_node();
    for node in &nodes[2..] {
        lab.control(&json!({"op": "kubelet", "node": node.name, "up": false}));
        lab.control(&json!({"op": "kubelet", "node": node.name, "up": true}));
    }
    eventually(secs(60), "blocks of all thirteen", || {
        let now = lab.api.node_names();
        ensure(now.len() == 13, || format!("{now:?}"))?;
        now.iter().try_for_each(|n| ensure(lab.api.blocks(n).len() == 2, || format!("{n} has {:?}", lab.api.blocks(n))))
    });
    let after = blocks(&lab);
    for (name, had) in held {
        assert_eq!(&after[name], had, "{name} had pods and keeps its block; {newcomer} has {:?}", after[&newcomer]);
    }
    lab.node_named(&newcomer).agent_ready();
    let last = added(&lab.node_named(&newcomer).runtime());
    sandboxes.push(last);
    let names: Vec<(String, Ns)> = sandboxes.iter().map(|s| (s.pod.clone(), s.net.ns.clone())).collect();
    assert!(books::doubled(&names).is_empty());
    mesh(&sandboxes.iter().collect::<Vec<_>>(), secs(30));
    let report = probe.finish();
    assert_eq!(report.lost(), 0, "between two nodes that the snapshot knew: {report:?}");
}

#[test]
fn pods_start_and_end_while_the_api_is_away() {
    let lab = Lab::up(&["--nodes", "2"]);
    let (node, other) = (lab.node(0), lab.node(1));
    let runtime = node.runtime();
    let far = added(&other.runtime());
    let (kept, ended) = (added(&runtime), added(&runtime));
    let stream = Stream::start(&kept.net.ns, &far.net.ns, far.ips()[0], millis(2));
    lab.api_up(false);
    std::thread::sleep(if full() { secs(60) } else { secs(6) });
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
        blocks.iter().try_for_each(|b| {
            routed(&node, b, Some(same_family(&ips, b.split('/').next().unwrap().parse().unwrap())))
        })
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

#[test]
fn a_block_given_to_another_takes_its_pods_off_the_network() {
    let lab = Lab::up(&["--nodes", "3"]);
    let (winner, loser, third) = (lab.node(0), lab.node(1), lab.node(2));
    let (old, far) = (added(&loser.runtime()), added(&third.runtime()));
    mesh(&[&old, &far], secs(5));
    // No controller does such a thing; a restored or doubled one might.
    lab.control(&json!({"op": "program", "program": "controller-0", "action": "down"}));
    let path = |node: &NodeHandle| format!("{OVERLANE}/namespaces/kube-system/nodenetworkconfigs/{}", node.name);
    let lost = lab.api.nnc(&loser.name).unwrap()["status"]["networkContainers"].clone();
    let mut containers = lab.api.nnc(&winner.name).unwrap()["status"]["networkContainers"].as_array().unwrap().clone();
    for (entry, given) in containers.iter_mut().zip(lost.as_array().unwrap()) {
        entry["primaryIP"] = given["primaryIP"].clone();
        entry["id"] = given["id"].clone();
    }
    let none = json!({"status": {"networkContainers": []}});
    lab.api.merge(&format!("{}/status", path(&loser)), &none);
    let given = json!({"status": {"networkContainers": containers}});
    lab.api.merge(&format!("{}/status", path(&winner)), &given);
    eventually(secs(15), "the former owner's pods off the network", || {
        let elements = nft::pod_elements(&loser.ns);
        ensure(!elements.iter().any(|e| old.ips().iter().any(|ip| e.ends_with(&ip.to_string()))), || format!("{elements:?}"))
    });
    for to in far.ips() {
        assert!(packet::ping(&old.net.ns, to, 56, millis(500)).is_err(), "a pod of a block that is another's reaches {to}");
    }
    eventually(secs(10), "that the agent says so", || {
        ensure(loser.metric("overlane_leases_cut", "") >= 1.0, || "overlane_leases_cut is 0".into())
    });
    loser.runtime().status().refused(50);
    let next = eventually(secs(15), "an ADD from the block on the node that has it", || {
        let mut sandbox = Sandbox::new();
        let answer = winner.runtime().add(&mut sandbox);
        let moved = sandbox.ips().iter().any(|ip| old.ips().iter().any(|o| prefix(o) == prefix(ip)));
        if answer.out.ok() && moved { Ok(sandbox) } else { Err(answer.out.to_string()) }
    });
    mesh(&[&next, &far], secs(10));
    loser.runtime().del(&old).must();
}

/// All of an address but its last group.
fn prefix(ip: &IpAddr) -> String {
    let text = ip.to_string();
    text.rsplit_once(['.', ':']).map(|(head, _)| head.to_owned()).unwrap_or_default()
}

/// Counts what arrives in a namespace from one address, on the wire side of every socket.
fn count_from(ns: &Ns, source: IpAddr) {
    let family = if source.is_ipv4() { "ip" } else { "ip6" };
    let text = format!(
        "table inet suite {{\n counter old {{}}\n chain in {{\n type filter hook prerouting priority -400;\n \
         {family} saddr {source} counter name old\n }}\n }}\n"
    );
    let out = ns.feed(&["nft", "-f", "-"], &text);
    assert!(out.ok(), "{out}");
}

fn counted(ns: &Ns) -> u64 {
    nft::list(ns, "counters table inet suite").iter().find_map(|o| o["counter"]["packets"].as_u64()).unwrap()
}

#[test]
fn flows_of_a_dead_pod_do_not_reach_the_next_owner() {
    let (_turn, lab) = shared();
    let node = lab.node(0);
    let runtime = node.runtime();
    let peer = added(&lab.node(1).runtime());
    // All addresses but one are taken, so that the next pod gets the dead one's.
    let others: Vec<Sandbox> = (0..253).map(|_| added(&runtime)).collect();
    let outside = lab.internet();
    for family in [true, false] {
        let far = ip::global_addresses(&outside).into_iter().find(|ip| ip.is_ipv4() == family).unwrap();
        let victim = added(&runtime);
        let own = same_family(&victim.ips(), far);
        let stop = Arc::new(AtomicBool::new(false));
        // Two servers outside that go on sending whatever happens.
        let tcp = outside.listen(SocketAddr::new(far, probe::port()));
        let udp = outside.udp(SocketAddr::new(far, probe::port()), millis(200));
        let connection = victim.net.ns.connect(tcp.local_addr().unwrap(), None, secs(2)).unwrap();
        let asked = victim.net.ns.udp(SocketAddr::new(own, 7777), millis(200));
        asked.send_to(b"begin", udp.local_addr().unwrap()).unwrap();
        let (mut buffer, s) = ([0u8; 64], stop.clone());
        let (_, back) = udp.recv_from(&mut buffer).unwrap();
        let sending = std::thread::spawn(move || {
            let (mut stream, _) = tcp.accept().unwrap();
            stream.set_write_timeout(Some(millis(5))).unwrap();
            while !s.load(Ordering::Relaxed) {
                let _ = udp.send_to(b"late", back);
                let _ = std::io::Write::write(&mut stream, b"late");
                std::thread::sleep(millis(2));
            }
        });
        // A neighbour in the cluster that is connected to the pod, and one that it is connected to.
        let server = victim.net.ns.listen(SocketAddr::new(own, 8888));
        let mut inward = peer.net.ns.connect(SocketAddr::new(own, 8888), None, secs(2)).unwrap();
        let (_accepted, _) = server.accept().unwrap();
        std::thread::sleep(millis(100));
        assert!(nft::conntrack_with(&node.ns, own).len() >= 3, "the flows are tracked");
        let mut next = Sandbox::new();
        count_from(&next.net.ns, far);
        runtime.del(&victim).must();
        eventually(secs(5), "the freed address again", || {
            let answer = runtime.add(&mut next);
            ensure(answer.out.ok(), || answer.out.to_string())
        });
        assert_eq!(next.ips(), victim.ips());
        let stale: Vec<String> =
            nft::conntrack_with(&node.ns, own).into_iter().filter(|l| l.contains(&far.to_string())).collect();
        assert!(stale.is_empty(), "conntrack still leads to the next owner: {stale:#?}");
        let heir = next.net.ns.listen(SocketAddr::new(own, 8888));
        heir.set_nonblocking(true).unwrap();
        let inbox = next.net.ns.udp(SocketAddr::new(own, 7777), millis(800));
        let _ = std::io::Write::write(&mut inward, b"late");
        assert!(inbox.recv_from(&mut buffer).is_err(), "a datagram of the old flow reached the next owner");
        let _ = std::io::Write::write(&mut inward, b"late");
        assert!(heir.accept().is_err(), "the old connection became one of the next owner's");
        assert_eq!(counted(&next.net.ns), 0, "packets from {far}, whom the next owner never spoke to");
        stop.store(true, Ordering::Relaxed);
        sending.join().unwrap();
        // The next owner's own flows work.
        packet::ping(&next.net.ns, far, 56, secs(2)).unwrap();
        runtime.del(&next).must();
        // Until here the dead pod's sockets were open, as a process that outlives its network has them.
        drop((connection, asked, server));
    }
    others.iter().for_each(|s| {
        runtime.del(s).must();
    });
    lab.node(1).runtime().del(&peer).must();
}

#[test]
fn a_freed_address_rests_while_others_are_free() {
    let (_turn, lab) = shared();
    let node = lab.node(1);
    let runtime = node.runtime();
    let mut used = BTreeSet::new();
    for _ in 0..20 {
        let sandbox = added(&runtime);
        for ip in sandbox.ips() {
            assert!(used.insert(ip), "{ip} was given again although others are free");
        }
        runtime.del(&sandbox).must();
    }
}
