//! A running cluster gets a larger pod CIDR, and gives it back.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use overlane_suites::api::OVERLANE;
use overlane_suites::exec::Out;
use overlane_suites::probe::{self, Witness};
use overlane_suites::runtime::Sandbox;
use overlane_suites::stream::Stream;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Lab, NodeHandle, ip, lab, nft};
use serde_json::Value;

use crate::{added, mesh, same_family};

/// Families, pod CIDRs of four nodes, and larger ones.
const GROWTH: [(&str, &str, &str); 3] = [
    ("ipv4", "10.244.0.0/22", "10.244.0.0/20"),
    ("ipv6", "fd12:3456:789a::/78", "fd12:3456:789a::/76"),
    ("ipv4,ipv6", "10.244.0.0/22,fd12:3456:789a::/78", "10.244.0.0/20,fd12:3456:789a::/76"),
];

/// These take turns: packets that a busy machine loses are no fault of a cluster.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn up(families: &str, pods: &str, nodes: &str) -> Lab {
    Lab::up(&["--nodes", nodes, "--ip-families", families, "--pod-cidrs", pods])
}

fn update(lab: &Lab, words: &[&str]) -> Out {
    let mut all = vec!["cluster", "update", "--name", &lab.name, "-o", "json"];
    all.extend(words);
    lab::overlane(&all)
}

