//! `overlane uninstall`: nodes as they were, then nothing of ours in the API.
//!
//! On the nodes the agent's own program does the work, in a DaemonSet made from the agents': the same image,
//! directories and settings.

mod cleanup;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use overlane_api::crd::{NAMESPACE, NodeState};
use overlane_core::blocks::{SERVED, Trouble};
use overlane_install::values::Values;
use overlane_install::{AGENT, CONTROLLER};
use serde_json::json;
use tokio::time::Instant;

use cleanup::CLEANUP;

use crate::args::UninstallArgs;
use crate::cluster::read::{each, node_conditions, node_says, pod_is_ready};
use crate::cluster::{self, objects, others};
use crate::progress::Progress;
use crate::{connectivity, install, out};

const LOOK: Duration = Duration::from_millis(300);
/// How many pods a refusal names.
const NAMED: usize = 5;

/// Takes everything away.
pub fn run(args: &UninstallArgs) -> Result<ExitCode> {
    crate::runtime::start()?.block_on(uninstall(args))
}

/// What of ours a cluster has.
struct There {
    agents: Option<DaemonSet>,
    /// What an uninstall that was cut off has left: it says how to go on.
    begun: Option<DaemonSet>,
    /// Agents have spoken, in objects that are still there: those that somebody else took away (`helm uninstall`) have
    /// cleaned no node up.
    spoken: bool,
}

async fn uninstall(args: &UninstallArgs) -> Result<ExitCode> {
    let client = cluster::client(&args.kube).await?;
    let until = Instant::now() + Duration::from_secs(args.timeout);
    let there = There {
        agents: find(&client, AGENT).await?,
        begun: find(&client, CLEANUP).await?,
        spoken: has_spoken(&client).await?,
    };
    let on_network = if there.agents.is_some() || there.spoken { pods_on_network(&client).await? } else { Vec::new() };
    if there.begun.is_none() && !on_network.is_empty() && !args.force {
        out::print(&refusal(&on_network))?;
        return Ok(ExitCode::FAILURE);
    }
    let release = there.agents.as_ref().and_then(helm_release);
    let progress = Progress::new();
    let done = take_away(&client, there, args, until, &progress).await;
    progress.clear();
    let left = done?;
    for node in &left {
        out::print(&format!("{node} was not ready and is not clean: run `overlane-agent --uninstall` there\n"))?;
    }
    if !on_network.is_empty() {
        out::print(&format!(
            "{} pods run on without a network: delete them once there is one, so that they are made again\n",
            on_network.len()
        ))?;
    }
    if let Some((release, namespace)) = release {
        out::print(&format!("Helm still has its record: `helm uninstall {release} -n {namespace}`\n"))?;
    }
    out::print("overlane is gone; nodes are not ready until another network is installed\n")?;
    Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn refusal(on_network: &[String]) -> String {
    let named: Vec<&str> = on_network.iter().take(NAMED).map(String::as_str).collect();
    let more = on_network.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "{} pods have their network from overlane: {}{more}\nend them first, or add --force: they lose it at once\n",
        on_network.len(),
        named.join(", ")
    )
}

/// The Helm release that an object is part of, and its namespace.
fn helm_release(agents: &DaemonSet) -> Option<(String, String)> {
    let annotation = |name: &str| agents.annotations().get(name).cloned();
    Some((annotation("meta.helm.sh/release-name")?, annotation("meta.helm.sh/release-namespace")?))
}

async fn has_spoken(client: &Client) -> Result<bool> {
    let states: Api<NodeState> = Api::all(client.clone());
    match states.list(&ListParams::default().limit(1)).await {
        Ok(listed) => Ok(!listed.items.is_empty()),
        // The kind itself is unknown.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error).context("look for NodeStates"),
    }
}

