//! A node as a network namespace with a real agent in it, and pods as further namespaces. All of it goes when the
//! value does, also after a panic.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use overlane_datapath::netns::Netns;
use serde_json::Value;

use crate::client::Client;

static NEXT: AtomicU32 = AtomicU32::new(0);

fn fresh(kind: &str) -> String {
    format!("ova{}{kind}{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a command; its standard output. Panics if it fails.
pub fn sh(command: &str) -> String {
    let (ok, text) = try_sh(command);
    assert!(ok, "{command}: {text}");
    text
}

pub fn try_sh(command: &str) -> (bool, String) {
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    let text = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
    (output.status.success(), text.into_owned())
}

/// Waits until something holds.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < until, "not so within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a TCP connection from one namespace reaches an address of another.
pub fn reaches(from: &str, to: &str, address: IpAddr) -> bool {
    let open = |name: &str| Netns::open(Path::new("/run/netns").join(name)).unwrap();
    let listener = open(to).run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let at = listener.local_addr().unwrap();
    open(from).run(|| TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok()).unwrap()
}

/// A pod's network namespace.
pub struct Pod {
    pub name: String,
    gone: bool,
}

impl Pod {
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let name = fresh("p");
        sh(&format!("ip netns add {name}"));
        Self { name, gone: false }
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A command inside.
    pub fn run(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.name))
    }

    /// Ends the sandbox without a word to anybody.
    pub fn end(&mut self) {
        if !self.gone {
            self.gone = true;
            let _ = try_sh(&format!("ip netns del {}", self.name));
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a cluster says of itself.
pub struct Objects {
    pub families: &'static str,
    pub pod_cidrs: &'static str,
    pub service_cidrs: &'static str,
    /// Own blocks with the node's address.
    pub own: Vec<(String, String)>,
    /// Other nodes: name, blocks.
    pub peers: Vec<(String, Vec<(String, String)>)>,
    pub extra: String,
}

impl Objects {
    pub fn dual() -> Self {
        Self {
            families: "[IPv4, IPv6]",
            pod_cidrs: "[10.244.0.0/16, 'fd12:3456:789a::/64']",
            service_cidrs: "[10.0.0.0/16, 'fd12:3456:789a:1::/108']",
            own: vec![
                ("10.244.1.0/24".into(), "10.224.0.4".into()),
                ("fd12:3456:789a:0:1::/80".into(), "fd10:224::4".into()),
            ],
            peers: vec![(
                "n2".into(),
                vec![
                    ("10.244.2.0/24".into(), "10.224.0.5".into()),
                    ("fd12:3456:789a:0:2::/80".into(), "fd10:224::5".into()),
                ],
            )],
            extra: String::new(),
        }
    }

    fn config(name: &str, blocks: &[(String, String)]) -> String {
        let mut text = format!(
            "apiVersion: overlane.io/v1alpha1\nkind: NodeNetworkConfig\nmetadata: {{name: {name}, namespace: kube-system}}\nspec: {{}}\nstatus:\n  networkContainers:\n"
        );
        for (block, ip) in blocks {
            text += &format!(
                "  - {{id: x, primaryIP: '{block}', nodeIP: '{ip}', type: overlay, assignmentMode: static}}\n"
            );
        }
        text + "---\n"
    }

    pub fn yaml(&self) -> String {
        let Self { families, pod_cidrs, service_cidrs, own, peers, extra } = self;
        let mut text = format!(
            "apiVersion: overlane.io/v1alpha1\nkind: ClusterNetwork\nmetadata: {{name: default}}\nspec:\n  ipFamilies: {families}\n  podCIDRs: {pod_cidrs}\n  serviceCIDRs: {service_cidrs}\n  masquerade: true\n  maxPods: 250\n---\n"
        );
        if !own.is_empty() {
            text += &Self::config("n1", own);
        }
        for (name, blocks) in peers {
            text += &Self::config(name, blocks);
        }
        text + extra
    }
}

/// A node.
pub struct World {
    pub ns: String,
    pub dir: tempfile::TempDir,
    pub client: Client,
    agent: Option<Child>,
    pub flags: Vec<String>,
}

impl World {
    /// A namespace with an underlay; no agent yet.
    pub fn bare() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let ns = fresh("n");
        for command in [
            format!("ip netns add {ns}"),
            format!("ip -n {ns} link set lo up"),
            format!("ip -n {ns} link add under type veth peer name wire"),
            format!("ip -n {ns} link set wire up"),
            format!("ip -n {ns} link set under up"),
            format!("ip -n {ns} addr add 10.224.0.4/16 dev under"),
            format!("ip -n {ns} addr add fd10:224::4/64 dev under nodad"),
        ] {
            sh(&command);
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("objects")).unwrap();
        std::fs::write(dir.path().join("boot_id"), "boot-1\n").unwrap();
        let client = Client { socket: dir.path().join("run/agent.sock") };
        Self { ns, dir, client, agent: None, flags: Vec::new() }
    }

    /// A node of a cluster told by files, its agent ready.
    pub fn new(objects: &Objects) -> Self {
        let mut world = Self::bare();
        world.flags = vec!["--objects".into(), world.dir.path().join("objects").display().to_string()];
        world.say(objects);
        world.start();
        world.ready();
        world
    }

    pub fn say(&self, objects: &Objects) {
        let fresh = self.dir.path().join("objects/.all");
        std::fs::write(&fresh, objects.yaml()).unwrap();
        std::fs::rename(fresh, self.dir.path().join("objects/all.yaml")).unwrap();
    }

    pub fn command(&self) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns, env!("CARGO_BIN_EXE_overlane-agent"), "--node-name", "n1"]);
        command.arg("--run-dir").arg(dir.join("run"));
        command.arg("--cni-conf-dir").arg(dir.join("net.d"));
        command.arg("--boot-id-file").arg(dir.join("boot_id"));
        command.args(["--metrics-addr", "127.0.0.1:9470", "--lab", "agent-tests"]);
        if std::env::var_os("OVERLANE_LOG_LEVEL").is_none() {
            command.args(["--log-level", "info"]);
        }
        command.args(&self.flags);
        command
    }

    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.agent = Some(command.spawn().unwrap());
    }

    pub fn log_file(&self) -> PathBuf {
        self.dir.path().join("agent.log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// `ip netns exec` becomes the agent: one process, one id.
    pub fn pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// Waits until an ADD would be served.
    pub fn ready(&self) {
        eventually("the agent is ready", || self.client.status_of_living());
    }

    pub fn restart(&mut self) {
        self.kill();
        self.start();
        self.ready();
    }

    /// A command in the node's namespace.
    pub fn run(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.ns))
    }

    pub fn try_run(&self, command: &str) -> (bool, String) {
        try_sh(&format!("ip netns exec {} {command}", self.ns))
    }

    fn http(&self, path: &str) -> String {
        self.run(&format!("curl -s http://127.0.0.1:9470{path}"))
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.http("/debug/state")).unwrap()
    }

    pub fn put(&self, path: &str) -> String {
        self.run(&format!("curl -s -X PUT 'http://127.0.0.1:9470{path}'"))
    }

    /// Container ids with leases, by state.
    pub fn leases(&self, state: &str) -> Vec<String> {
        let all = self.state();
        let leases = all["leases"].as_array().unwrap().iter();
        leases.filter(|l| l["state"] == state).map(|l| l["containerId"].as_str().unwrap().to_owned()).collect()
    }

    /// A metric's value; 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.http("/metrics");
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    /// Pod links in the node's namespace.
    pub fn links(&self) -> Vec<String> {
        let json: Value = serde_json::from_str(&sh(&format!("ip -n {} -j link show", self.ns))).unwrap();
        let names = json.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("ovlp")).collect()
    }

    /// Our routes, both families.
    pub fn routes(&self) -> String {
        sh(&format!("for v in 4 6; do ip -n {} -$v route show proto 111 2>/dev/null || true; done", self.ns))
    }

    /// Waits until nothing of any pod is left, and the addresses are free.
    pub fn empty(&self) {
        eventually("no links, no leases", || {
            (self.links().is_empty() && self.state()["leases"].as_array().unwrap().is_empty()).then_some(())
        });
        let routes = self.routes();
        assert!(!routes.contains("ovlp"), "{routes}");
        let table = self.run("nft list table inet overlane");
        assert!(!table.contains("\"ovlp") || !table.contains("\" . 02:"), "{table}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- agent's log ---\n{}", self.log());
        }
        let _ = try_sh(&format!("ip netns del {}", self.ns));
    }
}
