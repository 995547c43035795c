//! Gateways that die and come back, and agents that do.
//!
//! Must catch: a pod that leaves by its node while no gateway lives (`tests/mutants/gateway-dead-masqueraded.mutant`).

use std::time::{Duration, Instant};

use overlane_suites::far::Far;
use overlane_suites::lab::{NodeHandle, Pod};
use overlane_suites::outage::{Cut, Outage};
use overlane_suites::stream::Stream;
use overlane_suites::wait::{ensure, eventually, holds, millis, secs};
use serde_json::json;

use super::office::{Call, Office, answered, is_seen};
use super::{FAMILIES, address_like, seen_as, seen_within};

/// Three seconds are promised; this machine may be busy.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// Steady datagrams of a pod to the host outside, a stream a family.
pub fn steady(office: &Office, pod: &Pod) -> Vec<Stream> {
    let to = pod.ips.iter().map(|own| address_like(&office.internet, *own));
    to.map(|to| Stream::start(&pod.ns, &office.internet, to, millis(5))).collect()
}

fn calls(office: &Office, pod: &Pod) -> Vec<Call> {
    pod.ips.iter().map(|own| Call::open(pod, &office.internet, *own)).collect()
}

/// Nothing was lost, whoever was away.
fn nothing_lost(what: &str, streams: Vec<Stream>) {
    for stream in streams {
        let report = stream.finish();
        assert!(report.lost() == 0 && report.refused == 0, "{what}: {report:?}");
    }
}

/// One of two gateways is lost by `lose`; the other takes over. The one that was lost comes first.
fn taken_over<T>(office: &Office, pods: &[Pod], lose: impl FnOnce(&NodeHandle) -> T) -> (usize, usize, T) {
    let home = office.home();
    let standby = 3 - home;
    let pods: Vec<&Pod> = pods.iter().enumerate().filter(|(number, _)| *number != home).map(|(_, pod)| pod).collect();
    for pod in &pods {
        for own in &pod.ips {
            is_seen(pod, &office.internet, *own, office.egress(*own), "while all live");
        }
    }
    let far = Far::on(&office.internet);
    let streams = steady(office, pods[0]);
    let open: Vec<Call> = pods.iter().flat_map(|pod| calls(office, pod)).collect();
    let began = Instant::now();
    let lost = lose(&office.nodes[home]);
    for pod in &pods {
        for own in &pod.ips {
            let seen = answered(pod, &office.internet, *own, began, TAKE_OVER);
            println!("{} of {own} is answered {} ms after the loss", pod.name, began.elapsed().as_millis());
            assert_eq!(seen, office.egress(*own));
        }
    }
    let living: Vec<usize> = [0, 1, 2].into_iter().filter(|number| *number != home).collect();
    assert_eq!(office.settled(0, &living, secs(1)), standby);
    open.into_iter().for_each(Call::ends);
    for stream in streams {
        println!("a steady stream: {:?}", stream.finish());
    }
    far.only(&office.slot(0)).unwrap();
    (home, standby, lost)
}

/// Nodes 1 and 2 may be the gateway; a chosen pod runs on each of all three.
fn three(families: &str) -> (Office, Vec<Pod>) {
    let office = Office::new(3, families, &[1, 2], &[]);
    office.open(1);
    let pods = (0..3).map(|number| office.run(&format!("p{number}"), number, true)).collect();
    (office, pods)
}

/// The one that was lost is back: so is its address, and nobody else was ever seen.
fn comes_back(office: &Office, pods: &[Pod], home: usize, back: impl FnOnce()) {
    let far = Far::on(&office.internet);
    let began = Instant::now();
    back();
    office.at(home);
    println!("the address is back {} ms after its node", began.elapsed().as_millis());
    for pod in pods {
        for own in &pod.ips {
            is_seen(pod, &office.internet, *own, office.egress(*own), "with all again");
        }
    }
    far.only(&office.slot(0)).unwrap();
}

fn another_takes_over(cut: Cut) {
    for families in FAMILIES {
        let (office, pods) = three(families);
        let lose = |node: &NodeHandle| Outage::of(&office.lab, node, cut);
        let (home, _, outage) = taken_over(&office, &pods, lose);
        comes_back(&office, &pods, home, || outage.end());
    }
}

#[test]
fn another_takes_over_from_one_that_loses_its_link() {
    another_takes_over(Cut::Carrier);
}

#[test]
fn another_takes_over_from_one_that_falls_silent() {
    another_takes_over(Cut::Frames);
}

