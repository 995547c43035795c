//! Drives the real overlane-cni in a node's namespace by hand, as a container runtime would: every verb, every fault.
//!
//! Must catch: `DEL` with no agent answering success without leaving a tombstone, so that the address is never free
//! again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use nix::sys::signal::Signal;
use overlane_suites::books::{self, Live};
use overlane_suites::exec::{self, Running};
use overlane_suites::faults::{self, Fault, Target};
use overlane_suites::runtime::{Runtime, Sandbox};
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Lab, NodeHandle, clean, ip, packet};
use serde_json::{Value, json};

/// One lab for the whole file; a test locks the node that it disturbs.
static NODES: [Mutex<()>; 3] = [Mutex::new(()), Mutex::new(()), Mutex::new(())];

fn lab() -> &'static Lab {
    clean::begin();
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| Lab::up(&["--nodes", "3"]))
}

fn node(number: usize) -> (MutexGuard<'static, ()>, NodeHandle) {
    let lab = lab();
    let lock = NODES[number].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let node = lab.node(number);
    node.agent_ready();
    (lock, node)
}

fn live(sandbox: &Sandbox) -> Live {
    Live { name: sandbox.pod.clone(), ns: sandbox.net.ns.clone(), ips: sandbox.ips() }
}

fn settled(node: &NodeHandle, sandboxes: &[&Sandbox]) {
    let live: Vec<Live> = sandboxes.iter().map(|s| live(s)).collect();
    books::balanced(&node.ns, &live, &[], secs(10));
}

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

fn judge_result(result: &Value, version: &str, sandbox: &Sandbox) {
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
    let mut global: Vec<(IpAddr, u64)> =
        inside.iter().filter(|a| a.dev == "eth0").map(|a| (a.ip, a.prefix)).collect();
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

/// CHECK right after each fault. The audit may repair what the node can see, so a fault is planted over and over while
/// CHECK runs; a pass counts only if the fault is gone for good by then.
fn check_sees(runtime: &Runtime, sandbox: &Sandbox, fault: &Fault) {
    fault.plant();
    let mut answer = None;
    for _ in 0..10 {
        let result = json!({"prevResult": sandbox.result});
        let command = runtime.command("CHECK", Some(sandbox));
        let got = runtime.watched(command, &runtime.config(&result).to_string(), |_| fault.insist());
        if !got.out.ok() {
            answer = Some(got);
            break;
        }
        fault.insist();
    }
    let answer = answer.unwrap_or_else(|| panic!("CHECK passes ten times with this broken: {}", fault.name));
    let json = answer.json.as_ref().unwrap_or_else(|| panic!("{}: {}", fault.name, answer.out));
    assert!(json["code"].as_u64().is_some_and(|c| c >= 100), "{}: {}", fault.name, answer.out);
    assert!(json["msg"].as_str().is_some_and(|m| !m.is_empty()), "{}: {}", fault.name, answer.out);
}

#[test]
fn check_fails_on_each_fault_of_the_pod() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    runtime.add(&mut sandbox).must();
    let names: Vec<String> =
        faults::pod_side(&Target::of(&node.ns, &sandbox)).into_iter().map(|f| f.name).collect();
    runtime.del(&sandbox).must();
    assert!(names.len() >= 8, "{names:?}");
    for number in 0..names.len() {
        // A new sandbox for each: one fault often takes other objects with it.
        let mut sandbox = Sandbox::new();
        runtime.add(&mut sandbox).must();
        runtime.check(&sandbox).must();
        check_sees(&runtime, &sandbox, &faults::pod_side(&Target::of(&node.ns, &sandbox))[number]);
        runtime.del(&sandbox).must();
    }
    settled(&node, &[]);
}

#[test]
fn check_fails_on_each_fault_of_the_node() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let mut sandbox = Sandbox::new();
    runtime.add(&mut sandbox).must();
    runtime.check(&sandbox).must();
    for fault in faults::host_side(&Target::of(&node.ns, &sandbox)) {
        check_sees(&runtime, &sandbox, &fault);
        eventually(secs(30), &format!("repair of {}", fault.name), || ensure(!fault.still(), || "still broken".into()));
        eventually(secs(5), &format!("CHECK after repair of {}", fault.name), || {
            let answer = runtime.check(&sandbox);
            ensure(answer.out.ok(), || answer.out.to_string())
        });
    }
    runtime.del(&sandbox).must();
    for number in 0..2 {
        let mut sandbox = Sandbox::new();
        runtime.add(&mut sandbox).must();
        check_sees(&runtime, &sandbox, &faults::link_gone(&Target::of(&node.ns, &sandbox))[number]);
        runtime.del(&sandbox).must();
    }
    settled(&node, &[]);
}