async fn is_any_there(client: &Client, objects: &[serde_json::Value]) -> Result<bool> {
    for object in objects {
        if objects::get(client, object).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Has every node cleaned up, in the namespace of whatever says how. Whether anything does.
async fn begin_cleanup(client: &Client, there: There, args: &UninstallArgs, until: Instant) -> Result<Option<String>> {
    let known = there.agents.as_ref().or(there.begun.as_ref());
    let namespace = known.and_then(DaemonSet::namespace).unwrap_or_else(|| NAMESPACE.to_owned());
    let wanted = match (there.agents, &there.begun) {
        (Some(agents), _) => cleanup::of_agents(agents, args.force)?,
        (None, Some(begun)) => match cleanup::forced(begun).filter(|_| args.force) {
            Some(forced) => forced,
            None => return Ok(Some(namespace)),
        },
        (None, None) if there.spoken => {
            let values = install::values_of(args.values.as_deref(), args.image.as_deref())?;
            let image = values.image.name();
            eprintln!("the agents were taken away already: nodes are cleaned up by {image}; --image names another");
            cleanup::of_values(&values, &namespace, args.force)?
        }
        (None, None) => return Ok(None),
    };
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &namespace);
    if there.begun.is_some() {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        sets.delete(CLEANUP, &DeleteParams::background()).await.context("remove an earlier cleanup")?;
        gone(client, &pods, CLEANUP, until).await?;
    }
    sets.create(&PostParams::default(), &wanted).await.context("make the DaemonSet that cleans nodes up")?;
    Ok(Some(namespace))
}

/// Gives the nodes that could not be cleaned up.
async fn take_away(
    client: &Client,
    there: There,
    args: &UninstallArgs,
    until: Instant,
    progress: &Progress,
) -> Result<BTreeSet<String>> {
    connectivity::sweep(client).await?;
    // What is to clean nodes up is there before what it is made from goes. It waits for the agents' end by itself.
    let cleans = begin_cleanup(client, there, args, until).await?;
    let namespace = cleans.clone().unwrap_or_else(|| NAMESPACE.to_owned());
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    // The policy first would leave agents free for a moment; the controllers first gives no block meanwhile.
    let mut rest = overlane_install::objects(&Values::default(), &namespace)?;
    rest.reverse();
    let (daemons, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|object| {
        matches!(object["kind"].as_str(), Some("Deployment" | "DaemonSet" | "PodDisruptionBudget"))
    });
    progress.doing("ending controllers and agents");
    for object in &daemons {
        objects::delete(client, object).await?;
    }
    for component in [AGENT, CONTROLLER] {
        gone(client, &pods, component, until).await?;
    }
    let left =
        if cleans.is_some() { clean_nodes(client, &sets, &pods, until, progress).await? } else { BTreeSet::new() };
    progress.doing("removing what is in the API");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": CONTROLLER, "namespace": NAMESPACE },
    });
    let mut definitions = overlane_install::definitions()?;
    for object in rest.iter().chain([&lease]).chain(&definitions) {
        objects::delete(client, object).await?;
    }
    for object in overlane_install::others_definitions()? {
        match others::take_back(client, &object).await? {
            Some(true) => definitions.push(object),
            Some(false) => eprintln!("{} stays: there are objects of it", objects::title(&object)),
            None => {}
        }
    }
    // The API server removes a kind's objects first; an installation that came meanwhile would lose its own with them.
    while is_any_there(client, &definitions).await? {
        if Instant::now() > until {
            bail!("kinds that overlane made do not end; `kubectl get crds` shows what holds them");
        }
        tokio::time::sleep(LOOK).await;
    }
    forget_conditions(client).await?;
    Ok(left)
}

/// What an uninstall that has begun and not ended has left.
pub async fn begun(client: &Client) -> Result<Option<DaemonSet>> {
    find(client, CLEANUP).await
}

/// A DaemonSet by its name, wherever it is.
pub async fn find(client: &Client, name: &str) -> Result<Option<DaemonSet>> {
    let sets: Api<DaemonSet> = Api::all(client.clone());
    let named = ListParams::default().fields(&format!("metadata.name={name}"));
    Ok(sets.list(&named).await.with_context(|| format!("look for DaemonSet {name}"))?.items.into_iter().next())
}

