//! A lab with egress gateways for pods with the label `way=office`, at nodes with the label `role=gateway`.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use overlane_suites::api::{Api, told};
use overlane_suites::far::Far;
use overlane_suites::lab::{NodeHandle, Pod};
use overlane_suites::outage;
use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Lab, Ns, ip, nft, packet};
use serde_json::{Value, json};

use super::{address_like, nothing_is_left, seen_as, seen_within};

pub const GATEWAYS: &str = "/apis/overlane.io/v1alpha1/egressgateways";
/// The gateway's name.
pub const OFFICE: &str = "office";
/// Addresses of the nodes' network that nobody has: a pair a slot.
const EGRESS_IPS: [[&str; 2]; 2] = [["10.224.0.200", "fd10:224::200"], ["10.224.0.201", "fd10:224::201"]];

pub struct Office {
    pub lab: Lab,
    pub nodes: Vec<NodeHandle>,
    pub internet: Ns,
    pub vm: Ns,
    families: String,
}

impl Office {
    /// There is no gateway yet, but nodes that may be it.
    pub fn new(nodes: usize, families: &str, gateways: &[usize], more: &[&str]) -> Office {
        println!("== {families} {more:?}");
        let count = nodes.to_string();
        let lab = Lab::up(&[&["--nodes", &count, "--ip-families", families], more].concat());
        let (nodes, internet, vm) = (lab.nodes(), lab.internet(), lab.vm());
        let office = Office { lab, nodes, internet, vm, families: families.to_owned() };
        gateways.iter().for_each(|number| office.label(*number, Some("gateway")));
        office
    }

    /// The addresses of a slot, one a family.
    pub fn slot(&self, number: usize) -> Vec<IpAddr> {
        let all = EGRESS_IPS[number].iter().map(|ip| ip.parse::<IpAddr>().unwrap());
        all.filter(|ip| self.families.contains(if ip.is_ipv4() { "ipv4" } else { "ipv6" })).collect()
    }

    /// The first slot's address of this family.
    pub fn egress(&self, like: IpAddr) -> IpAddr {
        alike(&self.slot(0), like)
    }

