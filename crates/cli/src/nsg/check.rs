//! `overlane nsg check`: whether rules let through what the overlay needs.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use overlane_api::firewall::{Own, Rules, Told, read};
use overlane_core::cluster::Routing;
use overlane_core::firewall::{Needs, Verdict, judge, needs};
use overlane_datapath::owned;

use super::report::Report;
use crate::args::NsgCheckArgs;
use crate::out::{self, Format};

/// Most bytes of rules that are read; what clouds allow a group is some hundreds of kilobytes.
const MOST_BYTES: u64 = 32 << 20;

/// Runs the command.
pub fn run(args: &NsgCheckArgs) -> Result<ExitCode> {
    let report = check(args, &text(&args.rules)?)?;
    match args.output.output {
        Format::Json => out::json(&report)?,
        Format::Table => out::print(&report.render(out::colours()))?,
    }
    Ok(if report.verdict() == Verdict::Passes { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn check(args: &NsgCheckArgs, text: &str) -> Result<Report> {
    sensible(args)?;
    let name = args.rules.display();
    let rules: Rules = read(text, args.format.map(Into::into), &told(args)).with_context(|| format!("read {name}"))?;
    let asked = Needs {
        nodes: &args.node_cidr,
        pods: &args.pod_cidr,
        routing: args.routing.into(),
        vxlan_port: args.vxlan_port,
        on_node: rules.firewall.on_node,
    };
    let judged = judge(&rules.firewall, &needs(&asked));
    Ok(Report::new(rules, &judged))
}

/// Refuses what can be no cluster's networks.
fn sensible(args: &NsgCheckArgs) -> Result<()> {
    for pods in &args.pod_cidr {
        if let Some(nodes) = args.node_cidr.iter().find(|nodes| nodes.overlaps(pods)) {
            bail!(
                "--node-cidr {nodes} and --pod-cidr {pods} overlap: give the network that nodes' own addresses are of"
            );
        }
        let family = pods.family();
        let carried = Routing::from(args.routing) == Routing::Vxlan
            || args.node_cidr.iter().any(|nodes| nodes.family() == family);
        ensure!(
            carried,
            "no --node-cidr is {family}, as --pod-cidr {pods} is: bare packets need nodes of their family"
        );
    }
    Ok(())
}

fn told(args: &NsgCheckArgs) -> Told {
    let set = |list: &Vec<String>| list.iter().filter(|one| !one.is_empty()).cloned().collect::<BTreeSet<_>>();
    Told {
        nodes: args.node_cidr.clone(),
        pods: args.pod_cidr.clone(),
        bare: Routing::from(args.routing) != Routing::Vxlan,
        vnet: [&args.vnet_cidr, &args.peered_cidr, &args.route_cidr].into_iter().flatten().copied().collect(),
        members: args.asg.iter().map(|one| (one.name.clone(), one.cidrs.clone())).collect(),
        groups: args.group.clone(),
        tags: args.tag.as_ref().map(set),
        service_accounts: args.service_account.as_ref().map(set),
        network: args.network.clone(),
        links: args.interface.clone(),
        own: Own {
            table: owned::NFT_TABLE.to_owned(),
            link: owned::LINK_PREFIX.to_owned(),
            pod_link: owned::POD_LINK_PREFIX.to_owned(),
            tunnel_link: owned::TUNNEL_LINK.to_owned(),
        },
    }
}

fn text(path: &Path) -> Result<String> {
    let name = path.display();
    let mut bytes = Vec::new();
    let (read, name) = if path == Path::new("-") {
        (io::stdin().lock().take(MOST_BYTES + 1).read_to_end(&mut bytes), "standard input".to_owned())
    } else {
        let file = File::open(path).with_context(|| format!("open {name}"))?;
        (file.take(MOST_BYTES + 1).read_to_end(&mut bytes), name.to_string())
    };
    read.with_context(|| format!("read {name}"))?;
    ensure!(
        u64::try_from(bytes.len())? <= MOST_BYTES,
        "{name} has more than {MOST_BYTES} bytes: no firewall's rules have"
    );
    String::from_utf8(bytes).with_context(|| format!("{name} is no UTF-8"))
}
