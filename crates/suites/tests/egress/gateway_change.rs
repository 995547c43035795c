//! Labels and specs that change under running pods.
//!
//! Must catch: a connection that stays on the way that its pod no longer has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use overlane_suites::far::Far;
use overlane_suites::lab::Pod;
use overlane_suites::wait::{ensure, eventually, secs};
use serde_json::json;

use super::gateway_failover::steady;
use super::office::{Call, Office, alike, follows, is_seen};
use super::{FAMILIES, seen_as, seen_within};

/// A second is what is promised; this machine may be busy.
const AT_ONCE: u64 = 3;

fn calls(office: &Office, pod: &Pod) -> Vec<Call> {
    pod.ips.iter().map(|own| Call::open(pod, &office.internet, *own)).collect()
}

#[test]
fn a_pods_labels_count_at_once() {
    for families in FAMILIES {
        let office = Office::new(2, families, &[1], &[]);
        office.open(1);
        let pods = [office.run("a", 0, false), office.run("b", 1, false)];
        let bystander = office.run("c", 0, true);
        for (number, pod) in pods.iter().enumerate() {
            for own in &pod.ips {
                seen_as(pod, &office.internet, *own, Some(office.node_like(number, *own)), "not chosen yet");
            }
        }
        let mut kept = calls(&office, &bystander);
        for round in 0..2 {
            for (number, pod) in pods.iter().enumerate() {
                for chosen in [true, false] {
                    let open = calls(&office, pod);
                    let began = Instant::now();
                    office.choose(pod, chosen);
                    for own in &pod.ips {
                        let want = if chosen { office.egress(*own) } else { office.node_like(number, *own) };
                        let took = follows(pod, &office.internet, *own, want, began, secs(AT_ONCE));
                        println!("{} round {round}: {chosen} counts after {} ms", pod.name, took.as_millis());
                        is_seen(pod, &office.internet, *own, want, "and from then on");
                    }
                    open.into_iter().for_each(Call::ends);
                }
            }
        }
        kept.iter_mut().for_each(|call| call.goes_on().unwrap());
    }
}

#[test]
fn a_namespaces_labels_count() {
    let office = Office::new(2, "ipv4,ipv6", &[1], &[]);
    let words = ["n", "-n", "team", "--node", &office.nodes[0].name, "--labels", "way=office"];
    office.lab.cli("run", &words).must();
    let (pod, other) = (office.lab.pod_in("team", "n"), office.run("a", 0, true));
    office.open(1);
    let are = |of_team: bool, of_default: bool, why: &str| {
        for (pod, chosen) in [(&pod, of_team), (&other, of_default)] {
            for own in &pod.ips {
                let want = if chosen { office.egress(*own) } else { office.node_like(0, *own) };
                seen_as(pod, &office.internet, *own, Some(want), why);
            }
        }
    };
    are(false, true, "another namespace is not meant");
    let key = "kubernetes.io/metadata.name";
    office.change(&json!({"namespaceSelector": {"matchLabels": {key: null, "floor": "2"}}}));
    are(false, false, "no namespace has that label");
    let label = |floor: Option<&str>| {
        office.lab.api.merge("/api/v1/namespaces/team", &json!({"metadata": {"labels": {"floor": floor}}}));
    };
    label(Some("2"));
    are(true, false, "one has");
    label(Some("3"));
    are(false, false, "with another value");
    let one_of = json!([{"key": "floor", "operator": "In", "values": ["3", "4"]}]);
    office.change(&json!({"namespaceSelector": {"matchLabels": null, "matchExpressions": one_of}}));
    are(true, false, "an expression");
    label(None);
    are(false, false, "the label is gone");
    office.change(&json!({"namespaceSelector": {"matchLabels": null, "matchExpressions": null}}));
    are(true, true, "every namespace");
}

#[test]
fn other_pods_are_chosen() {
    let office = Office::new(2, "ipv4,ipv6", &[1], &[]);
    let (a, c) = (office.run("a", 0, true), office.run("c", 0, false));
    office.open(1);
    let are = |chosen: [bool; 2], why: &str| {
        for (pod, chosen) in [&a, &c].into_iter().zip(chosen) {
            for own in &pod.ips {
                let want = if chosen { office.egress(*own) } else { office.node_like(0, *own) };
                seen_as(pod, &office.internet, *own, Some(want), why);
            }
        }
    };
    are([true, false], "as it was made");
    let open = calls(&office, &a);
    office.change(&json!({"podSelector": {"matchLabels": {"way": "home"}}}));
    are([false, true], "the others");
    open.into_iter().for_each(Call::ends);
    office.change(&json!({"podSelector": {"matchLabels": null}}));
    are([true, true], "all");
    let not_home = json!([{"key": "way", "operator": "NotIn", "values": ["home"]}]);
    office.change(&json!({"podSelector": {"matchExpressions": not_home}}));
    are([true, false], "an expression");
}

