//! A container runtime, as far as a CNI plugin can tell: the environment, the network configuration on standard
//! input, the namespaces.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::exec::{self, Out};
use crate::ns::{Ns, OwnNs};

/// What the plugin printed and how it ended.
#[derive(Debug)]
pub struct Answer {
    /// The run.
    pub out: Out,
    /// Standard output as JSON, if it is that.
    pub json: Option<Value>,
}

impl Answer {
    /// The error code, if it failed as the specification says.
    pub fn code(&self) -> Option<u64> {
        if self.out.ok() { None } else { self.json.as_ref()?["code"].as_u64() }
    }

    /// `msg` and `details` of the error.
    pub fn message(&self) -> String {
        let json = self.json.clone().unwrap_or_default();
        format!("{} {}", json["msg"].as_str().unwrap_or_default(), json["details"].as_str().unwrap_or_default())
    }

    /// Ends the test unless the plugin succeeded.
    pub fn must(self) -> Answer {
        assert!(self.out.ok(), "{}", self.out);
        self
    }

    /// Ends the test unless the plugin failed with this code, with the specification's object and exit status.
    pub fn refused(self, code: u64) -> Answer {
        assert!(self.out.code.is_some_and(|c| c != 0), "expected error {code}: {}", self.out);
        let json = self.json.as_ref().unwrap_or_else(|| panic!("no error object on stdout: {}", self.out));
        assert_eq!(json["code"].as_u64(), Some(code), "{}", self.out);
        assert!(json["msg"].as_str().is_some_and(|m| !m.is_empty()), "no msg: {}", self.out);
        self
    }

    /// Addresses of the result, prefix lengths left out.
    pub fn ips(&self) -> Vec<IpAddr> {
        let json = self.json.clone().unwrap_or_default();
        let ips = json["ips"].as_array().cloned().unwrap_or_default();
        let text = ips.iter().filter_map(|ip| ip["address"].as_str());
        text.map(|t| t.split('/').next().unwrap_or(t).parse().unwrap_or_else(|e| panic!("address {t}: {e}"))).collect()
    }
}

/// A pod's sandbox: a namespace and what the runtime calls it.
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// Its namespace.
    pub net: OwnNs,
    /// The pod's name for `CNI_ARGS`.
    pub pod: String,
    /// The last successful ADD's result.
    pub result: Option<Value>,
}

impl Sandbox {
    /// Makes the namespace; nothing is called yet.
    pub fn new() -> Sandbox {
        let net = OwnNs::new();
        let pod = net.name.clone();
        // As containerd's: 64 hex digits.
        let seed = format!("{pod}-{:?}", Instant::now());
        let word = seed.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let id = format!("{word:016x}{:016x}{:032x}", word.rotate_left(17), std::process::id());
        Sandbox { id, ifname: "eth0".to_owned(), net, pod, result: None }
    }

    /// Its addresses by the last ADD's result.
    pub fn ips(&self) -> Vec<IpAddr> {
        let answer = Answer { out: empty(), json: self.result.clone() };
        answer.ips()
    }

    /// The interfaces of the last result: host side and pod side.
    pub fn sides(&self) -> (Value, Value) {
        let result = self.result.as_ref().expect("an ADD succeeded");
        let list = result["interfaces"].as_array().expect("interfaces");
        let inside = |i: &&Value| i["sandbox"].as_str().is_some_and(|s| !s.is_empty());
        let pod = list.iter().find(inside).expect("an interface in the sandbox").clone();
        let host = list.iter().find(|i| !inside(i)).expect("an interface on the host").clone();
        (host, pod)
    }

    /// Name of the host's side.
    pub fn host_link(&self) -> String {
        self.sides().0["name"].as_str().expect("a name").to_owned()
    }

