//! Overlane in a real Kubernetes: installed as a user would, used as a cluster is, gone when told.
//!
//! Must catch: an agent's account that may write for another node (`tests/mutants/token-of-any-node.mutant`).
//!
//! Run by `scripts/test-kubernetes.sh`, in the order of the modules' and tests' names: the first test installs, the
//! last one uninstalls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod install;
mod pods;
mod rights;
mod rollout;
mod tools;
mod uninstall;

use std::net::IpAddr;

use overlane_suites::kube::Cluster;

/// Kubernetes' test image, which listens and answers.
const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

fn cluster() -> Cluster {
    Cluster::running()
}

/// The families that the cluster was brought up with, by a pod's addresses.
fn is_dual(ips: &[IpAddr]) -> bool {
    ips.iter().any(IpAddr::is_ipv4) && ips.iter().any(IpAddr::is_ipv6)
}

/// A Deployment of pods that do nothing, spread over the nodes.
fn idle(name: &str, replicas: usize) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 0\n      containers: [{{name: c, image: \"{AGNHOST}\", imagePullPolicy: Never, \
         args: [pause]}}]\n"
    )
}