async fn pods_on_network(client: &Client) -> Result<Vec<String>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let live = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let mut found = Vec::new();
    let take = |pod: Pod| {
        let on_pod_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network != Some(true));
        // A pod without an address has nothing to lose.
        if on_pod_network && pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some()) {
            found.push(format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()));
        }
    };
    each(&pods, live, "pods", take).await?;
    Ok(found)
}

/// Waits until no pod of a component is left, but for those on nodes that do not answer.
async fn gone(client: &Client, pods: &Api<Pod>, component: &str, until: Instant) -> Result<()> {
    let labels = format!("app.kubernetes.io/name={component}");
    loop {
        let mut left = pods.list(&ListParams::default().labels(&labels)).await.context("list pods")?.items;
        if !left.is_empty() {
            let dead = dead_nodes(client).await?;
            left.retain(|pod| !dead.contains(&node_of(pod)));
        }
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            let names: Vec<String> = left.iter().map(ResourceExt::name_any).collect();
            bail!("pods do not end: {}; once they do, run `overlane uninstall` again", names.join(", "));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

/// Nodes whose kubelet is not heard: nothing starts or ends there. (A node without a network is heard.)
async fn dead_nodes(client: &Client) -> Result<BTreeSet<String>> {
    let mut dead = BTreeSet::new();
    let api: Api<Node> = Api::all(client.clone());
    let take = |node: Node| {
        if node_says(&node, "Ready", "Unknown") {
            dead.insert(node.name_any());
        }
    };
    each(&api, ListParams::default(), "nodes", take).await?;
    Ok(dead)
}

/// Waits until the agents' program has run with `--uninstall` on every node that answers; gives the others.
async fn clean_nodes(
    client: &Client,
    sets: &Api<DaemonSet>,
    pods: &Api<Pod>,
    until: Instant,
    progress: &Progress,
) -> Result<BTreeSet<String>> {
    let labels = format!("app.kubernetes.io/name={CLEANUP}");
    loop {
        let dead = dead_nodes(client).await?;
        let set = sets.get_opt(CLEANUP).await.context("look at the DaemonSet that cleans nodes up")?;
        let status = set.and_then(|set| set.status).unwrap_or_default();
        let listed = pods.list(&ListParams::default().labels(&labels)).await.context("list pods")?.items;
        let unclean: BTreeSet<String> = listed.iter().filter(|pod| !pod_is_ready(pod)).map(node_of).collect();
        let wanted = usize::try_from(status.desired_number_scheduled).unwrap_or_default();
        progress.count("cleaning nodes up", listed.len() - unclean.len(), wanted);
        let all = status.observed_generation.is_some() && listed.len() >= wanted;
        if all && unclean.iter().all(|node| dead.contains(node)) {
            sets.delete(CLEANUP, &DeleteParams::background()).await.context("remove what cleaned nodes up")?;
            gone(client, pods, CLEANUP, until).await?;
            return Ok(unclean);
        }
        if Instant::now() > until {
            let names: Vec<String> = unclean.into_iter().collect();
            bail!(
                "nodes are not clean: {}; `kubectl logs -A -l {labels} -c cleanup` says why; run `overlane uninstall` again",
                names.join(", ")
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What controllers wrote on Nodes goes; `spec.podCIDRs` cannot be taken back.
async fn forget_conditions(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut told = Vec::new();
    let is_ours = |reason: &str| reason == SERVED || Trouble::REASONS.contains(&reason);
    let take = |node: Node| {
        let ours = node_conditions(&node).iter().filter(|condition| {
            condition.type_ == "OverlaneNetwork"
                || (condition.type_ == "NetworkUnavailable" && condition.reason.as_deref().is_some_and(is_ours))
        });
        let gone: Vec<_> = ours.map(|condition| json!({ "type": condition.type_, "$patch": "delete" })).collect();
        if !gone.is_empty() {
            told.push((node.name_any(), gone));
        }
    };
    each(&nodes, ListParams::default(), "nodes", take).await?;
    for (name, gone) in told {
        let patch = Patch::Strategic(json!({ "status": { "conditions": gone } }));
        let patched = nodes.patch_status(&name, &PatchParams::default(), &patch).await;
        patched.with_context(|| format!("take the conditions of node {name} away"))?;
    }
    Ok(())
}
