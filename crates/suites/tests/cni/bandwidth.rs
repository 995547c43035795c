//! Limits of a pod's traffic: they hold, in each direction and family, and nothing of them outlives the pod.
//!
//! Must catch: a limit that one direction escapes.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use overlane_suites::ip;
use overlane_suites::runtime::{Answer, Runtime, Sandbox};
use overlane_suites::wait::{ensure, eventually, secs};
use overlane_suites::{Ns, probe};
use serde_json::{Value, json};

use crate::{node, settled};

/// Towards the pod and from it, bits a second.
const INGRESS: u64 = 40_000_000;
const EGRESS: u64 = 20_000_000;
/// What goes at once, bytes, and what a socket's and a device's buffers hold.
const SLACK: u64 = 512 << 10;
const LIMIT: Duration = Duration::from_secs(60);

fn add(runtime: &Runtime, sandbox: &mut Sandbox, limits: &Value) -> Answer {
    runtime.add_with(sandbox, &json!({ "runtimeConfig": { "bandwidth": limits } }))
}

/// As containerd asks for it.
fn limits() -> Value {
    json!({ "IngressRate": INGRESS, "IngressBurst": u32::MAX, "EgressRate": EGRESS, "EgressBurst": u32::MAX })
}

/// How long so many bytes take from one to the other.
fn carry(from: &Ns, to: &Ns, at: SocketAddr, bytes: u64) -> Duration {
    let listener = to.listen(at);
    let received = probe::background(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut sum) = (vec![0; 64 << 10], 0_u64);
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                n => sum += n as u64,
            }
        }
        stream.write_all(b"all").unwrap();
        sum
    });
    let mut stream = from.connect(at, None, LIMIT).unwrap();
    let began = Instant::now();
    let chunk = vec![b'x'; 64 << 10];
    let mut left = usize::try_from(bytes).unwrap();
    while left > 0 {
        let some = left.min(chunk.len());
        stream.write_all(&chunk[..some]).unwrap();
        left -= some;
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    let took = began.elapsed();
    println!("to {at}: {:.1} Mbit/s", bytes as f64 * 8e-6 / took.as_secs_f64());
    assert_eq!(received.recv_timeout(LIMIT).unwrap(), bytes);
    took
}

/// The least time that so many bytes take under a limit, with a tenth for what is counted otherwise.
fn least(bytes: u64, bits: u64) -> Duration {
    Duration::from_secs_f64((bytes - SLACK) as f64 * 8.0 / bits as f64 * 0.9)
}

#[test]
fn each_direction_and_family_is_held() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let (mut limited, mut free) = (Sandbox::new(), Sandbox::new());
    add(&runtime, &mut limited, &limits()).must();
    runtime.add(&mut free).must();
    runtime.check(&limited).must();
    for (ip, peer) in limited.ips().into_iter().zip(free.ips()) {
        let (bytes, at) = (6 << 20, SocketAddr::new(ip, probe::port()));
        let took = carry(&free.net.ns, &limited.net.ns, at, bytes);
        assert!(took > least(bytes, INGRESS), "{bytes} bytes to {ip} took {took:?}");
        let (bytes, at) = (3 << 20, SocketAddr::new(peer, probe::port()));
        let took = carry(&limited.net.ns, &free.net.ns, at, bytes);
        assert!(took > least(bytes, EGRESS), "{bytes} bytes from {ip} took {took:?}");
        // The node itself is a peer as any other.
        let at = SocketAddr::new(ip, probe::port());
        let took = carry(&node.ns, &limited.net.ns, at, 6 << 20);
        assert!(took > least(6 << 20, INGRESS), "from the node to {ip}: {took:?}");
    }
    runtime.del(&limited).must();
    runtime.del(&free).must();
    settled(&node, &[]);
}

#[test]
fn one_direction_alone_is_held() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    let (mut limited, mut free) = (Sandbox::new(), Sandbox::new());
    add(&runtime, &mut limited, &json!({ "egressRate": EGRESS, "egressBurst": 8 << 16 })).must();
    runtime.add(&mut free).must();
    let bytes = 6 << 20;
    for (ip, peer) in limited.ips().into_iter().zip(free.ips()) {
        let to = carry(&free.net.ns, &limited.net.ns, SocketAddr::new(ip, probe::port()), bytes);
        let from = carry(&limited.net.ns, &free.net.ns, SocketAddr::new(peer, probe::port()), bytes);
        assert!(from > least(bytes, EGRESS) && from > to * 2, "from the pod {from:?}, to it {to:?}");
    }
    runtime.del(&limited).must();
    runtime.del(&free).must();
    settled(&node, &[]);
}

/// What is taken away is seen by CHECK and put back by the audit, and the agent's death changes nothing.
#[test]
fn limits_stay_in_force() {
    let (_lock, node) = node(2);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    add(&runtime, &mut sandbox, &limits()).must();
    let link = sandbox.host_link();
    let shaper = link.replacen("ovlp", "ovlb", 1);
    for (what, fault) in [
        ("bucket of the pod's link", format!("tc qdisc del dev {link} root")),
        ("place of the filter", format!("tc qdisc del dev {link} ingress")),
        ("bucket of the other link", format!("tc qdisc del dev {shaper} root")),
        ("other link", format!("ip link del {shaper}")),
        ("other link's state", format!("ip link set {shaper} down")),
    ] {
        node.ns.must(&fault);
        let answer = runtime.check(&sandbox);
        // The audit may have been faster.
        if !answer.out.ok() {
            assert!(answer.message().contains("nothing holds"), "{what}: {}", answer.message());
        }
        eventually(secs(60), &format!("repair of the {what}"), || {
            std::thread::sleep(Duration::from_millis(200));
            let answer = runtime.check(&sandbox);
            ensure(answer.out.ok(), || answer.out.to_string())
        });
    }
    let agent = node.take_agent();
    agent.kill();
    let peer = sandbox.ips()[0];
    let took = carry(&node.ns, &sandbox.net.ns, SocketAddr::new(peer, probe::port()), 6 << 20);
    assert!(took > least(6 << 20, INGRESS), "{took:?}");
    // The pod ends while no agent runs; what limited it goes when one does again.
    runtime.del(&sandbox).must();
    agent.start();
    settled(&node, &[]);
    assert_eq!(ip::link(&node.ns, &shaper).map(|l| l.name), None);
}

/// A pod that ends within its ADD, and one whose link was taken away by somebody else, leave nothing.
#[test]
fn nothing_outlives_the_pod() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    for round in 0..20 {
        let mut sandbox = Sandbox::new();
        add(&runtime, &mut sandbox, &limits()).must();
        match round % 3 {
            0 => runtime.del(&sandbox).must(),
            1 => {
                node.ns.must(&format!("ip link del {}", sandbox.host_link()));
                runtime.del(&sandbox).must()
            }
            _ => {
                sandbox.net.ns.must("ip link del eth0");
                runtime.gc(&[]).must()
            }
        };
    }
    settled(&node, &[]);
    let kept = ip::links(&node.ns).into_iter().filter(|l| l.name.starts_with("ovlb")).count();
    assert_eq!(kept, 0);
}
