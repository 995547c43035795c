//! The check of a lab: everything that must reach everything does, in every family, protocol and size, with the right
//! source address; and nothing gets in that must not.
//!
//! Pods and echo servers of the check's own are put into the lab and taken out again. Probes run as threads of this
//! process in the namespaces of pods, nodes and hosts.

pub mod icmp;
pub mod plan;
mod pods;
pub mod pool;
pub mod probe;
pub mod report;
pub mod servers;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use overlane_core::cidr::Cidr;
use overlane_core::family::Family;

use crate::client::LabClient;
use crate::fabric::Underlay;
use crate::names::Part;
use crate::paths::VnetPaths;
use crate::status::{self, LabStatus};
use crate::vnet::Vnet;
use crate::wire::Wire;
use crate::{files, netns, vnet};

use plan::{Place, Question, Role, Way};
use pods::CheckPods;
use pool::Outcome;
use report::Report;

/// How long an answer that has to come may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing must come through.
const SILENCE: Duration = Duration::from_secs(1);
/// Beyond this many nodes there is one pod a node, not two.
const FEW_NODES: usize = 10;
const LOCK_PATIENCE: Duration = Duration::from_secs(300);

/// What a check tells while it works: what it does, how much is done, how much there is.
pub type Told = Arc<dyn Fn(&str, usize, usize) + Send + Sync>;

/// Checks a lab.
pub async fn run(lab: &LabClient, told: Told) -> Result<Report> {
    let client = lab.kube()?;
    let mut families = lab.record.families()?;
    let more = lab.record.pod_families().into_iter().filter(|family| !families.contains(family));
    families.extend(more.collect::<Vec<_>>());
    let lab_status = status::of(lab).await?;
    if lab_status.nodes.is_empty() {
        bail!("lab `{}` has no node to check", lab.name);
    }
    if let Some(node) = lab_status.nodes.iter().find(|node| !node.ready) {
        bail!("{} is not ready: {}", node.name, node.message);
    }
    told("starting pods", 0, 0);
    let each = if lab_status.nodes.len() > FEW_NODES { 1 } else { 2 };
    let pods = CheckPods::start(client, &lab.name, &lab_status, each).await?;
    let checked = check_with(lab, &lab_status, &families, &pods, told).await;
    let removed = pods.remove().await;
    let report = checked?;
    removed?;
    Ok(report)
}

async fn check_with(
    lab: &LabClient,
    status: &LabStatus,
    families: &[Family],
    pods: &CheckPods,
    told: Told,
) -> Result<Report> {
    let hosts = hosts(lab, status)?;
    let (lab, families) = (lab.clone(), families.to_vec());
    let blocks = blocks(status);
    let ready = pods.ready().await?;
    tokio::task::spawn_blocking(move || -> Result<Report> {
        // Ends with this closure.
        let mut servers = servers::Servers::default();
        let mut places = Vec::new();
        for mut host in hosts {
            host.port = servers.start(&host.name, &host.namespace)?;
            host.mtu = mtu(&host.namespace)?;
            places.push(host);
        }
        for mut pod in ready {
            pod.mtu = mtu(&pod.namespace).with_context(|| format!("look at pod {}", pod.name))?;
            places.push(pod);
        }
        let questions = plan::questions(&places, &families);
        // Behind a router nobody chooses whom the router hands a packet to.
        let chooses = Vnet::open(&lab.record.vnet)?.record().fabric.underlay != Underlay::Routed;
        let more = if chooses { 2 * plan::from_vm(&places, &families, Way::VmToPod).len() } else { 0 };
        let total = questions.len() + more;
        let mut outcomes = ask(&places, questions, 0, total, &told)?;
        if chooses {
            with_routes(&lab, &places, &families, &blocks, |questions| {
                let before = outcomes.len();
                outcomes.extend(ask(&places, questions, before, total, &told)?);
                Ok(())
            })?;
        }
        Ok(report::judge(&places, &outcomes))
    })
    .await
    .context("a worker died")?
}

fn ask(places: &[Place], questions: Vec<Question>, before: usize, total: usize, told: &Told) -> Result<Vec<Outcome>> {
    let patience = |question: &Question| if question.way.refused() { SILENCE } else { PATIENCE };
    pool::ask(places, questions, patience, &|done| told("asking", before + done, total))
}

