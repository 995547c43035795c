//! Must catch: a feature that the generator no longer makes, packets that nearly all pass or nearly all fall, a cluster
//! that is another one though its seed is the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use overlane_policy_reference::generate::{Choices, FEATURES, Size, cluster, dress, features, features_about, packets};
use overlane_policy_reference::{Cluster, Packet, Protocol, judge, why};

const SEEDS: u64 = 500;

fn names() -> impl Iterator<Item = &'static str> {
    FEATURES.iter().flat_map(|names| names.iter().copied())
}

#[test]
fn each_feature_in_a_hundred_of_five_hundred_clusters() {
    let mut counts: BTreeMap<&str, u32> = names().map(|name| (name, 0)).collect();
    for seed in 0..SEEDS {
        for name in features(&cluster(seed, Size::default())) {
            *counts.get_mut(name).unwrap_or_else(|| panic!("{name} is not in the list")) += 1;
        }
    }
    println!("{counts:#?}");
    let rare: Vec<_> = counts.iter().filter(|(_, count)| **count < 100).collect();
    assert!(rare.is_empty(), "{rare:?}");
}

#[test]
fn a_third_to_two_thirds_of_packets_allowed() {
    let (mut allowed, mut all) = (0, 0);
    for seed in 0..SEEDS {
        let cluster = cluster(seed, Size::default());
        for packet in packets(&cluster, seed, 100) {
            allowed += u32::from(judge(&cluster, &packet).allowed());
            all += 1;
        }
    }
    let percent = allowed * 100 / all;
    println!("{allowed} of {all} allowed");
    assert!((30..=70).contains(&percent), "{percent} %");
}

#[test]
fn the_same_seed_the_same_cluster_and_packets() {
    for seed in 0..20 {
        let (one, other) = (cluster(seed, Size::default()), cluster(seed, Size::default()));
        assert_eq!(one, other);
        assert_eq!(packets(&one, seed, 50), packets(&other, seed, 50));
        assert_ne!(one, cluster(seed + 1000, Size::default()));
    }
}

#[test]
fn packets_are_of_one_family_and_of_all_kinds() {
    let mut kinds: BTreeMap<(Protocol, bool), u32> = BTreeMap::new();
    for seed in 0..50 {
        for Packet { from, to, protocol, port } in packets(&cluster(seed, Size::default()), seed, 100) {
            assert_eq!(from.is_ipv4(), to.is_ipv4());
            assert_eq!(port == 0, protocol == Protocol::Icmp);
            *kinds.entry((protocol, from.is_ipv4())).or_default() += 1;
        }
    }
    assert_eq!(kinds.len(), 8);
    assert!(kinds.values().all(|count| *count > 100), "{kinds:?}");
}

#[test]
fn a_cluster_of_nothing_has_packets() {
    assert_eq!(packets(&Cluster::default(), 1, 30).len(), 30);
    let least = Size { namespaces: 0, nodes: 0, pods: 0, policies: 0, cluster_policies: 0 };
    let cluster = cluster(1, least);
    assert_eq!((cluster.policies.len(), cluster.cluster_policies.len()), (0, 0));
}

#[test]
fn a_big_cluster_has_no_address_twice() {
    let size = Size { namespaces: 30, nodes: 50, pods: 40, policies: 40, cluster_policies: 20 };
    for seed in 0..5 {
        let cluster = cluster(seed, size);
        let mut addresses: Vec<&str> = cluster.pods.iter().flat_map(addresses_of_running).collect();
        let all = addresses.len();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), all);
    }
}

fn addresses_of_running(pod: &Pod) -> Vec<&str> {
    let (spec, status) = (pod.spec.as_ref().unwrap(), pod.status.as_ref().unwrap());
    let counts = spec.host_network != Some(true) && status.phase.as_deref() == Some("Running");
    status.pod_ips.iter().flatten().filter(|_| counts).map(|ip| ip.ip.as_str()).collect()
}

#[test]
fn a_cluster_survives_json() {
    let cluster = cluster(7, Size::default());
    let text = serde_json::to_string(&cluster).unwrap();
    assert_eq!(serde_json::from_str::<Cluster>(&text).unwrap(), cluster);
}

#[test]
fn chance_follows_its_seed() {
    let numbers = |seed| -> Vec<u64> {
        let mut choices = Choices::new(seed);
        (0..5).map(|_| choices.below(1000)).collect()
    };
    assert_eq!(numbers(1), numbers(1));
    assert_ne!(numbers(1), numbers(2));
    let mut choices = Choices::new(9);
    assert_eq!(choices.below(0), 0);
    assert!(!choices.chance(0) && choices.chance(100));
    assert!([1, 2, 3].contains(choices.pick(&[1, 2, 3])));
    assert_eq!(choices.pick_any::<u8>(&[]), None);
}

#[test]
fn a_cluster_that_is_there_keeps_its_pods() {
    let before = cluster(3, Size::default());
    let mut after = before.clone();
    after.nodes[0].metadata.labels.get_or_insert_default().insert("kept".to_owned(), "yes".to_owned());
    dress(11, &mut after, Size::default());
    let place = |pod: &Pod| (pod.metadata.name.clone(), pod.spec.clone(), pod.status.clone());
    let places = |cluster: &Cluster| cluster.pods.iter().map(place).collect::<Vec<_>>();
    assert_eq!(places(&before), places(&after));
    assert_ne!(before.policies, after.policies);
    assert_eq!(after.nodes[0].metadata.labels.as_ref().unwrap()["kept"], "yes");
    let mut again = before.clone();
    dress(11, &mut again, Size::default());
    assert_eq!((&again.policies, &again.cluster_policies), (&after.policies, &after.cluster_policies));
}

/// What selects neither end has no part in a packet.
#[test]
fn features_about_a_packet_are_fewer() {
    let mut counts = [0; 2];
    for seed in 0..20 {
        let cluster = cluster(seed, Size::default());
        for packet in packets(&cluster, seed, 20) {
            let (about, all) = (features_about(&cluster, &packet), features(&cluster));
            assert!(about.is_subset(&all), "seed {seed}: {:?}", about.difference(&all));
            counts = [counts[0] + about.len(), counts[1] + all.len()];
        }
    }
    println!("{counts:?}");
    assert!(counts[0] > 0 && counts[0] * 10 < counts[1] * 9);
}

#[test]
fn what_decides_is_told_for_each_end() {
    for seed in 0..50 {
        let cluster = cluster(seed, Size::default());
        for packet in packets(&cluster, seed, 50) {
            let told = why(&cluster, &packet);
            let judged = judge(&cluster, &packet);
            for (line, allowed) in told.iter().zip([judged.egress, judged.ingress]) {
                let says_so = match line.rsplit("; ").next().unwrap() {
                    last if last.contains("isolated: ") => last.contains(" allows"),
                    last => !last.ends_with("Deny"),
                };
                assert_eq!(says_so, allowed, "seed {seed}: {packet:?}: {told:?}");
            }
        }
    }
}
