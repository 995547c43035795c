//! What belonged to a pod that is gone.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overlane_suites::runtime::Sandbox;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Ns, ip, nft, packet, probe};

use crate::{added, same_family, shared};

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
