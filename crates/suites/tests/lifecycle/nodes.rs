//! Nodes that come again under an old name, and an API that has forgotten some.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use overlane_suites::api::{self, OVERLANE};
use overlane_suites::ns::unique;
use overlane_suites::runtime::Sandbox;
use overlane_suites::stream::Stream;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Lab, NodeHandle, Ns, books, clean, ip, nft, packet};
use serde_json::json;

use crate::{added, mesh, routed, same_family};

/// Blocks by node, as NodeNetworkConfigs say; each block once.
fn blocks(lab: &Lab) -> BTreeMap<String, Vec<String>> {
    let all: BTreeMap<String, Vec<String>> =
        lab.nodes().into_iter().map(|n| (n.name.clone(), lab.api.blocks(&n.name))).collect();
    let flat: Vec<&String> = all.values().flatten().collect();
    let set: BTreeSet<&String> = flat.iter().copied().collect();
    assert_eq!(flat.len(), set.len(), "a block with two owners: {all:?}");
    all
}

#[test]
fn a_new_machine_under_an_old_name_gets_a_fresh_block() {
    let lab = Lab::up(&["--nodes", "3"]);
    let before = blocks(&lab);
    let (first, second) = (added(&lab.node(0).runtime()), added(&lab.node(1).runtime()));
    let stream = Stream::start(&first.net.ns, &second.net.ns, second.ips()[0], millis(2));
    let old_uid = api::uid_of(&lab.api.node("node-2"));
    lab.remove_node("node-2", false);
    eventually(secs(10), "withdrawal of the dead node's routes", || {
        before["node-2"].iter().try_for_each(|block| routed(&lab.node(0), block, None))
    });
    lab.control(&json!({"op": "add-node", "number": 2}));
    eventually(secs(10), "another Node of the name", || {
        let found = lab.api.find("/api/v1/nodes/node-2");
        ensure(found.is_some_and(|node| api::uid_of(&node) != old_uid), || "not there".to_owned())
    });
    let node = lab.node_named("node-2");
    node.agent_ready();
    let after = blocks(&lab);
    assert!(after["node-2"].iter().all(|b| !before["node-2"].contains(b)), "{before:?} -> {after:?}");
    assert_eq!((&after["node-0"], &after["node-1"]), (&before["node-0"], &before["node-1"]));
    // The old block waits, by name, for its hold-down to pass.
    for block in &before["node-2"] {
        let all = lab.api.list(&format!("{OVERLANE}/nodeblocks"));
        let claim =
            all.iter().find(|b| b["spec"]["cidr"] == block.as_str()).unwrap_or_else(|| panic!("{block} is gone"));
        assert!(claim["spec"]["releasedAt"].is_string(), "{claim}");
    }
    for other in [lab.node(0), lab.node(1)] {
        for block in &after["node-2"] {
            let via = same_family(&node.ips(), block.split('/').next().unwrap().parse().unwrap());
            eventually(secs(5), "a route to the new block", || routed(&other, block, Some(via)));
        }
        before["node-2"].iter().for_each(|block| routed(&other, block, None).unwrap());
    }
    let third = added(&node.runtime());
    mesh(&[&first, &second, &third], secs(5));
    let report = stream.finish();
    assert_eq!(report.lost(), 0, "between the other two nodes: {report:?}");
}

