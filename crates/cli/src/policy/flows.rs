//! `overlane policy diff --flows`: which recorded flows another set of policies lets through, or not any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Namespace, Node, NodeAddress, Pod, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use overlane_api::policy::recording::{RecordedEnd, RecordedFlow, RecordedNode, RecordedPod, Recording};
use overlane_api::policy::{Objects, Understood};
use overlane_core::family::Family;
use overlane_core::policy::{Judge, Packet};
use serde::Serialize;

use super::explain::{Side, sentence, sides};
use super::{diff, manifests};
use crate::out::{self, Format, Style, Table, cell};

/// Rows that people are shown.
const SHOWN: usize = 100;

/// A pod's namespace and name.
type Name = (String, String);

/// What is printed for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Every flow of the recording, in its order.
    flows: Vec<Told>,
    /// How many of them flip.
    flips: usize,
    /// Of how many it cannot be told.
    unknown: usize,
    /// Flows that were not heard of when it was recorded.
    lost: u64,
    /// Different flows that there was no room for.
    beyond: u64,
}

/// What becomes of a flow.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    /// Namespace and name of a pod, else the address.
    from: String,
    to: String,
    from_address: IpAddr,
    to_address: IpAddr,
    /// `5432/tcp`, or a protocol that has no ports.
    port: String,
    /// Whom it was opened to, where that is somebody else: a Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<String>,
    count: u64,
    first: String,
    last: String,
    old: Verdict,
    new: Verdict,
    flips: bool,
}

/// What one set of policies says of a flow.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    /// `allow`, `deny`, or `unknown` where a pod is not there.
    verdict: &'static str,
    /// What each end says.
    sides: Vec<Side>,
    /// Pods that are not there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