/// A machine that is thrown away, and its objects with it.
#[test]
fn another_takes_over_from_a_machine_that_is_gone() {
    let (office, pods) = three("ipv4,ipv6");
    let lose = |node: &NodeHandle| Outage::of(&office.lab, node, Cut::Frames);
    let (home, standby, _outage) = taken_over(&office, &pods, lose);
    let far = Far::on(&office.internet);
    office.lab.remove_node(&office.nodes[home].name, false);
    let living = [0, standby];
    holds(secs(3), "it stays there", || {
        let at = office.settled(0, &living, secs(1));
        ensure(at == standby, || format!("{at}"))
    });
    for number in living {
        for own in &pods[number].ips {
            is_seen(&pods[number], &office.internet, *own, office.egress(*own), "without the machine");
        }
    }
    far.only(&office.slot(0)).unwrap();
}

/// All memory of being the gateway is gone.
#[test]
fn one_that_starts_anew_is_the_gateway_again() {
    let (mut office, pods) = three("ipv4,ipv6");
    let home = office.home();
    let far = Far::on(&office.internet);
    let others = [0, 3 - home];
    office.lab.control(&json!({"op": "reboot-node", "node": office.nodes[home].name}));
    for number in others {
        for own in &pods[number].ips {
            let seen = answered(&pods[number], &office.internet, *own, Instant::now(), TAKE_OVER);
            assert_eq!(seen, office.egress(*own));
        }
    }
    office.nodes = office.lab.nodes();
    office.at(home);
    for number in others {
        for own in &pods[number].ips {
            is_seen(&pods[number], &office.internet, *own, office.egress(*own), "after the start");
        }
    }
    far.only(&office.slot(0)).unwrap();
}

/// What comes in the tunnel while nothing is known there of gateways does not go on.
#[test]
fn one_that_takes_long_to_start_lets_nothing_through() {
    let (office, pods) = three("ipv4,ipv6");
    let home = office.home();
    let node = &office.nodes[home];
    let mut agent = node.take_agent();
    office.at(home);
    // They are sent to it until it is missed.
    let streams = steady(&office, &pods[0]);
    let far = Far::on(&office.internet);
    agent.kill();
    agent.slow_down("nft", 2);
    node.ns.must("ip link del ovlx0");
    node.ns.must("nft delete table inet overlane");
    agent.start();
    streams.into_iter().for_each(|stream| _ = stream.finish());
    far.only(&office.slot(0)).unwrap();
}

#[test]
fn it_needs_no_api_and_no_controller() {
    let (office, pods) = three("ipv4,ipv6");
    let program = |action: &str| {
        office.lab.control(&json!({"op": "program", "program": "controller-0", "action": action}));
    };
    let streams: Vec<Stream> = pods.iter().flat_map(|pod| steady(&office, pod)).collect();
    program("down");
    office.lab.api_up(false);
    let mut open: Vec<Call> = pods.iter().flat_map(|pod| calls(&office, pod)).collect();
    holds(secs(5), "connections go on", || open.iter_mut().try_for_each(Call::goes_on));
    nothing_lost("API and controller away", streams);
    drop(open);
    let lose = |node: &NodeHandle| Outage::of(&office.lab, node, Cut::Frames);
    let (home, _, outage) = taken_over(&office, &pods, lose);
    comes_back(&office, &pods, home, || outage.end());
    office.lab.api_up(true);
    program("start");
    office.in_force();
    office.at(home);
}

/// A slot that is at a living node does not move when another node dies, nor when that comes back.
#[test]
fn the_other_slot_stays_where_it_is() {
    let office = Office::new(3, "ipv4,ipv6", &[1, 2], &[]);
    office.open(2);
    let all = [0, 1, 2];
    let homes = eventually(secs(30), "each has a node of its own", || {
        let homes = [0, 1].map(|slot| office.settled(slot, &all, secs(10)));
        ensure(homes[0] != homes[1], || format!("{homes:?}")).map(|()| homes)
    });
    // A pod of each slot.
    let mut by_slot: [Option<Pod>; 2] = [None, None];
    for number in 0..16 {
        let pod = office.run(&format!("p{number}"), 0, true);
        let seen = answered(&pod, &office.internet, pod.ips[0], Instant::now(), secs(10));
        let slot = usize::from(!office.slot(0).contains(&seen));
        by_slot[slot].get_or_insert(pod);
        if by_slot.iter().all(Option::is_some) {
            break;
        }
    }
    let [lost, kept] = by_slot.map(Option::unwrap);
    let far = Far::on(&office.internet);
    let (streams, mut open) = (steady(&office, &kept), calls(&office, &kept));
    let began = Instant::now();
    let outage = Outage::of(&office.lab, &office.nodes[homes[0]], Cut::Frames);
    for own in &lost.ips {
        let seen = answered(&lost, &office.internet, *own, began, TAKE_OVER);
        assert!(office.slot(0).contains(&seen), "{seen}");
    }
    for slot in [0, 1] {
        assert_eq!(office.settled(slot, &[0, homes[1]], secs(1)), homes[1], "both are at the one that lives");
    }
    outage.end();
    office.at(homes[0]);
    assert_eq!(office.settled(1, &all, secs(10)), homes[1]);
    open.iter_mut().for_each(|call| call.goes_on().unwrap());
    nothing_lost("the slot that has not moved", streams);
    far.only(&[office.slot(0), office.slot(1)].concat()).unwrap();
}

