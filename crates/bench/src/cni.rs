//! CNI calls: ours, Debian's `ptp` with `host-local`, and the floor, turn by turn in one run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use serde::Serialize;
use serde_json::{Value, json};

/// A plugin under measurement: the binary, its configuration and the namespace that it runs in.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// For the table.
    pub name: String,
    /// The executable.
    pub binary: PathBuf,
    /// Network configuration on standard input.
    pub config: Value,
    /// Path of the node's network namespace.
    pub node_ns: String,
    /// `CNI_PATH`: where the plugin finds those it delegates to.
    pub path: String,
}

/// What a call came to.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Milliseconds from exec to exit.
    pub ms: f64,
    /// Exit code 0.
    pub good: bool,
    /// Standard output.
    pub output: String,
}

/// A pod's network namespace, made by `ip netns` and removed with this value.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
}

impl Sandbox {
    /// Makes a namespace called `name`.
    pub fn new(name: &str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        Ok(Self { name: name.to_owned() })
    }

    /// Where it is mounted.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Its name, which is also the container id in the calls.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// Runs `ip` and turns a failure into an error with its words.
pub fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("run ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

impl Plugin {
    fn start(&self, verb: &str, sandbox: &Sandbox) -> Result<Child> {
        let ns = File::open(&self.node_ns).with_context(|| format!("open {}", self.node_ns))?;
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", sandbox.name())
            .env("CNI_NETNS", sandbox.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.path)
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={}", sandbox.name()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        // The runtime execs a plugin in the node's namespace; entering it is not the plugin's cost, so it happens on
        // the spawning thread, before the clock starts.
        let child = std::thread::scope(|scope| {
            scope
                .spawn(|| -> Result<Child> {
                    setns(&ns, CloneFlags::CLONE_NEWNET).context("enter the node's namespace")?;
                    let mut child = command.spawn().with_context(|| format!("exec {}", self.binary.display()))?;
                    if let Some(mut stdin) = child.stdin.take() {
                        use std::io::Write;
                        // The floor reads nothing, and may be through already.
                        match stdin.write_all(self.config.to_string().as_bytes()) {
                            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                            other => other?,
                        }
                    }
                    Ok(child)
                })
                .join()
        });
        child.map_err(|_| anyhow!("the thread that starts a plugin panicked"))?
    }

    /// One call, from exec to exit.
    pub fn call(&self, verb: &str, sandbox: &Sandbox) -> Result<Outcome> {
        let start = Instant::now();
        let child = self.start(verb, sandbox)?;
        let output = child.wait_with_output()?;
        Ok(Outcome {
            ms: start.elapsed().as_secs_f64() * 1e3,
            good: output.status.success(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
        })
    }

    /// A call that must succeed; milliseconds.
    pub fn timed(&self, verb: &str, sandbox: &Sandbox) -> Result<f64> {
        let outcome = self.call(verb, sandbox)?;
        if !outcome.good {
            bail!("{} {verb} {}: {}", self.name, sandbox.name(), outcome.output.trim());
        }
        Ok(outcome.ms)
    }

    /// All calls at once; the time until the last has ended, and how many succeeded.
    pub fn burst(&self, verb: &str, sandboxes: &[Sandbox]) -> Result<(Duration, usize)> {
        let start = Instant::now();
        let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
            let calls: Vec<_> = sandboxes.iter().map(|s| scope.spawn(|| self.call(verb, s))).collect();
            calls.into_iter().map(|c| c.join().map_err(|_| anyhow!("a call's thread panicked"))?).collect()
        });
        let took = start.elapsed();
        let good = outcomes.iter().filter(|o| o.as_ref().is_ok_and(|o| o.good)).count();
        Ok((took, good))
    }
}

/// Overlane's plugin with the conflist's configuration, as a runtime hands it over.
pub fn overlane(bin: &Path, node_ns: &str, conflist: &Path) -> Result<Plugin> {
    let text = std::fs::read_to_string(conflist).with_context(|| format!("read {}", conflist.display()))?;
    let list: Value = serde_json::from_str(&text).with_context(|| format!("parse {}", conflist.display()))?;
    let mut config = list["plugins"][0].clone();
    config["name"] = list["name"].clone();
    config["cniVersion"] = list["cniVersion"].clone();
    Ok(Plugin {
        name: "overlane".into(),
        binary: bin.join("overlane-cni"),
        config,
        node_ns: node_ns.into(),
        path: bin.display().to_string(),
    })
}

/// Debian's `ptp` with `host-local`, IPv4 only, masquerading by itself off as in its documentation's example.
pub fn ptp(node_ns: &str, data_dir: &Path) -> Plugin {
    Plugin {
        name: "ptp + host-local (IPv4 only)".into(),
        binary: "/usr/lib/cni/ptp".into(),
        config: json!({
            "cniVersion": "1.0.0", "name": "bench-ptp", "type": "ptp", "ipMasq": false,
            "ipam": { "type": "host-local", "dataDir": data_dir, "ranges": [[{ "subnet": "10.99.0.0/23" }]],
                      "routes": [{ "dst": "0.0.0.0/0" }] },
        }),
        node_ns: node_ns.into(),
        path: "/usr/lib/cni".into(),
    }
}

/// The least that any plugin must do: fork, exec, enter the pod's namespace, create a veth pair.
pub fn floor(bin: &Path, node_ns: &str) -> Plugin {
    Plugin {
        name: "floor (exec, setns, veth)".into(),
        binary: bin.join("overlane-bench-floor"),
        config: json!({}),
        node_ns: node_ns.into(),
        path: String::new(),
    }
}