#[test]
fn check_compares_the_result() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let (mut a, mut b) = (Sandbox::new(), Sandbox::new());
    runtime.add(&mut a).must();
    runtime.add(&mut b).must();
    let swapped = json!({"prevResult": b.result});
    let answer = runtime.call(runtime.command("CHECK", Some(&a)), &runtime.config(&swapped).to_string());
    assert!(!answer.out.ok() && answer.code().is_some(), "CHECK of one pod with another's result: {}", answer.out);
    runtime.del(&a).must();
    runtime.del(&b).must();
    let answer = runtime.call(runtime.command("CHECK", Some(&a)), &runtime.config(&json!({"prevResult": a.result})).to_string());
    assert!(!answer.out.ok() && answer.code().is_some(), "CHECK after DEL: {}", answer.out);
    settled(&node, &[]);
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
            scope.spawn(|| chunk.iter_mut().for_each(|s| { runtime.add(s).must(); }));
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
            scope.spawn(|| chunk.iter().for_each(|s| { runtime.del(s).must(); }));
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
fn garbage_gets_the_error_object() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let sandbox = Sandbox::new();
    let good = runtime.config(&json!({})).to_string();
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for input in ["", "{", "null", "[]", "7", "\"x\"", "\u{0}", "{\"cniVersion\":3}", "{\"cniVersion\":\"1.1.0\"}"] {
            let answer = runtime.call(runtime.command(verb, Some(&sandbox)), input);
            proper_error(&answer.out, &answer.json, &format!("{verb} on {input:?}"));
            // The reference leaves this out where it could not read the input; the specification does not.
            assert!(answer.json.unwrap()["cniVersion"].is_string(), "{}", answer.out);
        }
        let deep = format!("{{\"cniVersion\":\"1.1.0\",\"name\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let answer = runtime.call(runtime.command(verb, Some(&sandbox)), &deep);
        proper_error(&answer.out, &answer.json, &format!("{verb} on a deep nest"));
    }
    for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
        let mut command = runtime.command("ADD", Some(&sandbox));
        command.env_remove(name);
        let answer = runtime.call(command, &good).refused(4);
        assert!(answer.message().contains(name), "{}", answer.out);
    }
    for (name, value) in [
        ("CNI_COMMAND", "FETCH"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "sixteen-letters-"),
        ("CNI_CONTAINERID", "../../x"),
        ("CNI_CONTAINERID", "-x y"),
        ("CNI_ARGS", "no-equals-sign"),
    ] {
        let mut command = runtime.command("ADD", Some(&sandbox));
        command.env(name, value);
        let answer = runtime.call(command, &good);
        proper_error(&answer.out, &answer.json, &format!("ADD with {name}={value}"));
    }
    for path in ["/run/netns/there-is-none", "/etc/hostname", "/proc/self/ns/uts", "/", ""] {
        let mut command = runtime.command("ADD", Some(&sandbox));
        command.env("CNI_NETNS", path);
        let answer = runtime.call(command, &good);
        proper_error(&answer.out, &answer.json, &format!("ADD into {path:?}"));
    }
    settled(&node, &[]);
}

fn proper_error(out: &exec::Out, json: &Option<Value>, what: &str) {
    assert!(out.code.is_some_and(|c| c != 0 && c != 101), "{what}: {out}");
    assert!(!out.all().contains("panicked"), "{what}: {out}");
    let json = json.as_ref().unwrap_or_else(|| panic!("{what}: no JSON on stdout: {out}"));
    assert!(json["code"].as_u64().is_some_and(|c| c > 0), "{what}: {out}");
    assert!(json["msg"].as_str().is_some_and(|m| !m.is_empty()), "{what}: {out}");
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
            scope.spawn(|| chunk.iter_mut().for_each(|s| { runtime.add(s).must(); }));
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
            scope.spawn(|| chunk.iter().for_each(|s| { runtime.del(s).must(); }));
        }
    });
    runtime.status().must();
    settled(&node, &[]);
}

