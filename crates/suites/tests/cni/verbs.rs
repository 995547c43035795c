//! What each verb makes, answers and refuses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use overlane_suites::runtime::Sandbox;
use overlane_suites::wait::{ensure, eventually, secs};
use overlane_suites::{NodeHandle, books, ip};
use serde_json::{Value, json};

use crate::{lab, live, node, settled};

#[test]
fn add_makes_what_its_result_says() {
    let (_lock, node) = node(0);
    let mut runtime = node.runtime();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        runtime.version = version.to_owned();
        let mut sandbox = Sandbox::new();
        let result = runtime.add(&mut sandbox).must().json.expect("a result");
        judge_result(&result, version, &sandbox);
        judge_kernel(&node, &sandbox);
        settled(&node, &[&sandbox]);
        books::reachable(&node.ns, &[live(&sandbox)], secs(2));
        if version != "0.3.1" {
            runtime.check(&sandbox).must();
        }
        let gone = runtime.del(&sandbox).must();
        assert!(gone.out.stdout.trim().is_empty(), "DEL prints nothing on success: {}", gone.out);
        settled(&node, &[]);
    }
}

pub fn judge_result(result: &Value, version: &str, sandbox: &Sandbox) {
    assert_eq!(result["cniVersion"], version);
    let interfaces = result["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 2, "{result}");
    let ips = result["ips"].as_array().unwrap();
    assert_eq!(ips.len(), 2, "one address a family: {result}");
    for (ip, family) in ips.iter().zip(["4", "6"]) {
        let index = usize::try_from(ip["interface"].as_u64().expect("an interface index")).unwrap();
        assert_eq!(interfaces[index]["name"], "eth0", "{result}");
        assert_eq!(interfaces[index]["sandbox"], sandbox.net.path().to_str().unwrap(), "{result}");
        let address = ip["address"].as_str().unwrap();
        assert!(address.contains('/'), "a CIDR: {address}");
        assert_eq!(address.contains(':'), family == "6", "the cluster's order of families: {result}");
        // Version 1.0.0 of the specification took the field away.
        let old = version.starts_with("0.");
        assert_eq!(ip["version"].as_str(), old.then_some(family), "{result}");
    }
    if version != "1.1.0" {
        assert!(interfaces.iter().all(|i| i["mtu"].is_null()), "mtu came with 1.1.0: {result}");
    }
    let routes = result["routes"].as_array().unwrap();
    for default in ["0.0.0.0/0", "::/0"] {
        assert!(routes.iter().any(|r| r["dst"] == default), "no route {default}: {result}");
    }
    assert!(result["dns"].is_object(), "{result}");
}

fn judge_kernel(node: &NodeHandle, sandbox: &Sandbox) {
    let name = sandbox.host_link();
    assert_eq!(name.len(), 15, "{name}");
    assert!(name.starts_with(ip::POD_LINK), "{name}");
    let host = ip::link(&node.ns, &name).expect("the host's side");
    let pod = ip::link(&sandbox.net.ns, "eth0").expect("the pod's side");
    assert_eq!(host.mac, "02:6f:76:6c:00:01");
    assert_eq!(pod.mac, sandbox.mac());
    assert_ne!(pod.mac, host.mac);
    assert!(host.up && pod.up);
    assert_eq!(host.mtu, pod.mtu);
    assert_eq!(host.alias, format!("overlane:suite/{}:{}", sandbox.pod, sandbox.id));
    let inside = ip::addresses(&sandbox.net.ns);
    let mut global: Vec<(IpAddr, u64)> = inside.iter().filter(|a| a.dev == "eth0").map(|a| (a.ip, a.prefix)).collect();
    global.sort();
    let mut wanted: Vec<(IpAddr, u64)> =
        sandbox.ips().into_iter().map(|ip| (ip, if ip.is_ipv4() { 32 } else { 128 })).collect();
    wanted.sort();
    assert_eq!(global, wanted, "addresses of eth0, no link-local among them");
    let on_host: Vec<_> = ip::addresses(&node.ns).into_iter().filter(|a| a.dev == name).collect();
    assert!(on_host.is_empty(), "the host's side needs no address: {on_host:?}");
    for (family, via) in [("-4", "169.254.1.1"), ("-6", "fe80::1")] {
        let routes = ip::family_routes(&sandbox.net.ns, family, "main");
        assert!(routes.iter().any(|r| r.dst == "default" && r.gateway == via), "{routes:?}");
        let neighbours = ip::neighbours(&sandbox.net.ns);
        let gateway = neighbours.iter().find(|n| n.ip.to_string() == via).expect("a neighbour for the gateway");
        assert!(gateway.permanent && gateway.mac == host.mac, "{gateway:?}");
    }
    for route in ip::routes(&node.ns, ip::TABLE).iter().filter(|r| r.dev == name) {
        assert_eq!(route.proto, ip::PROTO, "{route:?}");
        let source: IpAddr = route.source.parse().expect("a preferred source");
        assert!(node.ips().contains(&source), "{route:?}");
    }
}

#[test]
fn versions_are_negotiated() {
    let (_lock, node) = node(0);
    let mut runtime = node.runtime();
    for asked in ["0.3.1", "1.0.0", "1.1.0"] {
        let answer = runtime.call(runtime.command("VERSION", None), &json!({"cniVersion": asked}).to_string()).must();
        let json = answer.json.expect("JSON");
        let supported: BTreeSet<&str> =
            json["supportedVersions"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            assert!(supported.contains(version), "{json}");
        }
        assert_eq!(json["cniVersion"], asked, "VERSION answers in the version that it was asked in");
    }
    for foreign in ["0.1.0", "2.0.0", "x", ""] {
        runtime.version = foreign.to_owned();
        let mut sandbox = Sandbox::new();
        let answer = runtime.add(&mut sandbox);
        // An empty version is read as 0.1.0 by libcni; a word that is no version may count as bad JSON content.
        assert!(matches!(answer.code(), Some(1 | 6 | 7)), "version {foreign:?}: {}", answer.out);
    }
    settled(&node, &[]);
}

#[test]
fn conflist_is_as_promised() {
    let (_lock, node) = node(0);
    let text = std::fs::read_to_string(node.cni_dir.join("05-overlane.conflist")).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["cniVersion"], "1.0.0");
    let versions = list["cniVersions"].as_array().expect("cniVersions");
    assert!(versions.iter().any(|v| v == "1.1.0"), "{text}");
    let others: Vec<_> = std::fs::read_dir(&node.cni_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(others.len(), 1, "nothing but the conflist, no temporary file: {others:?}");
}

/// A runtime calls as soon as it sees the file.
#[test]
fn the_conflist_is_written_last() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let agent = node.take_agent();
    let file = node.cni_dir.join("05-overlane.conflist");
    for _ in 0..5 {
        agent.kill();
        std::fs::remove_file(&file).unwrap();
        // Nothing of an earlier agent may make it look ready.
        node.ns.must("nft delete table inet overlane");
        let mut sandbox = Sandbox::new();
        agent.launch();
        let began = std::time::Instant::now();
        while !file.exists() {
            assert!(began.elapsed() < secs(20), "no conflist: {}", agent.log());
            std::hint::spin_loop();
        }
        runtime.status().must();
        runtime.add(&mut sandbox).must();
        books::reachable(&node.ns, &[live(&sandbox)], secs(2));
        runtime.del(&sandbox).must();
    }
    drop(agent);
    node.agent_ready();
}

