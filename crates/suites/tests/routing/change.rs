//! From one routing to another while every pod talks to every other.
//!
//! Must catch: a step that does not wait for the nodes (`tests/mutants/routing-in-one-step.mutant`).

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use overlane_suites::api::{condition, told};
use overlane_suites::lab::Pod;
use overlane_suites::stream::Stream;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{ip, probe};
use serde_json::json;

use crate::{LINK, Stage, Wiretap};

const NETWORK: &str = "/apis/overlane.io/v1alpha1/clusternetworks/default";

/// A connection that one pod fills and another empties.
struct Bulk {
    stop: Arc<AtomicBool>,
    read: Arc<AtomicU64>,
    ends: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Bulk {
    fn start(from: &Pod, to: &Pod, address: IpAddr) -> Bulk {
        let at = SocketAddr::new(address, probe::port());
        let listener = to.ns.listen(at);
        let mut out = from.ns.connect(at, None, secs(5)).unwrap();
        let (mut inlet, _) = listener.accept().unwrap();
        // A second without a byte is an end.
        inlet.set_read_timeout(Some(secs(1))).unwrap();
        let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let s = stop.clone();
        let sender = std::thread::spawn(move || {
            let chunk = [7; 32 << 10];
            while !s.load(Ordering::Relaxed) {
                out.write_all(&chunk)?;
                std::thread::sleep(millis(5));
            }
            Ok(())
        });
        let r = read.clone();
        let receiver = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                match inlet.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => r.fetch_add(n as u64, Ordering::Relaxed),
                };
            }
        });
        Bulk { stop, read, ends: vec![sender, receiver] }
    }

    fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for end in self.ends {
            end.join().unwrap().unwrap();
        }
    }
}

fn mesh(stage: &Stage) -> Vec<(String, Stream)> {
    let mut streams = Vec::new();
    for from in &stage.pods {
        for to in stage.pods.iter().filter(|to| to.name != from.name) {
            for address in &to.ips {
                let stream = Stream::start(&from.ns, &to.ns, *address, millis(10));
                streams.push((format!("{} to {} at {address}", from.name, to.name), stream));
            }
        }
    }
    streams
}

pub fn change(stage: &Stage, routing: &str, accepts: &serde_json::Value) {
    let api = &stage.lab.api;
    api.merge(NETWORK, &json!({ "spec": { "routing": routing } }));
    eventually(secs(60), &format!("all nodes go by {routing}"), || {
        let status = &api.get(NETWORK)["status"];
        let told = condition(&status["conditions"], "RoutingChanging");
        let there = status["applied"]["routing"] == routing && status["routing"]["accepts"] == *accepts;
        ensure(there && told == "False", || format!("{status}"))
    });
    // The last step is a node's own, too.
    for node in &stage.nodes {
        eventually(secs(20), &format!("{} takes nothing else", node.name), || {
            let state = api.get(&format!("/apis/overlane.io/v1alpha1/nodestates/{}", node.name));
            ensure(state["spec"]["routing"]["accepts"] == *accepts, || state["spec"].to_string())
        });
    }
}

#[test]
fn no_packet_between_pods_is_lost() {
    let stage = Stage::new(3, "ipv4,ipv6", &[]);
    let tap = Wiretap::on(&stage);
    let streams = mesh(&stage);
    let (a, c) = (&stage.pods[0], &stage.pods[2]);
    let bulks: Vec<Bulk> = c.ips.iter().map(|address| Bulk::start(a, c, *address)).collect();
    for (routing, accepts) in [("vxlan", json!(["vxlan"])), ("native", json!(["native"]))] {
        change(&stage, routing, &accepts);
        let before: Vec<u64> = bulks.iter().map(Bulk::read).collect();
        let (bare, tunnel) = tap.counted();
        std::thread::sleep(Duration::from_secs(1));
        let (bare, tunnel) = (tap.counted().0 - bare, tap.counted().1 - tunnel);
        assert!(
            if routing == "vxlan" { bare == 0 && tunnel > 500 } else { bare > 500 && tunnel == 0 },
            "{routing}: {bare} bare, {tunnel} in the tunnel"
        );
        for (bulk, before) in bulks.iter().zip(before) {
            assert!(bulk.read() > before + (1 << 20), "{routing}: {} bytes in a second", bulk.read() - before);
        }
        for node in &stage.nodes {
            assert_eq!(ip::link(&node.ns, LINK).is_some(), routing == "vxlan", "{}: the tunnel's link", node.name);
        }
    }
    for (what, stream) in streams {
        let report = stream.finish();
        assert!(report.lost() == 0 && report.refused == 0, "{what}: {report:?}");
    }
    bulks.into_iter().for_each(Bulk::finish);
    stage.check();
}

#[test]
fn a_node_that_does_not_follow_is_waited_for_and_named() {
    let stage = Stage::new(2, "ipv4,ipv6", &[]);
    let api = &stage.lab.api;
    let agent = stage.nodes[1].take_agent();
    agent.kill();
    api.merge(NETWORK, &json!({ "spec": { "routing": "vxlan" } }));
    let name = &stage.nodes[1].name;
    eventually(secs(20), "the change waits", || {
        let status = &api.get(NETWORK)["status"];
        let (_, _, message) = told(&status["conditions"], "RoutingChanging");
        ensure(message.ends_with(&format!("waiting for {name}")) && status["applied"]["routing"] == "native", || {
            status.to_string()
        })
    });
    agent.start();
    change(&stage, "vxlan", &json!(["vxlan"]));
    stage.check();
}
