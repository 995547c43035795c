//! Random labels and policies for a cluster that is there: one whose pods really run somewhere.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use super::labels::{self, Vocabulary};
use super::{Choices, Size, cluster_policies, policies, spoil, workloads};
use crate::Cluster;

/// Gives pods, namespaces and nodes random labels, and the cluster random policies in place of those that it has. Labels
/// that no random policy asks for stay. Of `size`, only the numbers of policies count.
pub fn dress(seed: u64, cluster: &mut Cluster, size: Size) {
    let mut choices = Choices::new(seed);
    for namespace in &mut cluster.namespaces {
        relabel(&mut choices, &mut namespace.metadata.labels, labels::NAMESPACE, (85, 65));
    }
    for node in &mut cluster.nodes {
        relabel(&mut choices, &mut node.metadata.labels, labels::NODE, (100, 75));
    }
    for pod in &mut cluster.pods {
        relabel(&mut choices, &mut pod.metadata.labels, labels::POD, (92, 80));
    }
    cluster.policies.clear();
    cluster.cluster_policies.clear();
    policies::add(&mut choices, cluster, size.policies);
    cluster_policies::add(&mut choices, cluster, size.cluster_policies);
    spoil::network_policies(&mut choices, cluster);
    spoil::cluster_policies(&mut choices, cluster);
}

/// Labels at all with the first chance, each key with the second.
fn relabel(
    choices: &mut Choices,
    labels: &mut Option<BTreeMap<String, String>>,
    vocabulary: &Vocabulary,
    (any, each): (u64, u64),
) {
    let mut all = labels.take().unwrap_or_default();
    all.retain(|key, _| vocabulary.iter().all(|(known, _)| known != key));
    if choices.chance(any) {
        all.extend(labels::labels(choices, vocabulary, each));
    }
    *labels = (!all.is_empty()).then_some(all);
}

/// Containers with the ports that policies ask for by name or by number, some of them init containers.
#[must_use]
pub fn containers(seed: u64) -> PodSpec {
    workloads::containers(&mut Choices::new(seed))
}
