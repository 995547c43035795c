//! Labs themselves: side by side, in one VNet, refused, and gone without a trace.
//!
//! Must catch: an agent that takes packets from any MAC for its peers', so that two clusters with one pod CIDR meet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod tutorial;
mod use_it;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use overlane_suites::lab::{Manifest, ROOT, overlane};
use overlane_suites::ns::unique;
use overlane_suites::probe::{self, Witness};
use overlane_suites::wait::{ensure, eventually, millis, secs};
use overlane_suites::{Lab, clean, exec, ip, nft, packet};
use serde_json::json;

/// Everything on this machine that bears the name: namespaces, links, files, processes.
fn traces(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let own = std::process::id().cast_signed();
    for dir in ["/run/netns", ROOT, &format!("{ROOT}/_vnets"), "/run/overlane", "/tmp"] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
            let file = entry.file_name().to_string_lossy().into_owned();
            // A lock file of a VNet outlives it by design.
            if mentions(&file, name) && !file.ends_with(".lock") {
                found.push(format!("{dir}/{file}"));
            }
        }
    }
    for link in ip::links(&overlane_suites::Ns::here()) {
        if mentions(&link.name, name) || mentions(&link.alias, name) {
            found.push(format!("link {}", link.name));
        }
    }
    for pid in exec::pids() {
        let words = exec::cmdline(pid);
        let ours = pid == own || words.iter().any(|w| w.contains("read -r word"));
        if !ours && exec::alive(pid) && words.iter().any(|w| mentions(w, name)) {
            found.push(format!("process {pid} {words:?}"));
        }
    }
    found
}