/// Runs the command.
pub fn run(old: Objects, new: Objects, path: &Path, format: Format) -> Result<ExitCode> {
    let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    let recording = Recording::read(BufReader::new(file)).with_context(|| format!("read {}", path.display()))?;
    let report = report(old, new, &recording);
    match format {
        Format::Json => out::json(&report)?,
        Format::Table => print(&report)?,
    }
    Ok(if report.flips == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Pods are found by name in either; without any in both, they are what they were when it was recorded.
fn report(mut old: Objects, mut new: Objects, recording: &Recording) -> Report {
    diff::lend(&mut old, &new);
    diff::lend(&mut new, &old);
    let as_recorded = old.pods.is_empty() && new.pods.is_empty();
    let people = People::of(recording);
    let [before, after] = [old, new].map(|mut objects| {
        people.place(&mut objects, as_recorded);
        recording.header.nodes.iter().for_each(|(name, node)| add_node(&mut objects, name, node));
        recording.header.namespaces.iter().for_each(|(name, labels)| add_namespace(&mut objects, name, labels));
        manifests::complete(&mut objects);
        objects.understand()
    });
    let (before, after) = (Scene::new(&before), Scene::new(&after));
    let told = |flow: &RecordedFlow| tell(flow, before.verdict(flow), after.verdict(flow));
    let flows: Vec<Told> = recording.flows.iter().map(told).collect();
    let count = |is: &dyn Fn(&Told) -> bool| flows.iter().filter(|flow| is(flow)).count();
    Report {
        flips: count(&|flow| flow.flips),
        unknown: count(&Told::is_unknown),
        lost: recording.header.lost,
        beyond: recording.header.beyond,
        flows,
    }
}

fn tell(flow: &RecordedFlow, old: Verdict, new: Verdict) -> Told {
    let word = |end: &RecordedEnd| {
        end.pod.as_ref().map_or_else(|| end.address.to_string(), |pod| format!("{}/{}", pod.namespace, pod.name))
    };
    let known = ![&old, &new].iter().any(|verdict| verdict.verdict == "unknown");
    let port =
        |port: Option<u16>| port.map_or_else(|| flow.protocol.to_string(), |port| format!("{port}/{}", flow.protocol));
    Told {
        from: word(&flow.from),
        to: word(&flow.to),
        from_address: flow.from.address,
        to_address: flow.to.address,
        port: port(flow.port),
        asked: flow.asked.as_ref().map(|asked| format!("{} {}", asked.address, port(asked.port))),
        count: flow.count,
        first: flow.first.to_string(),
        last: flow.last.to_string(),
        flips: known && old.verdict != new.verdict,
        old,
        new,
    }
}

/// Those of whom a recording knows the name.
struct People<'a> {
    /// As they were last, with the addresses that they had. An address that two had in turn is the first one's.
    pods: BTreeMap<Name, (&'a RecordedPod, BTreeSet<IpAddr>)>,
    taken: BTreeSet<IpAddr>,
}

impl<'a> People<'a> {
    fn of(recording: &'a Recording) -> Self {
        let mut people = Self { pods: BTreeMap::new(), taken: BTreeSet::new() };
        for end in recording.flows.iter().flat_map(|flow| [&flow.from, &flow.to]) {
            let Some(pod) = &end.pod else { continue };
            let (state, addresses) = people.pods.entry(name_of(pod)).or_insert((pod, BTreeSet::new()));
            *state = pod;
            if people.taken.insert(end.address) {
                addresses.insert(end.address);
            }
        }
        people
    }

    /// Gives the pods that are there the addresses that they had; those of a workload stand beside it under their own names.
    fn place(&self, objects: &mut Objects, as_recorded: bool) {
        let places: BTreeMap<Name, usize> =
            objects.pods.iter().enumerate().map(|(index, pod)| (key(pod), index)).collect();
        let mut placed: BTreeMap<usize, Pod> = BTreeMap::new();
        let mut more = Vec::new();
        for (name, (pod, addresses)) in &self.pods {
            let own = places.get(name).copied();
            let workload = || places.get(&(name.0.clone(), pod.workload.clone()?)).copied();
            let found = own.or_else(workload).and_then(|index| objects.pods.get(index)).cloned();
            let Some(mut object) = found.or_else(|| as_recorded.then(|| made(pod))) else { continue };
            object.metadata.name = Some(name.1.clone());
            let spec = object.spec.get_or_insert_default();
            if spec.node_name.is_none() && !pod.node.is_empty() {
                spec.node_name = Some(pod.node.clone());
            }
            let ips = addresses.iter().map(|address| PodIP { ip: address.to_string() }).collect();
            object.status = Some(PodStatus { pod_ips: Some(ips), ..PodStatus::default() });
            match own {
                Some(index) => drop(placed.insert(index, object)),
                None => more.push(object),
            }
        }
        for (index, pod) in objects.pods.iter_mut().enumerate() {
            match placed.remove(&index) {
                Some(object) => *pod = object,
                None => self.give_up(pod),
            }
        }
        objects.pods.extend(more);
    }

    /// What a recorded pod had is not another's.
    fn give_up(&self, pod: &mut Pod) {
        let Some(status) = &mut pod.status else { return };
        let is_taken = |ip: &str| ip.parse().is_ok_and(|ip: IpAddr| self.taken.contains(&ip));
        status.pod_ip = status.pod_ip.take().filter(|ip| !is_taken(ip));
        status.pod_ips.iter_mut().for_each(|ips| ips.retain(|ip| !is_taken(&ip.ip)));
    }
}

fn name_of(pod: &RecordedPod) -> Name {
    (pod.namespace.clone(), pod.name.clone())
}

fn key(pod: &Pod) -> Name {
    let namespace = pod.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    (namespace, pod.metadata.name.clone().unwrap_or_default())
}

/// A pod as it was recorded.
fn made(pod: &RecordedPod) -> Pod {
    let ports = pod.ports.iter().map(|port| ContainerPort {
        name: Some(port.name.clone()),
        container_port: port.port.into(),
        protocol: Some(port.protocol.to_string().to_uppercase()),
        ..ContainerPort::default()
    });
    let container = Container { ports: Some(ports.collect()), ..Container::default() };
    let metadata = ObjectMeta {
        namespace: Some(pod.namespace.clone()),
        labels: Some(pod.labels.clone()),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }), status: None }
}

