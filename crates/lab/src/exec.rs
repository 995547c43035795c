//! Commands inside the lab: this process enters a namespace and becomes the command, so that its exit code and its
//! terminal are the command's own.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::client::LabClient;
use crate::files;
use crate::kubelet::sandbox::PodRecord;
use crate::names::Part;
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

/// Inside a pod. Needs no daemon for one that runs.
pub async fn pod(lab: &LabClient, namespace: &str, name: &str) -> Result<Inside> {
    for node in NodeRecord::all(&lab.paths)? {
        let dir = lab.paths.node(&node.name).pods();
        let records =
            files::names(&dir).into_iter().filter_map(|file| files::read_json::<PodRecord>(&dir.join(file)).ok()?);
        let found = records.into_iter().find(|record| {
            record.namespace == namespace && record.name == name && (record.host_network || !record.ips.is_empty())
        });
        if let Some(record) = found {
            return Ok(in_pod(lab, &node, &record));
        }
    }
    let (_, pod) = run::uid(&lab.kube()?, lab.name.as_str(), namespace, name).await?;
    let row = crate::status::pod(&pod);
    bail!("pod `{name}` has no network namespace: it is {} {}", row.phase, row.message)
}

fn in_pod(lab: &LabClient, node: &NodeRecord, record: &PodRecord) -> Inside {
    let namespace = if record.host_network {
        netns::path(&lab.name, &Part::Node(node.number))
    } else {
        PathBuf::from(&record.netns)
    };
    let uts_of = record.process.filter(|process| process.alive()).map(|process| process.pid);
    let ips = record.ips.join(",");
    let env = [
        ("POD_NAME", record.name.as_str()),
        ("POD_NAMESPACE", &record.namespace),
        ("POD_IPS", &ips),
        ("NODE_NAME", &node.name),
    ];
    Inside { namespace, uts_of, env: texts(&env) }
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
