//! `overlane lab up`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use overlane_lab::names::LabName;
use overlane_lab::spec::{self, Plan, UpRequest};
use overlane_lab::status::LabStatus;
use overlane_lab::up;

use crate::args::UpArgs;
use crate::out::{self, Format};
use crate::progress::Progress;

/// Brings a lab up and shows it.
pub fn run(name: &LabName, args: &UpArgs) -> Result<ExitCode> {
    let request = UpRequest {
        name: name.to_string(),
        nodes: args.nodes,
        vnet: args.vnet.clone(),
        ip_families: args.ip_families.clone(),
        node_families: args.node_families.clone(),
        pod_cidrs: args.pod_cidrs.clone(),
        service_cidrs: args.service_cidrs.clone(),
        max_pods: args.max_pods,
        routing: args.routing.map(Into::into),
        network_policy: args.network_policy.map(Into::into),
        mtu: args.mtu,
        underlay: args.underlay.map(Into::into),
        loss: args.loss,
        manifests: args.filename.clone(),
        agent_args: args.agent_arg.clone(),
        controller_args: args.controller_arg.clone(),
        controllers: args.controllers,
        api: args.api.api.into(),
        kubernetes_bin: args.api.kubernetes_bin.clone(),
    };
    let began = Instant::now();
    let status = bring_up(&spec::resolve(&request)?, Duration::from_secs(args.timeout), args.keep)?;
    match args.output.output {
        Format::Json => out::json(&status)?,
        Format::Table => {
            out::print(&super::show::render_status(&status, out::colours()))?;
            out::print(&format!(
                "up in {:.1} s; `overlane lab check --name {name}` proves it\n",
                began.elapsed().as_secs_f32()
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Brings a lab up with progress shown. What did not get ready is taken away again, unless it is to be kept.
pub fn bring_up(plan: &Plan, patience: Duration, keep: bool) -> Result<LabStatus> {
    up::check_machine()?;
    let progress = Progress::new();
    let told = |at: &up::Progress| {
        if at.wanted > 0 {
            progress.count(&format!("{} ({} of {} nodes ready)", at.doing, at.ready, at.wanted), at.ready, at.wanted);
        } else {
            progress.doing(&at.doing);
        }
    };
    let done = crate::runtime::start()?.block_on(up::up(plan, patience, keep, told));
    progress.clear();
    done
}