/// Nodes, the VM and the host behind the router.
fn hosts(lab: &LabClient, status: &LabStatus) -> Result<Vec<Place>> {
    let place = |role, name: &str, path: std::path::PathBuf, addresses: BTreeMap<Family, IpAddr>| Place {
        role,
        name: name.to_owned(),
        node: None,
        namespace: path,
        addresses,
        port: 0,
        mtu: 0,
    };
    let mut hosts = Vec::new();
    for node in &status.nodes {
        let number =
            crate::names::node_number(&node.name).with_context(|| format!("{} is no node of a lab", node.name))?;
        let addresses = node.addresses.iter().filter_map(|ip| ip.parse().ok()).map(|ip| (Family::of(&ip), ip));
        let path = netns::path(&lab.name, &Part::Node(number));
        hosts.push(place(Role::Node, &node.name, path, addresses.collect()));
    }
    // Hosts outside have what the nodes can reach them by.
    let families = lab.record.families()?;
    let of = |address: fn(Family) -> IpAddr| families.iter().map(|family| (*family, address(*family))).collect();
    let vnet = &lab.record.vnet;
    hosts.push(place(Role::Vm, "vm", netns::path(vnet, &Part::Vm), of(vnet::vm_address)));
    hosts.push(place(Role::Internet, "internet", netns::path(vnet, &Part::Internet), of(vnet::internet_address)));
    Ok(hosts)
}

/// MTU of `eth0` in a namespace, in bytes.
pub fn mtu(namespace: &Path) -> Result<usize> {
    netns::run(namespace, || Wire::open()?.mtu("eth0"))
}

/// Blocks with their node's address of the same family.
pub fn blocks(status: &LabStatus) -> Vec<(Cidr, IpAddr)> {
    let mut found = Vec::new();
    for node in &status.nodes {
        let addresses: Vec<IpAddr> = node.addresses.iter().filter_map(|ip| ip.parse().ok()).collect();
        for block in node.blocks.iter().filter_map(|block| block.parse::<Cidr>().ok()) {
            let via = addresses.iter().find(|ip| Family::of(ip) == block.family());
            found.extend(via.map(|via| (block, *via)));
        }
    }
    found
}

/// Asks the VM's questions again, twice: with a route to each node for its own block, and with all pods routed to the
/// first node. The VM is the VNet's, so other labs' checks wait.
fn with_routes(
    lab: &LabClient,
    places: &[Place],
    families: &[Family],
    blocks: &[(Cidr, IpAddr)],
    mut ask: impl FnMut(Vec<Question>) -> Result<()>,
) -> Result<()> {
    let vnet = &lab.record.vnet;
    let _turn = files::lock(VnetPaths::of(vnet).check_lock(), LOCK_PATIENCE)?;
    let vm = netns::path(vnet, &Part::Vm);
    {
        let _routes = Routes::put(&vm, blocks.to_vec())?;
        ask(plan::from_vm(places, families, Way::VmToPodByItsNode))?;
    }
    let firsts = families.iter().filter_map(|family| blocks.iter().find(|(block, _)| block.family() == *family));
    let firsts: Vec<(Cidr, IpAddr)> = firsts.copied().collect();
    let all = blocks.iter().filter_map(|(block, _)| {
        let (_, via) = firsts.iter().find(|(first, _)| first.family() == block.family())?;
        Some((*block, *via))
    });
    let _routes = Routes::put(&vm, all.collect())?;
    ask(plan::from_vm(places, families, Way::VmToPodByOneNode))
}

/// Routes in the VM that end with this value.
pub struct Routes<'a> {
    namespace: &'a Path,
    routes: Vec<(Cidr, IpAddr)>,
}

impl<'a> Routes<'a> {
    /// Puts routes to blocks, each by a next hop, into the namespace.
    pub fn put(namespace: &'a Path, routes: Vec<(Cidr, IpAddr)>) -> Result<Self> {
        let put = Self { namespace, routes };
        netns::run(namespace, || {
            let mut wire = Wire::open()?;
            put.routes.iter().try_for_each(|(block, via)| wire.check_route(block, *via))
        })?;
        Ok(put)
    }
}

impl Drop for Routes<'_> {
    fn drop(&mut self) {
        let _ = netns::run(self.namespace, || {
            let mut wire = Wire::open()?;
            for (block, via) in &self.routes {
                // What is gone already is no error.
                let _ = wire.remove_check_route(block, *via);
            }
            Ok(())
        });
    }
}
