//! Agents and the API away: what is in force stays in force, and nobody gets past it meanwhile.

use std::net::IpAddr;

use overlane_suites::monitor::Monitor;
use overlane_suites::volley::{Carries, Field, Shot};
use overlane_suites::wait::{ensure, eventually, holds, millis, secs};
use overlane_suites::{NodeHandle, ip, nft};
use serde_json::json;

use crate::canary;
use crate::objects;
use crate::scene::{self, CLIENT, OPEN, SHOP, SHUT};
use crate::stage::Range;
use crate::watch;

/// One that no policy selects.
const PASSER: &str = "street/passer";

fn closed() -> Range {
    let range = scene::shop(|stage| {
        stage.namespace("street", &json!({}));
        stage.run("street", "passer", 0, &json!({}));
    });
    for (number, (_, policy)) in scene::closings().into_iter().enumerate() {
        let mut policy = policy;
        policy["metadata"]["name"] = json!(format!("closing-{number}"));
        objects::put(range.api(), &policy);
    }
    canary::settle(&range);
    range
}

#[test]
fn rules_outlive_their_agents() {
    let range = closed();
    let (open, shut) = scene::packets(&range);
    let agents: Vec<_> = range.stage.nodes.iter().map(NodeHandle::take_agent).collect();
    for _ in 0..3 {
        watch::while_doing(&range, "agents killed, away, and started", &open, &shut, |_| {
            agents.iter().for_each(|agent| agent.kill());
            std::thread::sleep(secs(1));
            agents.iter().for_each(|agent| agent.launch());
            range.stage.nodes.iter().for_each(NodeHandle::agent_ready);
            std::thread::sleep(secs(2));
        });
    }
    // What is written while they are dead is in force once they live.
    agents.iter().for_each(|agent| agent.kill());
    let policy = objects::policy(SHOP, "nothing", &json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    for (number, (_, mut policy)) in scene::closings().into_iter().enumerate() {
        policy["metadata"]["name"] = json!(format!("closing-{number}"));
        objects::delete(range.api(), &policy);
    }
    objects::put(range.api(), &policy);
    agents.iter().for_each(|agent| agent.start());
    canary::settle(&range);
    let through = range.fire(&[open, shut].concat(), millis(300)).iter().filter(|fate| fate.arrived).count();
    assert_eq!(through, 0, "all is shut by what was written meanwhile");
}

#[test]
fn a_restart_writes_nothing_that_is_right() {
    let range = closed();
    let node = &range.stage.nodes[0];
    let agent = node.take_agent();
    canary::settle(&range);
    std::thread::sleep(secs(2));
    let state = || (ip::snapshot(&node.ns), nft::own_text(&node.ns));
    let before = state();
    for _ in 0..2 {
        agent.kill();
        let monitor = Monitor::start(&node.ns);
        agent.start();
        std::thread::sleep(secs(3));
        let changes = monitor.finish();
        assert!(changes.is_empty(), "written by a restart that found all right: {changes:#?}");
        assert_eq!(node.repairs(), 0.0, "nothing was broken");
    }
    assert_eq!(before, state());
}

/// A pod of the shop that comes while others are listened to already, in a field of its own with the client and one whom
/// no policy keeps from sending.
struct Latecomer {
    field: Field,
    open: Vec<Shot>,
    shut: Vec<Shot>,
}

fn latecomer(range: &Range, name: &str, node: usize) -> Latecomer {
    const KINDS: [Carries; 4] = [Carries::Tcp(SHUT), Carries::Udp(SHUT), Carries::Sctp(SHUT), Carries::Echo];
    range.stage.create(SHOP, name, node, &json!({"app": "server"}), &json!(null));
    let pod = scene::lab(range).pod_in(SHOP, name);
    let [client, passer] = [CLIENT, PASSER].map(|name| range.host(name));
    let field = Field::new(&[client.ns.clone(), passer.ns.clone(), pod.ns.clone()]);
    let shots = |from: usize, sources: &[IpAddr], kinds: &[Carries]| -> Vec<Shot> {
        let shot = |source: IpAddr, carries| {
            let to = pod.ip_like(source);
            Shot { from, source, to, into: 2, at: to, carries }
        };
        sources.iter().flat_map(|source| kinds.iter().map(|kind| shot(*source, *kind))).collect()
    };
    let open = [Carries::Tcp(OPEN), Carries::Udp(OPEN)];
    let shut = [shots(0, &client.ips, &KINDS), shots(1, &passer.ips, &KINDS)].concat();
    Latecomer { field, open: shots(0, &client.ips, &open), shut }
}

impl Latecomer {
    fn arrived(&self, shots: &[Shot]) -> usize {
        let volley = self.field.fire(shots, millis(200));
        self.field.fates(&volley).iter().filter(|fate| fate.arrived).count()
    }

    fn is_shut(&self) -> Result<(), String> {
        let through = self.arrived(&self.shut);
        ensure(through == 0, || format!("{through} of {} packets pass", self.shut.len()))
    }
}

#[test]
fn without_the_api_what_was_known_counts() {
    let range = closed();
    let (open, shut) = scene::packets(&range);
    let lab = scene::lab(&range);
    let agents: Vec<_> = range.stage.nodes.iter().map(NodeHandle::take_agent).collect();
    lab.api_up(false);
    let late: Vec<Latecomer> = watch::while_doing(&range, "pods that start without the API", &open, &shut, |_| {
        let late = ["late-near", "late-far"].iter().enumerate().map(|(node, name)| latecomer(&range, name, node));
        let late: Vec<Latecomer> = late.collect();
        for pod in &late {
            holds(secs(3), "a pod that started without the API", || pod.is_shut());
            println!("{} of {} packets that would be allowed pass", pod.arrived(&pod.open), pod.open.len());
        }
        late
    });
    watch::while_doing(&range, "agents that start without the API", &open, &shut, |_| {
        agents.iter().for_each(|agent| agent.kill());
        agents.iter().for_each(|agent| agent.start());
        for pod in &late {
            holds(secs(3), "a pod that is there when its agent starts without the API", || pod.is_shut());
        }
    });
    lab.api_up(true);
    for pod in &late {
        eventually(secs(60), "a pod that started without the API is let speak", || {
            pod.is_shut()?;
            let through = pod.arrived(&pod.open);
            ensure(through == pod.open.len(), || format!("{through} of {} packets pass", pod.open.len()))
        });
    }
}
