//! What the ClusterNetwork's status says.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use overlane_api::convert;
use overlane_api::crd::{self, ClusterNetworkStatus};
use overlane_core::blocks::{PoolUse, Trouble};

use crate::cluster::{Gate, Judgement};
use crate::objects;

/// How many nodes a message names.
const NAMED: usize = 5;
/// Longest message that the API takes.
const LONGEST: usize = 32_000;

/// The status as it is to be, and what of it is news that an Event is to tell: reason and message.
pub struct Report {
    /// The status.
    pub status: ClusterNetworkStatus,
    /// Bad news.
    pub warnings: Vec<(String, String)>,
    /// Whether it says more than the same with other words: every agent watches this object, and a count in a message
    /// is no reason to wake them all.
    pub urgent: bool,
}

/// The status, or `None` where the object says so already.
pub fn report(gate: &Gate, troubles: &BTreeMap<String, Trouble>, usage: &[PoolUse], now_ms: u64) -> Option<Report> {
    let object = gate.object()?;
    let judgement = gate.judgement()?;
    let before = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or(0);
    let exhausted = exhausted(troubles, usage);
    let foreign = named(troubles, |trouble| matches!(trouble, Trouble::ForeignAllocator { .. }));
    let mut wanted = vec![ready(judgement, gate, exhausted.as_deref())];
    wanted.push(match exhausted {
        Some(message) => ("BlocksExhausted", true, "NoBlockAvailable", message),
        None => ("BlocksExhausted", false, "BlocksLeft", "no node waits for a block".to_owned()),
    });
    wanted.push(match foreign {
        Some(nodes) => {
            let message = format!("somebody else writes spec.podCIDRs of {nodes}; Overlane leaves these nodes alone");
            ("ForeignAllocator", true, "ForeignAllocator", message)
        }
        None => ("ForeignAllocator", false, "NoneSeen", "nobody else writes spec.podCIDRs".to_owned()),
    });
    wanted.extend(changing(gate));
    // That the routing changes is nobody's fault.
    let bad = |kind: &str, status: bool| kind != "RoutingChanging" && (kind == "Ready") != status;
    let mut warnings = Vec::new();
    let mut conditions = Vec::new();
    for (kind, status, reason, message) in wanted {
        let old = before.conditions.iter().find(|old| old.type_ == kind);
        let condition = condition(old, kind, status, reason, message, generation, now_ms);
        // Exhaustion has its own condition; that it makes the cluster unready is no second event.
        let told = old.is_some_and(|old| {
            old.status == condition.status
                && old.reason == reason
                && (old.message == condition.message || kind != "Ready")
        });
        if bad(kind, status) && !told && !(kind == "Ready" && reason == "BlocksExhausted") {
            warnings.push((reason.to_owned(), condition.message.clone()));
        }
        conditions.push(condition);
    }
    let others = before.conditions.iter().filter(|old| conditions.iter().all(|new| new.type_ != old.type_));
    let conditions: Vec<Condition> = conditions.iter().chain(others).cloned().collect();
    let routing = gate.routing().map(convert::routing_words);
    let applied = gate.applied().cloned();
    let status = ClusterNetworkStatus { observed_generation: generation, conditions, applied, routing };
    let urgent = without_words(&status) != without_words(&before);
    (status != before).then_some(Report { status, warnings, urgent })
}

fn without_words(status: &ClusterNetworkStatus) -> ClusterNetworkStatus {
    let mut bare = status.clone();
    // What is wrong with a plan is all in the message.
    let counts = |condition: &&mut Condition| condition.reason != "Invalid" && condition.reason != "Refused";
    bare.conditions.iter_mut().filter(counts).for_each(|condition| condition.message.clear());
    bare
}

type Wanted = (&'static str, bool, &'static str, String);

fn ready(judgement: &Judgement, gate: &Gate, exhausted: Option<&str>) -> Wanted {
    let list = |findings: &[overlane_core::cluster::Finding]| {
        let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
        all.join("\n")
    };
    let stays = if gate.plan().is_some() { "\nThe plan that was in force before stays." } else { "" };
    match judgement {
        Judgement::Invalid(findings) => ("Ready", false, "Invalid", list(findings) + stays),
        Judgement::Refused(findings) => ("Ready", false, "Refused", list(findings) + stays),
        Judgement::InForce => match exhausted {
            Some(message) => ("Ready", false, "BlocksExhausted", message.to_owned()),
            None => ("Ready", true, "InForce", "the plan is in force and every node has its blocks".to_owned()),
        },
    }
}

/// Where the cluster is on its way from one routing to another.
fn changing(gate: &Gate) -> Option<Wanted> {
    let (asked, routing) = (gate.object()?.spec.routing, gate.routing()?);
    let words = |routing: crd::Routing| format!("{routing:?}").to_lowercase();
    let sends = convert::routing(routing.sends);
    if sends == asked && routing.accepts == routing.sends.carriers() {
        return Some((
            "RoutingChanging",
            false,
            "Settled",
            format!("all nodes send and take as {} says", words(sends)),
        ));
    }
    let to = if sends == asked {
        format!(
            "all nodes are to send as {} says; what they sent before they take until the last one does",
            words(sends)
        )
    } else {
        format!("on the way from {} to {}", words(sends), words(asked))
    };
    let behind = listed(gate.behind().iter().map(String::as_str));
    let waits = behind.map(|nodes| format!("; waiting for {nodes}")).unwrap_or_default();
    let reason = if waits.is_empty() { "InSteps" } else { "WaitingForNodes" };
    Some(("RoutingChanging", true, reason, format!("{to}{waits}")))
}

fn exhausted(troubles: &BTreeMap<String, Trouble>, usage: &[PoolUse]) -> Option<String> {
    let nodes = named(troubles, |trouble| matches!(trouble, Trouble::NoBlockAvailable { .. }))?;
    let pools: Vec<String> = usage
        .iter()
        .map(|pool| {
            format!(
                "{}: {} blocks of /{}, {} used, {} resting",
                pool.pool.cidr, pool.total, pool.pool.node_mask, pool.used, pool.resting
            )
        })
        .collect();
    Some(format!("{nodes} wait for a block ({})", pools.join("; ")))
}

fn named(troubles: &BTreeMap<String, Trouble>, which: impl Fn(&Trouble) -> bool) -> Option<String> {
    listed(troubles.iter().filter(|(_, trouble)| which(trouble)).map(|(name, _)| name.as_str()))
}

/// The first few names and how many more there are; `None` where there are none.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let nodes: Vec<&str> = names.collect();
    let (first, rest) = nodes.split_at_checked(NAMED).unwrap_or((&nodes, &[]));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    (!nodes.is_empty()).then(|| format!("{}{more}", first.join(", ")))
}

/// A condition as it is to be; its time stays while its status does.
pub fn condition(
    old: Option<&Condition>,
    kind: &str,
    status: bool,
    reason: &str,
    message: String,
    generation: i64,
    now_ms: u64,
) -> Condition {
    let status = if status { "True" } else { "False" };
    let since = old.filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(LONGEST).collect(),
        observed_generation: Some(generation),
        last_transition_time: since.unwrap_or(Time(objects::timestamp(now_ms / 1000 * 1000))),
    }
}
