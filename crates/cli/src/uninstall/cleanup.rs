//! The DaemonSet that cleans nodes up: the agents' own, with their program run once for that.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::Container;
use overlane_install::values::Values;

/// Its name.
pub const CLEANUP: &str = "overlane-uninstall";
const FORCE: &str = "--force";

/// From the agents' DaemonSet.
pub fn of_agents(agents: DaemonSet, force: bool) -> Result<DaemonSet> {
    made(agents, force).context("the agents' DaemonSet is not as it was installed")
}

/// From what an installation with these values would make: for nodes whose agents somebody else took away.
pub fn of_values(values: &Values, namespace: &str, force: bool) -> Result<DaemonSet> {
    let objects = overlane_install::objects(values, namespace)?;
    let agents = objects.into_iter().find(|object| object["kind"] == "DaemonSet");
    of_agents(serde_json::from_value(agents.context("an installation has no agents")?)?, force)
}

/// One that was begun without force, with it; none if it has it already.
pub fn forced(begun: &DaemonSet) -> Option<DaemonSet> {
    let mut spec = begun.spec.clone()?;
    let clean = spec.template.spec.as_mut()?.init_containers.as_mut()?.first_mut()?;
    let args = clean.args.get_or_insert_default();
    if args.iter().any(|arg| arg == FORCE) {
        return None;
    }
    args.push(FORCE.to_owned());
    Some(named(spec))
}

fn named(spec: DaemonSetSpec) -> DaemonSet {
    let mut set = DaemonSet { spec: Some(spec), ..DaemonSet::default() };
    set.metadata.name = Some(CLEANUP.to_owned());
    set
}

/// Their program cleans up before a container that only waits.
fn made(agents: DaemonSet, force: bool) -> Option<DaemonSet> {
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
        args.push(FORCE.to_owned());
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
    Some(named(spec))
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
        let made = serde_json::to_value(of_agents(agents, true).unwrap()).unwrap();
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

    #[test]
    fn force_comes_later_too() {
        let begun = of_values(&Values::default(), "kube-system", false).unwrap();
        let again = forced(&begun).unwrap();
        let args = |set: &DaemonSet| {
            let pod = set.spec.clone().unwrap().template.spec.unwrap();
            pod.init_containers.unwrap()[0].args.clone().unwrap()
        };
        assert!(!args(&begun).contains(&FORCE.to_owned()) && args(&again).ends_with(&[FORCE.to_owned()]));
        assert_eq!(forced(&again), None, "once is enough");
    }
}
