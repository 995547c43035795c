//! `overlane cluster update`: a larger pod CIDR, the former one again, or another family, until every node says that it carries
//! it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use overlane_api::convert;
use overlane_api::crd::{CLUSTER_NETWORK, ClusterNetwork};
use overlane_core::cluster::{Way, validate};
use serde_json::{Value, json};

use super::change::{Change, change};
use super::facts::{self, BEFORE, Facts};
use super::show;
use crate::args::UpdateArgs;
use crate::out::{self, Format, Style, count};
use crate::progress::Progress;
use crate::validate as findings;

/// How often the nodes are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often a write is tried that others' writes come before: the controller's status is one.
const TRIES: usize = 10;

/// Runs the command.
pub async fn run(args: &UpdateArgs) -> Result<ExitCode> {
    let client = super::client(&args.which).await?;
    let facts = Facts::read(&client).await?;
    let change = change(args, &facts)?;
    if !change.findings.is_empty() {
        return refuse(args, &change);
    }
    if args.dry_run {
        return foretell(args, &facts, &change);
    }
    ask(&client, &facts, &change).await?;
    if args.no_wait {
        return tell(args, &facts, &change, &[]);
    }
    follow(&client, args, &facts, &change).await
}

/// What every answer has, for programs.
fn report(change: &Change, applied: &[String], done: bool, behind: &[String], facts: Option<&Facts>) -> Value {
    let found: Vec<findings::Found> = change.findings.iter().map(Into::into).collect();
    json!({
        "before": change.old, "asked": change.new, "applied": applied, "changed": change.old != applied, "done": done,
        "behind": behind, "findings": found, "nodes": facts.map(show::nodes).unwrap_or_default(),
    })
}

fn refuse(args: &UpdateArgs, change: &Change) -> Result<ExitCode> {
    match args.output.output {
        Format::Json => out::json(&report(change, &change.old, false, &[], None))?,
        Format::Table => {
            out::print(&findings::bad(&change.findings, out::colours()))?;
            out::print("Nothing was changed.\n")?;
        }
    }
    Ok(ExitCode::from(1))
}

