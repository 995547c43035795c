//! What an EgressGateway's status says, and its writing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use overlane_api::crd::{EgressGateway, EgressGatewayStatus, EgressSlot};
use overlane_core::cluster::Finding;
use overlane_core::egress::{SLOTS, Slot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use crate::cluster_status::condition;
use crate::events::{Events, Subject};
use crate::executor::Epoch;
use crate::gateways::{Gateways, Judgement, Standing};
use crate::metrics::Metrics;
use crate::writes;

/// How long one write may take.
const REQUEST: Duration = Duration::from_secs(10);
/// First and longest pause after a failed write.
const PAUSES_MS: (u64, u64) = (1_000, 10_000);
/// Every agent watches every gateway: for the sake of its nodes alone, it is written no faster than that so many of
/// their names are sent in a millisecond.
const NAMES_A_MS: u64 = 100;
/// Nor is it written less often than this.
const NODES_PAUSE_MS: u64 = 30_000;

/// A status as it is to be.
struct Report {
    name: String,
    uid: String,
    version: Option<String>,
    status: EgressGatewayStatus,
    /// What of it is news that an Event is to tell: reason and message.
    warning: Option<(&'static str, String)>,
    /// Whether it differs from the one before by more than its nodes.
    urgent: bool,
}

/// The status, or `None` where the object says so already.
fn report(name: &str, object: &EgressGateway, standing: &Standing, now_ms: u64) -> Option<Report> {
    let before = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or(0);
    let (reason, message) = words(standing);
    let good = standing.judgement == Judgement::InForce;
    let old = before.conditions.iter().find(|old| old.type_ == "Ready");
    let ready = condition(old, "Ready", good, reason, message, generation, now_ms);
    let told = old
        .is_some_and(|old| (&old.status, &old.reason, &old.message) == (&ready.status, &ready.reason, &ready.message));
    let bad = !good && !matches!(standing.judgement, Judgement::AddressMoves(_));
    let warning = (bad && !told).then(|| (reason, ready.message.clone()));
    let others = before.conditions.iter().filter(|old| old.type_ != "Ready").cloned();
    let status = EgressGatewayStatus {
        observed_generation: generation,
        conditions: std::iter::once(ready).chain(others).collect(),
        applied: standing.applied.clone(),
        slots: standing.slots.iter().map(slot).collect(),
        nodes: standing.nodes.iter().cloned().collect(),
    };
    let urgent = EgressGatewayStatus { nodes: before.nodes.clone(), ..status.clone() } != before;
    (status != before).then(|| Report {
        name: name.to_owned(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        version: object.metadata.resource_version.clone(),
        status,
        warning,
        urgent,
    })
}

fn slot(slot: &Slot) -> EgressSlot {
    EgressSlot { number: slot.number, egress_ips: slot.addresses.values().map(ToString::to_string).collect() }
}

/// Reason and message of the condition `Ready`.
fn words(standing: &Standing) -> (&'static str, String) {
    match &standing.judgement {
        Judgement::InForce => ("InForce", "the spec is in force".to_owned()),
        Judgement::Invalid(findings) => {
            let all: Vec<String> = findings.iter().map(Finding::to_string).chain(stays(standing)).collect();
            ("Invalid", all.join("\n"))
        }
        Judgement::OutboundNone => {
            let why = "the ClusterNetwork's outboundType is none";
            ("OutboundNone", format!("nothing leaves the cluster, and chosen pods are cut: {why}"))
        }
        Judgement::AddressMoves(addresses) => {
            let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            ("AddressMoves", format!("{} still to be taken from another EgressGateway", all.join(", ")))
        }
        Judgement::NoNumber(slots) => {
            let most = SLOTS.count();
            let fix = "take egress IPs out of this or another EgressGateway";
            let cut = if standing.slots.is_empty() { ", its pods are cut" } else { "" };
            (
                "NoNumber",
                format!("{slots} of its slots are not in force{cut}: the cluster has {most}, all in use; {fix}"),
            )
        }
        Judgement::NoNodes => {
            ("NoNodes", "no node that has blocks has the labels that nodeSelector asks for: label one".to_owned())
        }
    }
}

/// What of the spec in force goes on while another is asked for that breaks rules.
fn stays(standing: &Standing) -> Option<String> {
    let applied = standing.applied.as_ref()?;
    if standing.slots.is_empty() {
        return Some("Of the spec that was in force before no egress IP is left: its pods are cut.".to_owned());
    }
    let has = |ip: IpAddr| standing.slots.iter().any(|slot| slot.addresses.values().any(|other| *other == ip));
    let lost = applied.egress_ips.iter().filter(|text| !text.parse().is_ok_and(has));
    let lost: Vec<&str> = lost.map(String::as_str).collect();
    let without = if lost.is_empty() { String::new() } else { format!(", without {}", lost.join(", ")) };
    Some(format!("The spec that was in force before stays{without}."))
}

/// A status that was written: the version before it, and the object.
type Written = (Option<String>, EgressGateway);

/// With what statuses are written.
#[derive(Clone)]
pub struct Means {
    /// The way to the API.
    pub client: Client,
    /// Bad news.
    pub events: Events,
    /// Counts the writes.
    pub metrics: Metrics,
    /// Moves on when writing has to stop.
    pub epoch: Epoch,
}

/// Writes statuses, one after another.
pub struct Teller {
    means: Arc<Means>,
    /// What is under way: the objects written, and whether all were.
    under_way: JoinSet<(Vec<Written>, bool)>,
    told_ms: BTreeMap<String, u64>,
    failures: u32,
    at_ms: u64,
}

impl Teller {
    /// One that has told nothing.
    pub fn new(means: Means) -> Self {
        let means = Arc::new(means);
        Self { means, under_way: JoinSet::new(), told_ms: BTreeMap::new(), failures: 0, at_ms: 0 }
    }

    /// Whether a round may begin.
    pub fn is_free(&self, now_ms: u64) -> bool {
        self.under_way.is_empty() && now_ms >= self.at_ms
    }

    /// Begins to write what is not as it should be. What has to wait is looked at again.
    pub fn tell(&mut self, gateways: &mut Gateways, standings: &BTreeMap<String, Standing>, nodes: usize, now_ms: u64) {
        self.told_ms.retain(|name, _| standings.contains_key(name));
        let mut reports = Vec::new();
        for (name, object) in gateways.objects() {
            let report = standings.get(name).and_then(|standing| report(name, object, standing, now_ms));
            reports.extend(report);
        }
        let all = reports.len();
        reports.retain(|report| report.urgent || now_ms >= nodes_at(&self.told_ms, report, nodes));
        if reports.len() < all {
            gateways.look_again();
        }
        if reports.is_empty() {
            return;
        }
        for report in &reports {
            self.told_ms.insert(report.name.clone(), now_ms);
        }
        self.under_way.spawn(write(Arc::clone(&self.means), reports));
    }

    /// The end of a round, if one is under way.
    pub async fn ended(&mut self) -> Option<Result<(Vec<Written>, bool), JoinError>> {
        self.under_way.join_next().await
    }

    /// Takes in what a round has written.
    pub fn finish(&mut self, round: Result<(Vec<Written>, bool), JoinError>, gateways: &mut Gateways, now_ms: u64) {
        let (written, all) = round.unwrap_or_default();
        for (before, object) in written {
            gateways.answered(before.as_deref(), object);
        }
        gateways.look_again();
        if all {
            self.failures = 0;
            return;
        }
        let (first, longest) = PAUSES_MS;
        self.at_ms = now_ms.saturating_add(first.checked_shl(self.failures).unwrap_or(longest).min(longest));
        self.failures = (self.failures + 1).min(16);
    }

    /// Forgets failures: who begins to lead tells at once.
    pub const fn begin(&mut self) {
        (self.failures, self.at_ms) = (0, 0);
    }
}

/// When a gateway may be written for the sake of its nodes alone.
fn nodes_at(told_ms: &BTreeMap<String, u64>, report: &Report, watchers: usize) -> u64 {
    let told = told_ms.get(&report.name).copied().unwrap_or(0);
    let names = u64::try_from(watchers.saturating_mul(report.status.nodes.len())).unwrap_or(u64::MAX);
    told.saturating_add((names / NAMES_A_MS).min(NODES_PAUSE_MS))
}

async fn write(means: Arc<Means>, reports: Vec<Report>) -> (Vec<Written>, bool) {
    let Means { client, events, metrics, epoch } = &*means;
    let api: Api<EgressGateway> = Api::all(client.clone());
    let begun = epoch.now();
    let (mut done, mut all) = (Vec::new(), true);
    for Report { name, uid, version, status, warning, .. } in reports {
        if epoch.now() != begun {
            return (done, false);
        }
        let patch = match writes::gateway_status(version.as_deref(), &status) {
            Ok(patch) => Patch::Json::<()>(patch),
            Err(error) => {
                tracing::warn!(gateway = name, %error, "the status of an EgressGateway cannot be expressed");
                all = false;
                continue;
            }
        };
        metrics.write("patch-egressgateway-status");
        match timeout(REQUEST, api.patch_status(&name, &PatchParams::default(), &patch)).await {
            Ok(Ok(object)) => done.push((version, object)),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                tracing::debug!(gateway = name, "the EgressGateway has changed; its status is written anew");
                all = false;
                continue;
            }
            Ok(Err(error)) => {
                tracing::warn!(gateway = name, %error, "the EgressGateway's status could not be written");
                all = false;
                continue;
            }
            Err(_) => {
                tracing::warn!(gateway = name, "the EgressGateway's status could not be written: no answer");
                all = false;
                continue;
            }
        }
        if let Some((reason, message)) = warning {
            tracing::warn!(gateway = name, reason, "{message}");
            events.warn(Subject::gateway(&name, &uid), reason, &message).await;
        }
    }
    (done, all)
}

#[cfg(test)]
mod tests {
    //! Must catch: a large cluster's agents that are told of every node of every gateway each second.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn nodes_alone_are_told_at_the_agents_pace() {
        let standing = |nodes: std::ops::Range<u32>, judgement| Standing {
            judgement,
            applied: None,
            slots: Vec::new(),
            nodes: nodes.map(|node| format!("n{node}")).collect(),
        };
        let mut object = EgressGateway::new("out", Default::default());
        let first = report("out", &object, &standing(0..3, Judgement::InForce), 0).unwrap();
        assert!(first.urgent && first.warning.is_none());
        object.status = Some(first.status);
        assert!(report("out", &object, &standing(0..3, Judgement::InForce), 5_000).is_none(), "nothing is new");
        let more = report("out", &object, &standing(0..4, Judgement::InForce), 5_000).unwrap();
        assert!(!more.urgent);
        let all = report("out", &object, &standing(0..5_000, Judgement::InForce), 5_000).unwrap();
        let none = report("out", &object, &standing(0..0, Judgement::NoNodes), 5_000).unwrap();
        assert!(none.urgent, "that is a word of its own");
        assert_eq!(none.warning.unwrap().0, "NoNodes");
        let told = BTreeMap::from([("out".to_owned(), 1_000)]);
        let pace = |report, watchers| nodes_at(&told, report, watchers);
        assert_eq!((pace(&more, 3), pace(&more, 5_000), pace(&all, 5_000)), (1_000, 1_200, 31_000));
    }
}
