//! Pods of every kind, many at once, and what is left of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use overlane_suites::exec;
use overlane_suites::kube::{Cluster, ips, name};
use overlane_suites::wait::{ensure, eventually, secs};
use serde_json::Value;

use crate::{AGNHOST, cluster, idle, is_dual};

/// Pod links of ours on all nodes, by the kernel's word.
fn links(cluster: &Cluster) -> usize {
    let count = |node: &String| {
        let out = cluster.on(node, &["ip", "-br", "link", "show", "type", "veth"]).must();
        out.stdout.lines().filter(|line| line.starts_with("ovlp")).count()
    };
    cluster.nodes().iter().map(count).sum()
}

fn on_pod_network(cluster: &Cluster) -> Vec<Value> {
    let all = cluster.list(&["pods", "-A"]);
    all.into_iter().filter(|pod| pod["spec"]["hostNetwork"] != true).collect()
}

#[test]
fn d_thirty_pods_come_and_go_and_leave_nothing() {
    let cluster = cluster();
    let before = links(&cluster);
    cluster.apply(&idle("thirty", 30)).must();
    let pods = cluster.await_ready("default", "app=thirty", 30, secs(120));
    let mut seen: BTreeSet<IpAddr> = BTreeSet::new();
    for pod in &pods {
        let ips = ips(pod);
        assert!(is_dual(&ips), "{}: {ips:?}", name(pod));
        for ip in ips {
            assert!(seen.insert(ip), "{ip} was given twice");
        }
    }
    assert_eq!(links(&cluster), before + 30);
    cluster.kubectl(&["delete", "deployment", "thirty", "--cascade=foreground"]).must();
    cluster.await_gone("default", "app=thirty");
    eventually(secs(30), "no link is left", || {
        let now = links(&cluster);
        ensure(now == before, || format!("{now} links, {before} before"))
    });
}

/// A pod that listens; `meta` and `more` go into its metadata and its specification.
fn listener(name: &str, meta: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: kinds}}\n{meta}spec:\n  \
         terminationGracePeriodSeconds: 0\n{more}  containers: [{{name: c, image: \"{AGNHOST}\", imagePullPolicy: \
         Never, args: [netexec, --http-port=18080, --udp-port=-1]}}]\n"
    )
}

#[test]
fn e_every_kind_of_pod_runs() {
    let cluster = cluster();
    let init = format!(
        "  initContainers: [{{name: i, image: \"{AGNHOST}\", imagePullPolicy: Never, command: [sh, -c, 'grep -q up \
         /sys/class/net/eth0/operstate']}}]\n"
    );
    let limits = "  annotations: {kubernetes.io/ingress-bandwidth: 20M, kubernetes.io/egress-bandwidth: 10M}\n";
    let manifests = listener("plain", "", "")
        + &listener("host", "", "  hostNetwork: true\n")
        + &listener("with-init", "", &init)
        + &listener("own-users", "", "  hostUsers: false\n")
        + &listener("limited", limits, "");
    cluster.apply(&manifests).must();
    let pods = cluster.await_ready("default", "app=kinds", 5, secs(60));
    for pod in &pods {
        let on_host = pod["spec"]["hostNetwork"] == true;
        let ips = ips(pod);
        let is_pods =
            |ip: &IpAddr| ip.to_string().starts_with("10.244.") || ip.to_string().starts_with("fd12:3456:789a:");
        assert_eq!(ips.iter().any(is_pods), !on_host, "{}: {ips:?}", name(pod));
        for ip in ips {
            let reached = cluster.node_ns("cp").connect((ip, 18080).into(), None, secs(5));
            assert!(reached.is_ok(), "{} by {ip}: {reached:?}", name(pod));
        }
    }
    let named = |wanted: &str| pods.iter().find(|pod| name(pod) == wanted).expect("the pod");
    let users = cluster.kubectl(&["exec", "own-users", "--", "cat", "/proc/self/uid_map"]).must().stdout;
    assert_ne!(users.split_whitespace().nth(1), Some("0"), "root of the pod is root of the node: {users}");
    let on = named("limited")["spec"]["nodeName"].as_str().unwrap();
    let qdiscs = cluster.on(on, &["tc", "qdisc", "show"]).must().stdout;
    for (link, rate) in [("ovlp", "rate 20Mbit"), ("ovlb", "rate 10Mbit")] {
        let holds = |line: &&str| line.contains(link) && line.contains("tbf") && line.contains(rate);
        assert!(qdiscs.lines().any(|line| holds(&line)), "{link} is not held to {rate}: {qdiscs}");
    }
    // A static pod: the kubelet makes it from a file, under a UID that the API never sees.
    let file = listener("static", "", "").replace("---\n", "");
    let node = "node-1";
    let write = format!("cat > /etc/kubernetes/manifests/static.yaml <<'END'\n{file}\nEND");
    cluster.on(node, &["sh", "-c", &write]).must();
    let pods = cluster.await_ready("default", "app=kinds", 6, secs(60));
    let of_file = pods.iter().find(|pod| name(pod) == format!("static-{node}")).expect("the static pod");
    assert!(is_dual(&ips(of_file)), "{of_file}");
    cluster.on(node, &["rm", "/etc/kubernetes/manifests/static.yaml"]).must();
    cluster.kubectl(&["delete", "pod", "plain", "host", "with-init", "own-users", "limited", "--now"]).must();
    cluster.await_gone("default", "app=kinds");
}

/// The failure of the short suite: the agent dies again and again while pods start and end.
#[test]
fn f_pods_start_while_the_agent_is_killed() {
    let cluster = cluster();
    let before = on_pod_network(&cluster).len();
    let agent = |node: &str| {
        let on_it = ["pods", "-n", "kube-system", "-l", "app.kubernetes.io/name=overlane-agent"];
        let pods = cluster.list(&on_it);
        let found = pods.iter().find(|pod| pod["spec"]["nodeName"] == node).expect("an agent");
        cluster.pod_pid("kube-system", &name(found))
    };
    cluster.apply(&idle("storm", 20)).must();
    for node in ["node-0", "node-1"] {
        let pid = agent(node);
        assert!(exec::signal(pid, Signal::SIGKILL));
        eventually(secs(10), "the agent is dead", || ensure(!exec::alive(pid), || format!("{pid} lives")));
    }
    cluster.await_ready("default", "app=storm", 20, secs(180));
    let pid = agent("node-0");
    exec::signal(pid, Signal::SIGKILL);
    cluster.kubectl(&["delete", "deployment", "storm", "--cascade=foreground"]).must();
    cluster.await_gone("default", "app=storm");
    // Each death has the kubelet start the next one later: ten seconds, twenty, forty.
    eventually(secs(120), "links are as many as pods", || {
        let (links, pods) = (links(&cluster), on_pod_network(&cluster).len());
        std::thread::sleep(Duration::from_millis(500));
        ensure(links == pods && pods == before, || format!("{links} links, {pods} pods, {before} before"))
    });
    cluster.await_ready("kube-system", "app.kubernetes.io/name=overlane-agent", 3, secs(120));
}
