//! Overlane in a real Kubernetes over days: scaled up and down, its parts killed, nodes that leave and come back.
//!
//! Must catch: a lease that outlives its pod (a DEL that is answered and not done).
//!
//! Run by `scripts/test-kubernetes-full.sh` against a cluster that has Overlane, in the order of the tests' names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use overlane_suites::exec;
use overlane_suites::kube::{Cluster, condition, ips, name};
use overlane_suites::stream::Stream;
use overlane_suites::wait::{ensure, eventually, secs};
use serde_json::Value;

/// A Deployment whose pods do nothing, on one node.
fn idle(name: &str, replicas: usize, node: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         nodeSelector: {{kubernetes.io/hostname: {node}}}\n      terminationGracePeriodSeconds: 0\n      \
         tolerations: [{{operator: Exists}}]\n      \
         containers: [{{name: c, image: \"registry.k8s.io/pause:3.10\", imagePullPolicy: Never}}]\n"
    )
}

fn on_network(cluster: &Cluster, node: &str) -> Vec<Value> {
    let all = cluster.list(&["pods", "-A", "--field-selector", &format!("spec.nodeName={node}")]);
    all.into_iter().filter(|pod| pod["spec"]["hostNetwork"] != true).collect()
}

/// What the kernel has of pods on a node: links, and addresses that lead to one.
fn in_kernel(cluster: &Cluster, node: &str) -> (usize, BTreeSet<IpAddr>) {
    let links = cluster.on(node, &["ip", "-br", "link", "show", "type", "veth"]).must().stdout;
    let links = links.lines().filter(|line| line.starts_with("ovlp")).count();
    let mut addresses = BTreeSet::new();
    for family in ["-4", "-6"] {
        let routes = cluster.on(node, &["ip", family, "route", "show", "proto", "111"]).must().stdout;
        let to_pod = routes.lines().filter(|line| line.contains("dev ovlp"));
        addresses.extend(to_pod.filter_map(|line| line.split(' ').next()?.parse::<IpAddr>().ok()));
    }
    (links, addresses)
}

/// Pods, links, addresses and leases are the same, on one node: nothing leaked, nothing doubled, nothing missing.
fn books_balance(cluster: &Cluster, node: &str) {
    eventually(secs(120), &format!("the books of {node} balance"), || {
        std::thread::sleep(Duration::from_millis(500));
        let pods = on_network(cluster, node);
        let wanted: BTreeSet<IpAddr> = pods.iter().flat_map(ips).collect();
        let (links, found) = in_kernel(cluster, node);
        let leases = cluster.leases(node);
        let leased: BTreeSet<IpAddr> = leases.keys().copied().collect();
        ensure(links == pods.len() && wanted == found && wanted == leased, || {
            format!(
                "{} pods, {links} links; only in the API: {:?}; only in the kernel: {:?}; leases of nobody: {:?}",
                pods.len(),
                wanted.difference(&found).collect::<Vec<_>>(),
                found.difference(&wanted).collect::<Vec<_>>(),
                leases.iter().filter(|(address, _)| !wanted.contains(address)).collect::<Vec<_>>()
            )
        })
    });
}

fn until_ready(cluster: &Cluster, node: &str, limit: Duration) {
    eventually(limit, &format!("{node} is ready"), || {
        std::thread::sleep(Duration::from_millis(300));
        // One that joins has no object at first.
        let object = cluster.list(&["nodes"]).into_iter().find(|object| name(object) == node).unwrap_or_default();
        ensure(condition(&object, "Ready").is_some_and(|(status, _)| status == "True"), || {
            object["status"]["conditions"].to_string()
        })
    });
}

#[test]
fn a_two_hundred_pods_come_and_go_twice() {
    let cluster = Cluster::running();
    for round in 0..2 {
        for node in ["node-0", "node-1"] {
            let name = format!("many-{node}");
            let began = std::time::Instant::now();
            cluster.apply(&idle(&name, 200, node)).must();
            let pods = cluster.await_ready("default", &format!("app={name}"), 200, secs(600));
            let all: Vec<IpAddr> = pods.iter().flat_map(ips).collect();
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "an address was given twice");
            println!("round {round}: 200 pods on {node} ready after {:.1} s", began.elapsed().as_secs_f64());
            books_balance(&cluster, node);
            cluster.kubectl(&["scale", "deployment", &name, "--replicas=0"]).must();
            cluster.await_gone("default", &format!("app={name}"));
            books_balance(&cluster, node);
            cluster.kubectl(&["delete", "deployment", &name]).must();
        }
    }
}

#[test]
fn b_kubelet_runtime_and_agent_die_while_pods_start() {
    let cluster = Cluster::running();
    let agent = || {
        let of = |pod: &Value| pod["spec"]["nodeName"] == "node-0";
        let agents = cluster.list(&["pods", "-n", "kube-system", "-l", "app.kubernetes.io/name=overlane-agent"]);
        cluster.pod_pid("kube-system", &name(agents.iter().find(|pod| of(pod)).expect("an agent")))
    };
    let pids = [agent()];
    cluster.apply(&idle("storm", 60, "node-0")).must();
    let in_the_middle = |least: usize| {
        eventually(secs(120), "pods are just starting", || {
            let started = cluster.leases("node-0").values().filter(|state| *state == "active").count();
            ensure(started >= least, || format!("{started} have an address"))
        });
        let running = cluster.list(&["pods", "-l", "app=storm", "--field-selector", "status.phase=Running"]).len();
        assert!(running < 60, "all run already: nothing is in the middle");
    };
    let before = cluster.leases("node-0").len() / 2;
    in_the_middle(before + 5);
    for pid in pids {
        assert!(exec::signal(pid, Signal::SIGKILL), "the agent is gone");
    }
    // A kubelet that starts while there is no runtime ends, and nobody here starts it again: it comes last.
    for (program, least) in [("containerd", 10), ("kubelet", 15)] {
        in_the_middle(before + least);
        cluster.script(&["kill", "node-0", program], b"").must();
        cluster.script(&["start", "node-0", program], b"").must();
    }
    cluster.await_ready("default", "app=storm", 60, secs(300));
    assert_ne!(agent(), pids[0]);
    books_balance(&cluster, "node-0");
    cluster.kubectl(&["scale", "deployment", "storm", "--replicas=0"]).must();
    std::thread::sleep(Duration::from_millis(500));
    for program in ["containerd", "kubelet"] {
        cluster.script(&["kill", "node-0", program], b"").must();
        cluster.script(&["start", "node-0", program], b"").must();
    }
    cluster.await_gone("default", "app=storm");
    books_balance(&cluster, "node-0");
    cluster.kubectl(&["delete", "deployment", "storm"]).must();
}

#[test]
fn c_the_api_server_is_away_for_two_minutes() {
    let cluster = Cluster::running();
    let pod = |node: &str| {
        let name = format!("talk-{node}");
        cluster.apply(&idle(&name, 1, node)).must();
        cluster.await_ready("default", &format!("app={name}"), 1, secs(60)).remove(0)
    };
    let (near, far) = (pod("node-0"), pod("node-1"));
    let (from, into) = (cluster.pod_ns("default", &name(&near)), cluster.pod_ns("default", &name(&far)));
    let streams: Vec<_> =
        ips(&far).into_iter().map(|ip| Stream::start(&from, &into, ip, Duration::from_millis(1))).collect();
    cluster.script(&["kill", "cp", "kube-apiserver"], b"").must();
    std::thread::sleep(Duration::from_secs(120));
    cluster.script(&["start", "cp", "kube-apiserver"], b"").must();
    for stream in streams {
        let report = stream.finish();
        println!("{report:?}");
        assert!(report.sent > 100_000, "{report:?}");
        assert_eq!(report.lost(), 0, "{report:?}");
    }
    cluster.apply(&idle("after", 5, "node-1")).must();
    cluster.await_ready("default", "app=after", 5, secs(180));
    cluster.kubectl(&["delete", "deployment", "after", "talk-node-0", "talk-node-1"]).must();
    for app in ["after", "talk-node-0", "talk-node-1"] {
        cluster.await_gone("default", &format!("app={app}"));
    }
    books_balance(&cluster, "node-1");
}

/// As many as the kubelet takes, of which the scheduler is offered more.
#[test]
fn f_a_node_is_full() {
    let cluster = Cluster::running();
    let most: usize = cluster.get(&["node", "node-0"])["status"]["capacity"]["pods"].as_str().unwrap().parse().unwrap();
    assert!(most >= 250, "the kubelet takes {most} pods");
    let there = |phase: &str| {
        let running = format!("spec.nodeName=node-0,status.phase={phase}");
        cluster.list(&["pods", "-A", "--field-selector", &running]).len()
    };
    cluster.apply(&idle("full", most + 5, "node-0")).must();
    eventually(secs(600), "the node runs as many pods as it takes", || {
        std::thread::sleep(Duration::from_secs(1));
        ensure(there("Running") == most, || format!("{} of {most} run", there("Running")))
    });
    books_balance(&cluster, "node-0");
    let status = cluster.overlane(&["status", "-o", "json"]);
    assert!(status.ok(), "a full node is a good node: {status}");
    cluster.kubectl(&["delete", "deployment", "full"]).must();
    cluster.await_gone("default", "app=full");
    books_balance(&cluster, "node-0");
}

fn blocks(cluster: &Cluster, node: &str) -> Vec<String> {
    let config = cluster.get(&["nnc", "-n", "kube-system", node]);
    let containers = config["status"]["networkContainers"].as_array().cloned().unwrap_or_default();
    containers.iter().filter_map(|c| c["primaryIP"].as_str().map(str::to_owned)).collect()
}

#[test]
fn d_a_node_reboots_and_keeps_its_blocks() {
    let cluster = Cluster::running();
    cluster.apply(&idle("boot", 10, "node-1")).must();
    cluster.await_ready("default", "app=boot", 10, secs(60));
    let before = blocks(&cluster, "node-1");
    cluster.script(&["reboot", "node-1"], b"").must();
    until_ready(&cluster, "node-1", secs(120));
    cluster.await_ready("default", "app=boot", 10, secs(300));
    assert_eq!(blocks(&cluster, "node-1"), before);
    cluster.await_ready("kube-system", "app.kubernetes.io/name=overlane-agent", 3, secs(120));
    books_balance(&cluster, "node-1");
    cluster.kubectl(&["delete", "deployment", "boot"]).must();
    cluster.await_gone("default", "app=boot");
    books_balance(&cluster, "node-1");
}

#[test]
fn e_a_node_leaves_and_another_comes_under_its_name() {
    let cluster = Cluster::running();
    let uid = |node: &str| cluster.get(&["node", node])["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let before = uid("node-1");
    cluster
        .kubectl(&["drain", "node-1", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s"])
        .must();
    cluster.script(&["leave", "node-1"], b"").must();
    cluster.kubectl(&["delete", "node", "node-1"]).must();
    eventually(secs(60), "its NodeNetworkConfig goes with it", || {
        let left = cluster.list(&["nnc", "-n", "kube-system"]);
        ensure(!left.iter().any(|config| name(config) == "node-1"), || "it is there".to_owned())
    });
    cluster.script(&["join", "node-1"], b"").must();
    until_ready(&cluster, "node-1", secs(180));
    assert_ne!(uid("node-1"), before);
    assert_eq!(blocks(&cluster, "node-1").len(), blocks(&cluster, "node-0").len());
    cluster.apply(&idle("new", 10, "node-1")).must();
    cluster.await_ready("default", "app=new", 10, secs(120));
    books_balance(&cluster, "node-1");
    let report = cluster.overlane(&["connectivity", "-o", "json"]);
    assert!(report.ok(), "{report}");
    cluster.kubectl(&["delete", "deployment", "new"]).must();
}
