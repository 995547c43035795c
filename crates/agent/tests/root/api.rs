//! Must catch: an agent that needs the API server for a CNI call, forgets what it was told, writes without need, or
//! leaves its NodeState missing.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, CustomResourceExt as _};
use overlane_api::crd::{ClusterNetwork, NodeBlock, NodeNetworkConfig, NodeState};
use overlane_apiserver::ApiServer;
use overlane_datapath::netns::Netns;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::world::{Pod, World, eventually, sh};

/// A cluster behind HTTP on the node's loopback.
pub struct Cluster {
    pub server: ApiServer,
    pub runtime: Runtime,
    pub url: String,
    port: u16,
    ns: String,
    stop: Option<oneshot::Sender<()>>,
}

impl Cluster {
    pub fn new(world: &World) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = ApiServer::new();
        for crd in [ClusterNetwork::crd(), NodeNetworkConfig::crd(), NodeState::crd(), NodeBlock::crd()] {
            server.register(&crd).unwrap();
        }
        let mut cluster = Self { server, runtime, url: String::new(), port: 0, ns: world.ns.clone(), stop: None };
        cluster.up();
        cluster.url = format!("http://127.0.0.1:{}", cluster.port);
        cluster
    }

    pub fn up(&mut self) {
        let ns = Netns::open(format!("/run/netns/{}", self.ns)).unwrap();
        let port = self.port;
        let listener = ns.run(|| eventually("the port", || TcpListener::bind(("127.0.0.1", port)).ok())).unwrap();
        self.port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        let server = self.server.clone();
        self.runtime.spawn(async move {
            let _ = server.serve(listener, async { drop(stopped.await) }).await;
        });
    }

    pub fn down(&mut self) {
        self.stop = None;
    }

    pub fn block<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        self.block(async { Api::all(self.server.client()) })
    }

    pub fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        self.block(async { Api::namespaced(self.server.client(), "kube-system") })
    }

    pub fn create_network(&self) {
        let spec = json!({
            "ipFamilies": ["IPv4", "IPv6"], "podCIDRs": ["10.128.0.0/11", "fd12:3456:789a::/64"],
            "serviceCIDRs": ["10.0.0.0/16", "fd12:3456:789a:1::/108"], "masquerade": true, "maxPods": 250,
        });
        let object = json!({"apiVersion": "overlane.io/v1alpha1", "kind": "ClusterNetwork", "metadata": {"name": "default"}, "spec": spec});
        let object: ClusterNetwork = serde_json::from_value(object).unwrap();
        let api = self.api::<ClusterNetwork>();
        self.block(api.create(&PostParams::default(), &object)).unwrap();
    }

    /// A node's configuration: index and the last byte of its address.
    pub fn give(&self, name: &str, index: u32, mac: &str) {
        let api = self.namespaced::<NodeNetworkConfig>();
        let empty = json!({"apiVersion": "overlane.io/v1alpha1", "kind": "NodeNetworkConfig", "metadata": {"name": name, "namespace": "kube-system"}, "spec": {}});
        let object: NodeNetworkConfig = serde_json::from_value(empty).unwrap();
        let _ = self.block(api.create(&PostParams::default(), &object));
        let patch = json!({"status": status(index, mac)});
        self.block(api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))).unwrap();
    }
}

pub fn status(index: u32, mac: &str) -> Value {
    let (high, low) = (index >> 8, index & 255);
    let ip = index + 4;
    let container = |block: String, ip: String| json!({"id": "x", "primaryIP": block, "subnetAddressSpace": "", "nodeIP": ip, "type": "overlay", "assignmentMode": "static"});
    json!({"underlayMAC": mac, "networkContainers": [
        container(format!("10.{}.{low}.0/24", 128 + high), format!("10.224.{}.{}", ip >> 8, ip & 255)),
        container(format!("fd12:3456:789a:0:{index:x}::/80"), format!("fd10:224::{ip:x}")),
    ]})
}

fn join(world: &mut World) -> Cluster {
    let cluster = Cluster::new(world);
    world.flags = vec!["--api-url".into(), cluster.url.clone()];
    world.start();
    cluster
}

