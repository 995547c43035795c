//! `overlane status`.

pub mod cluster;
mod gateways;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::StatusArgs;
use crate::out::{self, Format, Style, Table, cell, paint};
use cluster::{ClusterStatus, Daemons, NodeStatus};

/// Shows the cluster's network; exit code 1 if something is wrong with it.
pub fn run(args: &StatusArgs) -> Result<ExitCode> {
    let status = crate::runtime::start()?.block_on(async {
        let client = crate::cluster::client(&args.kube).await?;
        ClusterStatus::read(&client, None).await
    })?;
    match args.output.output {
        Format::Json => out::json(&status)?,
        Format::Table => out::print(&render(&status, out::colours()))?,
    }
    Ok(if status.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(status: &ClusterStatus, colours: bool) -> String {
    let mut head = Table::bare();
    match &status.network {
        Some(network) => {
            let what = format!("{}, {} routing", network.pod_cidrs.join(" "), network.routing);
            let message = if network.ready { "ready".to_owned() } else { network.message.clone() };
            head.row([cell("network"), verdict(network.ready, message), cell(what)]);
        }
        None => head.row([cell("network"), verdict(false, "there is no ClusterNetwork".to_owned())]),
    }
    head.row(daemons("controllers", &status.controllers, status.controllers.ready > 0));
    head.row(daemons("agents", &status.agents, status.agents.is_settled()));
    let mut nodes = Table::new(&["NODE", "READY", "AGENT", "BLOCKS", "USED", "DEGRADED"]);
    for node in &status.nodes {
        nodes.row(row(node));
    }
    let mut text = head.render(0, colours) + "\n" + &nodes.render(0, colours);
    text.push_str(&gateways::render(&status.gateways, colours));
    let troubled = status.nodes.iter().filter(|node| !node.messages.is_empty());
    for node in troubled {
        text.push_str(&format!("\n{}: {}\n", paint(Style::Bad, &node.name, colours), node.messages.join("; ")));
    }
    for trouble in status.controllers.troubles.iter().chain(&status.agents.troubles) {
        text.push_str(&format!("\n{trouble}\n"));
    }
    text
}

fn verdict(good: bool, text: String) -> (Style, String) {
    (if good { Style::Good } else { Style::Bad }, text)
}

fn daemons(what: &str, daemons: &Daemons, good: bool) -> Vec<(Style, String)> {
    let versions: Vec<String> = daemons.versions.keys().cloned().collect();
    let mut notes = vec![format!("version {}", versions.join(", "))];
    if daemons.updated < daemons.wanted {
        notes.push(format!("{} of {} are of the newest template", daemons.updated, daemons.wanted));
    }
    notes.extend(daemons.leader.as_ref().map(|leader| format!("leader {leader}")));
    vec![cell(what), verdict(good, format!("{} of {} ready", daemons.ready, daemons.wanted)), cell(notes.join("; "))]
}

fn row(node: &NodeStatus) -> Vec<(Style, String)> {
    let yes_no = |good: bool| verdict(good, if good { "yes" } else { "no" }.to_owned());
    let blocks: Vec<&str> = node.blocks.iter().map(|block| block.cidr.as_str()).collect();
    let used: Vec<String> = node.blocks.iter().map(|block| format!("{}/{}", block.used, block.usable)).collect();
    let agent = if node.agent_version.is_empty() { "-".to_owned() } else { node.agent_version.clone() };
    vec![
        cell(&node.name),
        yes_no(node.ready),
        verdict(node.agent_ready, agent),
        cell(if blocks.is_empty() { "-".to_owned() } else { blocks.join(" ") }),
        cell(used.join(" ")),
        match &node.degraded {
            Some(reason) => (Style::Bad, reason.clone()),
            None => (Style::Dim, "-".to_owned()),
        },
    ]
}

#[cfg(test)]
mod tests {
    //! Must catch: a node in trouble that the table does not show; a status that reads as good while it is not.

    use super::*;
    use cluster::{BlockUse, NetworkStatus};

    #[test]
    fn what_is_wrong_is_said() {
        let node = NodeStatus {
            name: "node-1".to_owned(),
            blocks: vec![BlockUse { cidr: "10.244.1.0/24".to_owned(), used: 7, usable: 254 }],
            messages: vec!["no block is left".to_owned()],
            degraded: Some("BlockLost".to_owned()),
            ..NodeStatus::default()
        };
        let network = NetworkStatus { message: "podCIDRs[0]: too small".to_owned(), ..NetworkStatus::default() };
        let status = ClusterStatus { nodes: vec![node], network: Some(network), ..ClusterStatus::default() };
        let text = render(&status, false);
        for wanted in ["node-1", "7/254", "BlockLost", "no block is left", "too small", "0 of 0 ready"] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
    }
}
