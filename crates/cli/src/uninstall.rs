//! `overlane uninstall`: nodes as they were, then nothing of ours in the API.
//!
//! On the nodes the agent's own program does the work, in a DaemonSet made from the agents': the same image,
//! directories and settings.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use overlane_api::crd::NAMESPACE;
use overlane_install::values::Values;
use overlane_install::{AGENT, CONTROLLER};
use serde_json::json;
use tokio::time::Instant;

use crate::args::UninstallArgs;
use crate::cluster::{self, objects};
use crate::out;
use crate::progress::Progress;

/// The DaemonSet that cleans nodes up.
const CLEANUP: &str = "overlane-uninstall";
const LOOK: Duration = Duration::from_millis(300);
/// How many pods a refusal names.
const NAMED: usize = 5;

/// Takes everything away.
pub fn run(args: &UninstallArgs) -> Result<ExitCode> {
    crate::lab::runtime()?.block_on(uninstall(args))
}

async fn uninstall(args: &UninstallArgs) -> Result<ExitCode> {
    let client = cluster::client(&args.kube).await?;
    let until = Instant::now() + Duration::from_secs(args.timeout);
    let agents = find_agents(&client).await?;
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
    let progress = Progress::new();
    let done = take_away(&client, agents, args.force, until, &progress).await;
    progress.clear();
    done?;
    out::print("overlane is gone; nodes are not ready until another network is installed\n")?;
    Ok(ExitCode::SUCCESS)
}

async fn take_away(
    client: &Client,
    agents: Option<DaemonSet>,
    force: bool,
    until: Instant,
    progress: &Progress,
) -> Result<()> {
    let namespace = agents.as_ref().and_then(DaemonSet::namespace).unwrap_or_else(|| NAMESPACE.to_owned());
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
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    for component in [AGENT, CONTROLLER] {
        gone(&pods, &format!("app.kubernetes.io/name={component}"), until).await?;
    }
    if let Some(agents) = agents {
        clean_nodes(client, &namespace, agents, force, until, progress).await?;
    }
    progress.doing("removing what is in the API");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": CONTROLLER, "namespace": NAMESPACE },
    });
    for object in rest.iter().chain([&lease]).chain(&overlane_install::definitions()?) {
        objects::delete(client, object).await?;
    }
    forget_conditions(client).await
}

/// The agents' DaemonSet, wherever it is.
async fn find_agents(client: &Client) -> Result<Option<DaemonSet>> {
    let sets: Api<DaemonSet> = Api::all(client.clone());
    let named = ListParams::default().fields(&format!("metadata.name={AGENT}"));
    Ok(sets.list(&named).await.context("look for the agents")?.items.into_iter().next())
}

async fn pods_on_network(client: &Client) -> Result<Vec<String>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let live = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let listed = pods.list(&live).await.context("list pods")?;
    // A pod without an address has nothing to lose.
    let has_network = |pod: &Pod| {
        pod.spec.as_ref().is_some_and(|spec| spec.host_network != Some(true))
            && pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some())
    };
    let found = listed.items.iter().filter(|pod| has_network(pod));
    Ok(found.map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())).collect())
}

async fn gone(pods: &Api<Pod>, labels: &str, until: Instant) -> Result<()> {
    loop {
        let left = pods.list(&ListParams::default().labels(labels)).await.context("list pods")?.items;
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

/// Runs the agents' program with `--uninstall` on every node.
async fn clean_nodes(
    client: &Client,
    namespace: &str,
    agents: DaemonSet,
    force: bool,
    until: Instant,
    progress: &Progress,
) -> Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let cleanup = cleanup(agents, force).context("the agents' DaemonSet is not as it was installed")?;
    sets.create(&PostParams::default(), &cleanup).await.context("make the DaemonSet that cleans nodes up")?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labels = format!("app.kubernetes.io/name={CLEANUP}");
    loop {
        let set = sets.get_opt(CLEANUP).await.context("look at the DaemonSet that cleans nodes up")?;
        let status = set.and_then(|set| set.status).unwrap_or_default();
        let (ready, wanted) = (status.number_ready, status.desired_number_scheduled);
        let observed = status.observed_generation.is_some_and(|generation| generation > 0);
        progress.count(
            "cleaning nodes up",
            usize::try_from(ready).unwrap_or_default(),
            usize::try_from(wanted).unwrap_or_default(),
        );
        if observed && ready == wanted {
            break;
        }
        if Instant::now() > until {
            let failed = unclean(&pods, &labels).await?;
            bail!(
                "nodes are not clean: {failed}; `kubectl -n {namespace} logs -l {labels} -c cleanup` says why; \
                 run `overlane uninstall` again"
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    sets.delete(CLEANUP, &DeleteParams::background()).await.context("remove the DaemonSet that cleaned nodes up")?;
    gone(&pods, &labels, until).await
}

async fn unclean(pods: &Api<Pod>, labels: &str) -> Result<String> {
    let listed = pods.list(&ListParams::default().labels(labels)).await.context("list pods")?;
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let nodes = listed.items.iter().filter(|pod| !is_ready(pod));
    let names: Vec<String> = nodes.filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    Ok(names.join(", "))
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
    for node in nodes.list(&ListParams::default()).await.context("list nodes")? {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ours = conditions.filter(|condition| {
            condition.type_ == "OverlaneNetwork"
                || (condition.type_ == "NetworkUnavailable" && condition.reason.as_deref() == Some("OverlaneIsUp"))
        });
        let gone: Vec<_> = ours.map(|condition| json!({ "type": condition.type_, "$patch": "delete" })).collect();
        if gone.is_empty() {
            continue;
        }
        let patch = Patch::Strategic(json!({ "status": { "conditions": gone } }));
        let name = node.name_any();
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
