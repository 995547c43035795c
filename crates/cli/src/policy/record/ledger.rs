//! What began, put together: flows that are alike but for the sender's port are one, with a count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use overlane_api::policy::recording::{
    Asked, FORMAT, FlowProtocol, Header, RecordedEnd, RecordedFlow, Recording, VERSION,
};
use overlane_datapath::conntrack::{Began, Heard};

use super::names::{Names, PodId};

/// How long after a flow its pod may become known: a pod's first packets are sent before its object says its address, and an
/// address that was given back is not given again for as long.
const LATE: Duration = Duration::from_secs(30);

/// An end: its address, and the pod that had it.
type End = (IpAddr, Option<PodId>);

/// What makes flows alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Alike {
    from: End,
    to: End,
    protocol: u8,
    port: u16,
    asked: SocketAddr,
}

/// How often, and when.
#[derive(Clone, Copy, Debug)]
struct Times {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

/// Flows that began.
#[derive(Debug)]
pub struct Ledger {
    flows: BTreeMap<Alike, Times>,
    /// Addresses that nobody was known to have.
    nameless: BTreeSet<IpAddr>,
    most: usize,
    /// How many began.
    pub began: u64,
    /// How many were not heard of.
    pub lost: u64,
    /// How many there is no room for.
    pub beyond: u64,
}

/// Where and when it was.
#[derive(Debug)]
pub struct Place {
    /// The node's own addresses.
    pub own: BTreeSet<IpAddr>,
    /// When listening began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
}

impl Ledger {
    /// One that keeps so many different flows.
    pub const fn new(most: usize) -> Self {
        Self { flows: BTreeMap::new(), nameless: BTreeSet::new(), most, began: 0, lost: 0, beyond: 0 }
    }

    /// Notes what was heard.
    pub fn note(&mut self, at: Timestamp, heard: &Heard, names: &Names) {
        self.lost = self.lost.saturating_add(heard.lost);
        for Began { flow, asked } in &heard.began {
            self.began += 1;
            let end = |address: IpAddr| (address, names.at(address));
            let alike = Alike {
                from: end(flow.from),
                to: end(flow.to),
                protocol: flow.protocol,
                port: flow.to_port,
                asked: *asked,
            };
            if self.flows.len() >= self.most && !self.flows.contains_key(&alike) {
                self.beyond += 1;
                continue;
            }
            let nameless = [alike.from, alike.to].into_iter().filter(|(_, pod)| pod.is_none());
            self.nameless.extend(nameless.map(|(address, _)| address));
            self.add(alike, Times { count: 1, first: at, last: at });
        }
    }

    /// Learns whose an address is: flows that began shortly before are its.
    pub fn name(&mut self, at: Timestamp, address: IpAddr, pod: PodId) {
        if !self.nameless.remove(&address) {
            return;
        }
        let is = |end: End| end == (address, None);
        let since = at.checked_sub(LATE).unwrap_or(Timestamp::MIN);
        let late: Vec<Alike> = self
            .flows
            .iter()
            .filter(|(alike, times)| times.first >= since && (is(alike.from) || is(alike.to)))
            .map(|(alike, _)| *alike)
            .collect();
        for alike in late {
            let Some(times) = self.flows.remove(&alike) else { continue };
            let named = |end: End| if is(end) { (address, Some(pod)) } else { end };
            self.add(Alike { from: named(alike.from), to: named(alike.to), ..alike }, times);
        }
    }

    fn add(&mut self, alike: Alike, more: Times) {
        let times = self.flows.entry(alike).or_insert(Times { count: 0, ..more });
        times.count = times.count.saturating_add(more.count);
        (times.first, times.last) = (times.first.min(more.first), times.last.max(more.last));
    }

