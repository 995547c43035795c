//! `overlane uninstall`: nodes as they were, then nothing of ours in the API.
//!
//! On the nodes the agent's own program does the work, in a DaemonSet made from the agents': the same image,
//! directories and settings.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use overlane_api::crd::NAMESPACE;
use overlane_core::blocks::{SERVED, Trouble};
use overlane_install::values::Values;
use overlane_install::{AGENT, CONTROLLER};
use serde_json::json;
use tokio::time::Instant;

use crate::args::UninstallArgs;
use crate::cluster::read::{each, node_conditions, node_says, pod_is_ready};
use crate::cluster::{self, objects};
use crate::out;
use crate::progress::Progress;

/// The DaemonSet that cleans nodes up.
pub const CLEANUP: &str = "overlane-uninstall";
const LOOK: Duration = Duration::from_millis(300);
/// How many pods a refusal names.
const NAMED: usize = 5;

/// Takes everything away.
pub fn run(args: &UninstallArgs) -> Result<ExitCode> {
    crate::runtime::start()?.block_on(uninstall(args))
}

async fn uninstall(args: &UninstallArgs) -> Result<ExitCode> {
    let client = cluster::client(&args.kube).await?;
    let until = Instant::now() + Duration::from_secs(args.timeout);
    let agents = find(&client, AGENT).await?;
    // What an uninstall that was cut off has left says how to go on.
    let begun = find(&client, CLEANUP).await?;
    let on_network = pods_on_network(&client).await?;
    if agents.is_some() && !on_network.is_empty() && !args.force {
        let named: Vec<&str> = on_network.iter().take(NAMED).map(String::as_str).collect();
        let more = on_network.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        out::print(&format!(
            "{} pods have their network from overlane: {}{more}\nend them first, or add --force: they lose it at once\n",
            on_network.len(),
            named.join(", ")
        ))?;
        return Ok(ExitCode::FAILURE);
    }
    let cut_off = if agents.is_some() { on_network.len() } else { 0 };
    let progress = Progress::new();
    let done = take_away(&client, agents, begun, args.force, until, &progress).await;
    progress.clear();
    let left = done?;
    for node in &left {
        out::print(&format!("{node} was not ready and is not clean: run `overlane-agent --uninstall` there\n"))?;
    }
    if cut_off > 0 {
        out::print(&format!(
            "{cut_off} pods run on without a network: delete them once there is one, so that they are made again\n"
        ))?;
    }
    out::print("overlane is gone; nodes are not ready until another network is installed\n")?;
    Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Gives the nodes that could not be cleaned up.
async fn take_away(
    client: &Client,
    agents: Option<DaemonSet>,
    begun: Option<DaemonSet>,
    force: bool,
    until: Instant,
    progress: &Progress,
) -> Result<BTreeSet<String>> {
    let known = agents.as_ref().or(begun.as_ref());
    let namespace = known.and_then(DaemonSet::namespace).unwrap_or_else(|| NAMESPACE.to_owned());
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    // What is to clean nodes up is there before what it is made from goes. It waits for the agents' end by itself.
    let cleans = known.is_some();
    if let Some(agents) = agents {
        let cleanup = cleanup(agents, force).context("the agents' DaemonSet is not as it was installed")?;
        if begun.is_some() {
            sets.delete(CLEANUP, &DeleteParams::background()).await.context("remove an earlier cleanup")?;
            gone(client, &pods, CLEANUP, until).await?;
        }
        sets.create(&PostParams::default(), &cleanup).await.context("make the DaemonSet that cleans nodes up")?;
    }
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
    let left = if cleans { clean_nodes(client, &sets, &pods, until, progress).await? } else { BTreeSet::new() };
    progress.doing("removing what is in the API");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": CONTROLLER, "namespace": NAMESPACE },
    });
    for object in rest.iter().chain([&lease]).chain(&overlane_install::definitions()?) {
        objects::delete(client, object).await?;
    }
    forget_conditions(client).await?;
    Ok(left)
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

/// The agents' DaemonSet, with their program cleaning up before a container that only waits.
fn cleanup(agents: DaemonSet, force: bool) -> Option<DaemonSet> {
    let mut spec = agents.spec?;
    let labels = [("app.kubernetes.io/name".to_owned(), CLEANUP.to_owned())];
    spec.selector.match_labels = Some(labels.clone().into());
    spec.template.metadata.get_or_insert_default().labels = Some(labels.into());
    let pod = spec.template.spec.as_mut()?;
    // Nothing of the API is needed, and the account may be gone.
    pod.service_account_name = None;
    pod.service_account = None;
    pod.automount_service_account_token = Some(false);
    let agent = pod.containers.first()?.clone();
    let mut clean =
        Container { name: "cleanup".to_owned(), liveness_probe: None, readiness_probe: None, ..agent.clone() };
    let args = clean.args.get_or_insert_default();
    args.push("--uninstall".to_owned());
    if force {
        args.push("--force".to_owned());
    }
    // The directory itself is to go, so it must not be the mount point.
    let given = args.iter_mut().find(|arg| arg.starts_with("--run-dir="))?;
    let run_dir = given.trim_start_matches("--run-dir=").to_owned();
    let (parent, name) = run_dir.rsplit_once('/')?;
    *given = format!("--run-dir=/host/run/{name}");
    for volume in pod.volumes.iter_mut().flatten().filter(|volume| volume.name == "run") {
        volume.host_path.as_mut()?.path = if parent.is_empty() { "/".to_owned() } else { parent.to_owned() };
    }
    for mount in clean.volume_mounts.iter_mut().flatten().filter(|mount| mount.name == "run") {
        mount.mount_path = "/host/run".to_owned();
    }
    let wait = Container {
        name: "done".to_owned(),
        image: agent.image,
        image_pull_policy: agent.image_pull_policy,
        command: Some(vec!["/usr/bin/overlane".to_owned(), "hold".to_owned()]),
        ..Container::default()
    };
    pod.init_containers = Some(vec![clean]);
    pod.containers = vec![wait];
    let mut set = DaemonSet { spec: Some(spec), ..DaemonSet::default() };
    set.metadata.name = Some(CLEANUP.to_owned());
    Some(set)
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a cleanup that runs with other directories than the agents did, or needs an account that is gone.

    use super::*;

    #[test]
    fn the_cleanup_is_made_from_the_agents() {
        let mut values = Values::default();
        values.agent.run_dir = "/var/run/ovl".to_owned();
        let objects = overlane_install::objects(&values, "kube-system").unwrap();
        let agents = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let agents: DaemonSet = serde_json::from_value(agents.clone()).unwrap();
        let made = serde_json::to_value(cleanup(agents, true).unwrap()).unwrap();
        let pod = &made["spec"]["template"]["spec"];
        let init = &pod["initContainers"][0];
        let args: Vec<&str> = init["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
        assert!(args.ends_with(&["--uninstall", "--force"]), "{args:?}");
        assert!(args.contains(&"--run-dir=/host/run/ovl") && !args.contains(&"--run-dir=/var/run/ovl"), "{args:?}");
        assert_eq!(pod["volumes"][0]["hostPath"]["path"], "/var/run");
        assert_eq!(init["volumeMounts"][0]["mountPath"], "/host/run");
        assert!(init.get("livenessProbe").is_none() && pod.get("serviceAccountName").is_none());
        assert_eq!(init["securityContext"]["capabilities"]["add"][0], "NET_ADMIN");
    }
}
