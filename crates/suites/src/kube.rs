//! A real Kubernetes on this machine (`tests/kubernetes/cluster.sh`), used through kubectl and looked at from outside.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::exec::{self, Out};
use crate::http;
use crate::ns::Ns;
use crate::wait::{ensure, eventually, secs};

const LIMIT: Duration = Duration::from_secs(600);

/// The running cluster that the environment names: `OVERLANE_CLUSTER` (cluster.sh), `NAME`.
#[derive(Clone, Debug)]
pub struct Cluster {
    script: PathBuf,
    name: String,
    kubeconfig: String,
}

impl Cluster {
    /// The cluster that `scripts/test-kubernetes.sh` brought up.
    pub fn running() -> Cluster {
        let script = std::env::var("OVERLANE_CLUSTER");
        let script = script.expect("OVERLANE_CLUSTER is not set: this suite is run by scripts/test-kubernetes.sh");
        let name = std::env::var("NAME").expect("NAME of the cluster is not set");
        let mut cluster = Cluster { script: PathBuf::from(script), name, kubeconfig: String::new() };
        cluster.kubeconfig = cluster.script(&["kubeconfig"], b"").must().stdout.trim().to_owned();
        cluster
    }

    /// Runs `cluster.sh` with these words.
    pub fn script(&self, words: &[&str], input: &[u8]) -> Out {
        let mut all: Vec<&str> = vec![self.script.to_str().expect("a path of UTF-8")];
        all.extend(words);
        exec::run(exec::command(&all), input, LIMIT)
    }

    /// Runs words on a node, in its namespaces.
    pub fn on(&self, node: &str, words: &[&str]) -> Out {
        let mut all = vec!["exec", node];
        all.extend(words);
        self.script(&all, b"")
    }

    /// Runs kubectl with these words.
    pub fn kubectl(&self, words: &[&str]) -> Out {
        let mut all = vec!["kubectl"];
        all.extend(words);
        self.script(&all, b"")
    }

    /// Applies manifests.
    pub fn apply(&self, yaml: &str) -> Out {
        self.script(&["kubectl", "apply", "-f", "-"], yaml.as_bytes())
    }

    /// An object, or a list of them, as JSON: `get(&["pods", "-n", "x"])`.
    pub fn get(&self, words: &[&str]) -> Value {
        let mut all = vec!["get", "-o", "json"];
        all.extend(words);
        let out = self.kubectl(&all).must();
        serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e} in {out}"))
    }

    /// The items of a list.
    pub fn list(&self, words: &[&str]) -> Vec<Value> {
        self.get(words)["items"].as_array().cloned().unwrap_or_default()
    }

    /// Runs the product's command on the control plane's node, as its administrator.
    pub fn overlane(&self, words: &[&str]) -> Out {
        let program = exec::bin("overlane");
        let mut all = vec!["exec", "cp", program.to_str().expect("a path of UTF-8")];
        all.extend(words);
        all.extend(["--kubeconfig", &self.kubeconfig]);
        self.script(&all, b"")
    }

    /// The same without a cluster.
    pub fn overlane_alone(&self, words: &[&str]) -> Out {
        let program = exec::bin("overlane");
        let mut all = vec![program.to_str().expect("a path of UTF-8")];
        all.extend(words);
        self.on("cp", &all)
    }

    /// The nodes' names.
    pub fn nodes(&self) -> Vec<String> {
        self.list(&["nodes"]).iter().map(name).collect()
    }

    /// A node's network namespace.
    pub fn node_ns(&self, node: &str) -> Ns {
        Ns::open(Path::new("/run/netns").join(format!("{}-{node}", self.name)), node)
    }

    /// Addresses of the leases that an agent holds, and in what state each is; none while it does not answer.
    pub fn leases(&self, node: &str) -> BTreeMap<IpAddr, String> {
        let at = "127.0.0.1:9470".parse().expect("an address");
        let reply = http::ask(&self.node_ns(node), at, "GET", "/debug/state", None);
        let text = reply.map(|reply| reply.text()).unwrap_or_default();
        let state: Value = serde_json::from_str(&text).unwrap_or_default();
        let mut found = BTreeMap::new();
        for lease in state["leases"].as_array().into_iter().flatten() {
            for address in lease["addresses"].as_array().into_iter().flatten() {
                let address = address.as_str().and_then(|text| text.parse().ok());
                found.extend(address.map(|address| (address, lease["state"].as_str().unwrap_or_default().to_owned())));
            }
        }
        found
    }

    /// What stands for the network outside: a host behind the nodes' router.
    pub fn outside(&self) -> Ns {
        Ns::open(Path::new("/run/netns").join(format!("{}-internet", self.name)), "outside")
    }

    /// The pid of a pod's first container's first process.
    pub fn pod_pid(&self, namespace: &str, pod: &str) -> i32 {
        let object = self.get(&["pod", "-n", namespace, pod]);
        let id = object["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default().to_owned();
        let id = id.rsplit('/').next().unwrap_or_default().to_owned();
        assert!(!id.is_empty(), "pod {namespace}/{pod} has no container: {object}");
        let of_it = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|c| c.contains(&id));
        let found = exec::pids().into_iter().find(of_it);
        found.unwrap_or_else(|| panic!("no process is in a cgroup of container {id} of {namespace}/{pod}"))
    }

    /// A pod's network namespace.
    pub fn pod_ns(&self, namespace: &str, pod: &str) -> Ns {
        Ns::open(format!("/proc/{}/ns/net", self.pod_pid(namespace, pod)), pod)
    }

    /// Waits until these pods are as many and all ready; gives them.
    pub fn await_ready(&self, namespace: &str, selector: &str, count: usize, limit: Duration) -> Vec<Value> {
        eventually(limit, &format!("{count} pods {selector} of {namespace} are ready"), || {
            let pods = self.list(&["pods", "-n", namespace, "-l", selector]);
            let waiting: Vec<String> = pods.iter().filter(|p| !is_ready(p)).map(describe).collect();
            let all = pods.len() == count && waiting.is_empty();
            std::thread::sleep(Duration::from_millis(200));
            ensure(all, || format!("{} there, not ready: {}", pods.len(), waiting.join("; "))).map(|()| pods)
        })
    }

    /// Waits until no such pod is left.
    pub fn await_gone(&self, namespace: &str, selector: &str) {
        eventually(secs(120), &format!("pods {selector} of {namespace} are gone"), || {
            let left = self.list(&["pods", "-n", namespace, "-l", selector]).len();
            std::thread::sleep(Duration::from_millis(200));
            ensure(left == 0, || format!("{left} are left"))
        });
    }
}

/// `metadata.name`.
pub fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// A pod's addresses.
pub fn ips(pod: &Value) -> Vec<IpAddr> {
    let list = pod["status"]["podIPs"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect()
}

/// A condition's status and reason.
pub fn condition(object: &Value, kind: &str) -> Option<(String, String)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    Some((found["status"].as_str()?.to_owned(), found["reason"].as_str().unwrap_or_default().to_owned()))
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}

fn describe(pod: &Value) -> String {
    let state = pod["status"]["containerStatuses"][0]["state"].to_string();
    format!("{} {} {state}", name(pod), pod["status"]["phase"])
}