#[test]
fn a_node_joins_serves_without_api_and_comes_back() {
    let mut world = World::bare();
    let mut cluster = join(&mut world);
    let states = cluster.api::<NodeState>();
    // Before it has anything it says that it is there, so that the controller need not wait for it.
    let first = eventually("NodeState", || cluster.block(states.get_opt("n1")).unwrap());
    assert_eq!(first.spec.boot_id, "boot-1");
    assert!(first.spec.held_blocks.is_empty());
    assert_eq!(first.spec.conditions[0].status, "False");
    cluster.create_network();
    let since = Instant::now();
    cluster.give("n1", 0, "");
    world.ready();
    println!("block to ready: {:?}", since.elapsed());
    let told = eventually("Ready", || {
        let state = cluster.block(states.get("n1")).unwrap();
        (state.spec.conditions[0].status == "True").then_some(state)
    });
    assert_eq!(told.spec.held_blocks, ["10.128.0.0/24", "fd12:3456:789a::/80"]);
    let link = world.run("cat /sys/class/net/under/address");
    assert_eq!(told.spec.underlay_mac, link.trim());

    // A peer: its route is there within 50 ms of the API's word.
    let since = Instant::now();
    cluster.give("n2", 1, "02:00:00:00:00:02");
    let ns = world.ns.clone();
    let routes = || sh(&format!("ip -n {ns} route show proto 111 2>/dev/null || true"));
    while !routes().contains("10.128.1.0/24 via 10.224.0.5") {
        assert!(since.elapsed() < Duration::from_secs(5), "{}", routes());
    }
    println!("a peer's route after: {:?} (looked at by a program each time)", since.elapsed());

    // No writes without need. That the peer, which is none, does not answer is said within two seconds.
    std::thread::sleep(Duration::from_secs(4));
    let writes = |cluster: &Cluster| {
        let stats = cluster.server.stats();
        let of = |verb: &str| {
            stats
                .requests
                .iter()
                .filter(|((v, r), _)| v == verb && r.starts_with("nodestates"))
                .map(|(_, n)| n)
                .sum::<u64>()
        };
        (of("create"), of("patch"), of("update"))
    };
    let before = writes(&cluster);
    println!("writes of NodeState while joining (create, patch, update): {before:?}");
    let pod = Pod::new();
    let endpoint = world.client.add("a", &pod.path());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(before, writes(&cluster), "an ADD is no reason to write");

    // It vanishes and is made again.
    cluster.block(states.delete("n1", &DeleteParams::default())).unwrap();
    let since = Instant::now();
    eventually("NodeState again", || cluster.block(states.get_opt("n1")).unwrap());
    println!("NodeState made again after {:?}", since.elapsed());

    // The API server goes; pods come and go all the same.
    cluster.down();
    let more = Pod::new();
    world.client.add("b", &more.path());
    world.client.del("b");
    eventually("noticed", || (world.metric("overlane_api_connected") == 0.0).then_some(()));
    world.restart();
    world.client.add("b", &more.path());
    world.client.check("a", &pod.path(), &endpoint.addresses).unwrap();
    assert!(routes().contains("10.128.1.0/24 via 10.224.0.5"), "{}", routes());
    assert!(world.run("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:9470/healthz").contains("200"));
    cluster.up();
    cluster.give("n3", 2, "");
    eventually("the newcomer's route", || routes().contains("10.128.2.0/24").then_some(()));
    eventually("noticed", || (world.metric("overlane_api_connected") == 1.0).then_some(()));
}

#[test]
fn deletion_is_at_once_and_absence_is_not() {
    let mut world = World::bare();
    let cluster = join(&mut world);
    cluster.create_network();
    cluster.give("n1", 0, "");
    world.ready();
    let empty = cluster.server.snapshot();
    cluster.give("n2", 1, "");
    cluster.give("n3", 2, "");
    let routes = || world.routes();
    eventually("routes", || {
        (routes().contains("10.128.1.0/24 via") && routes().contains("10.128.2.0/24 via")).then_some(())
    });
    let configs = cluster.namespaced::<NodeNetworkConfig>();
    cluster.block(configs.delete("n3", &DeleteParams::default())).unwrap();
    eventually("withdrawn", || (!routes().contains("10.128.2.0/24 via")).then_some(()));
    // A store restored from a time before n2: its route stays for now.
    cluster.server.restore(&empty).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    assert!(routes().contains("10.128.1.0/24 via 10.224.0.5"), "{}", routes());
    // Unless somebody else is given the block.
    cluster.give("n4", 1, "");
    let patch = json!({"status": {"networkContainers": [{"id": "x", "primaryIP": "10.128.1.0/24", "subnetAddressSpace": "", "nodeIP": "10.224.0.9", "type": "overlay", "assignmentMode": "static"}]}});
    cluster.block(configs.patch_status("n4", &PatchParams::default(), &Patch::Merge(patch))).unwrap();
    eventually("the new owner's route", || routes().contains("10.128.1.0/24 via 10.224.0.9").then_some(()));
    assert!(!routes().contains("10.224.0.5"), "{}", routes());
}

#[test]
fn a_masquerade_configmap_works_within_a_second() {
    let mut world = World::bare();
    let cluster = join(&mut world);
    cluster.create_network();
    cluster.give("n1", 0, "");
    world.ready();
    let maps = cluster.namespaced::<ConfigMap>();
    let named = [("ip-masq-agent", false), ("azure-ip-masq-agent-config", false), ("mine", true), ("other", false)];
    for (n, (name, labelled)) in named.into_iter().enumerate() {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        if labelled {
            map.metadata.labels = Some(BTreeMap::from([("overlane.io/config".into(), "ip-masq-agent".into())]));
        }
        map.data = Some(BTreeMap::from([("config".into(), format!("nonMasqueradeCIDRs: [192.168.{n}.0/24]"))]));
        cluster.block(maps.create(&PostParams::default(), &map)).unwrap();
    }
    let since = Instant::now();
    let table = || world.run("nft list table inet overlane");
    eventually("three of the four", || (0..3).all(|n| table().contains(&format!("192.168.{n}.0/24"))).then_some(()));
    println!("masquerade after {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(1));
    assert!(!table().contains("192.168.3.0"), "a ConfigMap of another name counts");
    cluster.block(maps.delete("mine", &DeleteParams::default())).unwrap();
    eventually("gone", || (!table().contains("192.168.2.0/24")).then_some(()));
}
