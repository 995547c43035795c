//! Commands inside the lab: this process enters a namespace and becomes the command, so that its exit code and its
//! terminal are the command's own.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::client::LabClient;
use crate::names::{Part, pod_part};
use crate::netns;
use crate::run;
use crate::state::NodeRecord;

/// Where a command is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Path of the network namespace.
    pub namespace: PathBuf,
    /// A process whose host name is to be seen, if there is one.
    pub uts_of: Option<i32>,
    /// Environment variables that tell the command where it is.
    pub env: BTreeMap<String, String>,
}

/// Inside a pod.
pub async fn pod(lab: &LabClient, namespace: &str, name: &str) -> Result<Inside> {
    let (uid, pod) = run::uid(&lab.kube()?, lab.name.as_str(), namespace, name).await?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let path = if on_host {
        let record = NodeRecord::load(&lab.name, &node)?;
        netns::path(&lab.name, &Part::Node(record.number))
    } else {
        netns::path(&lab.name, &pod_part(&uid))
    };
    if netns::inode(&path).is_none() {
        let row = crate::status::pod(&pod);
        bail!("pod `{name}` has no network namespace: it is {} {}", row.phase, row.message);
    }
    let file = lab.paths.node(&node).pods().join(crate::kubelet::sandbox::PodRecord::file_name(&uid));
    let record = crate::files::read_json::<crate::kubelet::sandbox::PodRecord>(&file).ok().flatten();
    let uts_of = record.as_ref().and_then(|record| record.process).filter(|process| process.alive()).map(|p| p.pid);
    let ips = record.map(|record| record.ips.join(",")).unwrap_or_default();
    let env = [("POD_NAME", name), ("POD_NAMESPACE", namespace), ("POD_IPS", &ips), ("NODE_NAME", &node)];
    Ok(Inside { namespace: path, uts_of, env: texts(&env) })
}

/// Inside a node.
pub fn node(lab: &LabClient, name: &str) -> Result<Inside> {
    let record = NodeRecord::load(&lab.name, name)?;
    let path = netns::path(&lab.name, &Part::Node(record.number));
    let dir = lab.paths.node(name).dir().to_string_lossy().into_owned();
    Ok(Inside { namespace: path, uts_of: None, env: texts(&[("NODE_NAME", name), ("OVERLANE_NODE_DIR", &dir)]) })
}

/// Inside one of the VNet's hosts.
pub fn outside(lab: &LabClient, part: &Part) -> Inside {
    Inside { namespace: netns::path(&lab.record.vnet, part), uts_of: None, env: BTreeMap::new() }
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Becomes the command; comes back only if that fails.
pub fn become_command(inside: &Inside, command: &[String]) -> Result<std::convert::Infallible> {
    let Some((program, args)) = command.split_first() else { bail!("no command given") };
    netns::enter(&inside.namespace)?;
    if let Some(pid) = inside.uts_of {
        let path = format!("/proc/{pid}/ns/uts");
        let file = std::fs::File::open(Path::new(&path)).with_context(|| format!("open {path}"))?;
        setns(&file, CloneFlags::CLONE_NEWUTS).with_context(|| format!("enter {path}"))?;
    }
    let error = Command::new(program).args(args).envs(&inside.env).exec();
    Err(error).with_context(|| format!("run {program}"))
}
