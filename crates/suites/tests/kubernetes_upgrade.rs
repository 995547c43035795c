//! One release of Overlane after another in a real Kubernetes, and back: what runs loses no packet, pods start and end
//! all the while, and what cannot be had is refused.
//!
//! Must catch: a socket, a lease store or a custom resource whose format changed without its version.
//!
//! Run by `scripts/test-kubernetes-upgrade.sh` against a cluster without Overlane, in the order of the tests' names:
//! each goes on from where the one before ended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use overlane_suites::exec::{self, Out};
use overlane_suites::kube::{Cluster, condition, ips, name};
use overlane_suites::stream::Stream;
use overlane_suites::wait::{ensure, eventually, secs};
use serde_json::Value;

const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
/// What a stream of a thousand packets a second may lose in a downgrade: an agent that knows nothing of probes takes the
/// routes to their addresses for blocks of nodes when it starts, and takes the blocks around them off the network until
/// it has heard the API server; half a second on each of two nodes.
const LOST_BY_OLD: u64 = 3_000;
const NODES: [&str; 2] = ["node-0", "node-1"];

/// A release: its programs, and the image's name that the script gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    Old,
    New,
}

impl Release {
    fn program(self, program: &str) -> PathBuf {
        match self {
            Release::Old => PathBuf::from(std::env::var("OVERLANE_OLD_BIN").expect("OVERLANE_OLD_BIN")).join(program),
            Release::New => exec::bin(program),
        }
    }

    fn image(self) -> &'static str {
        match self {
            Release::Old => "overlane:old",
            Release::New => "overlane:new",
        }
    }

    /// Runs this release's command line as the cluster's administrator.
    fn overlane(self, cluster: &Cluster, words: &[&str]) -> Out {
        let program = self.program("overlane");
        let config = cluster.script(&["kubeconfig"], b"").must().stdout;
        let mut all = vec![program.to_str().unwrap()];
        all.extend(words);
        all.extend(["--kubeconfig", config.trim()]);
        cluster.on("cp", &all)
    }

    fn install(self, cluster: &Cluster, more: &[&str]) -> Out {
        let mut words = vec!["install", "--image", self.image(), "--timeout", "180"];
        words.extend(more);
        self.overlane(cluster, &words)
    }
}

/// A pod on a node that listens on port 18080.
fn listener(name: &str, node: &str, meta: &str, port: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: {name}, upgrade: pod}}\n{meta}spec:\n  \
         nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: \"{AGNHOST}\", \
         imagePullPolicy: Never, args: [netexec, --http-port=18080, --udp-port=-1]{port}}}]\n"
    )
}

fn reached(cluster: &Cluster, pod: &Value) -> Result<(), String> {
    for ip in ips(pod) {
        let cp = cluster.node_ns("cp");
        cp.connect((ip, 18080).into(), None, secs(5)).map_err(|error| format!("{} by {ip}: {error}", name(pod)))?;
    }
    Ok(())
}

/// Starts a pod, asks it by each of its addresses from another node, ends it. How long the start took.
fn one_pod(cluster: &Cluster, name: &str, node: &str) -> Duration {
    let began = Instant::now();
    cluster.apply(&listener(name, node, "", "")).must();
    let pod = cluster.await_ready("default", &format!("app={name}"), 1, secs(120)).remove(0);
    let took = began.elapsed();
    assert_eq!(ips(&pod).len(), 2, "{pod}");
    eventually(secs(10), "the pod is reached", || reached(cluster, &pod));
    cluster.kubectl(&["delete", "pod", name, "--now"]).must();
    cluster.await_gone("default", &format!("app={name}"));
    took
}

/// Pods that start and end on both nodes, one after another, until told.
struct Churn {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Churn {
    fn start(label: &'static str) -> Churn {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let cluster = Cluster::running();
            let mut starts = Vec::new();
            while !told.load(Ordering::Relaxed) {
                let number = starts.len();
                starts.push(one_pod(&cluster, &format!("churn-{label}-{number}"), NODES[number % NODES.len()]));
            }
            starts
        });
        Churn { stop, thread }
    }

    fn finish(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every pod started, was reached and ended")
    }
}

