//! A lab: brought up by the product's own command, looked at from outside, gone when dropped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::Agent;
use crate::api::Api;
use crate::clean::{self, Janitor};
use crate::exec::{self, Out};
use crate::http;
use crate::ns::{Ns, unique};
use crate::runtime::Runtime;
use crate::wait::{ensure, eventually, secs};

/// Where the lab keeps its files.
pub const ROOT: &str = "/run/overlane-lab";
/// How long a command of the lab may take.
const LIMIT: Duration = Duration::from_secs(180);

/// The `overlane` command with these words.
pub fn cli<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Command {
    let mut command = Command::new(exec::bin("overlane"));
    command.args(words);
    command
}

/// Whether labs have a real API server: `OVERLANE_LAB_API`, which `overlane lab up` reads too.
pub fn real_api() -> bool {
    std::env::var("OVERLANE_LAB_API").is_ok_and(|api| api == "kubernetes")
}

/// Runs `overlane` with these words.
pub fn overlane(words: &[&str]) -> Out {
    exec::run(cli(words), b"", LIMIT)
}

/// A running lab.
pub struct Lab {
    /// Its name.
    pub name: String,
    /// The VNet that it is in.
    pub vnet: String,
    /// Its API.
    pub api: Api,
    janitor: Janitor,
    down: bool,
}

/// A pod of the lab.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace in the kernel.
    pub ns: Ns,
    /// Its addresses in the API's order.
    pub ips: Vec<IpAddr>,
}

impl Pod {
    /// Its address of the other's family.
    pub fn ip_like(&self, other: IpAddr) -> IpAddr {
        let found = self.ips.iter().find(|ip| ip.is_ipv4() == other.is_ipv4());
        *found.unwrap_or_else(|| panic!("{} has no address like {other}: {:?}", self.name, self.ips))
    }
}

impl Lab {
    /// Brings one up under a name of its own. `args` are those of `overlane lab up` after the name.
    pub fn up(args: &[&str]) -> Lab {
        Lab::up_named(&unique(clean::PREFIX), args)
    }

    /// Brings one up under this name.
    pub fn up_named(name: &str, args: &[&str]) -> Lab {
        clean::begin();
        let janitor = Janitor::of_lab(name);
        let mut words = vec!["lab", "up", "--name", name];
        words.extend(args);
        let out = overlane(&words).must();
        println!("lab {name} {args:?} is up after {:.1} s", out.took.as_secs_f64());
        let kubeconfig = overlane(&["lab", "kubeconfig", "--name", name]).must();
        let vnet = args.iter().position(|a| *a == "--vnet").and_then(|i| args.get(i + 1));
        let vnet = vnet.map_or_else(|| name.to_owned(), |v| (*v).to_owned());
        Lab { name: name.to_owned(), vnet, api: Api::from_kubeconfig(&kubeconfig.stdout), janitor, down: false }
    }

    /// Runs `overlane lab VERB --name NAME WORDS`.
    pub fn cli(&self, verb: &str, words: &[&str]) -> Out {
        let mut all = vec!["lab", verb, "--name", &self.name];
        all.extend(words);
        overlane(&all)
    }

    /// Nodes in order of their numbers.
    pub fn nodes(&self) -> Vec<NodeHandle> {
        let mut names = self.api.node_names();
        names.sort_by_key(|n| n.rsplit('-').next().and_then(|d| d.parse::<u32>().ok()));
        names.iter().map(|name| self.node_named(name)).collect()
    }

    /// The node at this place in that order.
    pub fn node(&self, number: usize) -> NodeHandle {
        self.nodes().swap_remove(number)
    }

    /// The node of this name.
    pub fn node_named(&self, name: &str) -> NodeHandle {
        let dir = Path::new(ROOT).join(&self.name).join("nodes").join(name);
        NodeHandle {
            lab: self.name.clone(),
            name: name.to_owned(),
            api: self.api.clone(),
            ns: self.ns(&self.name, name),
            run_dir: dir.join("run"),
            cni_dir: dir.join("cni/net.d"),
        }
    }