/// A node that manifests lack, or of which they do not say the addresses.
fn add_node(objects: &mut Objects, name: &str, node: &RecordedNode) {
    let known = objects.nodes.iter().position(|object| object.metadata.name.as_deref() == Some(name));
    let index = known.unwrap_or_else(|| {
        let (name, labels) = (Some(name.to_owned()), Some(node.labels.clone()));
        objects.nodes.push(Node { metadata: ObjectMeta { name, labels, ..ObjectMeta::default() }, ..Node::default() });
        objects.nodes.len() - 1
    });
    let Some(object) = objects.nodes.get_mut(index) else { return };
    let addresses = object.status.get_or_insert_default().addresses.get_or_insert_default();
    if addresses.is_empty() {
        let internal = |ip: &IpAddr| NodeAddress { type_: "InternalIP".to_owned(), address: ip.to_string() };
        addresses.extend(node.addresses.iter().map(internal));
    }
}

fn add_namespace(objects: &mut Objects, name: &str, labels: &BTreeMap<String, String>) {
    if !objects.namespaces.iter().any(|object| object.metadata.name.as_deref() == Some(name)) {
        let (name, labels) = (Some(name.to_owned()), Some(labels.clone()));
        let metadata = ObjectMeta { name, labels, ..ObjectMeta::default() };
        objects.namespaces.push(Namespace { metadata, ..Namespace::default() });
    }
}

/// One set of policies, and the pods that it knows.
struct Scene<'a> {
    judge: Judge<'a>,
    pods: BTreeMap<Name, Vec<IpAddr>>,
}

impl<'a> Scene<'a> {
    fn new(understood: &'a Understood) -> Self {
        let mut pods: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
        for (address, pod) in &understood.endpoints {
            pods.entry((pod.namespace.clone(), pod.name.clone())).or_default().push(*address);
        }
        Self { judge: Judge::new(&understood.world, &understood.endpoints, &understood.policies), pods }
    }

    fn verdict(&self, flow: &RecordedFlow) -> Verdict {
        let ends = [&flow.from, &flow.to];
        let [Some(from), Some(to)] = ends.map(|end| self.address(end)) else {
            let missing = ends.into_iter().filter(|end| self.address(end).is_none()).filter_map(|end| end.pod.as_ref());
            let missing = missing.map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
            return Verdict { verdict: "unknown", sides: Vec::new(), missing };
        };
        let told = self.judge.explain(&Packet { from, to, about: flow.about() });
        let verdict = if told.allowed { "allow" } else { "deny" };
        Verdict { verdict, sides: sides(&told), missing: Vec::new() }
    }

    /// An end's address here: a pod's own, if it has the one that it had; nothing if the pod is not here.
    fn address(&self, end: &RecordedEnd) -> Option<IpAddr> {
        let Some(pod) = &end.pod else { return Some(end.address) };
        let addresses = self.pods.get(&name_of(pod))?;
        let alike = |address: &&IpAddr| Family::of(address) == Family::of(&end.address);
        let same = addresses.iter().find(|address| **address == end.address);
        same.or_else(|| addresses.iter().find(alike)).copied()
    }
}

impl Told {
    fn is_unknown(&self) -> bool {
        [&self.old, &self.new].iter().any(|verdict| verdict.verdict == "unknown")
    }

    /// What changes, for people.
    fn change(&self) -> (Style, String) {
        match (self.is_unknown(), self.new.verdict) {
            (true, _) => (Style::Dim, "unknown".to_owned()),
            (false, "allow") => (Style::Good, "opens".to_owned()),
            (false, _) => (Style::Bad, "closes".to_owned()),
        }
    }

    /// What denies, or why it cannot be told.
    fn why(&self) -> String {
        let missing: BTreeSet<&String> = self.old.missing.iter().chain(&self.new.missing).collect();
        if !missing.is_empty() {
            let missing: Vec<&str> = missing.into_iter().map(String::as_str).collect();
            return format!("there is no pod {}", missing.join(", "));
        }
        let (when, verdict) = if self.new.verdict == "deny" { ("", &self.new) } else { ("was: ", &self.old) };
        let denies = verdict.sides.iter().filter(|side| !side.allowed);
        let words: Vec<String> = denies.map(|side| format!("{when}{} {}", side.direction, sentence(side))).collect();
        words.join("; ")
    }
}