fn said(out: &Out) -> Value {
    serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// Whether the node's kernel has these pod CIDRs and none of those.
fn carries(node: &NodeHandle, new: &str, old: &str) -> Result<(), String> {
    let (nft, routes) = (nft::own_text(&node.ns), ip::snapshot(&node.ns));
    let has = |text: &str, cidr: &str| text.split_whitespace().any(|word| word.trim_matches(['"', ',']) == cidr);
    for cidr in new.split(',') {
        ensure(has(&nft, cidr) && has(&routes, cidr), || format!("{}: no {cidr} in nft or routes", node.name))?;
    }
    for cidr in old.split(',').filter(|cidr| !new.contains(cidr)) {
        ensure(!has(&nft, cidr) && !has(&routes, cidr), || format!("{}: still {cidr} in nft or routes", node.name))?;
    }
    Ok(())
}

/// What the documents' command prints.
fn spaces(lab: &Lab) -> Vec<String> {
    let configs = lab.api.list(&format!("{OVERLANE}/namespaces/kube-system/nodenetworkconfigs"));
    let spaces = |config: &Value| {
        let containers = config["status"]["networkContainers"].as_array().cloned().unwrap_or_default();
        let spaces: Vec<String> =
            containers.iter().map(|c| c["subnetAddressSpace"].as_str().unwrap_or_default().to_owned()).collect();
        spaces.join(",")
    };
    configs.iter().map(spaces).collect()
}

/// A thousand packets a second among all of them, each to each other, every family.
fn streams(pods: &[Sandbox]) -> Vec<Stream> {
    let others = |from: &Sandbox| pods.iter().filter(|into| into.pod != from.pod).count();
    let count: usize = pods.iter().map(|from| others(from) * from.ips().len()).sum();
    let every = millis(u64::try_from(count).unwrap());
    let mut streams = Vec::new();
    for from in pods {
        for into in pods.iter().filter(|into| into.pod != from.pod) {
            let to = into.ips();
            streams.extend(to.iter().map(|to| Stream::start(&from.net.ns, &into.net.ns, *to, every)));
        }
    }
    streams
}

#[test]
fn a_larger_pod_cidr_reaches_every_node_and_no_packet_is_lost() {
    let _turn = turn();
    for (families, old, new) in GROWTH {
        let lab = up(families, old, "3");
        let pods: Vec<Sandbox> = lab.nodes().iter().map(|node| added(&node.runtime())).collect();
        let running = streams(&pods);
        let out = update(&lab, &["--pod-cidrs", new]).must();
        let report = said(&out);
        assert!(
            report["done"] == true && report["changed"] == true && report["behind"] == serde_json::json!([]),
            "{out}"
        );
        for node in lab.nodes() {
            carries(&node, new, old).unwrap();
        }
        assert_eq!(spaces(&lab), [new; 3], "the command said that it is done");
        // Blocks of the new space: the fourth is the last of the old one.
        let more: Vec<NodeHandle> = (0..2).map(|_| ready(&lab)).collect();
        let newest = &more[1];
        let pod = added(&newest.runtime());
        let block = |text: &str| text.starts_with("10.244.4.") || text.starts_with("fd12:3456:789a:0:4:");
        assert!(pod.ips().iter().all(|ip| block(&ip.to_string())), "{:?}", pod.ips());
        mesh(&[&pods[0], &pods[2], &pod], secs(10));
        // They are seen as what they are, both ways.
        for (from, into) in [(&pods[0], &pod), (&pod, &pods[0])] {
            for to in into.ips() {
                seen_as_itself(from, into, to);
            }
        }
        for stream in running {
            let report = stream.finish();
            assert_eq!(report.lost(), 0, "{families}: {report:?}");
        }
        let back = update(&lab, &["--rollback"]);
        assert_eq!(back.code, Some(1), "{back}");
        assert_eq!(said(&back)["findings"][0]["rule"], "pod-cidr-in-use", "{back}");
        assert_eq!(spaces(&lab), [new; 5], "nothing was changed");
    }
}

/// Another node, once it has its blocks.
fn ready(lab: &Lab) -> NodeHandle {
    let node = lab.node_named(&lab.add_node());
    // How fast that is is no matter here, and the machine has streams to carry.
    eventually(secs(90), &format!("the agent of {}", node.name), || {
        let reply = node.page("/readyz").map_err(|e| e.to_string())?;
        ensure(reply.status == 200, || reply.text())
    });
    node
}

fn seen_as_itself(from: &Sandbox, into: &Sandbox, to: std::net::IpAddr) {
    let port = probe::port();
    let witness = Witness::new(&into.net.ns, to, port);
    let own = same_family(&from.ips(), to);
    eventually(secs(5), "a packet arrives", || {
        probe::fire(&from.net.ns, (to, port).into(), None, "who", 1);
        let seen = witness.seen();
        ensure(!seen.is_empty() && seen.iter().all(|seen| seen.peer.ip() == own), || format!("{seen:?}, not {own}"))
    });
}

#[test]
fn it_is_taken_back() {
    let _turn = turn();
    for (families, old, new) in GROWTH {
        let lab = up(families, old, "2");
        let pods: Vec<Sandbox> = lab.nodes().iter().map(|node| added(&node.runtime())).collect();
        let view = || -> Vec<String> {
            lab.nodes().iter().map(|node| format!("{}\n{}", ip::snapshot(&node.ns), nft::own_text(&node.ns))).collect()
        };
        let before = view();
        let running = streams(&pods);
        let nothing = update(&lab, &["--rollback"]);
        assert!(nothing.code == Some(2) && nothing.stderr.contains("no expansion"), "{nothing}");
        let foretold = said(&update(&lab, &["--pod-cidrs", new, "--dry-run"]).must());
        assert!(foretold["changed"] == false && view() == before, "{foretold}");
        update(&lab, &["--pod-cidrs", new]).must();
        assert_ne!(view(), before);
        let again = said(&update(&lab, &["--pod-cidrs", new]).must());
        assert!(again["changed"] == false && again["done"] == true, "{again}");
        // Cut off in the middle, the same command goes on.
        update(&lab, &["--rollback", "--no-wait"]).must();
        let back = said(&update(&lab, &["--rollback"]).must());
        assert_eq!(back["done"], true, "{back}");
        assert_eq!(spaces(&lab), [old; 2]);
        let over = update(&lab, &["--rollback"]);
        assert!(over.code == Some(2) && over.stderr.contains("no expansion"), "{over}");
        eventually(secs(5), "all is as before", || {
            let now = view();
            ensure(now == before, || format!("{now:#?}\nbefore: {before:#?}"))
        });
        for stream in running {
            let report = stream.finish();
            assert_eq!(report.lost(), 0, "{families}: {report:?}");
        }
    }
}

#[test]
fn a_node_that_is_not_reached_catches_up_and_what_was_interrupted_goes_on() {
    let _turn = turn();
    let (families, old, new) = GROWTH[2];
    let lab = up(families, old, "3");
    let pods: Vec<Sandbox> = lab.nodes().iter().map(|node| added(&node.runtime())).collect();
    let running = streams(&pods[1..]);
    let late = lab.node(0);
    let agent = late.take_agent();
    late.agent_ready();
    agent.kill();
    // The command ends in the middle, by force.
    let mut command = lab::cli(&["cluster", "update", "--name", &lab.name, "--pod-cidrs", new]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    eventually(secs(10), "the others have it", || lab.nodes()[1..].iter().try_for_each(|node| carries(node, new, old)));
    child.kill().unwrap();
    child.wait().unwrap();
    carries(&late, old, new).unwrap();
    let out = update(&lab, &["--pod-cidrs", new, "--timeout", "2"]);
    assert_eq!(out.code, Some(1), "{out}");
    assert_eq!(said(&out)["behind"], serde_json::json!([late.name]), "{out}");
    // A controller that comes anew knows how far it was.
    lab.cli("program", &["controller-0", "restart"]).must();
    agent.start();
    late.agent_ready();
    let out = update(&lab, &["--pod-cidrs", new]).must();
    assert!(said(&out)["done"] == true && said(&out)["changed"] == false, "{out}");
    carries(&late, new, old).unwrap();
    mesh(&pods.iter().collect::<Vec<_>>(), Duration::from_secs(10));
    for stream in running {
        let report = stream.finish();
        assert_eq!(report.lost(), 0, "{report:?}");
    }
}

#[test]
fn a_family_is_added_in_place() {
    let _turn = turn();
    for (one, both, nodes) in [("ipv4", "ipv4,ipv6", "ipv4,ipv6"), ("ipv6", "ipv6,ipv4", "ipv6,ipv4")] {
        let lab = Lab::up(&["--nodes", "2", "--ip-families", one, "--node-families", nodes]);
        let pods: Vec<Sandbox> = lab.nodes().iter().map(|node| added(&node.runtime())).collect();
        let node_spec =
            |number: usize| lab.api.get(&format!("/api/v1/nodes/node-{number}"))["spec"]["podCIDRs"].clone();
        let before = [node_spec(0), node_spec(1)];
        let running = streams(&pods);
        let agent = lab.node(0).take_agent();
        lab.node(0).agent_ready();
        let out = update(&lab, &["--ip-families", both]).must();
        assert!(said(&out)["done"] == true && said(&out)["changed"] == true, "{out}");
        for pod in &pods {
            assert_eq!(pod.ips().len(), 1, "pods that run keep what they have");
        }
        let new: Vec<Sandbox> = lab.nodes().iter().map(|node| added(&node.runtime())).collect();
        for pod in &new {
            let host = |ip: &std::net::IpAddr| ip.to_string().rsplit(['.', ':']).next().map(str::to_owned);
            assert_eq!(pod.ips().len(), 2, "{:?}", pod.ips());
            assert_eq!(pod.ips()[0].is_ipv4(), one == "ipv4", "the primary family stays: {:?}", pod.ips());
            assert_eq!(host(&pod.ips()[0]), host(&pod.ips()[1]), "one index, one offset");
        }
        mesh(&[&new[0], &new[1]], secs(10));
        for to in pods[1].ips() {
            seen_as_itself(&new[0], &pods[1], to);
        }
        for to in new[1].ips() {
            seen_as_itself(&new[0], &new[1], to);
        }
        assert_eq!([node_spec(0), node_spec(1)], before, "that is set once");
        // Nothing of it is lost by who comes anew.
        agent.kill();
        agent.start();
        lab.node(0).agent_ready();
        lab.cli("program", &["controller-0", "restart"]).must();
        mesh(&[&new[0], &new[1]], secs(10));
        let third = added(&lab.node(0).runtime());
        assert_eq!(third.ips().len(), 2, "{:?}", third.ips());
        let again = said(&update(&lab, &["--ip-families", both]).must());
        assert!(again["changed"] == false && again["done"] == true, "{again}");
        for stream in running {
            let report = stream.finish();
            assert_eq!(report.lost(), 0, "{one}: {report:?}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let lab = up("ipv4,ipv6", "10.244.0.0/22,fd12:3456:789a::/78", "2");
    let path = format!("{OVERLANE}/clusternetworks/default");
    let before = lab.api.get(&path);
    for (words, rule) in [
        (&["--pod-cidr", "10.244.0.0/23"][..], "pod-cidr-shrinks"),
        (&["--pod-cidr", "10.240.0.0/12"], "pod-cidr-base"),
        (&["--pod-cidr", "10.245.0.0/16"], "pod-cidr-discontiguous"),
        (&["--pod-cidr", "10.244.0.0/20", "--peered-cidr", "10.244.8.0/24"], "overlap-peered"),
        (&["--pod-cidr", "0.0.0.0/0"], "reserved-range"),
        (&["--pod-cidr", "fd12:3456:789a::/60"], "overlap"),
        (&["--pod-cidr", "ten"], "cidr-syntax"),
    ] {
        let out = update(&lab, words);
        let rules = said(&out)["findings"].as_array().cloned().unwrap_or_default();
        assert!(out.code == Some(1) && rules.iter().any(|found| found["rule"] == rule), "{words:?}: {out}");
    }
    let after = lab.api.get(&path);
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    // Past the command, the controller refuses it too.
    let merge = |cidr: &str| {
        let patch = serde_json::json!({"spec": {"podCIDRs": [cidr, "fd12:3456:789a::/78"]}});
        lab.api.merge(&path, &patch);
        eventually(secs(10), "it is refused", || {
            let status = lab.api.get(&path)["status"].clone();
            let refused = status["conditions"].to_string().contains("\"Refused\"");
            ensure(refused && status["applied"]["podCIDRs"][0] == "10.244.0.0/22", || status.to_string())
        });
    };
    merge("10.240.0.0/12");
    let shown = lab::overlane(&["cluster", "show", "--name", &lab.name]).must();
    assert!(shown.stdout.contains("pod-cidr-base"), "{shown}");
    // What the controller refuses for something else is taken back by the command.
    let spec = serde_json::json!({"spec": {"podCIDRs": ["10.244.0.0/22", "fd12:3456:789a::/78"], "maxPods": 5}});
    lab.api.merge(&path, &spec);
    let out = update(&lab, &["--pod-cidr", "10.244.0.0/20"]);
    assert!(out.code == Some(1) && said(&out)["refused"].to_string().contains("maxPods"), "{out}");
    let after = lab.api.get(&path);
    assert!(after["spec"]["podCIDRs"][0] == "10.244.0.0/22" && after["spec"]["maxPods"] == 5, "{after}");
    assert!(after["metadata"]["annotations"]["overlane.io/pod-cidrs-before"].is_null(), "{after}");
}