/// Whether `text` holds `name` as a whole word, so that `x-1` is not found in `x-12`.
fn mentions(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| !text[at + name.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

/// Processes of a lab: its daemon and whatever lives in its namespaces.
fn processes(name: &str) -> Vec<i32> {
    let inodes: BTreeSet<u64> = std::fs::read_dir("/run/netns")
        .unwrap()
        .filter_map(Result::ok)
        .filter(|e| mentions(&e.file_name().to_string_lossy(), name))
        .map(|e| std::os::unix::fs::MetadataExt::ino(&e.path().metadata().unwrap()))
        .collect();
    let here = std::process::id().cast_signed();
    let member = |pid: &i32| {
        let inside = std::fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|m| inodes.contains(&std::os::unix::fs::MetadataExt::ino(&m)));
        let words = exec::cmdline(*pid);
        let named = words.iter().any(|w| mentions(w, name)) && words[0].contains("overlane");
        (inside || named) && *pid != here
    };
    exec::pids().into_iter().filter(member).collect()
}

#[test]
fn down_leaves_nothing() {
    let mut lab = Lab::up(&["--nodes", "2"]);
    lab.run_pod("a", "node-0");
    // One that leaves its pod's namespace, and bears the lab's name nowhere.
    lab.cli("run", &["stray", "--node", "node-1", "--", "unshare", "--net", "sleep", "86399"]).must();
    let stray = || exec::pids().into_iter().find(|pid| exec::cmdline(*pid).iter().any(|word| word == "86399"));
    eventually(secs(10), "the stray program", || ensure(stray().is_some(), || "not there".to_owned()));
    let doctor = overlane(&["doctor", "--lab", &lab.name]).must();
    assert!(doctor.stdout.contains("nothing is wrong"), "{doctor}");
    let before = processes(&lab.name);
    assert!(!traces(&lab.name).is_empty(), "this test sees what a lab makes");
    lab.take_down().must();
    assert_eq!(traces(&lab.name), Vec::<String>::new());
    assert_eq!(stray(), None, "a program that left its pod's namespace");
    assert_eq!(before.iter().find(|pid| exec::alive(**pid)), None, "of {before:?}");
    // Down again, and a status of what is not there.
    let status = lab.cli("status", &[]);
    assert!(!status.ok() && status.all().contains(&lab.name), "{status}");
}

#[test]
fn the_demo_proves_what_it_says() {
    clean::begin();
    let name = unique(clean::PREFIX);
    let mut janitor = clean::Janitor::of_lab(&name);
    let demo = overlane(&["lab", "demo", "--name", &name]).must();
    for word in ["node-0", "node-2", "10.244.", "fd12:3456:789a:", "10.224.0.", "internet", "vm", "refused", "lab down"]
    {
        assert!(demo.stdout.contains(word), "`{word}` is not in {demo}");
    }
    assert!(!demo.stdout.contains("NOT SO") && demo.stdout.matches("ok").count() >= 6, "{demo}");
    // It goes on running.
    let status = overlane(&["lab", "status", "--name", &name]).must();
    assert!(status.stdout.contains("node-2"), "{status}");
    overlane(&["lab", "down", "--name", &name]).must();
    janitor.dismiss();
    assert_eq!(traces(&name), Vec::<String>::new());
}

#[test]
fn down_after_kill_9_of_everything_leaves_nothing() {
    let mut lab = Lab::up(&["--nodes", "3"]);
    for (pod, node) in [("a", "node-0"), ("b", "node-1"), ("c", "node-2")] {
        lab.run_pod(pod, node);
    }
    let all = processes(&lab.name);
    assert!(all.len() >= 8, "daemon, controller, agents, pods: {all:?}");
    all.iter().for_each(|pid| {
        exec::signal(*pid, Signal::SIGKILL);
    });
    // Nor does it hang on what is on record.
    std::fs::write(format!("{ROOT}/{}/lab.json", lab.name), "{").unwrap();
    lab.take_down().must();
    assert_eq!(traces(&lab.name), Vec::<String>::new());
}

/// Of a run whose every process ended at once, its janitor too, the next run finds the lab by what is left of it.
#[test]
fn the_lab_of_a_run_that_is_over_is_swept() {
    clean::begin();
    let mut over = std::process::Command::new("true").spawn().unwrap();
    let name = format!("{}-{}-0", clean::PREFIX, over.id());
    over.wait().unwrap();
    let mut janitor = clean::Janitor::of_lab(&name);
    for kept in ["all", "namespaces"] {
        overlane(&["lab", "up", "--name", &name, "--nodes", "1"]).must();
        processes(&name).iter().for_each(|pid| {
            exec::signal(*pid, Signal::SIGKILL);
        });
        if kept == "namespaces" {
            std::fs::remove_dir_all(format!("{ROOT}/{name}")).unwrap();
        }
        clean::sweep();
        assert_eq!(traces(&name), Vec::<String>::new(), "{kept} kept");
    }
    janitor.dismiss();
}

#[test]
fn up_killed_half_way_is_cleaned_by_down() {
    clean::begin();
    for wait in [50u64, 300, 900] {
        let name = unique(clean::PREFIX);
        let mut janitor = clean::Janitor::of_lab(&name);
        let mut command = overlane_suites::lab::cli(&["lab", "up", "--name", &name, "--nodes", "2"]);
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut up = exec::Running::new(command.spawn().unwrap());
        std::thread::sleep(millis(wait));
        up.end();
        // The daemon lives on, on record or not yet.
        overlane(&["lab", "down", "--name", &name]).must();
        janitor.dismiss();
        assert_eq!(traces(&name), Vec::<String>::new(), "killed after {wait} ms");
    }
}

#[test]
fn ten_nodes_are_up_in_seconds() {
    let began = std::time::Instant::now();
    let lab = Lab::up(&["--nodes", "10"]);
    let took = began.elapsed();
    println!("ten nodes: {took:?}");
    let blocks: BTreeSet<String> = lab.nodes().iter().flat_map(|n| lab.api.blocks(&n.name)).collect();
    assert_eq!(blocks.len(), 20);
    for node in lab.nodes() {
        node.agent_ready();
    }
    // Two cores and debug binaries; far from the seconds of a built release.
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// So many that the lab tells nodes each other's MACs. `make test-hundred` has a hundred.
#[test]
fn many_nodes_come_up() {
    let count = std::env::var("OVERLANE_NODES").map_or(24, |text| text.parse().expect("a number of nodes"));
    let mut lab = Lab::up(&["--nodes", &count.to_string()]);
    let status = lab.cli("status", &["-o", "json"]).must();
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    let ready = status["nodes"].as_array().unwrap().iter().filter(|node| node["ready"] == true).count();
    assert_eq!(ready, count, "{status}");
    let pods = [lab.run_pod("first", "node-0"), lab.run_pod("last", &format!("node-{}", count - 1))];
    for to in &pods[1].ips {
        packet::ping(&pods[0].ns, *to, 1400, secs(2)).unwrap();
    }
    lab.take_down().must();
    assert_eq!(traces(&lab.name), Vec::<String>::new());
}

#[test]
fn bad_configuration_is_refused_before_anything_is_made() {
    clean::begin();
    let cases: [(&[&str], &[&str]); 9] = [
        (&["--pod-cidrs", "10.244.0.1/16"], &["podCIDRs[0]", "host bits"]),
        (&["--pod-cidrs", "10.244.0.0/16", "--service-cidrs", "10.244.8.0/22"], &["10.244.8.0/22", "overlap"]),
        (&["--ip-families", "ipv4", "--pod-cidrs", "10.244.0.0/16,fd12:3456:789a::/64"], &["podCIDRs"]),
        (&["--ip-families", "ipv6,ipv4", "--pod-cidrs", "10.244.0.0/16,fd12:3456:789a::/64"], &["podCIDRs"]),
        (&["--ip-families", "ipv4,ipv4"], &["ipFamilies"]),
        (&["--max-pods", "251"], &["maxPods", "250"]),
        (&["--max-pods", "9"], &["maxPods", "10"]),
        (&["--pod-cidrs", "not-a-cidr"], &["podCIDRs[0]"]),
        (&["--pod-cidrs", "169.254.0.0/16"], &["podCIDRs[0]", "169.254"]),
    ];
    for (args, words) in cases {
        let name = unique(clean::PREFIX);
        let mut all = vec!["lab", "up", "--name", &name, "--nodes", "1"];
        all.extend(args);
        let out = overlane(&all);
        if out.ok() {
            overlane(&["lab", "down", "--name", &name]);
        }
        assert_eq!(out.code, Some(2), "{args:?}: {out}");
        for word in words {
            assert!(out.stderr.to_lowercase().contains(&word.to_lowercase()), "{args:?} does not say `{word}`: {out}");
        }
        assert_eq!(traces(&name), Vec::<String>::new(), "{args:?}");
    }
    // All findings at once, also from a file.
    let file = Manifest::cluster_network(&json!({
        "podCIDRs": ["10.244.0.1/16", "fd12:3456:789a::1/64"], "serviceCIDRs": ["10.0.0.0/16", "fd12:3456:789a:1::/108"], "maxPods": 500,
    }));
    let name = unique(clean::PREFIX);
    let out = overlane(&["lab", "up", "--name", &name, "--nodes", "1", "-f", file.arg()]);
    assert_eq!(out.code, Some(2), "{out}");
    for word in ["podCIDRs[0]", "podCIDRs[1]", "maxPods"] {
        assert!(out.stderr.contains(word), "{word}: {out}");
    }
    assert_eq!(traces(&name), Vec::<String>::new());
}

#[test]
fn two_clusters_with_one_pod_cidr_in_one_vnet_never_meet() {
    let vnet = unique(clean::PREFIX);
    let one = Lab::up(&["--nodes", "2", "--vnet", &vnet]);
    let two = Lab::up(&["--nodes", "2", "--vnet", &vnet]);
    let nodes: Vec<_> = one.nodes().into_iter().chain(two.nodes()).collect();
    assert_eq!(one.api.blocks("node-0"), two.api.blocks("node-0"), "the same pod CIDR in both");
    let addresses: BTreeSet<_> = nodes.iter().flat_map(|n| n.ips()).collect();
    assert_eq!(addresses.len(), 8, "four nodes of one VNet have eight addresses");
    let pods = |lab: &Lab| [("a", "node-0"), ("b", "node-1")].map(|(pod, node)| lab.run_pod(pod, node));
    let (first, second) = (pods(&one), pods(&two));
    assert_eq!(first[1].ips, second[1].ips, "the same addresses in both clusters");
    // Each pod reaches its own namesake, and never the other's.
    for (index, (mine, other)) in [(&first, &second), (&second, &first)].into_iter().enumerate() {
        for to in &mine[1].ips {
            let port = probe::port();
            let (own, stranger) = (Witness::new(&mine[1].ns, *to, port), Witness::new(&other[1].ns, *to, port));
            for round in 0..20 {
                let word = format!("to-{index}-{round}");
                probe::tcp(&mine[0].ns, SocketAddr::new(*to, port), None, &word, secs(2)).unwrap();
                probe::udp(&mine[0].ns, SocketAddr::new(*to, port), None, &word, secs(2)).unwrap();
            }
            assert_eq!(own.seen().len(), 40);
            assert!(stranger.seen().is_empty(), "{:?}", stranger.seen());
        }
    }
    // A node of one cluster is a stranger to the other's pods, even if somebody routes it there.
    let strange = &nodes[2];
    for to in &first[0].ips {
        let via = nodes[0].ips().into_iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).unwrap();
        let bits = if to.is_ipv4() { 32 } else { 128 };
        let family = if to.is_ipv4() { "-4" } else { "-6" };
        let vm = one.vm();
        vm.must(&format!("ip {family} route add {to}/{bits} via {via}"));
        assert!(packet::ping(&vm, *to, 56, millis(300)).is_err());
        vm.must(&format!("ip {family} route del {to}/{bits}"));
        // A pod's packet that its node sends, by a route somebody planted, to the other cluster's node.
        strange.ns.must(&format!("ip {family} route add {to}/{bits} via {via} table 99"));
        strange.ns.must(&format!("ip {family} rule add to {to}/{bits} lookup 99 pref 900"));
        let port = probe::port();
        let witness = Witness::new(&first[0].ns, *to, port);
        let before = nft::counters(&nodes[0].ns).values().sum::<u64>();
        probe::fire(&second[1].ns, SocketAddr::new(*to, port), None, "across", 5);
        probe::fire(&second[0].ns, SocketAddr::new(*to, port), None, "across", 5);
        probe::fire(&strange.ns, SocketAddr::new(*to, port), None, "across", 5);
        std::thread::sleep(millis(200));
        strange.ns.must(&format!("ip {family} rule del pref 900"));
        assert!(!witness.saw("across"), "{:?}", witness.seen());
        let after = nft::counters(&nodes[0].ns).values().sum::<u64>();
        assert!(after > before, "what was dropped is counted: {:?}", nft::counters(&nodes[0].ns));
    }
    // Checks in both at once.
    let stray = |n: &overlane_suites::NodeHandle| {
        let counters = nft::counters(&n.ns);
        counters.get("forged").copied().unwrap_or(0) + counters.get("spoofed").copied().unwrap_or(0)
    };
    let before: Vec<u64> = nodes.iter().map(stray).collect();
    let (a, b) = std::thread::scope(|scope| {
        let (a, b) = (scope.spawn(|| one.cli("check", &[])), scope.spawn(|| two.cli("check", &[])));
        (a.join().unwrap(), b.join().unwrap())
    });
    assert!(a.ok() && b.ok(), "{a}\n{b}");
    let after: Vec<u64> = nodes.iter().map(stray).collect();
    println!("forged and spoofed packets of the checks themselves: {before:?} -> {after:?}");
    // One goes, the other stays whole, and so does the VNet.
    let mut one = one;
    one.take_down().must();
    let again = two.cli("check", &[]);
    assert!(again.ok(), "{again}");
    let mut two = two;
    two.take_down().must();
    for name in [&one.name, &two.name, &vnet] {
        assert_eq!(traces(name), Vec::<String>::new());
    }
}

#[test]
fn labs_stand_side_by_side() {
    let (one, two) = std::thread::scope(|scope| {
        let (one, two) = (scope.spawn(|| Lab::up(&["--nodes", "1"])), scope.spawn(|| Lab::up(&["--nodes", "1"])));
        (one.join().unwrap(), two.join().unwrap())
    });
    let pods = [&one, &two].map(|lab| lab.run_pod("p", "node-0"));
    assert_ne!(pods[0].ns.inode(), pods[1].ns.inode());
    let listed = overlane(&["lab", "pods", "--name", &one.name, "-o", "json"]).must();
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed.to_string().matches("\"node-0\"").count(), 1, "{listed}");
    eventually(secs(5), "an agent's command line names lab and node", || {
        let labs: BTreeSet<String> = clean::labs_running().into_iter().map(|l| l.0).collect();
        ensure(labs.contains(&one.name) && labs.contains(&two.name), || format!("{labs:?}"))
    });
    let agent = exec::cmdline(one.node(0).agent_pid().expect("an agent that names its lab and node"));
    assert!(agent.windows(2).any(|words| words == ["--node-name", "node-0"]), "{agent:?}");
    drop(one);
    packet::ping(&two.node(0).ns, pods[1].ips[0], 56, secs(1)).unwrap();
}