fn print(report: &Report) -> Result<()> {
    out::print(&render(report, out::colours()))
}

fn render(report: &Report, colours: bool) -> String {
    let mut text = String::new();
    let flips = report.flows.iter().filter(|flow| flow.flips);
    let rows: Vec<&Told> = flips.chain(report.flows.iter().filter(|flow| flow.is_unknown())).collect();
    if !rows.is_empty() {
        let mut table = Table::new(&["FROM", "TO", "PORT", "COUNT", "CHANGE", "WHY"]);
        for told in rows.iter().take(SHOWN) {
            let to = told.asked.as_ref().map_or_else(|| told.to.clone(), |asked| format!("{} (as {asked})", told.to));
            table.row([
                cell(&told.from),
                cell(to),
                cell(&told.port),
                cell(told.count.to_string()),
                told.change(),
                cell(told.why()),
            ]);
        }
        text += &table.render(0, colours);
    }
    if rows.len() > SHOWN {
        text += &format!("and {} more: -o json has them\n", rows.len() - SHOWN);
    }
    let closing = report.flows.iter().filter(|flow| flow.flips && flow.new.verdict == "deny").count();
    text += &format!(
        "of {} recorded flows {closing} close, {} open and {} are unknown\n",
        report.flows.len(),
        report.flips - closing,
        report.unknown
    );
    if report.lost > 0 || report.beyond > 0 {
        text +=
            &format!("the recording lacks flows: {} were lost, {} there was no room for\n", report.lost, report.beyond);
    }
    text
}

#[cfg(test)]
mod tests {
    //! Must catch: a flow that flips and is not told, or one whose pod is gone that is dropped.
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;
    use crate::policy::manifests::tests::{PODS, parsed};

    const NEW: &str = "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: sql}]
  - from: [{ipBlock: {cidr: 192.0.2.0/24}}]
";

    fn pod(address: &str, name: &str) -> Value {
        let app = name.split('-').next().unwrap();
        let ports = json!([{"name": "sql", "protocol": "tcp", "port": 5432}]);
        let pod = json!({"namespace": "shop", "name": name, "workload": app, "node": "n1", "labels": {"app": app}, "ports": ports});
        json!({"address": address, "pod": pod})
    }

    fn flow(from: Value, to: Value, protocol: &str, port: Option<u16>) -> Value {
        let now = "2026-01-01T00:00:00Z";
        let mut flow = json!({"from": from, "to": to, "protocol": protocol, "count": 2, "first": now, "last": now});
        if let Some(port) = port {
            flow["port"] = port.into();
        }
        flow
    }

    fn recording(flows: &[Value]) -> Recording {
        let now = "2026-01-01T00:00:00Z";
        let header = json!({
            "format": "overlane.io/flows", "version": 1, "started": now, "ended": now, "families": ["IPv4", "IPv6"],
            "flows": flows.len(), "lost": 1, "beyond": 0, "namespaces": {"shop": {"team": "a"}},
            "nodes": {"n1": {"labels": {}, "addresses": ["10.224.0.4"]}},
        });
        let lines: Vec<String> = [&header].into_iter().chain(flows).map(|line| format!("{line}\n")).collect();
        Recording::read(lines.concat().as_bytes()).unwrap()
    }

    /// One flow of each fate: what becomes of each under old and new.
    fn fates(old: &str, new: &str, recording: &Recording) -> (Report, Vec<(&'static str, &'static str)>) {
        let report = report(parsed(old), parsed(new), recording);
        let fates = report.flows.iter().map(|flow| (flow.old.verdict, flow.new.verdict)).collect();
        (report, fates)
    }