    fn ns(&self, owner: &str, part: &str) -> Ns {
        Ns::open(format!("/run/netns/ovl-{owner}-{part}"), &format!("{part} of {}", self.name))
    }

    /// The host on the nodes' subnet that is no node.
    pub fn vm(&self) -> Ns {
        self.ns(&self.vnet, "vm")
    }

    /// The host behind the router.
    pub fn internet(&self) -> Ns {
        self.ns(&self.vnet, "internet")
    }

    /// The router.
    pub fn router(&self) -> Ns {
        self.ns(&self.vnet, "router")
    }

    /// Runs a pod with the lab's own server and waits until it has addresses.
    pub fn run_pod(&self, name: &str, node: &str) -> Pod {
        self.cli("run", &[name, "--node", node]).must();
        self.pod(name)
    }

    /// A pod that is there.
    pub fn pod(&self, name: &str) -> Pod {
        self.pod_in("default", name)
    }

    /// A pod that is there.
    pub fn pod_in(&self, namespace: &str, name: &str) -> Pod {
        let ips = eventually(secs(20), &format!("addresses of pod {name}"), || {
            let ips = self.api.pod_ips(namespace, name);
            if ips.is_empty() { Err("none yet") } else { Ok(ips) }
        });
        let out = self.cli("exec", &[name, "-n", namespace, "--", "readlink", "/proc/self/ns/net"]).must();
        let ns = ns_of_inode(out.stdout.trim())
            .unwrap_or_else(|| panic!("no process in the namespace of pod {name}: {out}"));
        Pod { name: name.to_owned(), ns: ns.labelled(&format!("pod {name}")), ips }
    }

    /// Deletes a pod and waits until the API has forgotten it.
    pub fn delete_pod(&self, name: &str) {
        let path = Api::pod_path("default", name);
        self.api.delete(&path);
        eventually(secs(30), &format!("end of pod {name}"), || {
            ensure(self.api.find(&path).is_none(), || "still there".into())
        });
    }

    /// Asks the lab's daemon for something that only suites do.
    pub fn control(&self, command: &Value) -> Value {
        control(&self.name, command).unwrap_or_else(|e| panic!("{command}: {e}"))
    }

    /// Takes the API away from agents and controllers, or gives it back. Suites and kubelets keep it.
    pub fn api_up(&self, up: bool) {
        self.control(&json!({"op": "api", "up": up}));
    }

    /// Another node joins; returns its name.
    pub fn add_node(&self) -> String {
        let answer = self.control(&json!({"op": "add-node", "number": null}));
        answer["node"]["name"].as_str().unwrap_or_else(|| panic!("no node in {answer}")).to_owned()
    }

    /// A node's machine is thrown away.
    pub fn remove_node(&self, name: &str, keep_objects: bool) {
        self.control(&json!({"op": "remove-node", "node": name, "keep_objects": keep_objects}));
    }

    /// Takes it down and says how that went.
    pub fn take_down(&mut self) -> Out {
        self.down = true;
        let out = self.cli("down", &[]);
        self.janitor.dismiss();
        out
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.down {
            let out = self.take_down();
            if !out.ok() {
                eprintln!("{out}");
            }
        }
    }
}

/// One line of JSON to the daemon of a lab, one back.
pub fn control(lab: &str, command: &Value) -> Result<Value, String> {
    let path = Path::new(ROOT).join(lab).join("control.sock");
    let mut stream = UnixStream::connect(&path).map_err(|e| format!("connect to {}: {e}", path.display()))?;
    stream.set_read_timeout(Some(LIMIT)).map_err(|e| e.to_string())?;
    stream.write_all(format!("{command}\n").as_bytes()).map_err(|e| format!("write: {e}"))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(|e| format!("read: {e}"))?;
    let answer: Value = serde_json::from_str(&answer).map_err(|e| format!("{e} in {answer:?}"))?;
    match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer),
    }
}

/// A namespace by what `readlink /proc/self/ns/net` printed.
fn ns_of_inode(link: &str) -> Option<Ns> {
    exec::pids().into_iter().find_map(|pid| {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let target = std::fs::read_link(&path).ok()?;
        if target.to_str()? != link {
            return None;
        }
        let ns = Ns::open(&path, link);
        // The process may have gone meanwhile, and its pid may be another's.
        (format!("net:[{}]", ns.inode()) == link).then_some(ns)
    })
}

