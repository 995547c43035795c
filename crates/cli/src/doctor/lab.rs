//! A lab: its programs, its nodes from inside, and what the cluster says of itself.

use anyhow::Result;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, ListParams};
use overlane_api::crd::{ClusterNetwork, NodeState};
use overlane_lab::client::LabClient;
use overlane_lab::names::Part;
use overlane_lab::netns;
use overlane_lab::state::NodeRecord;
use overlane_lab::status::{self, LabStatus};

use super::{Finding, machine};

/// Examines a lab, or one node of it.
pub fn examine(lab: &LabClient, only: Option<&str>) -> Result<Vec<Finding>> {
    let nodes = match only {
        Some(name) => vec![NodeRecord::load(&lab.name, name)?],
        None => NodeRecord::all(&lab.paths)?,
    };
    let families = lab.record.families()?;
    let mut findings = crate::runtime::start()?.block_on(examine_cluster(lab, only));
    for node in &nodes {
        let path = netns::path(&lab.name, &Part::Node(node.number));
        findings.extend(machine::examine_inside(&path, &node.name, &families));
    }
    Ok(findings)
}

async fn examine_cluster(lab: &LabClient, only: Option<&str>) -> Vec<Finding> {
    let subject = format!("lab {}", lab.name);
    let status = match status::of(lab).await {
        Ok(status) => status,
        Err(error) => {
            let remedy = format!(
                "`overlane lab up --name {}` starts the daemon again; its log is in {}",
                lab.name,
                lab.paths.logs().display()
            );
            return vec![Finding::bad(&subject, "daemon", format!("{error:#}"), remedy)];
        }
    };
    let mut findings = vec![Finding::good(&subject, "daemon", "answers")];
    findings.extend(programs(lab, &status, &subject));
    findings.extend(nodes(&status, only));
    match conditions(lab, only).await {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(Finding::bad(&subject, "API", format!("{error:#}"), "look at the daemon's log")),
    }
    findings
}

fn programs(lab: &LabClient, status: &LabStatus, subject: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !status.api_up {
        let remedy = format!("`overlane lab api start --name {}`", lab.name);
        findings.push(Finding::bad(subject, "API", "it was taken away from agents and controllers", remedy));
    }
    for program in status.programs.iter().filter(|program| !program.process.is_some_and(|process| process.alive())) {
        let end = program.last_end.as_deref().unwrap_or("it has not started");
        let (what, remedy) = if program.down {
            (
                format!("{} was told to stay down", program.program),
                format!("`overlane lab program {} start --name {}`", program.program, lab.name),
            )
        } else {
            let log = lab.paths.log(&program.program);
            (
                format!("{} does not run: {end}", program.program),
                format!("it is started again and again; look at {}", log.display()),
            )
        };
        findings.push(Finding::bad(subject, "programs", what, remedy));
    }
    findings
}

fn nodes(status: &LabStatus, only: Option<&str>) -> Vec<Finding> {
    let wanted = status.nodes.iter().filter(|node| only.is_none_or(|only| node.name == only));
    wanted
        .map(|node| {
            if node.blocks.is_empty() {
                let remedy = "look at the conditions of ClusterNetwork `default` and at the controller's log";
                return Finding::bad(&node.name, "node", "it has no block", remedy);
            }
            if !node.ready {
                return Finding::bad(
                    &node.name,
                    "node",
                    format!("not ready: {}", node.message),
                    "look at its agent's log",
                );
            }
            Finding::good(&node.name, "node", "ready")
        })
        .collect()
}

async fn conditions(lab: &LabClient, only: Option<&str>) -> Result<Vec<Finding>> {
    let client = lab.kube()?;
    let mut findings = Vec::new();
    let networks = Api::<ClusterNetwork>::all(client.clone()).list(&ListParams::default()).await?;
    for network in networks {
        let conditions = network.status.unwrap_or_default().conditions;
        findings.extend(judge("ClusterNetwork default", &conditions));
    }
    for state in Api::<NodeState>::all(client).list(&ListParams::default()).await? {
        let name = state.metadata.name.unwrap_or_default();
        if only.is_none_or(|only| only == name) {
            findings.extend(judge(&name, &state.spec.conditions));
        }
    }
    Ok(findings)
}

/// `Ready` has to be true; every other condition names a trouble while it is true.
fn judge(subject: &str, conditions: &[Condition]) -> Vec<Finding> {
    let wrong = conditions.iter().filter(|condition| (condition.type_ == "Ready") != (condition.status == "True"));
    wrong
        .map(|condition| {
            let what =
                format!("{} is {}: {}: {}", condition.type_, condition.status, condition.reason, condition.message);
            Finding::bad(subject, "condition", what, "docs/operations.md says what each condition means and what to do")
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a condition that names a trouble and is not told.

    use super::*;

    #[test]
    fn conditions_are_judged() {
        let condition = |kind: &str, status: &str| {
            serde_json::from_value::<Condition>(serde_json::json!({
                "type": kind, "status": status, "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"
            }))
            .unwrap()
        };
        let fine = [condition("Ready", "True"), condition("Degraded", "False"), condition("BlocksExhausted", "False")];
        assert!(judge("x", &fine).is_empty());
        for bad in [condition("Ready", "False"), condition("Ready", "Unknown"), condition("Degraded", "True")] {
            assert_eq!(judge("x", &[bad]).len(), 1);
        }
    }
}