#[test]
fn a_node_object_made_again_keeps_block_and_pods() {
    let lab = Lab::up(&["--nodes", "2"]);
    let before = blocks(&lab);
    let (first, second) = (added(&lab.node(0).runtime()), added(&lab.node(1).runtime()));
    let beside = added(&lab.node(1).runtime());
    let across = Stream::start(&first.net.ns, &second.net.ns, second.ips()[0], millis(2));
    let within = Stream::start(&beside.net.ns, &second.net.ns, second.ips()[1], millis(2));
    for round in 0..2 {
        let node = lab.api.node("node-1");
        lab.api.delete("/api/v1/nodes/node-1");
        std::thread::sleep(millis(300 + 1500 * round));
        // The kubelet, or whoever comes first, registers the node again.
        lab.control(&json!({"op": "kubelet", "node": "node-1", "up": false}));
        lab.control(&json!({"op": "kubelet", "node": "node-1", "up": true}));
        eventually(secs(20), "the node's block under its new UID", || {
            let now = lab.api.find("/api/v1/nodes/node-1").unwrap_or_default();
            let uid = api::uid_of(&now);
            ensure(!uid.is_empty() && uid != api::uid_of(&node), || format!("uid {uid}"))?;
            let claims = lab.api.list(&format!("{OVERLANE}/nodeblocks"));
            for block in &before["node-1"] {
                let claim = claims.iter().find(|c| c["spec"]["cidr"] == block.as_str()).ok_or(format!("no {block}"))?;
                ensure(claim["spec"]["nodeUID"] == uid.as_str() && claim["spec"]["releasedAt"].is_null(), || {
                    claim.to_string()
                })?;
            }
            // A real API server takes the old one away, if that is quicker than the controller.
            let config = lab.api.nnc("node-1").unwrap_or_default();
            let owner = &config["metadata"]["ownerReferences"][0]["uid"];
            ensure(*owner == uid.as_str(), || format!("NodeNetworkConfig of {owner}, not of {uid}"))?;
            ensure(lab.api.blocks("node-1") == before["node-1"], || format!("{:?}", lab.api.blocks("node-1")))
        });
    }
    assert_eq!(blocks(&lab), before);
    mesh(&[&first, &second, &beside], secs(10));
    let (across, within) = (across.finish(), within.finish());
    // A node that is gone loses its routes everywhere at once, so what other nodes send meanwhile has no way.
    println!("while the Node object was gone: across nodes {across:?}, within the node {within:?}");
    assert_eq!(within.lost(), 0, "{within:?}");
    lab.node(1).agent_ready();
    let fresh = added(&lab.node(1).runtime());
    mesh(&[&first, &fresh], secs(5));
}

#[test]
fn an_api_restored_from_before_ten_nodes_takes_no_block_away() {
    let lab = Lab::up(&["--nodes", "2"]);
    let file = std::env::temp_dir().join(format!("{}.snapshot", unique(clean::PREFIX)));
    lab.control(&json!({"op": "snapshot", "file": file}));
    for _ in 0..10 {
        lab.add_node();
    }
    let nodes = lab.nodes();
    assert_eq!(nodes.len(), 12);
    nodes.iter().for_each(NodeHandle::agent_ready);
    let before = blocks(&lab);
    let mut sandboxes: Vec<Sandbox> = nodes.iter().map(|n| added(&n.runtime())).collect();
    // Half of the ten have pods, half have none: only the former have something to lose.
    for (node, sandbox) in nodes.iter().zip(&sandboxes).filter(|(n, _)| n.name.ends_with(['3', '5', '7', '9'])) {
        node.runtime().del(sandbox).must();
    }
    sandboxes.retain(|s| !ip::global_addresses(&s.net.ns).is_empty());
    let held: BTreeMap<&String, &Vec<String>> =
        before.iter().filter(|(name, _)| !name.ends_with(['3', '5', '7', '9'])).collect();
    let probe = Stream::start(&sandboxes[0].net.ns, &sandboxes[1].net.ns, sandboxes[1].ips()[0], millis(5));
    lab.control(&json!({"op": "restore", "file": file}));
    let _ = std::fs::remove_file(&file);
    // A newcomer asks for a block at once, while the ten are still to be heard of.
    let newcomer = lab.add_node();
    for node in &nodes[2..] {
        lab.control(&json!({"op": "kubelet", "node": node.name, "up": false}));
        lab.control(&json!({"op": "kubelet", "node": node.name, "up": true}));
    }
    eventually(secs(60), "blocks of all thirteen", || {
        let now = lab.api.node_names();
        ensure(now.len() == 13, || format!("{now:?}"))?;
        now.iter().try_for_each(|n| ensure(lab.api.blocks(n).len() == 2, || format!("{n} has {:?}", lab.api.blocks(n))))
    });
    let after = blocks(&lab);
    for (name, had) in held {
        assert_eq!(&after[name], had, "{name} had pods and keeps its block; {newcomer} has {:?}", after[&newcomer]);
    }
    lab.node_named(&newcomer).agent_ready();
    let last = added(&lab.node_named(&newcomer).runtime());
    sandboxes.push(last);
    let names: Vec<(String, Ns)> = sandboxes.iter().map(|s| (s.pod.clone(), s.net.ns.clone())).collect();
    assert!(books::doubled(&names).is_empty());
    mesh(&sandboxes.iter().collect::<Vec<_>>(), secs(30));
    let report = probe.finish();
    assert_eq!(report.lost(), 0, "between two nodes that the snapshot knew: {report:?}");
}