    /// MAC of the pod's side.
    pub fn mac(&self) -> String {
        self.sides().1["mac"].as_str().expect("a mac").to_owned()
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

fn empty() -> Out {
    Out {
        line: String::new(),
        code: Some(0),
        signal: None,
        timed_out: false,
        stdout: String::new(),
        stderr: String::new(),
        took: Duration::ZERO,
    }
}

/// Calls the plugin of one node.
#[derive(Clone)]
pub struct Runtime {
    /// Where the runtime runs.
    pub ns: Ns,
    /// The plugin.
    pub plugin: PathBuf,
    /// The conflist's name.
    pub network: String,
    /// The plugin's entry in the conflist.
    pub entry: Value,
    /// The version that calls are made in.
    pub version: String,
    /// How long a call may take before it is a failure of the test.
    pub limit: Duration,
}

impl Runtime {
    /// Reads the conflist in `dir`.
    pub fn new(ns: &Ns, dir: &std::path::Path) -> Runtime {
        let path = dir.join("05-overlane.conflist");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
        let list: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let plugins = list["plugins"].as_array().cloned().unwrap_or_default();
        let entry = plugins.iter().find(|p| p["type"] == "overlane-cni").cloned();
        Runtime {
            ns: ns.clone(),
            plugin: exec::bin("overlane-cni"),
            // A network of our own: the node's kubelet calls GC for its network and knows nothing of these sandboxes.
            network: format!("{}-suite", list["name"].as_str().expect("the conflist has a name")),
            entry: entry.unwrap_or_else(|| panic!("no overlane-cni in {text}")),
            version: "1.1.0".to_owned(),
            limit: Duration::from_secs(100),
        }
    }

    /// The network configuration of one call.
    pub fn config(&self, extra: &Value) -> Value {
        let mut config = self.entry.clone();
        config["cniVersion"] = json!(self.version);
        config["name"] = json!(self.network);
        for (key, value) in extra.as_object().cloned().unwrap_or_default() {
            config[key] = value;
        }
        config
    }

    /// The command of one call, not started.
    pub fn command(&self, verb: &str, sandbox: Option<&Sandbox>) -> Command {
        let mut command = Command::new(&self.plugin);
        command.env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("CNI_COMMAND", verb).env("CNI_PATH", self.plugin.parent().expect("the plugin lies in a directory"));
        if let Some(s) = sandbox {
            command.env("CNI_CONTAINERID", &s.id).env("CNI_IFNAME", &s.ifname).env("CNI_NETNS", s.net.path());
            let args = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=suite;K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=uid-{}",
                s.pod, s.id, s.pod
            );
            command.env("CNI_ARGS", args);
        }
        command
    }

    /// Runs a prepared command on this input.
    pub fn call(&self, command: Command, input: &str) -> Answer {
        self.watched(command, input, |_| ())
    }

    /// As [`Runtime::call`], calling `each` over and over while the plugin runs.
    pub fn watched(&self, mut command: Command, input: &str, each: impl FnMut(&std::process::Child)) -> Answer {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let verb = command.get_envs().find(|(k, _)| *k == "CNI_COMMAND").and_then(|(_, v)| v);
        let line = format!("overlane-cni {}", verb.unwrap_or_default().to_string_lossy());
        let began = Instant::now();
        let child = self.ns.spawn(command);
        let out = exec::finish(child, line, input.as_bytes(), began, self.limit, each);
        assert!(!out.timed_out, "{out}");
        let json = serde_json::from_str(&out.stdout).ok();
        Answer { out, json }
    }

    /// ADD; a success is kept in the sandbox.
    pub fn add(&self, sandbox: &mut Sandbox) -> Answer {
        self.add_with(sandbox, &json!({}))
    }

    /// ADD with this in the configuration; a success is kept in the sandbox.
    pub fn add_with(&self, sandbox: &mut Sandbox, extra: &Value) -> Answer {
        let answer = self.call(self.command("ADD", Some(sandbox)), &self.config(extra).to_string());
        if answer.out.ok() {
            sandbox.result = answer.json.clone();
        }
        answer
    }

    /// DEL, with the last result as the runtime's cache has it.
    pub fn del(&self, sandbox: &Sandbox) -> Answer {
        let extra = match &sandbox.result {
            Some(result) => json!({"prevResult": result}),
            None => json!({}),
        };
        self.call(self.command("DEL", Some(sandbox)), &self.config(&extra).to_string())
    }

    /// CHECK.
    pub fn check(&self, sandbox: &Sandbox) -> Answer {
        let result = sandbox.result.clone().expect("an ADD succeeded");
        self.call(self.command("CHECK", Some(sandbox)), &self.config(&json!({"prevResult": result})).to_string())
    }

    /// GC: every attachment that is not of one of these sandboxes goes.
    pub fn gc(&self, keep: &[&Sandbox]) -> Answer {
        let valid: Vec<Value> = keep.iter().map(|s| json!({"containerID": s.id, "ifname": s.ifname})).collect();
        let config = self.config(&json!({"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}));
        self.call(self.command("GC", None), &config.to_string())
    }

    /// STATUS.
    pub fn status(&self) -> Answer {
        self.call(self.command("STATUS", None), &self.config(&json!({})).to_string())
    }
}