/// Whoever may be the gateway is for the Nodes' labels and the spec to say; the far side sees the same address.
#[test]
fn the_gateway_moves_with_its_nodes() {
    for families in FAMILIES {
        let office = Office::new(3, families, &[1], &[]);
        let pods: Vec<Pod> = (0..3).map(|number| office.run(&format!("p{number}"), number, true)).collect();
        office.open(1);
        let works = |why: &str| {
            for pod in &pods {
                for own in &pod.ips {
                    is_seen(pod, &office.internet, *own, office.egress(*own), why);
                }
            }
        };
        works("at the first");
        office.at(1);
        let far = Far::on(&office.internet);
        office.label(2, Some("other"));
        office.change(&json!({"nodeSelector": {"matchLabels": {"role": "other"}}}));
        office.at(2);
        works("another node by the spec");
        office.label(0, Some("other"));
        office.label(2, None);
        office.at(0);
        works("another node by labels");
        office.label(1, Some("other"));
        works("one more that may be it");
        let all = [0, 1, 2];
        assert_ne!(office.settled(0, &all, secs(10)), 2);
        far.only(&office.slot(0)).unwrap();
    }
}

#[test]
fn other_addresses_are_taken() {
    for families in FAMILIES {
        let office = Office::new(2, families, &[1], &[]);
        let pods = [office.run("a", 0, true), office.run("b", 1, true)];
        office.open(1);
        let are = |slot: usize| {
            for pod in &pods {
                for (own, want) in pod.ips.iter().map(|own| (*own, alike(&office.slot(slot), *own))) {
                    is_seen(pod, &office.internet, own, want, "the address of the spec");
                }
            }
        };
        are(0);
        let nodes_have = |slot: usize| -> Vec<usize> {
            office.slot(slot).iter().flat_map(|ip: &IpAddr| office.holders(*ip)).collect()
        };
        let open: Vec<Call> = pods.iter().flat_map(|pod| calls(&office, pod)).collect();
        office.change(&json!({"egressIPs": office.slot(1)}));
        are(1);
        eventually(secs(5), "the former addresses are nowhere", || {
            ensure(nodes_have(0).is_empty(), || format!("{:?}", nodes_have(0)))
        });
        open.into_iter().for_each(Call::ends);
        let both = [office.slot(0), office.slot(1)].concat();
        office.change(&json!({"egressIPs": both}));
        let all = [0, 1];
        assert_eq!((office.settled(0, &all, secs(10)), office.settled(1, &all, secs(10))), (1, 1), "one node has both");
    }
}

/// Whoever speaks all the while is seen by its former address or its new one, and by no other: also by the same datagrams
/// through the same node, which remembers by which address they came.
#[test]
fn who_moves_is_seen_as_nobody_else() {
    for families in FAMILIES {
        let office = Office::new(2, families, &[1], &[]);
        office.open(1);
        let pods: Vec<Pod> = (0..8).map(|number| office.run(&format!("p{number}"), number % 2, true)).collect();
        for pod in &pods {
            for own in &pod.ips {
                is_seen(pod, &office.internet, *own, office.egress(*own), "before");
            }
        }
        let far = Far::on(&office.internet);
        let streams: Vec<_> = pods.iter().flat_map(|pod| steady(&office, pod)).collect();
        office.change(&office.spec(2));
        office.settled(1, &office.everywhere(), secs(30));
        eventually(secs(10), "the second addresses are seen", || {
            let seen = far.sources();
            ensure(office.slot(1).iter().all(|ip| seen.contains_key(ip)), || format!("{seen:?}"))
        });
        // Nobody is left with an address that is another's now.
        let mut expected: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for pod in &pods {
            for own in &pod.ips {
                let now = seen_within(pod, &office.internet, *own, secs(3)).unwrap();
                *expected.entry(now).or_default() += 1;
            }
        }
        let later = Far::on(&office.internet);
        eventually(secs(10), "each stream has its pod's address", || {
            let speakers = later.speakers();
            ensure(speakers == expected, || format!("{speakers:?}, not {expected:?}"))
        });
        let both = [office.slot(0), office.slot(1)].concat();
        far.only(&both).unwrap();
        streams.into_iter().for_each(|stream| _ = stream.finish());
        // Back to one: nothing is seen of the second any more.
        office.change(&office.spec(1));
        for pod in &pods {
            for own in &pod.ips {
                follows(pod, &office.internet, *own, office.egress(*own), Instant::now(), secs(5));
            }
        }
        far.only(&both).unwrap();
    }
}
