//! Where a lab keeps what it must remember. All of it is below one directory that only root may read.

use std::path::{Path, PathBuf};

use crate::names::LabName;

/// The directory of all labs.
pub const ROOT: &str = "/run/overlane-lab";
/// Where named namespaces are mounted, as `ip netns` expects them.
pub const NETNS: &str = "/run/netns";

/// Paths of one lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabPaths {
    dir: PathBuf,
}

impl LabPaths {
    /// Paths of the lab `name`.
    pub fn of(name: &LabName) -> Self {
        Self::below(Path::new(ROOT), name)
    }

    /// The same below another directory.
    pub fn below(root: &Path, name: &LabName) -> Self {
        Self { dir: root.join(name.as_str()) }
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Held by whoever brings the lab up or ends it. Not in the lab's directory, which comes and goes with the lab.
    pub fn lock(&self) -> PathBuf {
        let name = self.dir.file_name().unwrap_or_default();
        self.dir.with_file_name("_locks").join(name)
    }

    /// What was made: a `LabRecord` as JSON.
    pub fn record(&self) -> PathBuf {
        self.dir.join("lab.json")
    }

    /// The daemon's socket for commands.
    pub fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// The kubeconfig that `lab kubeconfig` prints.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The API's objects as they were a moment ago.
    pub fn api_store(&self) -> PathBuf {
        self.dir.join("api.snapshot")
    }

    /// Certificates and keys of a real API server.
    pub fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    /// A real API server's store.
    pub fn etcd(&self) -> PathBuf {
        self.dir.join("etcd")
    }

    /// Credentials of a controller at a real API server.
    pub fn credentials(&self, program: &str) -> PathBuf {
        self.dir.join("credentials").join(program)
    }

    /// The directory of all logs.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The log of a program of the lab: `daemon`, `controller`, `agent-node-0`.
    pub fn log(&self, program: &str) -> PathBuf {
        self.logs().join(format!("{program}.log"))
    }

    /// Output of a pod's process.
    pub fn pod_log(&self, namespace: &str, pod: &str) -> PathBuf {
        self.logs().join("pods").join(format!("{namespace}_{pod}.log"))
    }

    /// Record of a program that the daemon keeps running.
    pub fn process(&self, program: &str) -> PathBuf {
        self.dir.join("processes").join(format!("{program}.json"))
    }

    /// The directory of all nodes.
    pub fn nodes(&self) -> PathBuf {
        self.dir.join("nodes")
    }

    /// Paths of a node.
    pub fn node(&self, node: &str) -> NodePaths {
        NodePaths { dir: self.nodes().join(node) }
    }
}

/// Paths of one node: what on a machine would be its file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePaths {
    dir: PathBuf,
}

impl NodePaths {
    /// The node's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The agent's run directory; emptied by a reboot, as a tmpfs would be.
    pub fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The runtime's CNI configuration directory.
    pub fn cni(&self) -> PathBuf {
        self.dir.join("cni").join("net.d")
    }

    /// The node's boot id.
    pub fn boot_id(&self) -> PathBuf {
        self.dir.join("boot-id")
    }

    /// The node's boot id, MAC and addresses: a `NodeRecord` as JSON.
    pub fn record(&self) -> PathBuf {
        self.dir.join("node.json")
    }

    /// The agent's credentials at a real API server.
    pub fn credentials(&self) -> PathBuf {
        self.dir.join("credentials")
    }

    /// The kubelet's records of its pods.
    pub fn pods(&self) -> PathBuf {
        self.dir.join("pods")
    }
}

/// Paths of a VNet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VnetPaths {
    record: PathBuf,
    lock: PathBuf,
    check: PathBuf,
}

impl VnetPaths {
    /// Paths of the VNet `name`.
    pub fn of(name: &LabName) -> Self {
        Self::below(Path::new(ROOT), name)
    }

    /// The same below another directory.
    pub fn below(root: &Path, name: &LabName) -> Self {
        // No lab's name begins with an underscore.
        let dir = root.join("_vnets");
        let file = |extension: &str| dir.join(format!("{name}.{extension}"));
        Self { record: file("json"), lock: file("lock"), check: file("check.lock") }
    }

    /// Who is in it and which addresses are taken: a `VnetRecord` as JSON.
    pub fn record(&self) -> &Path {
        &self.record
    }

    /// Held while the record is read and written.
    pub fn lock(&self) -> &Path {
        &self.lock
    }

    /// Held by a check while it puts routes into the VM.
    pub fn check_lock(&self) -> &Path {
        &self.check
    }
}