#[test]
fn del_always_succeeds() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut twice = Sandbox::new();
    runtime.add(&mut twice).must();
    runtime.del(&twice).must();
    runtime.del(&twice).must();
    runtime.del(&Sandbox::new()).must();
    // The runtime lost the namespace, its path or both.
    let mut gone = Sandbox::new();
    runtime.add(&mut gone).must();
    gone.net.unmount();
    runtime.del(&gone).must();
    let mut unnamed = Sandbox::new();
    runtime.add(&mut unnamed).must();
    let mut command = runtime.command("DEL", Some(&unnamed));
    command.env_remove("CNI_NETNS");
    runtime.call(command, &runtime.config(&json!({})).to_string()).must();
    // Somebody removed the link before.
    let mut bare = Sandbox::new();
    runtime.add(&mut bare).must();
    node.ns.sh(&["ip", "link", "del", &bare.host_link()]);
    runtime.del(&bare).must();
    settled(&node, &[]);
}

#[test]
fn del_leaves_other_interfaces_of_the_pod() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    runtime.add(&mut sandbox).must();
    sandbox.net.ns.must("ip link add keep0 type veth peer name keep1");
    runtime.del(&sandbox).must();
    eventually(secs(5), "end of eth0", || ensure(ip::link(&sandbox.net.ns, "eth0").is_none(), || "still there".into()));
    assert!(ip::link(&sandbox.net.ns, "keep0").is_some());
    settled(&node, &[]);
}

#[test]
fn gc_ends_what_the_runtime_does_not_name() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut sandboxes: Vec<Sandbox> = (0..4).map(|_| Sandbox::new()).collect();
    for sandbox in &mut sandboxes {
        runtime.add(sandbox).must();
    }
    runtime.gc(&sandboxes.iter().collect::<Vec<_>>()).must();
    settled(&node, &sandboxes.iter().collect::<Vec<_>>());
    runtime.gc(&[&sandboxes[1], &sandboxes[3]]).must();
    settled(&node, &[&sandboxes[1], &sandboxes[3]]);
    // Another network's list says nothing about ours.
    let mut other = runtime.clone();
    other.network = "somebody-else".to_owned();
    other.gc(&[]);
    settled(&node, &[&sandboxes[1], &sandboxes[3]]);
    books::reachable(&node.ns, &[live(&sandboxes[1]), live(&sandboxes[3])], secs(2));
    runtime.gc(&[]).must();
    settled(&node, &[]);
}

