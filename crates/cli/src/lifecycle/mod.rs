//! `overlane cluster`: a cluster's network over its life.

mod change;
mod create;
mod facts;
mod show;
mod update;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use kube::Client;
use overlane_lab::client::LabClient;
use overlane_lab::names::LabName;

use crate::args::{ClusterArgs, ClusterCommand, KubeArgs, WhichArgs};
use crate::cluster;

/// Runs the command.
pub fn run(args: &ClusterArgs) -> Result<ExitCode> {
    let runtime = crate::runtime::start;
    match &args.command {
        ClusterCommand::Create(args) => create::create(args),
        ClusterCommand::Delete(args) => create::delete(args),
        ClusterCommand::Show(show) => runtime()?.block_on(show::run(show)),
        ClusterCommand::Update(update) => runtime()?.block_on(update::run(update)),
    }
}

/// A client for the lab that was named, or for the cluster of the kubeconfig.
async fn client(which: &WhichArgs) -> Result<Client> {
    let kube = &which.kube;
    let Some(name) = which.name.as_ref().filter(|_| kube.kubeconfig.is_none() && kube.context.is_none()) else {
        return cluster::client(kube).await;
    };
    let lab: LabName = name.parse().map_err(overlane_lab::error::LabError::from)?;
    let lab =
        LabClient::open(&lab).context("--name names a lab; for another cluster give --kubeconfig or --context")?;
    let kubeconfig = Some(lab.paths.kubeconfig());
    cluster::client(&KubeArgs { kubeconfig, context: None }).await
}