/// `--dry-run`.
fn foretell(args: &UpdateArgs, facts: &Facts, change: &Change) -> Result<ExitCode> {
    if args.output.output == Format::Json {
        let mut report = report(change, &change.old, false, &[], Some(facts));
        report["dryRun"] = json!(true);
        out::json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let room = |spec: &_| validate(&convert::cluster_spec(spec)).map_or(0, |plan| plan.node_capacity());
    let (old, new) = (change.old.join(", "), change.new.join(", "));
    let (now, then, nodes) = (count(room(facts.applied())), count(room(&change.spec)), facts.nodes.len());
    out::print(&match change.way {
        _ if change.old == change.new => "The pod CIDRs are so already: nothing would change.\n".to_owned(),
        Way::AddFamily => format!(
            "{old} would become {new}. Each of {nodes} nodes would get a block of the new family; pods that run keep what they \
             have, new ones get an address of each.\n"
        ),
        Way::Expand | Way::Rollback => format!(
            "{old} would become {new}: room for {then} nodes, now for {now}.\nOn each of {nodes} nodes the masquerade's \
             exceptions, the route for what no node has, network policy and the NodeNetworkConfig change; blocks, pods and their \
             connections stay as they are.\n"
        ),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Asks for the pod CIDRs, unless that was done before: an update that was interrupted goes on.
async fn ask(client: &Client, facts: &Facts, change: &Change) -> Result<()> {
    let asked = &facts.network.spec;
    let families = change.way == Way::AddFamily;
    let services = !families || show::service_cidrs(asked) == change.spec.service_cidrs;
    if asks_for(&facts.network, &change.new) && services {
        return Ok(());
    }
    let annotations = match change.way {
        // Kept until it is through.
        Way::Rollback => json!({}),
        // Back before it leads no rollback.
        Way::AddFamily => json!({ BEFORE: null }),
        Way::Expand if change.old == change.new => json!({}),
        Way::Expand => json!({ BEFORE: change.old.join(",") }),
    };
    let mut spec = json!({ "podCIDRs": change.new });
    if families {
        spec["ipFamilies"] = json!(change.spec.ip_families);
        spec["serviceCIDRs"] = json!(change.spec.service_cidrs);
    }
    let same = |now: &ClusterNetwork| now.spec == facts.network.spec;
    if write(client, &annotations, &spec, same).await? {
        return Ok(());
    }
    bail!("the ClusterNetwork was changed by somebody else meanwhile; nothing was changed; try again")
}

/// Whether these pod CIDRs are asked for, be it by leaving out what is usual.
fn asks_for(network: &ClusterNetwork, pod_cidrs: &[String]) -> bool {
    network.spec.pod_cidrs == pod_cidrs || show::pod_cidrs(&network.spec) == pod_cidrs
}

/// Writes to the ClusterNetwork, as long as it is what was looked at. Whether it was.
async fn write(
    client: &Client,
    annotations: &Value,
    spec: &Value,
    same: impl Fn(&ClusterNetwork) -> bool,
) -> Result<bool> {
    let api: Api<ClusterNetwork> = Api::all(client.clone());
    for _ in 0..TRIES {
        let now = facts::network(client).await?;
        if !same(&now) {
            return Ok(false);
        }
        let metadata = json!({ "annotations": annotations, "resourceVersion": now.metadata.resource_version });
        let patch = json!({ "metadata": metadata, "spec": spec });
        match api.patch(CLUSTER_NETWORK, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => return Ok(true),
            // A status was written in between, as a rule.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).context("change the ClusterNetwork"),
        }
    }
    bail!("the ClusterNetwork changes all the time: nothing was changed; try again")
}

/// Waits until every node that Kubernetes calls ready carries the pod CIDRs.
async fn follow(client: &Client, args: &UpdateArgs, first: &Facts, change: &Change) -> Result<ExitCode> {
    let progress = Progress::new();
    let until = Instant::now() + Duration::from_secs(args.timeout);
    let mut facts = Facts::read(client).await?;
    let behind = loop {
        let applied = show::pod_cidrs(facts.applied()) == change.new;
        if !asks_for(&facts.network, &change.new) {
            progress.clear();
            let asked = facts.network.spec.pod_cidrs.join(", ");
            bail!("somebody else asks for {asked} meanwhile; `overlane cluster show` tells what is in force");
        }
        if let Some(message) = facts.refused().filter(|_| !applied) {
            progress.clear();
            return taken_back(client, args, &facts, first, change, message).await;
        }
        let behind: Vec<String> =
            facts.nodes.iter().filter(|(_, node)| !node.is_at(&change.new)).map(|(name, _)| name.clone()).collect();
        let waited_for = facts.nodes.iter().filter(|(_, node)| node.ready && !node.is_at(&change.new)).count();
        if (applied && waited_for == 0) || Instant::now() >= until {
            break behind;
        }
        let done = facts.nodes.len() - behind.len();
        let doing = if applied { "nodes take the pod CIDRs over" } else { "waiting for the controller" };
        progress.count(doing, done, facts.nodes.len());
        tokio::time::sleep(LOOK).await;
        facts =
            Facts::read(client).await.or_else(|error| if Instant::now() < until { Ok(facts) } else { Err(error) })?;
    };
    progress.clear();
    if change.way == Way::Rollback && show::pod_cidrs(facts.applied()) == change.new {
        // Whoever expands meanwhile has written where that leads back to.
        write(client, &json!({ BEFORE: null }), &json!({}), |now| now.spec == facts.network.spec).await?;
    }
    tell(args, &facts, change, &behind)
}

/// What the controller refuses is asked for no longer: the ClusterNetwork is as it was, or, where that was not in force either,
/// as what is.
async fn taken_back(
    client: &Client,
    args: &UpdateArgs,
    facts: &Facts,
    first: &Facts,
    change: &Change,
    message: &str,
) -> Result<ExitCode> {
    let settled = asks_for(&first.network, &change.old);
    let before = if settled { &first.network.spec } else { first.applied() };
    let spec =
        json!({ "podCIDRs": before.pod_cidrs, "ipFamilies": before.ip_families, "serviceCIDRs": before.service_cidrs });
    let annotations = json!({ BEFORE: first.before().filter(|_| settled) });
    let back = write(client, &annotations, &spec, |now| now.spec == facts.network.spec).await?;
    let words =
        if back { "The ClusterNetwork is as it was." } else { "Somebody else has changed the ClusterNetwork since." };
    match args.output.output {
        Format::Json => {
            let mut report = report(change, &show::pod_cidrs(facts.applied()), false, &[], Some(facts));
            report["refused"] = json!(message);
            out::json(&report)?;
        }
        Format::Table => {
            out::print(&format!("The controller refused {}: {message}\n{words}\n", change.new.join(", ")))?;
        }
    }
    Ok(ExitCode::from(1))
}

/// What came of it: 1 where a node that is ready does not say that it carries the pod CIDRs.
fn tell(args: &UpdateArgs, facts: &Facts, change: &Change, behind: &[String]) -> Result<ExitCode> {
    let waiting = behind.iter().any(|name| facts.nodes.get(name).is_some_and(|node| node.ready));
    let applied = show::pod_cidrs(facts.applied()) == change.new;
    let good = args.no_wait || (applied && !waiting);
    match args.output.output {
        Format::Json => {
            let done = !args.no_wait && behind.is_empty() && applied;
            out::json(&report(change, &show::pod_cidrs(facts.applied()), done, behind, Some(facts)))?;
        }
        Format::Table if args.no_wait => {
            out::print(&format!(
                "{} was asked for; `overlane cluster show` tells how far it is\n",
                change.new.join(", ")
            ))?;
        }
        Format::Table => {
            let colours = out::colours();
            let mut text = show::table(facts, &change.new).render(0, colours);
            let words = match (good, behind) {
                (true, []) => out::paint(Style::Good, "every node carries it", colours),
                (true, behind) => format!("not reached: {}; they catch up by themselves", behind.join(", ")),
                (false, behind) => format!(
                    "{}: {}; what is there goes on, and they follow by themselves: look at their agents",
                    out::paint(Style::Bad, "not every node says so", colours),
                    behind.join(", ")
                ),
            };
            text.push_str(&format!("{}: {words}\n", change.new.join(", ")));
            out::print(&text)?;
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