#[test]
fn a_block_given_to_another_takes_its_pods_off_the_network() {
    let lab = Lab::up(&["--nodes", "3"]);
    let (winner, loser, third) = (lab.node(0), lab.node(1), lab.node(2));
    let (old, far) = (added(&loser.runtime()), added(&third.runtime()));
    mesh(&[&old, &far], secs(5));
    // No controller does such a thing; a restored or doubled one might.
    lab.control(&json!({"op": "program", "program": "controller-0", "action": "down"}));
    let path = |node: &NodeHandle| format!("{OVERLANE}/namespaces/kube-system/nodenetworkconfigs/{}", node.name);
    let lost = lab.api.nnc(&loser.name).unwrap()["status"]["networkContainers"].clone();
    let mut containers = lab.api.nnc(&winner.name).unwrap()["status"]["networkContainers"].as_array().unwrap().clone();
    for (entry, given) in containers.iter_mut().zip(lost.as_array().unwrap()) {
        entry["primaryIP"] = given["primaryIP"].clone();
        entry["id"] = given["id"].clone();
    }
    let none = json!({"status": {"networkContainers": []}});
    lab.api.merge(&format!("{}/status", path(&loser)), &none);
    let given = json!({"status": {"networkContainers": containers}});
    lab.api.merge(&format!("{}/status", path(&winner)), &given);
    eventually(secs(15), "the former owner's pods off the network", || {
        let elements = nft::pod_elements(&loser.ns);
        ensure(!elements.iter().any(|e| old.ips().iter().any(|ip| e.ends_with(&ip.to_string()))), || {
            format!("{elements:?}")
        })
    });
    for to in far.ips() {
        assert!(
            packet::ping(&old.net.ns, to, 56, millis(500)).is_err(),
            "a pod of a block that is another's reaches {to}"
        );
    }
    eventually(secs(10), "that the agent says so", || {
        ensure(loser.metric("overlane_leases_cut", "") >= 1.0, || "overlane_leases_cut is 0".into())
    });
    // No address to give, and pods that run are cut off.
    loser.runtime().status().refused(51);
    let next = eventually(secs(15), "an ADD from the block on the node that has it", || {
        let mut sandbox = Sandbox::new();
        let answer = winner.runtime().add(&mut sandbox);
        let moved = sandbox.ips().iter().any(|ip| old.ips().iter().any(|o| prefix(o) == prefix(ip)));
        if answer.out.ok() && moved { Ok(sandbox) } else { Err(answer.out.to_string()) }
    });
    mesh(&[&next, &far], secs(10));
    loser.runtime().del(&old).must();
}

/// All of an address but its last group.
fn prefix(ip: &IpAddr) -> String {
    let text = ip.to_string();
    text.rsplit_once(['.', ':']).map(|(head, _)| head.to_owned()).unwrap_or_default()
}