#[test]
fn without_an_agent() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    let mut old = Sandbox::new();
    let mut kept = Sandbox::new();
    runtime.add(&mut old).must();
    runtime.add(&mut kept).must();
    let agent = node.take_agent();
    agent.kill();
    let mut fresh = Sandbox::new();
    let answer = runtime.add(&mut fresh).refused(11);
    println!("ADD with no agent answered after {:?}", answer.out.took);
    assert!(answer.out.took < secs(60), "in its time limit: {}", answer.out);
    runtime.status().refused(50);
    assert!(!runtime.check(&kept).out.ok());
    let answer = runtime.del(&old).must();
    println!("DEL with no agent answered after {:?}", answer.out.took);
    assert!(answer.out.took < secs(60), "{}", answer.out);
    assert!(ip::link(&old.net.ns, "eth0").is_none(), "DEL with no agent removes the link");
    runtime.del(&old).must();
    runtime.del(&fresh).must();
    books::reachable(&node.ns, &[live(&kept)], secs(2));
    agent.start();
    settled(&node, &[&kept]);
    books::reachable(&node.ns, &[live(&kept)], secs(2));
    // The same id and interface, at once.
    runtime.add(&mut old).must();
    runtime.add(&mut fresh).must();
    settled(&node, &[&kept, &old, &fresh]);
    for sandbox in [&kept, &old, &fresh] {
        runtime.del(sandbox).must();
    }
    settled(&node, &[]);
}

#[test]
fn with_an_agent_that_hangs() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    let mut kept = Sandbox::new();
    let mut old = Sandbox::new();
    runtime.add(&mut kept).must();
    runtime.add(&mut old).must();
    let agent = node.take_agent();
    agent.signal(Signal::SIGSTOP);
    let mut fresh = Sandbox::new();
    let answer = runtime.add(&mut fresh).refused(11);
    println!("ADD with a stopped agent answered after {:?}", answer.out.took);
    assert!(answer.out.took < secs(100), "in its time limit: {}", answer.out);
    let answer = runtime.del(&old).must();
    println!("DEL with a stopped agent answered after {:?}", answer.out.took);
    runtime.status().refused(50);
    agent.signal(Signal::SIGCONT);
    // What the agent finds in its socket now was given up by the plugin: it must lead to nothing.
    settled(&node, &[&kept]);
    std::thread::sleep(secs(1));
    settled(&node, &[&kept]);
    runtime.add(&mut fresh).must();
    settled(&node, &[&kept, &fresh]);
    books::reachable(&node.ns, &[live(&kept), live(&fresh)], secs(2));
    runtime.del(&kept).must();
    runtime.del(&fresh).must();
    settled(&node, &[]);
}

/// Starts a call without waiting for its end.
fn start(runtime: &Runtime, verb: &str, sandbox: &Sandbox) -> Running {
    let mut command = runtime.command(verb, Some(sandbox));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = runtime.ns.spawn(command);
    let input = runtime.config(&json!({})).to_string();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    Running::new(child)
}

/// Waits until the plugin has begun, which is when it opens a socket at the latest, or is over.
fn begun(call: &mut Running) {
    let open = |pid: i32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(Result::ok);
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|to| to.to_string_lossy().starts_with("socket:"))
    };
    while call.alive() && !open(call.pid) {
        std::hint::spin_loop();
    }
}

fn over(call: &mut Running) {
    eventually(secs(100), "end of a call", || ensure(!call.alive(), || "still runs".into()));
}

#[test]
fn an_add_that_arrives_after_its_del_is_refused() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    let agent = node.take_agent();
    for round in 0..5 {
        let mut sandbox = Sandbox::new();
        // The plugin takes its time stamp, connects and waits: the agent sees ADD and DEL only when it wakes.
        agent.signal(Signal::SIGSTOP);
        let mut add = start(&runtime, "ADD", &sandbox);
        std::thread::sleep(millis(30));
        let mut del = start(&runtime, "DEL", &sandbox);
        std::thread::sleep(millis(30 + round));
        agent.signal(Signal::SIGCONT);
        over(&mut add);
        over(&mut del);
        settled(&node, &[]);
        runtime.add(&mut sandbox).must();
        settled(&node, &[&sandbox]);
        books::reachable(&node.ns, &[live(&sandbox)], secs(2));
        runtime.del(&sandbox).must();
        settled(&node, &[]);
    }
}

