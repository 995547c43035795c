//! Must catch: a recording that is read otherwise than it was written, or one that is not whole and is read all the same.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use overlane_api::policy::recording::{
    Asked, FORMAT, FlowProtocol, Header, RecordedEnd, RecordedFlow, RecordedNode, RecordedPod, RecordedPort, Recording,
    VERSION,
};
use proptest::prelude::*;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap()
}

fn address(v4: bool) -> impl Strategy<Value = IpAddr> {
    if v4 { any::<[u8; 4]>().prop_map(IpAddr::from).boxed() } else { any::<[u8; 16]>().prop_map(IpAddr::from).boxed() }
}

fn labels() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    proptest::collection::btree_map("[a-z./]{1,8}", ".{0,4}", 0..3)
}

fn pod() -> impl Strategy<Value = RecordedPod> {
    let port = ("[a-z]{1,4}", prop_oneof![Just(6_u8), Just(17), Just(132)], any::<u16>());
    let port = port.prop_map(|(name, protocol, port)| RecordedPort { name, protocol: FlowProtocol(protocol), port });
    let ports = proptest::collection::vec(port, 0..2);
    ("[a-z]{1,4}", "[a-z]{1,4}", proptest::option::of("[a-z]{1,4}"), "[a-z]{0,3}", labels(), ports).prop_map(
        |(namespace, name, workload, node, labels, ports)| RecordedPod {
            namespace,
            name,
            workload,
            node,
            labels,
            ports,
        },
    )
}

fn end(v4: bool) -> impl Strategy<Value = RecordedEnd> {
    (address(v4), proptest::option::of(pod()), proptest::option::of("[a-z]{1,4}")).prop_map(|(address, pod, node)| {
        let node = node.filter(|_| pod.is_none());
        RecordedEnd { address, pod, node }
    })
}

fn flow() -> impl Strategy<Value = RecordedFlow> {
    any::<bool>().prop_flat_map(|v4| {
        let asked = proptest::option::of((address(v4), any::<u16>()));
        let times = (0..1_i64 << 40, 0..1_i64 << 20);
        let ends = (end(v4), end(v4), any::<u8>(), any::<u16>());
        (ends, asked, 1..u64::MAX, times).prop_map(|((from, to, protocol, port), asked, count, (first, more))| {
            let protocol = FlowProtocol(protocol);
            let has = |port: u16| protocol.with_ports().map(|_| port);
            let asked = asked.map(|(address, port)| Asked { address, port: has(port) });
            RecordedFlow { from, to, protocol, port: has(port), asked, count, first: at(first), last: at(first + more) }
        })
    })
}

fn recording(flows: Vec<RecordedFlow>) -> Recording {
    let node =
        RecordedNode { labels: [("zone".into(), "a".into())].into(), addresses: vec!["10.224.0.4".parse().unwrap()] };
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        node: "node-0".to_owned(),
        started: at(1000),
        ended: at(2000),
        families: vec!["IPv4".to_owned()],
        flows: flows.len(),
        lost: 3,
        beyond: 0,
        namespaces: [("shop".to_owned(), [("team".to_owned(), "a".to_owned())].into())].into(),
        nodes: [("node-0".to_owned(), node)].into(),
    };
    Recording { header, flows }
}

fn written(recording: &Recording) -> String {
    let mut bytes = Vec::new();
    recording.write(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(flows in proptest::collection::vec(flow(), 0..6)) {
        let all = recording(flows);
        let text = written(&all);
        prop_assert_eq!(text.lines().count(), all.flows.len() + 1);
        prop_assert_eq!(Recording::read(text.as_bytes()).unwrap(), all.clone());
        // Cut anywhere, it is no recording; but for the end of the last line.
        for cut in (0..text.len() - 1).step_by(5) {
            prop_assert!(Recording::read(&text.as_bytes()[..cut]).is_err(), "{}", cut);
        }
    }

    #[test]
    fn anything_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
        prop_assert!(Recording::read(&bytes[..]).is_err());
        let behind = format!("{}{text}", written(&recording(Vec::new())));
        prop_assert_eq!(Recording::read(behind.as_bytes()).is_ok(), text.is_empty());
    }
}

#[test]
fn the_documented_one_is_read() {
    let docs = include_str!("../../../docs/policy.md");
    let lines: Vec<&str> = docs.lines().filter(|line| line.starts_with('{')).collect();
    let recording = Recording::read(lines.join("\n").as_bytes()).unwrap();
    assert_eq!(written(&recording).lines().collect::<Vec<_>>(), lines);
}

/// A flow of a pod with somebody else.
const FLOW: &str = r#"{"from":{"address":"10.244.1.2","pod":{"namespace":"shop","name":"web-0","labels":{"app":"web"}}},"to":{"address":"10.244.0.5"},"protocol":"tcp","port":5432,"count":1,"first":"2026-01-01T00:00:00Z","last":"2026-01-01T00:00:00Z"}"#;

#[test]
fn errors_name_their_line() {
    let head = |flows: usize| {
        let whole = recording(Vec::new());
        let header = Header { flows, ..whole.header };
        serde_json::to_string(&header).unwrap()
    };
    let read = |text: &str| Recording::read(text.as_bytes()).map_err(|error| error.to_string());
    let error = |text: &str| read(text).unwrap_err();
    assert_eq!(read(&format!("{}\n{FLOW}", head(1))).unwrap().flows.len(), 1, "without the last line's end");
    let flow = |old: &str, new: &str| {
        assert!(FLOW.contains(old), "{old}");
        error(&format!("{}\n{FLOW}\n{}\n", head(2), FLOW.replacen(old, new, 1)))
    };
    for (told, expected) in [
        (error(""), "nothing in it"),
        (error("\n"), "line 1: "),
        (error("{}"), "line 1: it is no recording"),
        (error(&head(0).replace("\"version\":1", "\"version\":2")), "line 1: version 2 of the format"),
        (error(&head(0).replace("\"lost\"", "\"last\"")), "line 1: unknown field `last`"),
        (error(&head(2_000_000)), "line 1: 2000000 flows are more"),
        (error(&format!("{}\n{FLOW}\n", head(2))), "ends after 1 flows, and the header says that there are 2"),
        (error(&format!("{}\n{FLOW}\n{FLOW}\n", head(1))), "line 3: the header says that there are 1 flows"),
        (error(&format!("{}\n{}\n", head(1), "x".repeat(2 << 20))), "line 2 is longer than 1048576 bytes"),
        (flow("10.244.0.5", "fd00::5"), "line 3: 10.244.1.2 and fd00::5 are not of one family"),
        (flow("10.244.0.5", "10.244.0.500"), "line 3: "),
        (flow("\"tcp\"", "\"tpc\""), "line 3: `tpc` is no protocol"),
        (flow("\"tcp\"", "\"icmp\""), "line 3: a port is what tcp, udp and sctp have"),
        (flow("\"port\":5432,", ""), "line 3: a port is what"),
        (flow("\"count\":1", "\"count\":0"), "line 3: count is 0"),
        (flow("\"first\":\"2026", "\"first\":\"2027"), "line 3: first is 2027"),
        (flow("web-0", ""), "line 3: from.pod lacks a namespace or a name"),
        (flow("\"to\":{", "\"to\":{\"pods\":1,"), "line 3: unknown field `pods`"),
    ] {
        assert!(told.contains(expected), "{told}: {expected}");
    }
}
