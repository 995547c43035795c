//! `overlane cluster show`.

use std::process::ExitCode;

use anyhow::Result;
use overlane_api::convert;
use overlane_api::crd::ClusterNetworkSpec;
use overlane_core::cidr::Cidr;
use overlane_core::cluster::{ClusterPlan, supersets, validate};
use serde_json::{Value, json};

use super::facts::{Facts, NodeFacts};
use crate::args::ShowArgs;
use crate::out::{self, Format, Style, Table, cell, count};

/// Runs the command.
pub async fn run(args: &ShowArgs) -> Result<ExitCode> {
    let facts = Facts::read(&super::client(&args.which).await?).await?;
    match args.output.output {
        Format::Json => out::json(&report(&facts))?,
        Format::Table => out::print(&render(&facts, out::colours()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn plan(spec: &ClusterNetworkSpec) -> Option<ClusterPlan> {
    validate(&convert::cluster_spec(spec)).ok()
}

/// How many blocks of a pod CIDR nodes have.
fn used(facts: &Facts, cidr: &Cidr) -> u64 {
    facts.blocks.iter().filter(|block| cidr.contains_cidr(block)).count().try_into().unwrap_or(u64::MAX)
}

/// The largest pod CIDR that an update may lead to, by what the cluster itself has.
fn largest(cidr: &Cidr, plan: &ClusterPlan, facts: &Facts) -> Option<Cidr> {
    let is_free = |larger: &Cidr| {
        !plan.services().iter().any(|service| service.overlaps(larger))
            && !facts.addresses.iter().any(|address| larger.contains(*address))
    };
    supersets(cidr).take_while(is_free).last()
}

/// As JSON: `networkProfile` has the names of AKS.
pub fn report(facts: &Facts) -> Value {
    let spec = facts.applied();
    let plan = plan(spec);
    let pods: Vec<String> = plan.iter().flat_map(|plan| plan.pod_cidrs()).map(|cidr| cidr.to_string()).collect();
    let services: Vec<String> = plan.iter().flat_map(|plan| plan.services()).map(ToString::to_string).collect();
    let families: Vec<String> = plan.iter().flat_map(|plan| plan.families()).map(ToString::to_string).collect();
    let pools = plan.iter().flat_map(|plan| plan.pools().iter().map(move |pool| (plan, pool))).map(|(plan, pool)| {
        json!({
            "cidr": pool.cidr.to_string(), "nodeMask": pool.node_mask, "nodes": pool.block_count(), "used": used(facts, &pool.cidr),
            "canGrowTo": largest(&pool.cidr, plan, facts).map(|cidr| cidr.to_string()),
        })
    });
    let pools: Vec<Value> = pools.collect();
    json!({
        "networkProfile": {
            "networkPlugin": "overlane", "networkPluginMode": "overlay", "ipFamilies": families,
            "podCidr": pods.first(), "podCidrs": pods, "serviceCidr": services.first(), "serviceCidrs": services,
            "networkPolicy": spec.network_policy, "outboundType": spec.outbound_type,
        },
        "routing": spec.routing, "maxPods": spec.max_pods, "pools": pools, "nodes": nodes(facts),
        "asked": facts.network.spec.pod_cidrs, "refused": facts.refused(),
    })
}

/// The nodes as JSON.
pub fn nodes(facts: &Facts) -> Vec<Value> {
    let node = |(name, node): (&String, &NodeFacts)| {
        let blocks: Vec<Value> =
            node.blocks.iter().map(|(block, around)| json!({ "block": block, "subnetAddressSpace": around })).collect();
        json!({ "name": name, "ready": node.ready, "blocks": blocks, "podCIDRs": node.carries })
    };
    facts.nodes.iter().map(node).collect()
}

fn render(facts: &Facts, colours: bool) -> String {
    let spec = facts.applied();
    let mut text = String::new();
    if let Some(plan) = plan(spec) {
        let list = |all: Vec<String>| all.join(", ");
        let mut head = Table::bare();
        let mut row = |what: &str, said: String| head.row([(Style::Bold, what.to_owned()), cell(said)]);
        row("families", list(plan.families().iter().map(ToString::to_string).collect()));
        for pool in plan.pools() {
            let grows = match largest(&pool.cidr, &plan, facts) {
                Some(largest) => format!("can grow to {largest}"),
                None => "cannot grow".to_owned(),
            };
            row(
                "pods",
                format!(
                    "{}: {} of {} nodes have a /{}; {grows}",
                    pool.cidr,
                    count(used(facts, &pool.cidr)),
                    count(pool.block_count()),
                    pool.node_mask
                ),
            );
        }
        row("services", list(plan.services().iter().map(ToString::to_string).collect()));
        row("max pods", format!("{} a node", plan.max_pods()));
        text.push_str(&head.render(0, colours));
    }
    if let Some(message) = facts.refused() {
        text.push_str(&format!(
            "{}: {message}\n",
            out::paint(Style::Bad, "what was asked for is not in force", colours)
        ));
    }
    text.push('\n');
    text + &table(facts, &pod_cidrs(spec)).render(0, colours)
}

/// The pod CIDRs of a spec, those that are left out filled in.
pub fn pod_cidrs(spec: &ClusterNetworkSpec) -> Vec<String> {
    plan(spec).map(|plan| plan.pod_cidrs().map(|cidr| cidr.to_string()).collect()).unwrap_or_default()
}

/// The Service CIDRs of a spec, those that are left out filled in.
pub fn service_cidrs(spec: &ClusterNetworkSpec) -> Vec<String> {
    plan(spec).map(|plan| plan.services().iter().map(ToString::to_string).collect()).unwrap_or_default()
}

/// The nodes, and whether each carries the pod CIDRs.
pub fn table(facts: &Facts, wanted: &[String]) -> Table {
    let mut table = Table::new(&["NODE", "BLOCK", "SUBNET ADDRESS SPACE", "CARRIES"]);
    for (name, node) in &facts.nodes {
        let join = |all: &mut dyn Iterator<Item = &str>| all.collect::<Vec<_>>().join(" ");
        let blocks = join(&mut node.blocks.iter().map(|(block, _)| block.as_str()));
        let spaces = join(&mut node.blocks.iter().map(|(_, around)| around.as_str()));
        let style = if node.is_at(wanted) { Style::Good } else { Style::Bad };
        let carries = match &node.carries {
            Some(cidrs) => cidrs.join(" "),
            None => "its agent does not say".to_owned(),
        };
        table.row([cell(name), cell(blocks), cell(spaces), (style, carries)]);
    }
    table
}