#[test]
fn a_del_ends_a_running_add_and_the_next_add_stands() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    for round in 0..30u64 {
        let mut sandbox = Sandbox::new();
        let mut add = start(&runtime, "ADD", &sandbox);
        begun(&mut add);
        std::thread::sleep(std::time::Duration::from_micros(round * 200));
        runtime.del(&sandbox).must();
        // The first ADD may still run: it began earlier, and must not disturb the second.
        let began = Instant::now();
        let second = runtime.add(&mut sandbox);
        assert!(second.out.ok(), "round {round}, {:?} after DEL: {}", began.elapsed(), second.out);
        over(&mut add);
        settled(&node, &[&sandbox]);
        for to in sandbox.ips() {
            packet::ping(&node.ns, to, 56, secs(1)).unwrap();
        }
        runtime.del(&sandbox).must();
    }
    settled(&node, &[]);
}

#[test]
fn a_plugin_stopped_before_it_asks_comes_too_late() {
    let (_lock, node) = node(1);
    let runtime = node.runtime();
    for delay in [0u64, 300, 700, 1500, 3000] {
        let sandbox = Sandbox::new();
        let mut add = start(&runtime, "ADD", &sandbox);
        std::thread::sleep(std::time::Duration::from_micros(delay));
        let caught = add.alive() && exec::signal(add.pid, Signal::SIGSTOP);
        runtime.del(&sandbox).must();
        if caught {
            exec::signal(add.pid, Signal::SIGCONT);
        }
        over(&mut add);
        // If the plugin had not even taken its time stamp when it was stopped, its ADD is the later one and stands:
        // then a DEL ends it as any other.
        runtime.del(&sandbox).must();
        settled(&node, &[]);
    }
}

/// Debian's ptp, in a namespace that stands for a node.
struct Reference {
    runtime: Runtime,
    _node: overlane_suites::ns::OwnNs,
    data: std::path::PathBuf,
}

impl Reference {
    fn new() -> Reference {
        clean::begin();
        let plugin = std::path::PathBuf::from("/usr/lib/cni/ptp");
        assert!(plugin.is_file(), "Debian's containernetworking-plugins are missing: run scripts/setup.sh");
        let node = overlane_suites::ns::OwnNs::new();
        let data = std::env::temp_dir().join(&node.name);
        let entry = json!({"type": "ptp", "ipam": {
            "type": "host-local", "dataDir": data,
            "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/80"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        }});
        let (ns, network) = (node.ns.clone(), "reference".to_owned());
        let runtime = Runtime { ns, plugin, network, entry, version: "1.0.0".into(), limit: secs(100) };
        Reference { runtime, _node: node, data }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

#[test]
fn the_reference_plugin_satisfies_the_same_judges() {
    let mut reference = Reference::new();
    let runtime = &mut reference.runtime;
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        runtime.version = version.to_owned();
        let mut sandbox = Sandbox::new();
        let result = runtime.add(&mut sandbox).must().json.expect("a result");
        judge_result(&result, version, &sandbox);
        if version != "0.3.1" {
            runtime.check(&sandbox).must();
            // Of the faults one that any plugin must see.
            let target = Target::of(&runtime.ns, &sandbox);
            let route = faults::pod_side(&target).into_iter().find(|f| f.name.contains("default route -4"));
            check_sees(runtime, &sandbox, &route.unwrap());
        }
        runtime.del(&sandbox).must();
        runtime.del(&sandbox).must();
    }
    let sandbox = Sandbox::new();
    for input in ["", "{", "[]", "{\"cniVersion\":3}"] {
        let answer = runtime.call(runtime.command("ADD", Some(&sandbox)), input);
        proper_error(&answer.out, &answer.json, &format!("ADD on {input:?}"));
    }
    for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
        let mut command = runtime.command("ADD", Some(&sandbox));
        command.env_remove(name);
        runtime.call(command, &runtime.config(&json!({})).to_string()).refused(4);
    }
    runtime.version = "2.0.0".to_owned();
    let answer = runtime.add(&mut Sandbox::new());
    assert_eq!(answer.code(), Some(1), "{}", answer.out);
}
