//! One random change at a time: what is allowed before and after it passes throughout, what is denied is dropped
//! throughout. `OVERLANE_POLICY_CHANGES` is how many changes there are (24), `OVERLANE_POLICY_SEED` what they follow from.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use overlane_policy_reference::cnp::ClusterNetworkPolicy;
use overlane_policy_reference::generate::{self, Choices, Size};
use overlane_policy_reference::{Cluster, judge};
use overlane_suites::volley::Shot;

use crate::canary;
use crate::ground::{Ground, Layout};
use crate::probes::number;
use crate::{round, watch};

/// Packets of each kind that are fired throughout a change.
const SHOTS: usize = 20;
/// Changes from one random cluster on.
const EACH: u64 = 8;
const SIZE: Size = Size { namespaces: 0, nodes: 0, pods: 0, policies: 8, cluster_policies: 5 };

/// The cluster with one object as the other has it: other labels, or a policy that comes, goes or says something else.
fn one_change(before: &Cluster, other: &Cluster, choices: &mut Choices) -> Cluster {
    let mut after = before.clone();
    let mut place = |count: usize| choices.below(count as u64) as usize;
    match place(8) {
        0 | 1 => {
            let at = place(after.pods.len());
            after.pods[at].metadata.labels = other.pods[at].metadata.labels.clone();
        }
        2 => {
            let at = place(after.namespaces.len());
            after.namespaces[at].metadata.labels = other.namespaces[at].metadata.labels.clone();
        }
        3 => {
            let at = place(after.nodes.len());
            after.nodes[at].metadata.labels = other.nodes[at].metadata.labels.clone();
        }
        4 | 5 => {
            let all: Vec<NetworkPolicy> = before.policies.iter().chain(&other.policies).cloned().collect();
            if let Some(chosen) = all.get(place(all.len())) {
                let is_it = |policy: &NetworkPolicy| {
                    (&policy.metadata.namespace, &policy.metadata.name)
                        == (&chosen.metadata.namespace, &chosen.metadata.name)
                };
                after.policies.retain(|policy| !is_it(policy));
                after.policies.extend(other.policies.iter().find(|policy| is_it(policy)).cloned());
            }
        }
        _ => {
            let all: Vec<ClusterNetworkPolicy> =
                before.cluster_policies.iter().chain(&other.cluster_policies).cloned().collect();
            if let Some(chosen) = all.get(place(all.len())) {
                let is_it = |policy: &ClusterNetworkPolicy| policy.metadata.name == chosen.metadata.name;
                after.cluster_policies.retain(|policy| !is_it(policy));
                after.cluster_policies.extend(other.cluster_policies.iter().find(|policy| is_it(policy)).cloned());
            }
        }
    }
    after
}

/// Packets whose verdict is one and the same while each end's node knows the one state or the other.
fn steady(ground: &Ground, before: &Cluster, after: &Cluster, seed: u64) -> (Vec<Shot>, Vec<Shot>) {
    let (mut open, mut shut) = (Vec::new(), Vec::new());
    for packet in generate::packets(after, seed, 2000) {
        let Some(shot) = ground.shot(&packet) else { continue };
        let [a, b] = [before, after].map(|cluster| judge(cluster, &packet));
        if a.allowed() && b.allowed() && open.len() < SHOTS {
            open.push(shot);
        } else if !(a.egress || b.egress) || !(a.ingress || b.ingress) {
            shut.push(shot);
        }
    }
    shut.truncate(SHOTS);
    (open, shut)
}

fn step(ground: &Ground, seed: u64) -> Vec<String> {
    let mut choices = Choices::new(seed);
    let before = ground.cluster();
    let mut other = before.clone();
    generate::dress(seed, &mut other, SIZE);
    let after = one_change(&before, &other, &mut choices);
    let (open, shut) = steady(ground, &before, &after, seed);
    let (requests, volleys, wrong) = watch::watched(&ground.range, &open, &shut, |notes| {
        notes.note("the change");
        let requests = round::write(ground.range.api(), &before, &after);
        canary::settle(&ground.range);
        requests
    });
    println!("change {seed}: {volleys} volleys of {} and {}, {} wrong", open.len(), shut.len(), wrong.len());
    let told = wrong.into_iter().take(5);
    told.map(|wrong| format!("change {seed}: {wrong}\n    {}", requests.join("\n    "))).collect()
}

#[test]
fn what_stays_allowed_passes_and_what_stays_denied_does_not() {
    overlane_suites::clean::begin();
    let (changes, seed) = (number("OVERLANE_POLICY_CHANGES", 24), number("OVERLANE_POLICY_SEED", 1));
    let mut found = Vec::new();
    for first in (0..changes).step_by(EACH as usize) {
        let layout = Layout { families: "ipv4,ipv6".into(), routing: "native".into(), seed: seed * 1000 + first };
        let ground = Ground::new(&layout);
        round::apply(&ground, seed * 1_000_000 + first, SIZE);
        found.extend((first..(first + EACH).min(changes)).flat_map(|change| step(&ground, seed * 2_000_000 + change)));
    }
    assert!(found.is_empty(), "{} wrong:\n{}", found.len(), found.join("\n"));
}
