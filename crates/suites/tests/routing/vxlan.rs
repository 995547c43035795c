//! All pod packets between nodes go in the tunnel, in every family, and everything reaches what it must.

use std::time::Duration;

use overlane_suites::stream::Stream;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{ip, packet};

use crate::{FAMILIES, LINK, Stage, Wiretap};

const LIMIT: Duration = Duration::from_secs(2);

#[test]
fn every_family_reaches_what_it_must() {
    for families in FAMILIES {
        let stage = Stage::new(3, families, &["--routing", "vxlan"]);
        let tap = Wiretap::on(&stage);
        stage.check();
        let (bare, tunnel) = tap.counted();
        assert_eq!(bare, 0, "{families}: packets of pods on the segment");
        assert!(tunnel > 1000, "{families}: {tunnel} packets in the tunnel");
    }
}

#[test]
fn full_packets_fit_and_larger_ones_are_told() {
    let stage = Stage::new(2, "ipv4,ipv6", &["--routing", "vxlan", "--mtu", "9000"]);
    let (a, c) = (&stage.pods[0], &stage.pods[2]);
    assert_eq!(ip::link(&a.ns, "eth0").unwrap().mtu, 8950, "all of the underlay but the tunnel's own headers");
    for to in &c.ips {
        let header = if to.is_ipv4() { 28 } else { 48 };
        for size in [56, 8950 - header] {
            packet::ping(&a.ns, *to, size, LIMIT).unwrap();
        }
    }
    // A node's own packets to another node's pod too.
    for to in &c.ips {
        let header = if to.is_ipv4() { 28 } else { 48 };
        packet::ping(&stage.nodes[0].ns, *to, 8950 - header, LIMIT).unwrap();
        // Larger than the way: told to the sender, who cuts.
        eventually(secs(5), "a packet that does not fit", || {
            packet::ping(&stage.nodes[0].ns, *to, 20_000, LIMIT).map(|_| ())
        });
    }
}

#[test]
fn what_somebody_breaks_is_made_again() {
    let stage = Stage::new(2, "ipv4,ipv6", &["--routing", "vxlan"]);
    let (a, c, node) = (&stage.pods[0], &stage.pods[2], &stage.nodes[0].ns);
    let works = || {
        for to in &c.ips {
            eventually(secs(90), "the way back", || packet::ping(&a.ns, *to, 56, LIMIT).map(|_| ()));
        }
    };
    works();
    node.must(&format!("ip link del {LINK}"));
    works();
    node.must(&format!("ip link set {LINK} down"));
    works();
    node.must(&format!("ip link set {LINK} address 02:00:00:00:00:01 mtu 1000"));
    works();
    eventually(secs(90), "the link as it was", || {
        let link = ip::link(node, LINK).ok_or("no link")?;
        ensure(link.mtu == 1450, || format!("mtu {}", link.mtu)).map_err(|_| "mtu")
    });
    for broken in ["ip -4 neigh flush dev ovlx0 nud permanent", "ip -6 neigh flush dev ovlx0 nud permanent"] {
        node.must(broken);
        works();
    }
}

#[test]
fn it_outlives_its_agents() {
    let stage = Stage::new(2, "ipv4,ipv6", &["--routing", "vxlan"]);
    let (a, c) = (&stage.pods[0], &stage.pods[2]);
    let agents: Vec<_> = stage.nodes.iter().map(|node| node.take_agent()).collect();
    let before: Vec<_> = stage.nodes.iter().map(|node| ip::link(&node.ns, LINK).unwrap().index).collect();
    for agent in &agents {
        agent.kill();
    }
    for to in &c.ips {
        packet::ping(&a.ns, *to, 56, LIMIT).unwrap();
    }
    for agent in &agents {
        agent.start();
    }
    let after: Vec<_> = stage.nodes.iter().map(|node| ip::link(&node.ns, LINK).unwrap().index).collect();
    assert_eq!(before, after, "a restart makes no other tunnel");
    for to in &c.ips {
        packet::ping(&a.ns, *to, 56, LIMIT).unwrap();
    }
}

/// A kernel without routes that encapsulate: the tunnel's link has an entry a node.
#[test]
fn entries_lead_where_routes_cannot() {
    for families in FAMILIES {
        let stage = Stage::new(
            3,
            families,
            &["--routing", "vxlan", "--agent-arg=--tunnel=entries", "--agent-arg=--audit-interval=2"],
        );
        let node = &stage.nodes[0].ns;
        let routes = node.must("ip -4 route show proto 111").stdout + &node.must("ip -6 route show proto 111").stdout;
        assert!(routes.contains("dev ovlx0") && !routes.contains("encap"), "{routes}");
        let entries = || node.must("bridge fdb show dev ovlx0").stdout;
        assert_eq!(entries().lines().filter(|line| line.contains("dst ") && line.contains("permanent")).count(), 2);
        stage.check();
        // A foreign hand, and an agent that starts again without the API.
        let line = entries().lines().next().unwrap().to_owned();
        let mac = line.split(' ').next().unwrap();
        node.must(&format!("bridge fdb del {mac} dev ovlx0"));
        eventually(secs(20), "the entry is there again", || {
            let found = entries();
            ensure(found.lines().count() == 2, || found.clone())
        });
        stage.lab.remove_node(&stage.nodes[2].name, false);
        eventually(secs(30), "the entry of a node that is gone goes", || {
            let found = entries();
            ensure(found.lines().count() == 1, || found.clone())
        });
        let stream = Stream::start(&stage.pods[0].ns, &stage.pods[2].ns, stage.pods[2].ips[0], millis(5));
        stage.lab.api_up(false);
        let agent = stage.nodes[0].take_agent();
        agent.kill();
        agent.start();
        std::thread::sleep(secs(2));
        stage.lab.api_up(true);
        stage.nodes[0].agent_ready();
        let report = stream.finish();
        assert!(report.lost() == 0 && report.refused == 0, "{report:?}");
    }
}
