//! `overlane lab exec`, `node` and `outside`: this process becomes the command.

use anyhow::Result;
use overlane_lab::client::LabClient;
use overlane_lab::exec;
use overlane_lab::names::Part;

use crate::args::{ExecArgs, NodeArgs, OutsideArgs, OutsideHost};

/// In a pod.
pub fn exec(lab: &LabClient, args: &ExecArgs) -> Result<()> {
    // The runtime is gone before the namespace is entered: its threads would stay outside.
    let inside = crate::runtime::start()?.block_on(exec::pod(lab, &args.namespace, &args.pod))?;
    exec::become_command(&inside, &args.command).map(|never| match never {})
}

/// On a node.
pub fn node(lab: &LabClient, args: &NodeArgs) -> Result<()> {
    exec::become_command(&exec::node(lab, &args.node)?, &args.command).map(|never| match never {})
}

/// On one of the VNet's hosts.
pub fn outside(lab: &LabClient, args: &OutsideArgs) -> Result<()> {
    let part = match args.host {
        OutsideHost::Vm => Part::Vm,
        OutsideHost::Internet => Part::Internet,
        OutsideHost::Router => Part::Router,
    };
    exec::become_command(&exec::outside(lab, &part), &args.command).map(|never| match never {})
}
