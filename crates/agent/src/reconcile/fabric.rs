//! What the probes say of the fabric, for the plan and for people.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use overlane_core::cidr::Cidr;
use overlane_core::cluster::Routing;
use overlane_core::plan::{NodeInput, NodePlan, Peer};
use overlane_datapath::netlink::Socket;
use overlane_datapath::node;

use super::Reconciler;
use super::input::sent_bare;
use super::pass::Outcome;
use super::status::{Fabric, Reason};
use crate::prober::Verdict;

/// How long other words for the same wait.
const WORDING: Duration = Duration::from_secs(30);
/// How many nodes a message names.
const NAMED: usize = 5;
const DROPS: &str = "FabricDropsPodAddresses";

/// What is to be said, if it is known and anybody is to act upon it; in native routing what fails everywhere is a
/// problem, since nothing else carries it. A node alone that does not answer may be one that just starts.
fn judge(
    input: &NodeInput,
    plan: &NodePlan,
    verdicts: &BTreeMap<Cidr, Verdict>,
    fault: Option<String>,
    outcome: &mut Outcome,
) -> Option<Fabric> {
    let targets = &plan.probes.targets;
    if targets.is_empty() {
        return None;
    }
    if let Some(fault) = fault {
        return Some(Fabric { carries: None, reason: "CannotAsk", message: fault });
    }
    let of = |wanted: Verdict| {
        let told = |block: &&Cidr| verdicts.get(*block).copied().unwrap_or(Verdict::Unknown) == wanted;
        targets.keys().filter(told).collect::<Vec<_>>()
    };
    let (failing, unknown) = (of(Verdict::Fails), of(Verdict::Unknown));
    let native = input.routing == Routing::Native;
    if failing.is_empty() {
        let message = "bare packets of pods are answered".to_owned();
        return (unknown.is_empty() && !native).then_some(Fabric { carries: Some(true), reason: "Carries", message });
    }
    let name = |block: &Cidr| {
        let peer = input.peers.iter().find(|peer| peer.blocks.contains(block));
        format!("{block} ({})", peer.map_or("?", |peer| peer.name.as_str()))
    };
    let mut names: Vec<String> = failing.iter().take(NAMED).map(|block| name(block)).collect();
    if failing.len() > NAMED {
        names.push("and more".to_owned());
    }
    let what = format!("bare packets of pods to {} are not answered", names.join(", "));
    if !native {
        return Some(Fabric { carries: Some(false), reason: DROPS, message: format!("{what}: they go in VXLAN") });
    }
    let fix = "let the fabric pass pod addresses (spoofing protection, route tables), or take routing vxlan or auto";
    let message = format!("{what}: {fix}");
    if failing.len() == targets.len() {
        outcome.problem(Reason::FabricDropsPodAddresses, message.clone());
    }
    Some(Fabric { carries: Some(false), reason: DROPS, message })
}

impl Reconciler {
    /// Learns what the probes say. While nodes come, go and start, other words for the same are no news.
    pub(super) fn hear_fabric(
        &mut self,
        input: &NodeInput,
        plan: &NodePlan,
        verdicts: &BTreeMap<Cidr, Verdict>,
        outcome: &mut Outcome,
    ) {
        let told = judge(input, plan, verdicts, self.prober.fault(), outcome);
        let words_alone = |old: &Fabric, at: &Instant| {
            told.as_ref().is_some_and(|told| told.carries == old.carries) && at.elapsed() < WORDING
        };
        let kept = self.fabric.as_ref().is_some_and(|(old, at)| told.as_ref() == Some(old) || words_alone(old, at));
        if !kept {
            self.fabric = told.map(|told| (told, Instant::now()));
        }
    }

    /// Blocks that bare packets come to and back from; those that an earlier agent sent bare until there is an answer.
    pub(super) fn passing(&mut self, verdicts: &BTreeMap<Cidr, Verdict>, outcome: &mut Outcome) -> BTreeSet<Cidr> {
        if self.sent_bare.is_none() {
            match Socket::route().and_then(|mut socket| node::observed_routes(&mut socket)) {
                Ok(routes) => self.sent_bare = Some(sent_bare(&routes, node::tunnel_index())),
                Err(error) => outcome.failed("read the routes that are there", &error),
            }
        }
        let known = |block: &Cidr| verdicts.get(block).is_some_and(|verdict| *verdict != Verdict::Unknown);
        let mut passing: BTreeSet<Cidr> =
            verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Passes).map(|(block, _)| *block).collect();
        if let Some(before) = &mut self.sent_bare {
            before.retain(|block| !known(block));
            passing.extend(before.iter());
        }
        passing
    }

    /// Addresses of nodes that only a router leads to.
    pub(super) fn beyond(&self, peers: &[Peer]) -> BTreeSet<IpAddr> {
        let all = peers.iter().flat_map(|peer| peer.node_ips.values().copied());
        all.filter(|ip| !self.is_on_link(*ip)).collect()
    }
}
