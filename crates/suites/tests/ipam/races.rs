//! Many at once, an agent that dies, and an agent that looks around: no address doubled, none leaked, none freed by
//! absence.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use overlane_suites::agent::Agent;
use overlane_suites::runtime::{Runtime, Sandbox};
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{NodeHandle, ip};
use serde_json::json;

use crate::{addresses, leases, node, runtime, settled, single};

/// Sandboxes of the main plugin's and of ptp's, one after the other.
fn mixed(node: &NodeHandle, count: usize) -> (Vec<Runtime>, Vec<Sandbox>) {
    let runtimes = vec![node.runtime(), runtime(node, "ptp", "mixed", &json!({}))];
    (runtimes, (0..count).map(|_| Sandbox::new()).collect())
}

fn nothing_left(node: &NodeHandle) {
    settled(node, &[]);
    eventually(secs(15), "the end of all leases but gateways", || {
        let pods = leases(node, "interface").len();
        ensure(pods == 0, || format!("{pods} leases"))
    });
}

/// As a runtime does: what failed is ended and begun anew.
fn add(runtime: &Runtime, sandbox: &mut Sandbox) {
    let mut last = String::new();
    for _ in 0..20 {
        let answer = runtime.add(sandbox);
        if answer.out.ok() {
            return;
        }
        last = answer.out.to_string();
        runtime.del(sandbox).must();
        std::thread::sleep(millis(200));
    }
    panic!("no ADD succeeded: {last}");
}

#[test]
fn two_hundred_at_once() {
    let (_lock, node) = node(0);
    let (runtimes, mut sandboxes) = mixed(&node, 200);
    std::thread::scope(|scope| {
        for chunk in sandboxes.chunks_mut(25) {
            scope.spawn(|| {
                for (number, sandbox) in chunk.iter_mut().enumerate() {
                    runtimes[number % 2].add(sandbox).must();
                    // Some come and go at once, beside the others.
                    if number % 5 == 0 {
                        runtimes[number % 2].del(sandbox).must();
                        runtimes[number % 2].add(sandbox).must();
                    }
                }
            });
        }
    });
    let all: BTreeSet<IpAddr> = sandboxes.iter().flat_map(Sandbox::ips).collect();
    assert_eq!(all.len(), 400, "two hundred pods, each with its own address of each family");
    assert!(addresses(&leases(&node, "gateway")).iter().all(|gateway| !all.contains(gateway)));
    let of =
        |kind: usize| sandboxes.chunks(25).flat_map(move |c| c.iter().enumerate().filter(move |(n, _)| n % 2 == kind));
    settled(&node, &of(1).map(|(_, sandbox)| sandbox).collect::<Vec<_>>());
    single(&node, &sandboxes.iter().collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for chunk in sandboxes.chunks(25) {
            scope.spawn(|| {
                for (number, sandbox) in chunk.iter().enumerate() {
                    runtimes[number % 2].del(sandbox).must();
                }
            });
        }
    });
    nothing_left(&node);
}

#[test]
fn the_agent_dies_in_the_middle() {
    let (_lock, node) = node(1);
    let agent = node.take_agent();
    let (runtimes, mut sandboxes) = mixed(&node, 60);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for chunk in sandboxes.chunks_mut(10) {
            scope.spawn(|| {
                for (number, sandbox) in chunk.iter_mut().enumerate() {
                    add(&runtimes[number % 2], sandbox);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for at in [10, 25, 40] {
            eventually(secs(60), "ADDs", || {
                let done = done.load(Ordering::Relaxed);
                ensure(done >= at, || format!("{done} of {at}"))
            });
            agent.kill();
            agent.launch();
        }
    });
    node.agent_ready();
    let of =
        |kind: usize| sandboxes.chunks(10).flat_map(move |c| c.iter().enumerate().filter(move |(n, _)| n % 2 == kind));
    settled(&node, &of(1).map(|(_, sandbox)| sandbox).collect::<Vec<_>>());
    single(&node, &sandboxes.iter().collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for chunk in sandboxes.chunks(10) {
            scope.spawn(|| {
                for (number, sandbox) in chunk.iter().enumerate() {
                    runtimes[number % 2].del(sandbox).must();
                }
            });
        }
        std::thread::sleep(millis(100));
        agent.kill();
        agent.launch();
    });
    node.agent_ready();
    nothing_left(&node);
}

#[test]
fn no_audit_and_no_start_ends_what_has_no_link_of_ours() {
    let (_lock, node) = node(1);
    let agent = Agent::take_with(&node, &["--audit-interval", "1"]);
    let (ptp, bare) =
        (runtime(&node, "ptp", "audited", &json!({})), runtime(&node, "overlane-ipam", "audited", &json!({})));
    let (mut wired, mut broken, mut unwired) = (Sandbox::new(), Sandbox::new(), Sandbox::new());
    ptp.add(&mut wired).must();
    ptp.add(&mut broken).must();
    bare.add(&mut unwired).must();
    // Whatever becomes of another plugin's link, the address is the namespace's until a DEL.
    node.ns.must(&format!("ip link del {}", broken.host_link()));
    assert!(ip::link(&broken.net.ns, "eth0").is_none());
    let before = node.repairs();
    let all = |broken: &Sandbox| {
        let held: BTreeSet<IpAddr> = addresses(&leases(&node, "ipam")).into_iter().collect();
        let wanted: BTreeSet<IpAddr> = [&wired, broken, &unwired].iter().flat_map(|s| s.ips()).collect();
        assert_eq!(held, wanted);
    };
    std::thread::sleep(secs(4));
    all(&broken);
    // A foreign link's end is no drift of ours; IPv6 routes of a link that went may count as news, not as a repair.
    assert_eq!(node.repairs(), before, "nothing was put right");
    assert_eq!(node.metric("overlane_links_missing", ""), 0.0);
    let gateways = leases(&node, "gateway");
    assert_eq!(gateways.iter().filter(|lease| lease["network"] == "audited").count(), 2, "{gateways:?}");
    // Gateways of other networks stay for as long as the node runs.
    let all_leases = 3 + gateways.len() + leases(&node, "interface").len();
    assert_eq!(node.metric("overlane_leases", "active"), all_leases as f64);
    agent.kill();
    agent.start();
    std::thread::sleep(secs(3));
    all(&broken);
    for sandbox in [&wired, &unwired] {
        let of = if sandbox.pod == wired.pod { &ptp } else { &bare };
        of.check(sandbox).must();
    }
    // The namespace's end is proof for any lease, heard of at once or found at a start.
    let (gone, late) = (unwired.ips(), broken.ips());
    drop(unwired);
    eventually(secs(10), "the lease of a namespace that is gone", || {
        let held = addresses(&leases(&node, "ipam"));
        ensure(gone.iter().all(|ip| !held.contains(ip)), || format!("{held:?}"))
    });
    agent.kill();
    drop(broken);
    agent.start();
    eventually(secs(10), "the lease of a namespace that went while no agent ran", || {
        let held = addresses(&leases(&node, "ipam"));
        ensure(late.iter().all(|ip| !held.contains(ip)), || format!("{held:?}"))
    });
    ptp.del(&wired).must();
    settled(&node, &[]);
}