    /// A gateway with the first slots.
    pub fn spec(&self, slots: usize) -> Value {
        let ips: Vec<IpAddr> = (0..slots).flat_map(|number| self.slot(number)).collect();
        json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
            "podSelector": {"matchLabels": {"way": "office"}},
            "nodeSelector": {"matchLabels": {"role": "gateway"}},
            "destinationCIDRs": [],
            "egressIPs": ips,
        })
    }

    /// Makes the gateway; waits until it is in force and at nodes. One that has just come up waits some ten seconds.
    pub fn open(&self, slots: usize) {
        let (api, meta) = ("overlane.io/v1alpha1", json!({"name": OFFICE}));
        let object = json!({"apiVersion": api, "kind": "EgressGateway", "metadata": meta, "spec": self.spec(slots)});
        self.lab.api.create(GATEWAYS, &object);
        self.in_force();
        for slot in 0..slots {
            self.settled(slot, &self.everywhere(), secs(30));
        }
    }

    /// Changes its spec by a merge patch.
    pub fn ask(&self, spec: &Value) {
        self.lab.api.merge(&format!("{GATEWAYS}/{OFFICE}"), &json!({ "spec": spec }));
    }

    /// Changes its spec; waits until that is in force.
    pub fn change(&self, spec: &Value) {
        self.ask(spec);
        self.in_force();
    }

    pub fn close(&self) {
        self.lab.api.delete(&format!("{GATEWAYS}/{OFFICE}"));
    }

    pub fn in_force(&self) {
        self.told("True", "InForce");
    }

    /// Waits until this is said of its present generation.
    pub fn told(&self, status: &str, reason: &str) {
        eventually(secs(10), &format!("Ready is {status}: {reason}"), || {
            let object = self.lab.api.get(&format!("{GATEWAYS}/{OFFICE}"));
            let ready = told(&object["status"]["conditions"], "Ready");
            let heard = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            let is = heard && ready.0 == status && ready.1 == reason;
            ensure(is, || object.to_string())
        });
    }

    /// Gives a node a role, or takes it away.
    pub fn label(&self, node: usize, role: Option<&str>) {
        let path = format!("/api/v1/nodes/{}", self.nodes[node].name);
        self.lab.api.merge(&path, &json!({"metadata": {"labels": {"role": role}}}));
    }

    /// Runs a pod that is chosen, or is not.
    pub fn run(&self, name: &str, node: usize, chosen: bool) -> Pod {
        let way = if chosen { "way=office" } else { "way=home" };
        self.lab.cli("run", &[name, "--node", &self.nodes[node].name, "--labels", way]).must();
        self.lab.pod(name)
    }

    /// Chooses a pod that runs, or does not any more.
    pub fn choose(&self, pod: &Pod, chosen: bool) {
        let way = if chosen { "office" } else { "home" };
        self.lab.api.merge(&Api::pod_path("default", &pod.name), &json!({"metadata": {"labels": {"way": way}}}));
    }

    pub fn node_like(&self, number: usize, like: IpAddr) -> IpAddr {
        alike(&self.nodes[number].ips(), like)
    }

    /// Which nodes have an address on their primary link.
    pub fn holders(&self, address: IpAddr) -> Vec<usize> {
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let has = |node: &NodeHandle| {
            let found = ip::addresses(&node.ns).into_iter().find(|found| found.ip == address);
            found.is_some_and(|found| {
                assert!(found.dev == "eth0" && found.prefix == whole, "{}: {found:?}", node.name);
                true
            })
        };
        (0..self.nodes.len()).filter(|number| has(&self.nodes[*number])).collect()
    }

    /// The numbers of all nodes.
    pub fn everywhere(&self) -> Vec<usize> {
        (0..self.nodes.len()).collect()
    }

    /// Waits until one node has all addresses of a slot, and no other of `among` has any; says which.
    pub fn settled(&self, slot: usize, among: &[usize], limit: Duration) -> usize {
        eventually(limit, &format!("slot {slot} is at one node of {among:?}"), || {
            let mut holders: Vec<Vec<usize>> = self.slot(slot).iter().map(|ip| self.holders(*ip)).collect();
            holders.iter_mut().for_each(|list| list.retain(|number| among.contains(number)));
            let one = holders.iter().all(|list| list.len() == 1 && *list == holders[0]);
            ensure(one, || format!("{holders:?}")).map(|()| holders[0][0])
        })
    }

    /// Waits until slot 0 has been at one node for longer than a node takes to come up; says which.
    pub fn home(&self) -> usize {
        let (mut at, mut since) = (self.settled(0, &self.everywhere(), secs(30)), Instant::now());
        eventually(secs(60), "the gateway stays where it is", || {
            let now = self.settled(0, &self.everywhere(), secs(30));
            if now != at {
                (at, since) = (now, Instant::now());
            }
            ensure(since.elapsed() > secs(12), || format!("at node {at} for {:?}", since.elapsed()))
        });
        at
    }

    /// Waits until slot 0 is at this node, and at no other.
    pub fn at(&self, node: usize) {
        eventually(secs(30), &format!("the gateway is at node {node}"), || {
            let holders: Vec<Vec<usize>> = self.slot(0).iter().map(|ip| self.holders(*ip)).collect();
            ensure(holders.iter().all(|list| *list == [node]), || format!("{holders:?}"))
        });
    }

    /// What there is on each node, to be compared with [`Office::is_as_before`].
    pub fn snapshot(&self) -> Vec<(String, String)> {
        self.nodes.iter().map(|node| (ip::snapshot(&node.ns), nft::own_text(&node.ns))).collect()
    }

    pub fn is_as_before(&self, before: &[(String, String)]) {
        for (node, (objects, rules)) in self.nodes.iter().zip(before) {
            nothing_is_left(&node.ns, objects);
            eventually(secs(5), &format!("{}: the rules of before", node.name), || {
                let now = nft::own_text(&node.ns);
                ensure(now == *rules, || format!("before:\n{rules}\nnow:\n{now}"))
            });
        }
    }

    /// Lets the fabric carry the first slot's addresses to and from a node, as a cloud's secondary addresses.
    pub fn admit(&self, node: usize, underlay: &str) {
        let router = self.lab.router();
        let port = outage::port_of(&router, &self.nodes[node]);
        for address in self.slot(0) {
            let (family, set) = if address.is_ipv4() { ("-4", "own4") } else { ("-6", "own6") };
            match underlay {
                "routed" => router.must(&format!("ip {family} route add {address} dev {port}")),
                _ => {
                    let element = format!("add element bridge fabric {set} {{ {port} . {address} }}");
                    router.sh(&["nft", &element]).must()
                }
            };
        }
    }
}

