//! A round: random labels and policies, written as a client does, and packets that are judged twice.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use overlane_policy_reference::generate::{self, Size};
use overlane_policy_reference::{Cluster, Packet, Protocol, judge, why};
use overlane_suites::api::Api;
use overlane_suites::lab;
use overlane_suites::volley::{Fate, Shot};
use overlane_suites::wait::{millis, secs};
use serde_json::{Value, json};

use crate::canary;
use crate::ground::Ground;
use crate::objects::{self, namespace_path, node_path};
use crate::tally::Tally;

/// How long a packet that is to be denied has for not being it.
const PATIENCE: Duration = Duration::from_millis(250);

/// A packet, and what has to become of it.
struct Probe {
    packet: Packet,
    shot: Shot,
    allowed: bool,
}

/// Writes a round's labels and policies; waits until they are in force. Gives the cluster as it was written, without the
/// API's defaults.
pub fn apply(ground: &Ground, seed: u64, size: Size) -> Cluster {
    let before = ground.cluster();
    let mut after = before.clone();
    generate::dress(seed, &mut after, size);
    write(ground.range.api(), &before, &after);
    canary::settle(&ground.range);
    after
}

/// Makes of one cluster the other, object by object; gives what was written.
pub fn write(api: &Api, before: &Cluster, after: &Cluster) -> Vec<String> {
    let mut written = Vec::new();
    for (path, patch) in label_patches(before, after) {
        objects::label(api, &path, &patch);
        written.push(format!("labels of {path}: {patch}"));
    }
    let (old, new) = (policies(before), policies(after));
    for policy in old.iter().filter(|old| !new.iter().any(|new| objects::path(new) == objects::path(old))) {
        objects::delete(api, policy);
        written.push(format!("deleted: {}: {}", objects::path(policy), policy["spec"]));
    }
    for policy in new.iter().filter(|new| !old.contains(new)) {
        objects::put(api, policy);
        written.push(format!("put: {}: {}", objects::path(policy), policy["spec"]));
    }
    written
}

/// What makes of one cluster's labels the other's: paths and patches.
fn label_patches(before: &Cluster, after: &Cluster) -> Vec<(String, Value)> {
    let metas = |cluster: &Cluster| -> Vec<(String, ObjectMeta)> {
        let namespaces =
            cluster.namespaces.iter().map(|one| (namespace_path(&name(&one.metadata)), one.metadata.clone()));
        let nodes = cluster.nodes.iter().map(|one| (node_path(&name(&one.metadata)), one.metadata.clone()));
        let pods = cluster.pods.iter().map(|one| {
            let namespace = one.metadata.namespace.as_deref().unwrap_or_default();
            (Api::pod_path(namespace, &name(&one.metadata)), one.metadata.clone())
        });
        namespaces.chain(nodes).chain(pods).collect()
    };
    let pairs = metas(before).into_iter().zip(metas(after));
    let patches = pairs.map(|((path, before), (_, after))| (path, label_patch(&before, &after)));
    patches.filter(|(_, patch)| patch.as_object().is_some_and(|patch| !patch.is_empty())).collect()
}

