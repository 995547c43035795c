//! Directories and file names that an installation has once and for all: what an agent finds in others is not its own.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::DaemonSet;
use overlane_install::values::Values;
use serde_json::Value;

/// What an installation with `values` would have elsewhere than the agents that are there, in words.
pub fn changed(agents: &DaemonSet, values: &Values) -> Result<Vec<String>> {
    let objects = overlane_install::objects(values, "any")?;
    let wanted = objects.into_iter().find(|object| object["kind"] == "DaemonSet").context("no agents")?;
    let present = serde_json::to_value(agents)?;
    let pairs = [
        ("agent.runDir", directory as fn(&Value, &str) -> Option<String>, "run"),
        ("agent.cniConfDir", directory, "cni-conf"),
        ("agent.cniBinDir", directory, "cni-bin"),
        ("agent.cniConfName", argument, "--cni-conf-name="),
    ];
    let differs = pairs.into_iter().filter_map(|(name, read, key)| {
        let (is, would_be) = (read(&present, key)?, read(&wanted, key)?);
        (is != would_be).then(|| format!("{name} is {is} and would become {would_be}"))
    });
    Ok(differs.collect())
}

fn directory(agents: &Value, volume: &str) -> Option<String> {
    let volumes = agents.pointer("/spec/template/spec/volumes")?.as_array()?;
    let found = volumes.iter().find(|given| given["name"] == volume)?;
    found.pointer("/hostPath/path")?.as_str().map(str::to_owned)
}

fn argument(agents: &Value, prefix: &str) -> Option<String> {
    let arguments = agents.pointer("/spec/template/spec/containers/0/args")?.as_array()?;
    arguments.iter().filter_map(Value::as_str).find_map(|argument| argument.strip_prefix(prefix)).map(str::to_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: agents that look for their leases where none are, and give addresses that pods have.

    use super::*;

    #[test]
    fn what_moves_is_named() {
        let mut values = Values::default();
        values.agent.run_dir = "/var/run/ovl".to_owned();
        values.agent.cni_conf_name = "99-x.conflist".to_owned();
        let objects = overlane_install::objects(&values, "kube-system").unwrap();
        let agents = objects.into_iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let agents: DaemonSet = serde_json::from_value(agents).unwrap();
        assert_eq!(changed(&agents, &values).unwrap(), Vec::<String>::new());
        let moved = changed(&agents, &Values::default()).unwrap();
        assert_eq!(moved.len(), 2, "{moved:?}");
        assert_eq!(moved[0], "agent.runDir is /var/run/ovl and would become /run/overlane");
        assert_eq!(changed(&DaemonSet::default(), &values).unwrap(), Vec::<String>::new());
    }
}
