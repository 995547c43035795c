//! The lab that random policies are tried in: pods in every state, on nodes and outside of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;
use overlane_policy_reference::generate::{self, Choices, OUTSIDE};
use overlane_policy_reference::{Cluster, Packet, Protocol};
use overlane_suites::api::Api;
use overlane_suites::volley::{Carries, Shot};
use overlane_suites::wait::{ensure, eventually, secs};
use serde_json::{Value, json};

use crate::canary;
use crate::objects::{self, Definition};
use crate::stage::{Host, IDLE, Range, Stage};

const NODES: usize = 3;
const NAMESPACES: u64 = 4;
const PODS: u64 = 12;
/// Where the ports of nodes begin that lead to pods.
const HOST_PORTS: u16 = 40_000;
/// Addresses of the first node that a cloud gave it.
const EXTERNAL: [&str; 2] = ["192.0.2.11", "2001:db8:192::11"];

/// Which lab it is: the same words, the same pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The families of pods and nodes, as the command line takes them.
    pub families: String,
    /// How packets cross nodes, as it takes that.
    pub routing: String,
    /// What the pods' containers follow from.
    pub seed: u64,
}

/// A port of a pod's node that leads to it.
#[derive(Clone, Debug)]
struct HostPort {
    pod: usize,
    node: usize,
    protocol: Protocol,
    port: u16,
    host_port: u16,
}

/// The lab, with everybody in place.
pub struct Ground {
    /// Where packets are fired.
    pub range: Range,
    host_ports: Vec<HostPort>,
    /// Where each pod runs, by its place.
    node_of: BTreeMap<usize, usize>,
}

impl Ground {
    /// Brings it up.
    pub fn new(layout: &Layout) -> Ground {
        let mut stage = Stage::up_with(NODES, &layout.families, Definition::Loose, &["--routing", &layout.routing]);
        for number in 0..NAMESPACES {
            stage.namespace(&format!("ns-{number}"), &json!({}));
        }
        let mut choices = Choices::new(layout.seed);
        let placed: Vec<(String, usize, PodSpec)> = (0..PODS)
            .map(|number| {
                let namespace = format!("ns-{}", if number < NAMESPACES { number } else { choices.below(NAMESPACES) });
                let node = choices.below(NODES as u64) as usize;
                (namespace, node, generate::containers(layout.seed.wrapping_mul(PODS).wrapping_add(number)))
            })
            .collect();
        let mut host_ports = Vec::new();
        for (number, (namespace, node, spec)) in placed.iter().enumerate() {
            let (spec, ports) = runnable(spec, HOST_PORTS + number as u16 * 20);
            host_ports.push(ports);
            stage.create(namespace, &format!("pod-{number}"), *node, &json!({}), &spec);
        }
        special(&stage);
        let mut node_of = BTreeMap::new();
        for (number, (namespace, node, _)) in placed.iter().enumerate() {
            node_of.insert(stage.hosts.len(), *node);
            for port in &mut host_ports[number] {
                (port.pod, port.node) = (stage.hosts.len(), *node);
            }
            stage.admit(namespace, &format!("pod-{number}"));
        }
        node_of.insert(stage.hosts.len(), 0);
        admit_special(&mut stage, &placed[0].0);
        outside(&mut stage);
        let host_ports = host_ports.into_iter().flatten().collect();
        Ground { range: stage.open(), host_ports, node_of }
    }

    /// What the API has of all that policy depends on, the canaries left out.
    pub fn cluster(&self) -> Cluster {
        cluster(self.range.api(), |namespace| namespace.starts_with("ns-"))
    }

    /// The packet as it can be fired here; nothing if it cannot, or if no policy can have a say in it.
    pub fn shot(&self, packet: &Packet) -> Option<Shot> {
        let shot = self.range.shot(packet.from, packet.to, carries(packet))?;
        let pods = |place| self.node_of.contains_key(&place);
        let is_node = |place| place < NODES;
        match (pods(shot.from), pods(shot.into)) {
            (true, true) => Some(shot),
            // A node's port that leads to a pod.
            (true, false) => (!is_node(shot.into) || packet.port < HOST_PORTS).then_some(shot),
            // Others than the node itself know it by its address in the cluster alone.
            (false, true) if is_node(shot.from) => {
                let own = self.node_of[&shot.into] == shot.from;
                (own || !self.is_external(packet.from)).then_some(shot)
            }
            (false, true) => self.by_host_port(packet, shot),
            (false, false) => None,
        }
    }