/// Streams of a thousand packets a second between pods of two nodes: both ways, both families.
fn streams(cluster: &Cluster) -> Vec<(IpAddr, Stream)> {
    let pods = NODES.map(|node| {
        let name = format!("stream-{node}");
        cluster.apply(&listener(&name, node, "", "")).must();
        cluster.await_ready("default", &format!("app={name}"), 1, secs(60)).remove(0)
    });
    let spaces = [0, 1].map(|at: usize| cluster.pod_ns("default", &name(&pods[at])));
    let mut all = Vec::new();
    for (from, to) in [(0, 1), (1, 0)] {
        for ip in ips(&pods[to]) {
            all.push((ip, Stream::start(&spaces[from], &spaces[to], ip, Duration::from_millis(1))));
        }
    }
    assert_eq!(all.len(), 4, "both ways, both families");
    all
}

fn nothing_lost(what: &str, streams: Vec<(IpAddr, Stream)>) {
    lost_at_most(what, streams, 0);
}

fn lost_at_most(what: &str, streams: Vec<(IpAddr, Stream)>, most: u64) {
    let reports: Vec<_> = streams.into_iter().map(|(ip, stream)| (ip, stream.finish())).collect();
    for (ip, report) in &reports {
        println!("{what}: to {ip}: {report:?}");
    }
    for (ip, report) in reports {
        assert!(report.sent > 3_000, "{what}: the stream was short: {report:?}");
        assert!(report.lost() <= most && report.refused == 0, "{what}: to {ip}: {report:?}");
    }
}

