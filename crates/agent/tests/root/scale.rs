//! Must catch: memory or time that grows out of hand with 5,000 nodes.

use std::time::{Duration, Instant};

use overlane_api::crd::NodeNetworkConfig;
use serde_json::json;

use crate::api::{Cluster, status};
use crate::world::{World, eventually, sh};

const NODES: u32 = 5_000;

fn memory(world: &World, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn five_thousand_nodes() {
    let mut world = World::bare();
    let cluster = Cluster::new(&world);
    cluster.create_network();
    // Made in one go: a snapshot with all of them, restored.
    let api = cluster.namespaced::<NodeNetworkConfig>();
    cluster.block(async {
        for index in 0..NODES {
            let name = if index == 0 { "n1".to_owned() } else { format!("node-{index:05}") };
            let object = json!({"apiVersion": "overlane.io/v1alpha1", "kind": "NodeNetworkConfig", "metadata": {"name": name, "namespace": "kube-system"}, "spec": {}});
            let object: NodeNetworkConfig = serde_json::from_value(object).unwrap();
            api.create(&kube::api::PostParams::default(), &object).await.unwrap();
            let mac = format!("02:00:00:00:{:02x}:{:02x}", index >> 8, index & 255);
            let patch = kube::api::Patch::Merge(json!({"status": status(index, &mac)}));
            api.patch_status(&name, &kube::api::PatchParams::default(), &patch).await.unwrap();
        }
    });
    world.flags = vec!["--api-url".into(), cluster.url.clone()];
    let since = Instant::now();
    world.start();
    world.ready();
    println!("start to ready with {NODES} nodes: {:?}", since.elapsed());
    // Probes have routes to single addresses.
    let count = || world.routes().lines().filter(|line| line.contains("/") && line.contains(" via ")).count();
    eventually("all routes", || (count() == 2 * (NODES as usize - 1)).then_some(()));
    println!("VmHWM {} MiB, VmRSS {} MiB", memory(&world, "VmHWM"), memory(&world, "VmRSS"));

    let since = Instant::now();
    cluster.give("late", NODES, "02:00:00:00:ff:ff");
    let (high, low) = (NODES >> 8, NODES & 255);
    let look = format!("ip -n {} route show proto 111 10.{}.{low}.0/24", world.ns, 128 + high);
    while sh(&look).is_empty() {
        assert!(since.elapsed() < Duration::from_secs(10));
    }
    println!("one more node's route after {:?}", since.elapsed());

    let since = Instant::now();
    world.restart();
    println!("restart to ready: {:?}", since.elapsed());
    std::thread::sleep(Duration::from_secs(4));
    println!("after the restart: VmHWM {} MiB, VmRSS {} MiB", memory(&world, "VmHWM"), memory(&world, "VmRSS"));
    if !cfg!(debug_assertions) {
        assert!(memory(&world, "VmHWM") < 40, "more than 40 MiB");
    }
}
