//! `outboundType: natGateway`: who has an egress gateway leaves by it, nobody else leaves.
//!
//! Must catch: a pod without a gateway that leaves by its node.

use std::net::IpAddr;

use overlane_suites::far::Far;
use overlane_suites::lab::Pod;
use overlane_suites::outage::{Cut, Outage};
use overlane_suites::wait::{ensure, eventually, secs};
use overlane_suites::{nft, packet};
use serde_json::json;

use super::office::{Call, Office, is_seen};
use super::{FAMILIES, NETWORK, address_like, seen_as};

/// Asks for a way out of the cluster; waits until it is in force.
fn outbound(office: &Office, kind: &str) {
    office.lab.api.merge(NETWORK, &json!({"spec": {"outboundType": kind}}));
    eventually(secs(10), &format!("{kind} is in force"), || {
        let status = &office.lab.api.get(NETWORK)["status"];
        ensure(status["applied"]["outboundType"] == kind, || status.to_string())
    });
}

/// Waits until the internet sees a pod as the gateway, or not at all.
fn leaves(office: &Office, pod: &Pod, does: bool, why: &str) {
    for own in &pod.ips {
        seen_as(pod, &office.internet, *own, does.then(|| office.egress(*own)), why);
    }
}

#[test]
fn who_has_no_gateway_does_not_leave() {
    for families in FAMILIES {
        let office = Office::new(2, families, &[1], &[]);
        let chosen = [office.run("a", 0, true), office.run("b", 1, true)];
        let others = [office.run("c", 0, false), office.run("d", 1, false)];
        let before = office.snapshot();
        outbound(&office, "natGateway");
        leaves(&office, &chosen[0], false, "there is no gateway at all");
        office.open(1);
        for pod in &chosen {
            for own in &pod.ips {
                for outside in [&office.internet, &office.vm] {
                    is_seen(pod, outside, *own, office.egress(*own), "by the gateway");
                }
            }
        }
        let far = Far::on(&office.internet);
        for (pod, node) in others.iter().zip(&office.nodes) {
            for own in &pod.ips {
                let counted = nft::counter(&node.ns, "no_way_out");
                for outside in [&office.internet, &office.vm] {
                    seen_as(pod, outside, *own, None, "no gateway, no way out");
                }
                assert!(nft::counter(&node.ns, "no_way_out") > counted, "{}: it is counted", node.name);
                inside(&office, pod, &chosen, *own);
            }
        }
        assert!(far.sources().is_empty(), "{:?}", far.sources());
        // Chosen no more, and again.
        let pod = &chosen[0];
        let calls: Vec<Call> = pod.ips.iter().map(|own| Call::open(pod, &office.internet, *own)).collect();
        office.choose(pod, false);
        leaves(&office, pod, false, "chosen no more");
        for mut call in calls {
            call.goes_on().expect_err("what was open is cut");
        }
        office.choose(pod, true);
        leaves(&office, pod, true, "chosen again");
        let outage = Outage::of(&office.lab, &office.nodes[1], Cut::Frames);
        leaves(&office, pod, false, "no gateway that lives");
        outage.end();
        for own in &pod.ips {
            let to = address_like(&office.internet, *own);
            eventually(secs(30), "by the gateway again", || packet::ping(&pod.ns, to, 56, secs(1)));
        }
        far.only(&office.slot(0)).unwrap();
        // The node's own packets are not the pods'.
        for own in &pod.ips {
            packet::ping(&office.nodes[0].ns, address_like(&office.internet, *own), 56, secs(2)).unwrap();
        }
        office.close();
        outbound(&office, "loadBalancer");
        for (number, pod) in chosen.iter().enumerate() {
            for own in &pod.ips {
                seen_as(pod, &office.internet, *own, Some(office.node_like(number, *own)), "as before");
            }
        }
        office.is_as_before(&before);
    }
}

/// Pods and nodes are reached as ever, and reach.
fn inside(office: &Office, pod: &Pod, others: &[Pod], own: IpAddr) {
    for other in others {
        packet::ping(&pod.ns, other.ip_like(own), 56, secs(2)).unwrap();
        packet::ping(&other.ns, pod.ip_like(own), 56, secs(2)).unwrap();
    }
    for (number, node) in office.nodes.iter().enumerate() {
        packet::ping(&pod.ns, office.node_like(number, own), 56, secs(2)).unwrap();
        packet::ping(&node.ns, pod.ip_like(own), 56, secs(2)).unwrap();
    }
}