#[test]
fn without_a_living_gateway_nothing_leaves() {
    for families in FAMILIES {
        let office = Office::new(2, families, &[1], &[]);
        office.open(1);
        let (pod, other) = (office.run("a", 0, true), office.run("c", 0, false));
        let is_cut = |pod: &Pod, why: &str| {
            for own in &pod.ips {
                seen_as(pod, &office.internet, *own, None, why);
            }
        };
        let returns = |pod: &Pod| {
            for own in &pod.ips {
                let seen = answered(pod, &office.internet, *own, Instant::now(), secs(30));
                assert_eq!(seen, office.egress(*own));
            }
        };
        returns(&pod);
        let far = Far::on(&office.internet);
        let stream = steady(&office, &pod);
        let outage = Outage::of(&office.lab, &office.nodes[1], Cut::Frames);
        // Before anybody has noticed, when they notice, and afterwards.
        holds(secs(6), "nothing else is seen", || far.only(&office.slot(0)));
        for own in &pod.ips {
            assert_eq!(seen_within(&pod, &office.internet, *own, millis(300)), None, "nobody is there to take it");
        }
        // Nor does a pod that is new, or was not chosen until now.
        let fresh = office.run("b", 0, true);
        is_cut(&fresh, "a new pod");
        far.only(&office.slot(0)).unwrap();
        office.choose(&pod, false);
        for own in &pod.ips {
            eventually(secs(10), "a pod that is not chosen leaves by its node", || {
                let seen = seen_within(&pod, &office.internet, *own, millis(300));
                ensure(seen == Some(office.node_like(0, *own)), || format!("{seen:?}"))
            });
        }
        office.choose(&pod, true);
        is_cut(&pod, "chosen again");
        drop(stream);
        let far = Far::on(&office.internet);
        outage.end();
        [&pod, &fresh].into_iter().for_each(returns);
        // No node at all may be it.
        office.label(1, None);
        is_cut(&pod, "no node");
        holds(secs(2), "nothing else is seen", || far.only(&office.slot(0)));
        office.label(1, Some("gateway"));
        returns(&pod);
        far.only(&office.slot(0)).unwrap();
        for own in &other.ips {
            is_seen(&other, &office.internet, *own, office.node_like(0, *own), "whom it is not for");
        }
    }
}

/// Agents are killed and started again, with the API and without.
#[test]
fn agents_that_start_again_lose_nothing() {
    for (families, routing) in [("ipv4,ipv6", "native"), ("ipv4,ipv6", "vxlan"), ("ipv4", "native"), ("ipv6", "auto")] {
        let office = Office::new(2, families, &[1], &["--routing", routing]);
        office.open(1);
        let pods = [office.run("a", 0, true), office.run("b", 1, true)];
        for pod in &pods {
            for own in &pod.ips {
                is_seen(pod, &office.internet, *own, office.egress(*own), "with agents");
            }
        }
        let far = Far::on(&office.internet);
        let streams: Vec<Stream> = pods.iter().flat_map(|pod| steady(&office, pod)).collect();
        let mut open: Vec<Call> = pods.iter().flat_map(|pod| calls(&office, pod)).collect();
        let agents: Vec<_> = office.nodes.iter().map(NodeHandle::take_agent).collect();
        for api in [true, false] {
            office.lab.api_up(api);
            agents.iter().for_each(|agent| agent.kill());
            holds(secs(5), "connections go on", || open.iter_mut().try_for_each(Call::goes_on));
            for pod in &pods {
                for own in &pod.ips {
                    let seen = answered(pod, &office.internet, *own, Instant::now(), secs(1));
                    assert_eq!(seen, office.egress(*own), "a new connection without agents");
                }
            }
            agents.iter().for_each(|agent| agent.start());
            holds(secs(3), "connections go on", || open.iter_mut().try_for_each(Call::goes_on));
        }
        office.lab.api_up(true);
        office.nodes.iter().for_each(NodeHandle::agent_ready);
        holds(secs(2), "connections go on", || open.iter_mut().try_for_each(Call::goes_on));
        nothing_lost(&format!("agents of {families}, {routing}"), streams);
        far.only(&office.slot(0)).unwrap();
        assert_eq!(office.settled(0, &[0, 1], secs(1)), 1);
    }
}
