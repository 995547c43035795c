//! Election.
//!
//! Must catch: two that act, one that acts on after the Lease is another's, a Lease that is not given back.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::common::{Cluster, FAMILIES, SETTINGS, until};

fn leases(cluster: &Cluster) -> Api<Lease> {
    Api::namespaced(cluster.client.clone(), "kube-system")
}

async fn holder(cluster: &Cluster) -> Option<String> {
    leases(cluster).get_opt("overlane-controller").await.unwrap()?.spec?.holder_identity
}

#[tokio::test]
async fn one_acts_and_the_next_goes_on_at_once_when_it_ends() {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let one = cluster.start_with("one", true, SETTINGS);
    until("one leads", async || one.metrics.is_leader().then_some(())).await;
    let two = cluster.start_with("two", true, SETTINGS);
    cluster.join("n1", "b1").await;
    cluster.until_announced("n1", 2).await;
    assert_eq!(holder(&cluster).await.as_deref(), Some("one"));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!two.metrics.is_leader() && two.metrics.is_synced(), "it only watches");
    one.stop().await;
    assert_ne!(holder(&cluster).await.as_deref(), Some("one"), "given back");
    let start = std::time::Instant::now();
    cluster.join("n2", "b2").await;
    cluster.until_announced("n2", 2).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(holder(&cluster).await.as_deref(), Some("two"));
    let transitions = leases(&cluster).get("overlane-controller").await.unwrap().spec.unwrap().lease_transitions;
    assert!(transitions >= Some(1), "{transitions:?}");
    two.stop().await;
}

#[tokio::test]
async fn who_loses_the_lease_stops() {
    let cluster = Cluster::new(FAMILIES[0]).await;
    let one = cluster.start_with("one", true, SETTINGS);
    cluster.join("n1", "b1").await;
    cluster.until_announced("n1", 1).await;
    let patch = json!({ "spec": { "holderIdentity": "somebody", "leaseDurationSeconds": 60 } });
    leases(&cluster).patch("overlane-controller", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    until("it has stopped", async || (!one.metrics.is_leader()).then_some(())).await;
    cluster.join("n2", "b2").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(cluster.announced("n2").await.is_empty());
    one.stop().await;
    assert_eq!(holder(&cluster).await.as_deref(), Some("somebody"), "another's Lease is not given back");
}

#[tokio::test]
async fn the_lease_of_one_that_was_killed_runs_out() {
    let cluster = Cluster::new(FAMILIES[0]).await;
    let one = cluster.start_with("one", true, SETTINGS);
    until("one leads", async || one.metrics.is_leader().then_some(())).await;
    one.kill().await;
    // As one that died long ago would have left it, seen by another for the first time now: by its own clock.
    let patch = json!({ "spec": { "leaseDurationSeconds": 3 } });
    leases(&cluster).patch("overlane-controller", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let start = std::time::Instant::now();
    let two = cluster.start_with("two", true, SETTINGS);
    cluster.join("n1", "b1").await;
    cluster.until_announced("n1", 1).await;
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(9), "{took:?}");
    two.stop().await;
}