#[test]
fn many_at_once() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut sandboxes: Vec<Sandbox> = (0..40).map(|_| Sandbox::new()).collect();
    std::thread::scope(|scope| {
        for chunk in sandboxes.chunks_mut(4) {
            scope.spawn(|| {
                chunk.iter_mut().for_each(|s| {
                    runtime.add(s).must();
                })
            });
        }
    });
    let all: Vec<&Sandbox> = sandboxes.iter().collect();
    settled(&node, &all);
    for sandbox in &sandboxes {
        let ips = sandbox.ips();
        let IpAddr::V4(v4) = ips[0] else { panic!("{ips:?}") };
        let IpAddr::V6(v6) = ips[1] else { panic!("{ips:?}") };
        assert_eq!(u64::from(v4.octets()[3]), u64::from(v6.segments()[7]), "the same offset in both families: {ips:?}");
    }
    std::thread::scope(|scope| {
        for chunk in sandboxes.chunks(4) {
            scope.spawn(|| {
                chunk.iter().for_each(|s| {
                    runtime.del(s).must();
                })
            });
        }
    });
    settled(&node, &[]);
}

#[test]
fn add_twice_is_refused_and_harms_nothing() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    runtime.add(&mut sandbox).must();
    let before = sandbox.result.clone();
    let again = runtime.add(&mut sandbox);
    assert!(!again.out.ok() && again.code().is_some(), "{}", again.out);
    assert_eq!(sandbox.result, before);
    settled(&node, &[&sandbox]);
    books::reachable(&node.ns, &[live(&sandbox)], secs(2));
    // An interface of that name that is not ours is in the way.
    let mut taken = Sandbox::new();
    taken.net.ns.must("ip link add eth0 type veth peer name other");
    let refused = runtime.add(&mut taken);
    assert!(!refused.out.ok() && refused.code().is_some(), "{}", refused.out);
    assert!(ip::link(&taken.net.ns, "eth0").is_some(), "the foreign interface is left alone");
    settled(&node, &[&sandbox]);
    runtime.del(&sandbox).must();
    runtime.del(&taken).must();
    settled(&node, &[]);
}

#[test]
fn ipv6_is_switched_on_where_the_runtime_left_it_off() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    for scope in ["all", "default"] {
        sandbox.net.ns.set_sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1");
    }
    runtime.add(&mut sandbox).must();
    assert_eq!(sandbox.net.ns.sysctl("net/ipv6/conf/eth0/disable_ipv6"), "0");
    books::reachable(&node.ns, &[live(&sandbox)], secs(2));
    runtime.del(&sandbox).must();
    settled(&node, &[]);
}

#[test]
fn the_255th_pod_is_refused_with_the_reason() {
    let (_lock, node) = node(2);
    let runtime = node.runtime();
    runtime.status().must();
    let mut sandboxes: Vec<Sandbox> = (0..255).map(|_| Sandbox::new()).collect();
    let (last, first) = sandboxes.split_last_mut().unwrap();
    std::thread::scope(|scope| {
        for chunk in first.chunks_mut(64) {
            scope.spawn(|| {
                chunk.iter_mut().for_each(|s| {
                    runtime.add(s).must();
                })
            });
        }
    });
    let ips: BTreeSet<IpAddr> = first.iter().flat_map(Sandbox::ips).collect();
    assert_eq!(ips.len(), 508, "254 pods hold 508 different addresses");
    let refused = runtime.add(last).refused(102);
    let block = lab().api.blocks(&node.name)[0].clone();
    assert!(refused.message().contains(&block), "names the block {block}: {}", refused.message());
    assert!(refused.message().contains("254"), "names how many it holds: {}", refused.message());
    assert!(ip::link(&last.net.ns, "eth0").is_none(), "a refused ADD leaves nothing");
    runtime.status().refused(50);
    // Full is no state for ever: one goes, one comes, at once, with the address that was freed.
    let freed = first[100].ips();
    runtime.del(&first[100]).must();
    eventually(secs(5), "an address after DEL", || {
        let answer = runtime.add(last);
        ensure(answer.out.ok(), || answer.out.to_string())
    });
    assert_eq!(last.ips(), freed);
    books::reachable(&node.ns, &[live(last)], secs(2));
    std::thread::scope(|scope| {
        for chunk in sandboxes.chunks(64) {
            scope.spawn(|| {
                chunk.iter().for_each(|s| {
                    runtime.del(s).must();
                })
            });
        }
    });
    runtime.status().must();
    settled(&node, &[]);
}