/// The address of the other's family.
pub fn alike(ips: &[IpAddr], like: IpAddr) -> IpAddr {
    *ips.iter().find(|ip| ip.is_ipv4() == like.is_ipv4()).unwrap_or_else(|| panic!("none like {like}: {ips:?}"))
}

/// Over UDP, TCP and ICMP a host outside sees a pod as `want`.
pub fn is_seen(pod: &Pod, outside: &Ns, own: IpAddr, want: IpAddr, why: &str) {
    seen_as(pod, outside, own, Some(want), why);
    let at = SocketAddr::new(address_like(outside, own), probe::port());
    let _witness = Witness::new(outside, at.ip(), at.port());
    assert_eq!(probe::tcp(&pod.ns, at, None, "who", secs(2)), Ok(want), "{why}: TCP");
    let far = Far::on(outside);
    packet::ping(&pod.ns, at.ip(), 56, secs(2)).unwrap_or_else(|e| panic!("{why}: {e}"));
    assert_eq!(far.echoes().into_keys().collect::<Vec<_>>(), [want], "{why}: ICMP");
}

/// A new connection of a pod is answered before `limit` has passed since `began`; whom the far side saw.
pub fn answered(pod: &Pod, outside: &Ns, own: IpAddr, began: Instant, limit: Duration) -> IpAddr {
    let at = SocketAddr::new(address_like(outside, own), probe::port());
    let _witness = Witness::new(outside, at.ip(), at.port());
    loop {
        match probe::tcp(&pod.ns, at, None, "who", millis(250)) {
            Ok(seen) => return seen,
            Err(error) => assert!(began.elapsed() < limit, "not within {limit:?}: {error}"),
        }
    }
}

/// Waits until a host outside sees a pod as `want`; says how long that took since `began`.
pub fn follows(pod: &Pod, outside: &Ns, own: IpAddr, want: IpAddr, began: Instant, limit: Duration) -> Duration {
    loop {
        let seen = seen_within(pod, outside, own, millis(300));
        if seen == Some(want) {
            return began.elapsed();
        }
        assert!(began.elapsed() < limit, "{} is seen as {seen:?} and not as {want} after {limit:?}", pod.name);
    }
}

/// A connection of a pod to a host outside; both ends are kept.
pub struct Call {
    client: TcpStream,
    server: TcpStream,
}

impl Call {
    pub fn open(pod: &Pod, outside: &Ns, own: IpAddr) -> Call {
        let at = SocketAddr::new(address_like(outside, own), probe::port());
        let listener = outside.listen(at);
        let client = pod.ns.connect(at, None, secs(3)).unwrap_or_else(|e| panic!("{} to {at}: {e}", pod.name));
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(secs(3))).unwrap();
        Call { client, server }
    }

    /// A word goes there and back.
    pub fn goes_on(&mut self) -> std::io::Result<()> {
        let mut word = [0; 4];
        self.client.write_all(b"ping")?;
        self.server.read_exact(&mut word)?;
        self.server.write_all(&word)?;
        self.client.read_exact(&mut word)
    }

    /// The client hears that it has ended by a reset, and the far side nothing more.
    pub fn ends(mut self) {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
        let began = Instant::now();
        let error = loop {
            let tried = self.client.write_all(b"still there?").and_then(|()| self.client.read_exact(&mut [0]));
            match tried {
                Err(error) if matches!(error.kind(), ConnectionReset | BrokenPipe) => break error,
                other => assert!(began.elapsed() < secs(5), "the connection does not end: {other:?}"),
            }
        };
        println!("the connection ended {} ms after it was used: {error}", began.elapsed().as_millis());
        self.server.set_nonblocking(true).unwrap();
        let read = self.server.read(&mut [0; 64]);
        assert!(!matches!(read, Ok(1..)), "the far side has heard what was sent afterwards");
    }
}

/// A megabyte there and back.
pub fn bulk(pod: &Pod, outside: &Ns, own: IpAddr) {
    let at = SocketAddr::new(address_like(outside, own), probe::port());
    let listener = outside.listen(at);
    let far = probe::background(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(secs(10)))?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(&all)
    });
    let sent: Vec<u8> = (0..1u32 << 20).map(|i| (i % 251) as u8).collect();
    let mut near = pod.ns.connect(at, None, secs(10)).unwrap();
    near.write_all(&sent).unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    near.read_to_end(&mut back).unwrap_or_else(|e| panic!("after {} bytes: {e}", back.len()));
    assert!(back == sent, "{} bytes of {} came back", back.len(), sent.len());
    far.recv().unwrap().unwrap();
}