    /// The recording, and how many flows are not in it because they are of the node itself: no policy is for them.
    pub fn finish(&self, names: &Names, place: &Place) -> (Recording, u64) {
        let nodes: BTreeMap<IpAddr, &String> =
            names.nodes().iter().flat_map(|(name, node)| node.addresses.iter().map(move |ip| (*ip, name))).collect();
        let is_own = |(address, _): End| place.own.contains(&address) || address.is_loopback();
        let (mut flows, mut of_node) = (Vec::new(), 0_u64);
        for (alike, times) in &self.flows {
            let ends = [alike.from, alike.to];
            if ends.iter().all(|(_, pod)| pod.is_none()) && ends.iter().any(|end| is_own(*end)) {
                of_node = of_node.saturating_add(times.count);
            } else {
                flows.push(recorded(alike, times, names, &nodes));
            }
        }
        // The oldest first; those of one moment in their own order.
        flows.sort_by_key(|flow| flow.first);
        let own = nodes.iter().find(|(address, _)| place.own.contains(address));
        let mut header = header(&flows, names);
        header.node = own.map(|(_, name)| (*name).clone()).unwrap_or_default();
        (header.started, header.ended, header.lost, header.beyond) =
            (place.started, place.ended, self.lost, self.beyond);
        (Recording { header, flows }, of_node)
    }
}

fn recorded(alike: &Alike, times: &Times, names: &Names, nodes: &BTreeMap<IpAddr, &String>) -> RecordedFlow {
    let protocol = FlowProtocol(alike.protocol);
    let port = |port: u16| protocol.with_ports().map(|_| port);
    let end = |(address, pod): End| {
        let pod = pod.and_then(|pod| names.pod(pod)).cloned();
        let node = nodes.get(&address).filter(|_| pod.is_none()).map(|name| (*name).clone());
        RecordedEnd { address, pod, node }
    };
    let asked = Asked { address: alike.asked.ip(), port: port(alike.asked.port()) };
    let led = Asked { address: alike.to.0, port: port(alike.port) };
    RecordedFlow {
        from: end(alike.from),
        to: end(alike.to),
        protocol,
        port: led.port,
        asked: (asked != led).then_some(asked),
        count: times.count,
        first: times.first,
        last: times.last,
    }
}

/// What flows need of those that they name.
fn header(flows: &[RecordedFlow], names: &Names) -> Header {
    let ends = || flows.iter().flat_map(|flow| [&flow.from, &flow.to]);
    let pods = || ends().filter_map(|end| end.pod.as_ref());
    let nodes = ends().filter_map(|end| end.node.as_ref()).chain(pods().map(|pod| &pod.node));
    let node = |name: &String| Some((name.clone(), names.nodes().get(name)?.clone()));
    let labels = |pod: &str| names.namespaces().get(pod).cloned().unwrap_or_default();
    Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        node: String::new(),
        started: Timestamp::UNIX_EPOCH,
        ended: Timestamp::UNIX_EPOCH,
        families: names.families().iter().map(ToString::to_string).collect(),
        flows: flows.len(),
        lost: 0,
        beyond: 0,
        namespaces: pods().map(|pod| (pod.namespace.clone(), labels(&pod.namespace))).collect(),
        nodes: nodes.filter_map(node).collect(),
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a flow under the name of who has the address now and had it not then, or one that is forgotten because its pod
    //! was not known yet.
    #![allow(clippy::unwrap_used, reason = "tests")]

    use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
    use overlane_datapath::conntrack::Flow;
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, ip: &str, more: &Value) -> Pod {
        let mut object = json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": "node-0", "containers": [{"name": "c", "ports": [{"name": "sql", "containerPort": 5432}]}]},
            "status": {"podIPs": [{"ip": ip}]},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            object["metadata"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn world() -> Names {
        let mut names = Names::default();
        let node = json!({"metadata": {"name": "node-0"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.224.0.4"}]}});
        names.hear_node(&serde_json::from_value::<Node>(node).unwrap());
        let namespace = json!({"metadata": {"name": "shop", "labels": {"team": "a"}}});
        names.hear_namespace(&serde_json::from_value::<Namespace>(namespace).unwrap());
        names
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn heard(from: &str, to: &str, protocol: u8, port: u16, asked: &str) -> Heard {
        let flow =
            Flow { protocol, from: from.parse().unwrap(), from_port: 40_000, to: to.parse().unwrap(), to_port: port };
        Heard { began: vec![Began { flow, asked: asked.parse().unwrap() }], lost: 0 }
    }

    fn finish(ledger: &Ledger, names: &Names) -> (Recording, u64) {
        let own = ["10.224.0.4".parse().unwrap()].into();
        ledger.finish(names, &Place { own, started: at(0), ended: at(100) })
    }

    fn ends(recording: &Recording) -> Vec<(String, String)> {
        let word = |end: &RecordedEnd| end.pod.as_ref().map_or(end.address.to_string(), |pod| pod.name.clone());
        recording.flows.iter().map(|flow| (word(&flow.from), word(&flow.to))).collect()
    }

    #[test]
    fn alike_flows_are_one() {
        let mut names = world();
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d", "uid": "u", "controller": true}]);
        let labels = json!({"labels": {"app": "web", "pod-template-hash": "7d"}, "ownerReferences": owner});
        names.hear(&pod("web-7d-x", "10.244.0.2", &labels));
        names.hear(&pod("db", "10.244.0.5", &Value::Null));
        let mut ledger = Ledger::new(3);
        for second in [3, 1, 2] {
            ledger.note(at(second), &heard("10.244.0.2", "10.244.0.5", 6, 5432, "10.0.0.10:80"), &names);
        }
        ledger.note(at(4), &heard("10.244.0.2", "10.244.0.5", 6, 5432, "10.244.0.5:5432"), &names);
        ledger.note(at(5), &heard("10.224.0.4", "10.244.0.5", 1, 0, "10.244.0.5:0"), &names);
        ledger.note(at(6), &heard("10.244.0.2", "10.244.0.5", 17, 53, "10.244.0.5:53"), &names);
        ledger.note(at(7), &Heard { began: Vec::new(), lost: 4 }, &names);
        let (recording, of_node) = finish(&ledger, &names);
        assert_eq!((of_node, ledger.began, recording.header.lost, recording.header.beyond), (0, 6, 4, 1));
        let [led, straight, echo] = &recording.flows[..] else { unreachable!("{recording:?}") };
        assert_eq!((led.count, led.first, led.last), (3, at(1), at(3)));
        assert_eq!(led.asked, Some(Asked { address: "10.0.0.10".parse().unwrap(), port: Some(80) }));
        assert_eq!((straight.port, &straight.asked), (Some(5432), &None));
        assert_eq!((echo.protocol, echo.port, echo.from.node.as_deref()), (FlowProtocol(1), None, Some("node-0")));
        let web = led.from.pod.as_ref().unwrap();
        assert_eq!((web.workload.as_deref(), web.node.as_str(), web.ports.len()), (Some("web"), "node-0", 1));
        assert_eq!(recording.header.namespaces["shop"]["team"], "a");
        assert_eq!(
            (recording.header.node.as_str(), recording.header.families.join(",")),
            ("node-0", "IPv4".to_owned())
        );
        // What is written is a recording.
        let mut bytes = Vec::new();
        recording.write(&mut bytes).unwrap();
        assert_eq!(Recording::read(&bytes[..]).unwrap(), recording);
    }

    #[test]
    fn names_are_those_of_the_time() {
        let mut names = world();
        let mut ledger = Ledger::new(100);
        let (old, new) = (pod("old", "10.244.0.2", &Value::Null), pod("new", "10.244.0.2", &Value::Null));
        let flow = |to: &str| heard("10.244.0.2", to, 6, 80, &format!("{to}:80"));
        names.hear(&old);
        ledger.note(at(1), &flow("10.244.0.5"), &names);
        names.forget(&old);
        // Nobody's, and nobody comes in time.
        ledger.note(at(2), &flow("10.244.0.6"), &names);
        let late = |ledger: &mut Ledger, names: &mut Names, second, pod| {
            names.hear(pod).into_iter().for_each(|(address, id)| ledger.name(at(second), address, id));
        };
        ledger.note(at(40), &flow("10.244.0.7"), &names);
        late(&mut ledger, &mut names, 41, &new);
        ledger.note(at(42), &flow("10.244.0.7"), &names);
        // Whoever had it before is told of once more: it is not theirs any more.
        names.forget(&old);
        ledger.note(at(43), &flow("10.244.0.8"), &names);
        let (recording, _) = finish(&ledger, &names);
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let want = [
            pair("old", "10.244.0.5"),
            pair("10.244.0.2", "10.244.0.6"),
            pair("new", "10.244.0.7"),
            pair("new", "10.244.0.8"),
        ];
        assert_eq!(ends(&recording), want);
        assert_eq!(recording.flows[2].count, 2);
        // A list that does not show it.
        names.list_begins();
        names.list_ends();
        assert_eq!(names.at("10.244.0.2".parse().unwrap()), None);
    }

    #[test]
    fn what_the_node_does_itself_is_left_out() {
        let mut names = world();
        names.hear(&pod("db", "10.244.0.5", &Value::Null));
        let mut ledger = Ledger::new(100);
        for (from, to) in [
            ("10.224.0.4", "192.0.2.1"),
            ("192.0.2.1", "10.224.0.4"),
            ("127.0.0.1", "127.0.0.1"),
            ("10.224.0.4", "10.244.0.5"),
            ("192.0.2.1", "10.244.9.9"),
        ] {
            ledger.note(at(1), &heard(from, to, 6, 80, &format!("{to}:80")), &names);
        }
        let (recording, of_node) = finish(&ledger, &names);
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(ends(&recording), [pair("10.224.0.4", "db"), pair("192.0.2.1", "10.244.9.9")]);
        assert_eq!(of_node, 3);
    }
}