/// A node of a lab.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    /// The lab.
    pub lab: String,
    /// The Node's name.
    pub name: String,
    /// The lab's API.
    pub api: Api,
    /// Its namespace.
    pub ns: Ns,
    /// The agent's run directory.
    pub run_dir: PathBuf,
    /// The runtime's configuration directory.
    pub cni_dir: PathBuf,
}

impl NodeHandle {
    /// A container runtime on this node; waits for the network configuration, which an agent writes last.
    pub fn runtime(&self) -> Runtime {
        eventually(secs(20), &format!("network configuration of {}", self.name), || {
            let file = self.cni_dir.join("05-overlane.conflist");
            ensure(file.is_file(), || format!("{} is not there", file.display()))
        });
        Runtime::new(&self.ns, &self.cni_dir)
    }

    /// Its addresses by the API.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.api.node_ips(&self.name)
    }

    /// The agent's pid, by its command line.
    pub fn agent_pid(&self) -> Option<i32> {
        exec::pids().into_iter().find(|pid| {
            let words = exec::cmdline(*pid);
            let has = |flag: &str, value: &str| words.windows(2).any(|w| w[0] == flag && w[1] == value);
            words.first().is_some_and(|w| w.ends_with("overlane-agent"))
                && has("--lab", &self.lab)
                && has("--node-name", &self.name)
                && exec::alive(*pid)
        })
    }

    /// One of the agent's pages.
    pub fn page(&self, path: &str) -> std::io::Result<http::Reply> {
        let at = "127.0.0.1:9470".parse().expect("an address");
        http::ask(&self.ns, at, "GET", path, None)
    }

    /// Waits until the agent would serve an ADD.
    pub fn agent_ready(&self) {
        eventually(secs(30), &format!("readiness of the agent of {}", self.name), || match self.page("/readyz") {
            Ok(reply) if reply.status == 200 => Ok(()),
            Ok(reply) => Err(format!("{} {}", reply.status, reply.text())),
            Err(error) => Err(error.to_string()),
        });
    }

    /// The value of a metric: the sum of all lines whose name is this and whose labels hold `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.page("/metrics").unwrap_or_else(|e| panic!("metrics of {}: {e}", self.name)).text();
        text.lines()
            .filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && l.contains(label))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Everything that the agent put right so far.
    pub fn repairs(&self) -> f64 {
        self.metric("overlane_repairs_total", "")
    }

    /// Takes the agent out of the lab's care: from now on the test starts and ends it.
    pub fn take_agent(&self) -> Agent {
        Agent::take(self)
    }

    /// The agent's state dump.
    pub fn state(&self) -> Value {
        let reply = self.page("/debug/state").unwrap_or_else(|e| panic!("state of {}: {e}", self.name));
        serde_json::from_slice(&reply.body).unwrap_or_else(|e| panic!("state of {}: {e}: {}", self.name, reply.text()))
    }
}

/// A ClusterNetwork as a manifest for `lab up -f`, in a file of its own that goes with the value.
pub struct Manifest {
    /// Where it is.
    pub path: PathBuf,
}

impl Manifest {
    /// Writes objects as JSON documents, which are YAML.
    pub fn new(objects: &[Value]) -> Manifest {
        let path = std::env::temp_dir().join(format!("{}.yaml", unique(clean::PREFIX)));
        let text: Vec<String> = objects.iter().map(Value::to_string).collect();
        std::fs::write(&path, text.join("\n---\n")).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        Manifest { path }
    }

    /// A ClusterNetwork with this spec.
    pub fn cluster_network(spec: &Value) -> Manifest {
        Manifest::new(&[json!({
            "apiVersion": "overlane.io/v1alpha1", "kind": "ClusterNetwork", "metadata": {"name": "default"}, "spec": spec,
        })])
    }

    /// The path as an argument.
    pub fn arg(&self) -> &str {
        self.path.to_str().expect("a plain path")
    }
}

impl Drop for Manifest {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