    fn is_external(&self, address: IpAddr) -> bool {
        EXTERNAL.iter().any(|external| external.parse() == Ok(address))
    }

    /// From outside, a pod is reached by a port of its node alone.
    fn by_host_port(&self, packet: &Packet, shot: Shot) -> Option<Shot> {
        let leads =
            |port: &&HostPort| (port.pod, port.protocol, port.port) == (shot.into, packet.protocol, packet.port);
        let found = self.host_ports.iter().find(leads)?;
        let node = &self.range.stage.nodes[found.node];
        let to = node.ips().into_iter().find(|ip| ip.is_ipv4() == packet.to.is_ipv4())?;
        let carries = match shot.carries {
            Carries::Tcp(_) => Carries::Tcp(found.host_port),
            Carries::Udp(_) => Carries::Udp(found.host_port),
            Carries::Sctp(_) => Carries::Sctp(found.host_port),
            Carries::Echo => return None,
        };
        Some(Shot { to, carries, ..shot })
    }

    /// Packets to pods' ports from hosts that are no pods: nodes, and by nodes' ports those outside.
    pub fn strangers(&self, seed: u64, count: usize) -> Vec<Packet> {
        let mut choices = Choices::new(seed ^ 0x00C0_FFEE);
        let hosts = &self.range.stage.hosts;
        let mut packets = Vec::new();
        while packets.len() < count && !self.host_ports.is_empty() {
            let source = choices.pick(&hosts[..NODES + 2]);
            let (from, port) = (*choices.pick(&source.ips), choices.pick(&self.host_ports));
            let to = hosts[port.pod].ips.iter().find(|ip| ip.is_ipv4() == from.is_ipv4());
            packets.extend(to.map(|to| Packet { from, to: *to, protocol: port.protocol, port: port.port }));
        }
        packets
    }

    /// The kind of way that a packet takes.
    pub fn way(&self, shot: &Shot) -> &'static str {
        let node = |place| self.node_of.get(&place).copied();
        match (node(shot.from), node(shot.into)) {
            (Some(_), Some(_)) if shot.from == shot.into => "way-to-itself",
            (Some(from), Some(into)) if from == into => "way-on-a-node",
            (Some(_), Some(_)) => "way-between-nodes",
            (Some(node), None) if node == shot.into => "way-to-own-node",
            (Some(_), None) if shot.into < NODES => "way-to-another-node",
            (Some(_), None) => "way-out",
            (None, Some(node)) if node == shot.from => "way-from-own-node",
            (None, Some(_)) if shot.from < NODES => "way-from-another-node",
            (None, _) => "way-in-by-a-port-of-the-node",
        }
    }
}

/// Every kind of way.
pub const WAYS: [&str; 9] = [
    "way-to-itself",
    "way-on-a-node",
    "way-between-nodes",
    "way-to-own-node",
    "way-to-another-node",
    "way-out",
    "way-from-own-node",
    "way-from-another-node",
    "way-in-by-a-port-of-the-node",
];

/// What the API has of all that policy depends on, with the namespaces that are `ours`; the canaries left out.
pub fn cluster(api: &Api, ours: impl Fn(&str) -> bool) -> Cluster {
    let is_ours = |object: &Value, field: &str| ours(object["metadata"][field].as_str().unwrap_or_default());
    let mut namespaces = api.list("/api/v1/namespaces");
    namespaces.retain(|namespace| is_ours(namespace, "name"));
    let mut pods = api.list("/api/v1/pods");
    pods.retain(|pod| is_ours(pod, "namespace"));
    let mut policies = objects::all(api);
    policies.retain(|policy| !canary::owns(policy));
    let (namespaced, of_cluster): (Vec<Value>, Vec<Value>) =
        policies.into_iter().partition(|policy| policy["kind"] == "NetworkPolicy");
    let cluster = json!({
        "namespaces": namespaces, "pods": pods, "nodes": api.list("/api/v1/nodes"),
        "policies": namespaced, "clusterPolicies": of_cluster,
    });
    let mut cluster: Cluster = serde_json::from_value(cluster).unwrap_or_else(|e| panic!("read what the API has: {e}"));
    // The lab's API leaves an empty list behind where the last label was taken away.
    for pod in &mut cluster.pods {
        pod.metadata.labels = pod.metadata.labels.take().filter(|labels| !labels.is_empty());
    }
    cluster
}

/// What a packet carries.
pub fn carries(packet: &Packet) -> Carries {
    match packet.protocol {
        Protocol::Tcp => Carries::Tcp(packet.port),
        Protocol::Udp => Carries::Udp(packet.port),
        Protocol::Sctp => Carries::Sctp(packet.port),
        Protocol::Icmp => Carries::Echo,
    }
}

