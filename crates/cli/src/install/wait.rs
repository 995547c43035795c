//! Waits until every node can serve pods, and says of each that cannot what it waits for.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use kube::Client;
use tokio::time::Instant;

use crate::out::{self, Style, Table};
use crate::progress::Progress;
use crate::status::cluster::{ClusterStatus, Daemons, NodeStatus};

const LOOK: Duration = Duration::from_millis(500);

/// Waits; a table of what is missing and exit code 1 where the time passes before.
pub async fn until_ready(client: &Client, namespace: &str, patience: Duration) -> Result<ExitCode> {
    let progress = Progress::new();
    let began = Instant::now();
    loop {
        let asked = Instant::now();
        let status = ClusterStatus::read(client, Some(namespace)).await;
        // A large cluster is asked the less often: most of the time is the API server's.
        let pause = LOOK.max(asked.elapsed() * 4);
        // An API server that was just restarted, say, is no reason to give up early.
        let late = began.elapsed() > patience;
        match status {
            Ok(status) => {
                let ready = status.nodes.iter().filter(|node| is_done(node)).count();
                let settled = status.agents.is_settled() && status.controllers.is_settled();
                if settled && ready == status.nodes.len() {
                    progress.clear();
                    let seconds = began.elapsed().as_secs_f32();
                    out::print(&format!("{ready} of {ready} nodes ready after {seconds:.1} s\n"))?;
                    return Ok(ExitCode::SUCCESS);
                }
                progress.count("waiting for nodes", ready, status.nodes.len());
                if late {
                    progress.clear();
                    return give_up(&status, patience);
                }
            }
            Err(error) if late => {
                progress.clear();
                return Err(error);
            }
            Err(error) => progress.doing(&format!("waiting: {error:#}")),
        }
        tokio::time::sleep(pause).await;
    }
}

fn is_done(node: &NodeStatus) -> bool {
    node.ready && node.agent_ready && !node.blocks.is_empty()
}

fn give_up(status: &ClusterStatus, patience: Duration) -> Result<ExitCode> {
    let missing: BTreeMap<&str, String> = status
        .nodes
        .iter()
        .filter(|node| !is_done(node))
        .map(|node| (node.name.as_str(), node.waits_for(status)))
        .collect();
    let mut table = Table::new(&["NODE", "WAITS FOR"]);
    for (name, reason) in &missing {
        table.row([out::cell(*name), (Style::Bad, reason.clone())]);
    }
    out::print(&format!("not ready after {} s:\n{}", patience.as_secs(), table.render(2, out::colours())))?;
    for (what, daemons) in [("agents", &status.agents), ("controllers", &status.controllers)] {
        if !daemons.is_settled() {
            let Daemons { wanted, ready, updated, .. } = daemons;
            let counts = format!("{ready} of {wanted} {what} are ready, {updated} of the newest template");
            out::print(&format!("{counts}: {}\n", daemons.trouble()))?;
        }
    }
    Ok(ExitCode::FAILURE)
}
