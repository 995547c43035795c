//! A lab, the hosts of it that packets go between, and packets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use overlane_suites::api::Api;
use overlane_suites::lab::Pod;
use overlane_suites::volley::{Carries, Fate, Field, Shot};
use overlane_suites::wait::millis;
use overlane_suites::{Lab, NodeHandle, Ns, ip};
use serde_json::{Value, json};

use crate::canary;
use crate::objects::{self, Definition};

/// What pods do that have nothing to do.
pub const IDLE: [&str; 2] = ["sleep", "1000000"];

/// A host that packets may come from or go to.
#[derive(Clone, Debug)]
pub struct Host {
    /// What it is called: `namespace/pod`, `node-0`, `internet`.
    pub name: String,
    /// Its namespace in the kernel.
    pub ns: Ns,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// A lab before anybody listens in it.
pub struct Stage {
    /// The lab.
    pub lab: Lab,
    /// Its nodes.
    pub nodes: Vec<NodeHandle>,
    /// Its hosts: the nodes, what is outside, then pods in the order in which they came.
    pub hosts: Vec<Host>,
}

impl Stage {
    /// Brings a lab up, and canaries in it. Other pods are to come.
    pub fn up(nodes: usize, families: &str, definition: Definition) -> Stage {
        Stage::up_with(nodes, families, definition, &[])
    }

    /// The same with further words of `overlane lab up`.
    pub fn up_with(nodes: usize, families: &str, definition: Definition, more: &[&str]) -> Stage {
        let nodes = nodes.to_string();
        let lab = Lab::up(&[&["--nodes", &nodes, "--ip-families", families], more].concat());
        let nodes = lab.nodes();
        if objects::define(&lab.api, definition) {
            // Agents that found no such kind ask again after half a minute only.
            for node in &nodes {
                lab.cli("program", &[&format!("agent-{}", node.name), "restart"]).must();
            }
            nodes.iter().for_each(NodeHandle::agent_ready);
        }
        let host = |name: &str, ns: Ns, ips| Host { name: name.to_owned(), ns, ips };
        let mut hosts: Vec<Host> = nodes.iter().map(|node| host(&node.name, node.ns.clone(), node.ips())).collect();
        for (name, ns) in [("vm", lab.vm()), ("internet", lab.internet())] {
            let ips = ip::global_addresses(&ns);
            hosts.push(host(name, ns, ips));
        }
        let stage = Stage { lab, nodes, hosts };
        canary::create(&stage);
        stage
    }

    /// The API.
    pub fn api(&self) -> &Api {
        &self.lab.api
    }

    /// Makes a namespace.
    pub fn namespace(&self, name: &str, labels: &Value) {
        objects::namespace(self.api(), name, labels);
    }

    /// Creates a pod that idles; `more` is merged into its spec. It is not waited for.
    pub fn create(&self, namespace: &str, name: &str, node: usize, labels: &Value, more: &Value) {
        let mut spec = json!({
            "nodeName": self.nodes[node].name, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "overlane.io/lab", "command": IDLE}],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"namespace": namespace, "name": name, "labels": labels},
        });
        self.api().create(&format!("/api/v1/namespaces/{namespace}/pods"), &object);
    }

    /// Waits until a pod has its network, and makes a host of it.
    pub fn admit(&mut self, namespace: &str, name: &str) -> Pod {
        let pod = self.lab.pod_in(namespace, name);
        let name = format!("{namespace}/{name}");
        self.hosts.push(Host { name, ns: pod.ns.clone(), ips: pod.ips.clone() });
        pod
    }

    /// A pod that idles, as a host.
    pub fn run(&mut self, namespace: &str, name: &str, node: usize, labels: &Value) -> Pod {
        self.create(namespace, name, node, labels, &Value::Null);
        self.admit(namespace, name)
    }

    /// Begins to listen at all hosts.
    pub fn open(mut self) -> Range {
        canary::admit(&mut self);
        let places: Vec<Ns> = self.hosts.iter().map(|host| host.ns.clone()).collect();
        let at = |(place, host): (usize, &Host)| host.ips.iter().map(|ip| (*ip, place)).collect::<Vec<_>>();
        let addresses = self.hosts.iter().enumerate().flat_map(at).collect();
        let field = Field::new(&places);
        Range { stage: self, addresses, field, number: AtomicU16::new(0) }
    }
}

/// A stage where packets can be fired.
pub struct Range {
    /// The stage.
    pub stage: Stage,
    /// Whose an address is.
    addresses: BTreeMap<IpAddr, usize>,
    /// Who listens.
    pub field: Field,
    /// What the canaries have sung of last.
    pub number: AtomicU16,
}

impl Range {
    /// The API.
    pub fn api(&self) -> &Api {
        self.stage.api()
    }

    /// The host that has an address.
    pub fn place(&self, address: IpAddr) -> Option<usize> {
        self.addresses.get(&address).copied()
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> &Host {
        let found = self.stage.hosts.iter().find(|host| host.name == name);
        found.unwrap_or_else(|| panic!("there is no host {name}"))
    }

    /// Pairs of addresses of two hosts, one a family that both have.
    pub fn pairs(&self, from: &str, to: &str) -> Vec<(IpAddr, IpAddr)> {
        let (from, to) = (self.host(from), self.host(to));
        let like = |ip: &IpAddr| to.ips.iter().find(|other| other.is_ipv4() == ip.is_ipv4()).map(|other| (*ip, *other));
        from.ips.iter().filter_map(like).collect()
    }

    /// A packet between two addresses that hosts have.
    pub fn shot(&self, source: IpAddr, to: IpAddr, carries: Carries) -> Option<Shot> {
        Some(Shot { from: self.place(source)?, source, to, into: self.place(to)?, at: to, carries })
    }

    /// Packets between two hosts, one a family.
    pub fn shots(&self, from: &str, to: &str, carries: Carries) -> Vec<Shot> {
        self.pairs(from, to).into_iter().filter_map(|(source, to)| self.shot(source, to, carries)).collect()
    }

    /// Fires, and says what became of each.
    pub fn fire(&self, shots: &[Shot], patience: Duration) -> Vec<Fate> {
        self.field.fates(&self.field.fire(shots, patience))
    }

    /// Fires until each has its answer, three times, longer each time; gives those that never had one.
    pub fn unanswered(&self, shots: &[Shot]) -> Vec<(Shot, Fate)> {
        let mut left: Vec<(Shot, Fate)> = shots.iter().map(|shot| (*shot, Fate::default())).collect();
        for patience in [300, 1000, 2000] {
            let shots: Vec<Shot> = left.iter().map(|(shot, _)| *shot).collect();
            let fates = self.fire(&shots, millis(patience));
            left = shots.into_iter().zip(fates).filter(|(_, fate)| !fate.answered).collect();
            if left.is_empty() {
                break;
            }
        }
        left
    }

    /// A packet for people.
    pub fn tell(&self, shot: &Shot) -> String {
        let name = |place: usize| &self.stage.hosts[place].name;
        let Shot { from, source, to, into, carries, .. } = shot;
        format!("{} ({source}) -> {} ({to}) {carries:?}", name(*from), name(*into))
    }
}