fn protocol(name: &Value) -> Protocol {
    match name.as_str() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

/// A pod that idles and declares these containers; the ports of those that stay are led to by ports of its node.
fn runnable(spec: &PodSpec, first: u16) -> (Value, Vec<HostPort>) {
    let mut spec = serde_json::to_value(spec).unwrap();
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            container["image"] = json!("overlane.io/lab");
        }
    }
    spec["containers"][0]["command"] = json!(IDLE);
    let mut leads = Vec::new();
    let containers = spec["containers"].as_array_mut().into_iter().flatten();
    for port in containers.flat_map(|container| container["ports"].as_array_mut().into_iter().flatten()) {
        let host_port = first + leads.len() as u16;
        port["hostPort"] = json!(host_port);
        let number = port["containerPort"].as_u64().unwrap() as u16;
        leads.push(HostPort { pod: 0, node: 0, protocol: protocol(&port["protocol"]), port: number, host_port });
    }
    (spec, leads)
}

/// Pods that are not simply there: one that is ending and takes its time, one of the host's network, one that has ended
/// and claims the address of another, one that no node runs.
fn special(stage: &Stage) {
    let stubborn = json!([{"name": "main", "image": "overlane.io/lab",
        "command": ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]}]);
    let leaving = json!({"terminationGracePeriodSeconds": 3600, "containers": stubborn});
    stage.create("ns-0", "leaving", 0, &json!({}), &leaving);
    stage.create("ns-1", "host", 1, &json!({}), &json!({"hostNetwork": true}));
    let ends = json!([{"name": "main", "image": "overlane.io/lab", "command": ["true"]}]);
    stage.create("ns-2", "done", 2, &json!({}), &json!({"restartPolicy": "Never", "containers": ends}));
    stage.create("ns-3", "waiting", 0, &json!({}), &json!({"nodeName": "nowhere"}));
}

/// Waits for those; `first` is the namespace of the pod whose address is claimed.
fn admit_special(stage: &mut Stage, first: &str) {
    stage.admit("ns-0", "leaving");
    let api = stage.api().clone();
    let reply = api.ask("DELETE", &Api::pod_path("ns-0", "leaving"), None);
    assert!(reply.status < 300, "{}", reply.text());
    let phase = |name: &str, path: &str, wanted: &str| {
        eventually(secs(20), &format!("{name} is {wanted}"), || {
            let pod = api.get(path);
            ensure(pod["status"]["phase"] == wanted, || pod["status"].to_string())
        });
    };
    phase("host", &Api::pod_path("ns-1", "host"), "Running");
    let done = Api::pod_path("ns-2", "done");
    phase("done", &done, "Succeeded");
    let claimed = api.get(&Api::pod_path(first, "pod-0"))["status"]["podIPs"].clone();
    let status = json!({"podIP": claimed[0]["ip"], "podIPs": claimed});
    api.merge(&format!("{done}/status"), &json!({ "status": status }));
}

/// Gives the host behind the router all addresses that policies name, and the first node those of a cloud.
fn outside(stage: &mut Stage) {
    let router = stage.lab.router();
    let give = |host: &mut Host, address: IpAddr| {
        let via = host.ips.iter().find(|ip| ip.is_ipv4() == address.is_ipv4()).copied();
        let Some(via) = via.filter(|_| !host.ips.contains(&address)) else { return };
        let (family, bits, more) = if address.is_ipv4() { ("-4", 32, "") } else { ("-6", 128, " nodad") };
        host.ns.must(&format!("ip {family} address add {address}/{bits} dev lo{more}"));
        router.must(&format!("ip {family} route replace {address}/{bits} via {via}"));
        host.ips.push(address);
    };
    OUTSIDE.iter().for_each(|address| give(&mut stage.hosts[NODES + 1], *address));
    for address in EXTERNAL {
        give(&mut stage.hosts[0], address.parse().unwrap());
    }
    let node = stage.nodes[0].name.clone();
    let path = objects::node_path(&node);
    let mut addresses = stage.api().get(&path)["status"]["addresses"].clone();
    let external = stage.hosts[0].ips.iter().filter(|ip| EXTERNAL.contains(&ip.to_string().as_str()));
    for ip in external {
        addresses.as_array_mut().unwrap().push(json!({"type": "ExternalIP", "address": ip.to_string()}));
    }
    stage.api().merge(&format!("{path}/status"), &json!({"status": {"addresses": addresses}}));
}
