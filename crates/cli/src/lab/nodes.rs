//! `overlane lab nodes` and `overlane lab program`: what breaks a lab on purpose.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use overlane_lab::client::LabClient;
use overlane_lab::daemon::control::{Answer, Command};
use overlane_lab::error::LabError;
use overlane_lab::spec::MAX_NODES;
use overlane_lab::{names, up};

use crate::args::{NodesCommand, ProgramArgs};
use crate::out::{self, Format};
use crate::progress::Progress;

const READY_PATIENCE: Duration = Duration::from_secs(120);

/// Does something to a program.
pub async fn program(lab: &LabClient, args: &ProgramArgs) -> Result<()> {
    let command = Command::Program { program: args.program.clone(), action: args.action.into() };
    let Answer::Program(state) = lab.ask(&command).await? else { bail!("the lab's daemon answered something else") };
    match args.output.output {
        Format::Json => out::json(&state),
        Format::Table => {
            let pid = state.process.map_or("down".to_owned(), |process| format!("pid {}", process.pid));
            out::print(&format!("{}: {pid}, started again {} times\n", state.program, state.restarts))
        }
    }
}

/// Does something to nodes.
pub async fn change(lab: &LabClient, command: &NodesCommand) -> Result<()> {
    let command = match command {
        NodesCommand::Add { count, node } => return add(lab, *count, node.as_deref()).await,
        NodesCommand::Remove { node, keep_objects } => {
            Command::RemoveNode { node: node.clone(), keep_objects: *keep_objects }
        }
        NodesCommand::Reboot { node } => Command::RebootNode { node: node.clone() },
        NodesCommand::KubeletStop { node } => Command::Kubelet { node: node.clone(), up: false },
        NodesCommand::KubeletStart { node } => Command::Kubelet { node: node.clone(), up: true },
    };
    lab.ask(&command).await.map(drop)
}

async fn add(lab: &LabClient, count: u32, node: Option<&str>) -> Result<()> {
    if count > MAX_NODES {
        let reason = format!("a lab has at most {MAX_NODES} nodes");
        return Err(LabError::Argument { argument: count.to_string(), reason }.into());
    }
    let mut numbers = vec![None; usize::try_from(count)?];
    if let Some(name) = node {
        let reason = "a node is called node-NUMBER".to_owned();
        let number =
            names::node_number(name).ok_or(LabError::Argument { argument: format!("--node {name}"), reason })?;
        numbers = vec![Some(number)];
    }
    for number in numbers {
        if let Answer::Node(node) = lab.ask(&Command::AddNode { number }).await? {
            out::print(&format!("{} added\n", node.name))?;
        }
    }
    let wanted = lab.status().await?.nodes.len();
    let progress = Progress::new();
    let ready = up::wait_ready(lab, wanted, Instant::now() + READY_PATIENCE, &mut |at| progress.doing(&at.doing)).await;
    progress.clear();
    ready.map(drop)
}