    fn all() -> Recording {
        let (web, db) = (pod("10.244.0.2", "web"), pod("10.244.0.5", "db"));
        let plain = |address: &str| json!({"address": address});
        let node = json!({"address": "10.224.0.4", "node": "n1"});
        recording(&[
            flow(web.clone(), db.clone(), "tcp", Some(5432)),
            flow(web.clone(), db.clone(), "tcp", Some(80)),
            flow(pod("fd00::2", "web"), pod("fd00::5", "db"), "icmpv6", None),
            flow(plain("192.0.2.7"), db.clone(), "udp", Some(9)),
            flow(plain("198.51.100.7"), db.clone(), "udp", Some(9)),
            flow(node, db.clone(), "tcp", Some(8080)),
            flow(db.clone(), web, "tcp", Some(80)),
            flow(pod("10.244.0.9", "gone"), db, "tcp", Some(5432)),
        ])
    }

    const ALLOW: (&str, &str) = ("allow", "allow");
    const CLOSES: (&str, &str) = ("allow", "deny");

    #[test]
    fn what_flips_and_what_is_unknown() {
        let ports =
            PODS.replace("containers: []", "containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]");
        let (report, told) = fates(&ports, NEW, &all());
        let unknown = ("unknown", "unknown");
        assert_eq!(told, [ALLOW, CLOSES, CLOSES, ALLOW, CLOSES, ALLOW, ALLOW, unknown]);
        assert_eq!((report.flips, report.unknown, report.lost), (3, 1, 1));
        let text = render(&report, false);
        for words in [
            "shop/web      shop/db  80/tcp    2      closes   ingress isolated by NetworkPolicy shop/db, and no rule allows it",
            "198.51.100.7  shop/db  9/udp     2      closes",
            "shop/gone     shop/db  5432/tcp  2      unknown  there is no pod shop/gone",
            "of 8 recorded flows 3 close, 0 open and 1 are unknown",
            "1 were lost",
        ] {
            assert!(text.contains(words), "{text}");
        }
        let (report, told) = fates(&format!("{ports}{NEW}"), &ports, &all());
        assert_eq!((report.flips, told[1]), (3, ("deny", "allow")));
        assert!(render(&report, false).contains("opens    was: ingress isolated by"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["flows"][0]["old"]["sides"][1]["rule"], "ingress[0]");
        assert_eq!(json["flows"][7]["old"]["missing"], json!(["shop/gone"]));
    }

    #[test]
    fn without_pods_those_of_the_recording_count() {
        let (report, told) = fates("", NEW, &all());
        assert_eq!(told, [ALLOW, CLOSES, CLOSES, ALLOW, CLOSES, ALLOW, ALLOW, CLOSES]);
        assert_eq!(report.unknown, 0);
        // By labels of the namespace too.
        let by_team =
            NEW.replace("podSelector: {matchLabels: {app: web}}", "namespaceSelector: {matchLabels: {team: a}}");
        assert_eq!(fates("", &by_team, &all()).1[7], ALLOW);
    }

    #[test]
    fn a_workload_stands_for_its_pods() {
        let workload = "
kind: Deployment
apiVersion: apps/v1
metadata: {name: db, namespace: shop}
spec: {template: {metadata: {labels: {app: db}}, spec: {containers: []}}}
---
";
        let (one, two) = (pod("10.244.0.5", "db-7d-a"), pod("10.244.0.6", "db-7d-b"));
        let flows = [flow(one.clone(), two, "tcp", Some(80)), flow(one.clone(), one, "tcp", Some(80))];
        // One replica is not the other: what a pod sends itself alone is always allowed.
        assert_eq!(fates(workload, NEW, &recording(&flows)).1, [CLOSES, ALLOW]);
    }

    #[test]
    fn an_address_that_two_had_is_told_apart() {
        let (web, db) = (pod("10.244.0.5", "web"), pod("10.244.0.5", "db"));
        let outside = || json!({"address": "198.51.100.7"});
        let flows = [flow(outside(), web, "tcp", Some(80)), flow(outside(), db, "tcp", Some(80))];
        assert_eq!(fates("", NEW, &recording(&flows)).1, [ALLOW, CLOSES]);
        assert_eq!(fates(PODS, NEW, &recording(&flows)).1, [ALLOW, CLOSES]);
    }
}