fn images(cluster: &Cluster, part: &str) -> BTreeSet<String> {
    let pods = cluster.list(&["pods", "-n", "kube-system", "-l", &format!("app.kubernetes.io/name={part}")]);
    pods.iter().map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Everything runs this release, and says that all is well; leases, links' routes and pods are the same.
fn all_is_well(cluster: &Cluster, release: Release) {
    for part in ["overlane-agent", "overlane-controller"] {
        eventually(secs(60), &format!("every {part} is {}", release.image()), || {
            let found = images(cluster, part);
            ensure(found == BTreeSet::from([release.image().to_owned()]), || format!("{found:?}"))
        });
    }
    eventually(secs(30), "status is good", || {
        let out = release.overlane(cluster, &["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&out.stdout).map_err(|error| format!("{error}: {out}"))?;
        ensure(out.ok() && status["good"] == true, || out.to_string())
    });
    let network = cluster.get(&["clusternetwork", "default"]);
    assert_eq!(condition(&network, "Ready").unwrap().0, "True", "{network}");
    for node in cluster.nodes() {
        eventually(secs(60), &format!("the books of {node} balance"), || {
            std::thread::sleep(Duration::from_millis(500));
            let pods = cluster.list(&["pods", "-A", "--field-selector", &format!("spec.nodeName={node}")]);
            let wanted: BTreeSet<IpAddr> =
                pods.iter().filter(|pod| pod["spec"]["hostNetwork"] != true).flat_map(ips).collect();
            let leased: BTreeSet<IpAddr> = cluster.leases(&node).into_keys().collect();
            ensure(wanted == leased, || format!("pods {wanted:?}, leases {leased:?}"))
        });
    }
    for node in NODES {
        let pod = cluster.get(&["pod", &format!("old-{node}")]);
        eventually(secs(5), "the pod from before", || reached(cluster, &pod));
    }
    // Host ports and limits of pods that a daemon of another release wired.
    let pod = cluster.get(&["pod", "old-node-0"]);
    let host: IpAddr = pod["status"]["hostIP"].as_str().unwrap().parse().unwrap();
    cluster.node_ns("cp").connect((host, 18081).into(), None, secs(5)).expect("the host port");
    let qdiscs = cluster.on("node-0", &["tc", "qdisc", "show"]).must().stdout;
    for (link, rate) in [("ovlp", "rate 20Mbit"), ("ovlb", "rate 10Mbit")] {
        let holds = |line: &str| line.contains(link) && line.contains("tbf") && line.contains(rate);
        assert!(qdiscs.lines().any(holds), "{link} is not held to {rate}: {qdiscs}");
    }
}

/// From what runs to `release`, as a user would do it, under streams and while pods start and end.
fn goes_to(release: Release, label: &'static str, may_lose: u64) {
    let cluster = Cluster::running();
    let running = streams(&cluster);
    let churn = Churn::start(label);
    // Some start and end before.
    std::thread::sleep(secs(5));
    let began = Instant::now();
    let out = release.install(&cluster, &[]).must();
    println!("{label}: {:.1} s: {}{}", began.elapsed().as_secs_f32(), out.stderr, out.stdout);
    std::thread::sleep(secs(5));
    let starts = churn.finish();
    println!("{label}: {} pods started and ended, the slowest in {:?}", starts.len(), starts.iter().max());
    lost_at_most(label, running, may_lose);
    cluster.kubectl(&["delete", "pod", "stream-node-0", "stream-node-1", "--now"]).must();
    all_is_well(&cluster, release);
}

#[test]
fn a_the_old_release_runs() {
    let cluster = Cluster::running();
    Release::Old.install(&cluster, &[]).must();
    let limits = "  annotations: {kubernetes.io/ingress-bandwidth: 20M, kubernetes.io/egress-bandwidth: 10M}\n";
    let port = ", ports: [{containerPort: 18080, hostPort: 18081}]";
    let pods = listener("old-node-0", "node-0", limits, port) + &listener("old-node-1", "node-1", "", "");
    cluster.apply(&pods).must();
    cluster.await_ready("default", "upgrade=pod", 2, secs(60));
    cluster.await_ready("kube-system", "k8s-app=kube-dns", 2, secs(60));
    all_is_well(&cluster, Release::Old);
}

#[test]
fn b_it_is_upgraded() {
    goes_to(Release::New, "upgrade", 0);
}

#[test]
fn c_and_downgraded() {
    goes_to(Release::Old, "downgrade", LOST_BY_OLD);
}

/// A pod's namespace by hand, added by one release's plugin and deleted by another's, both by the agent that runs.
fn by_plugins(cluster: &Cluster, node: &str, adds: Release, deletes: Release) {
    // Not by `ip netns add`: that binds /run/netns over itself, and containerd could take no older pod's away any more.
    let script = r#"
set -eu
conf=$(jq -c '.plugins[0] + {cniVersion, name}' /etc/cni/net.d/*overlane*.conflist)
touch /run/by-hand
unshare --net=/run/by-hand true
export CNI_CONTAINERID=by-hand CNI_NETNS=/run/by-hand CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin
export CNI_ARGS='K8S_POD_NAMESPACE=default;K8S_POD_NAME=by-hand;K8S_POD_INFRA_CONTAINER_ID=by-hand'
result=$(CNI_COMMAND=ADD "$1" <<<"$conf")
echo "$result"
CNI_COMMAND=CHECK "$2" <<<"$(jq -c --argjson result "$result" '.prevResult = $result' <<<"$conf")"
CNI_COMMAND=DEL "$2" <<<"$conf"
! nsenter --net=/run/by-hand ip link show eth0 2>/dev/null >&2
umount /run/by-hand
rm /run/by-hand
"#;
    let (adds, deletes) = (adds.program("overlane-cni"), deletes.program("overlane-cni"));
    let words = ["bash", "-c", script, "-", adds.to_str().unwrap(), deletes.to_str().unwrap()];
    let out = cluster.on(node, &words).must();
    assert!(out.stdout.contains("\"ips\""), "{out}");
}

/// One node new, one old, the controllers new: as in the middle of an upgrade that somebody holds up.
#[test]
fn d_both_run_beside_each_other() {
    let cluster = Cluster::running();
    let running = streams(&cluster);
    // Held up at its first step: agents are replaced by hand.
    cluster.script(&["stop", "cp", "kube-controller-manager"], b"").must();
    Release::New.install(&cluster, &["--no-wait"]).must();
    let by_hand = r#"{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null}}}"#;
    cluster.kubectl(&["patch", "ds", "overlane-agent", "-n", "kube-system", "--type=merge", "-p", by_hand]).must();
    cluster.script(&["start", "cp", "kube-controller-manager"], b"").must();
    cluster.kubectl(&["rollout", "status", "-n", "kube-system", "deploy/overlane-controller", "--timeout=120s"]).must();
    let on_first = [
        "pods",
        "-n",
        "kube-system",
        "--field-selector",
        "spec.nodeName=node-0",
        "-l",
        "app.kubernetes.io/name=overlane-agent",
    ];
    let agent = name(&cluster.list(&on_first).remove(0));
    cluster.kubectl(&["delete", "pod", "-n", "kube-system", &agent]).must();
    cluster.await_ready("kube-system", "app.kubernetes.io/name=overlane-agent", 3, secs(60));
    assert_eq!(images(&cluster, "overlane-agent").len(), 2, "agents of both releases");
    for round in 0..3 {
        for node in NODES {
            one_pod(&cluster, &format!("mixed-{round}"), node);
        }
    }
    for node in NODES {
        for (adds, deletes) in [(Release::Old, Release::New), (Release::New, Release::Old)] {
            by_plugins(&cluster, node, adds, deletes);
        }
    }
    nothing_lost("mixed", running);

    // A change of the routing waits for agents that do not know of it, and can be taken back.
    let running = streams(&cluster);
    let routing = |mode: &str| {
        let patch = format!(r#"{{"spec":{{"routing":"{mode}"}}}}"#);
        cluster.kubectl(&["patch", "clusternetwork", "default", "--type=merge", "-p", &patch]).must();
    };
    routing("vxlan");
    eventually(secs(20), "the change waits for the old agents", || {
        let network = cluster.get(&["clusternetwork", "default"]);
        let changing = condition(&network, "RoutingChanging");
        let waits = changing.as_ref().is_some_and(|(status, reason)| status == "True" && reason == "WaitingForNodes");
        let sends =
            network["status"]["routing"]["sends"] == "native" && network["status"]["applied"]["routing"] == "native";
        ensure(waits && sends && network.to_string().contains("node-1"), || network["status"].to_string())
    });
    std::thread::sleep(secs(5));
    routing("native");
    eventually(secs(20), "the change is taken back", || {
        let network = cluster.get(&["clusternetwork", "default"]);
        let sends = network["status"]["routing"]["sends"] == "native";
        let taken = network["status"]["observedGeneration"] == network["metadata"]["generation"];
        ensure(sends && taken, || network["status"].to_string())
    });
    std::thread::sleep(secs(2));
    nothing_lost("routing held up", running);
    let running = streams(&cluster);
    Release::New.install(&cluster, &[]).must();
    // What was begun ends by itself once all agents speak of it.
    eventually(secs(60), "nothing is held up any more", || {
        let network = cluster.get(&["clusternetwork", "default"]);
        let changing = condition(&network, "RoutingChanging");
        ensure(changing.is_none_or(|(status, _)| status == "False"), || network["status"].to_string())
    });
    nothing_lost("the rest", running);
    cluster.kubectl(&["delete", "pod", "stream-node-0", "stream-node-1", "--now"]).must();
    all_is_well(&cluster, Release::New);
}

/// What the old release cannot do, it refuses to take over, and changes nothing.
#[test]
fn e_a_downgrade_that_would_harm_is_refused() {
    let cluster = Cluster::running();
    let patch = r#"{"spec":{"routing":"vxlan"}}"#;
    cluster.kubectl(&["patch", "clusternetwork", "default", "--type=merge", "-p", patch]).must();
    let settled = |network: &Value| {
        network["status"]["routing"]["sends"] == "vxlan"
            && condition(network, "RoutingChanging").is_none_or(|(status, _)| status == "False")
    };
    eventually(secs(60), "routing is vxlan", || {
        let network = cluster.get(&["clusternetwork", "default"]);
        ensure(settled(&network), || network["status"].to_string())
    });
    let running = streams(&cluster);
    let crds =
        || -> Vec<Value> { cluster.list(&["crds"]).iter().map(|crd| crd["metadata"]["generation"].clone()).collect() };
    let before = crds();
    let refused = Release::Old.install(&cluster, &[]);
    println!("{refused}");
    assert_eq!(refused.code, Some(2), "{refused}");
    assert_eq!(crds(), before, "a refused installation has changed something");
    std::thread::sleep(secs(5));
    nothing_lost("refused", running);
    cluster.kubectl(&["delete", "pod", "stream-node-0", "stream-node-1", "--now"]).must();
    all_is_well(&cluster, Release::New);
}