fn name(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

fn label_patch(before: &ObjectMeta, after: &ObjectMeta) -> Value {
    let labels = |metadata: &ObjectMeta| metadata.labels.clone().unwrap_or_default();
    let (before, after) = (labels(before), labels(after));
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let set = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    gone.chain(set.map(|(key, value)| (key.clone(), json!(value)))).collect::<serde_json::Map<_, _>>().into()
}

/// A cluster's policies as objects of the API.
fn policies(cluster: &Cluster) -> Vec<Value> {
    let network = cluster.policies.iter().map(|policy| {
        let spec = serde_json::to_value(&policy.spec).unwrap();
        objects::policy(policy.metadata.namespace.as_deref().unwrap_or_default(), &name(&policy.metadata), &spec)
    });
    let of_cluster = cluster
        .cluster_policies
        .iter()
        .map(|policy| objects::cluster_policy(&name(&policy.metadata), &serde_json::to_value(&policy.spec).unwrap()));
    network.chain(of_cluster).collect()
}

/// Fires `count` packets, and says of each that fared otherwise than the reference has it what it was. Features are counted
/// by what was `written`.
pub fn probe(ground: &Ground, written: &Cluster, seed: u64, count: usize, tally: &mut Tally) -> Vec<String> {
    // What the API has decides, not what was written.
    let cluster = ground.cluster();
    let probes = probes(ground, &cluster, seed, count);
    for probe in &probes {
        let about = generate::features_about(written, &probe.packet);
        tally.count(&probe.packet, &probe.shot, ground.way(&probe.shot), &about, probe.allowed);
    }
    let (open, shut): (Vec<&Probe>, Vec<&Probe>) = probes.iter().partition(|probe| probe.allowed);
    let shots = |probes: &[&Probe]| probes.iter().map(|probe| probe.shot).collect::<Vec<Shot>>();
    let first = ground.range.field.fire(&shots(&shut), PATIENCE);
    let lost = ground.range.unanswered(&shots(&open));
    let second = ground.range.field.fire(&shots(&shut), PATIENCE);
    let mut found: Vec<(&Probe, Fate)> = lost
        .into_iter()
        .filter_map(|(shot, fate)| Some((*open.iter().find(|probe| probe.shot == shot)?, fate)))
        .collect();
    for (at, probe) in shut.into_iter().enumerate() {
        let fates = [&first, &second].map(|volley| ground.range.field.fate(volley, at));
        found.extend(fates.into_iter().find(|fate| fate.arrived || fate.answered).map(|fate| (probe, fate)));
    }
    if !found.is_empty() {
        // To tell what is late from what is wrong.
        std::thread::sleep(secs(2));
    }
    found.into_iter().map(|(probe, fate)| difference(ground, &cluster, probe, fate)).collect()
}

fn probes(ground: &Ground, cluster: &Cluster, seed: u64, count: usize) -> Vec<Probe> {
    // Of what the generator makes, some can only be judged: nobody has the address, or nothing leads there.
    let packets = generate::packets(cluster, seed, count * 3);
    let packets = ground.strangers(seed, count / 8).into_iter().chain(packets);
    let probes = packets.filter_map(|packet| {
        let shot = ground.shot(&packet)?;
        Some(Probe { packet, shot, allowed: judge(cluster, &packet).allowed() })
    });
    let probes: Vec<Probe> = probes.take(count).collect();
    assert_eq!(probes.len(), count, "the generator has made too few packets that can be fired");
    probes
}

/// A difference in words, with what decides by the reference, and by the product.
fn difference(ground: &Ground, cluster: &Cluster, probe: &Probe, fate: Fate) -> String {
    let what = match (probe.allowed, fate.arrived, fate.astray) {
        (false, ..) => "is to be denied and passes".to_owned(),
        (true, true, _) => "is to pass, does, and its answer does not come back".to_owned(),
        (true, false, None) => "is to pass and does not".to_owned(),
        (true, false, Some(place)) => format!("arrives at {}", ground.range.stage.hosts[place].name),
    };
    let later = ground.range.fire(&[probe.shot], millis(1000))[0];
    let still =
        if later.answered == probe.allowed { "not any more two seconds later" } else { "two seconds later too" };
    let told = why(cluster, &probe.packet).join("\n    ");
    format!(
        "{} {what}, {still}\n    {told}\n    the product: {}",
        ground.range.tell(&probe.shot),
        explained(ground, &probe.packet)
    )
}

/// What `overlane policy explain` says of it.
fn explained(ground: &Ground, packet: &Packet) -> String {
    let port = match packet.protocol {
        Protocol::Tcp => format!("{}/tcp", packet.port),
        Protocol::Udp => format!("{}/udp", packet.port),
        Protocol::Sctp => format!("{}/sctp", packet.port),
        Protocol::Icmp => "icmp".to_owned(),
    };
    let (from, to) = (packet.from.to_string(), packet.to.to_string());
    let kubeconfig = ground.range.stage.lab.cli("kubeconfig", &[]).must().stdout;
    let path = std::env::temp_dir().join(format!("{}.kubeconfig", ground.range.stage.lab.name));
    std::fs::write(&path, kubeconfig).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    let words = ["policy", "explain", "--from", &from, "--to", &to, "--port", &port, "-o", "json", "--kubeconfig"];
    let out = lab::overlane(&[&words[..], &[path.to_str().unwrap_or_default()]].concat());
    let _ = std::fs::remove_file(&path);
    // The faults of the policies are told for each packet alike.
    serde_json::from_str::<Value>(&out.stdout).map_or_else(|_| out.all(), |value| value["paths"].to_string())
}
