//! The own NodeState in the API: written when it differs, and never for the sake of a sign of life.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use overlane_api::convert::{mac_text, routing_words};
use overlane_api::crd::{NodeState, NodeStateSpec};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock;
use crate::node::Node;
use crate::watch::follow::jitter;
use crate::watch::task::StateInApi;

/// How often the node is compared with what the API has, besides when its status changes.
const LOOK: Duration = Duration::from_secs(1);
/// Two writes are no closer than this.
const SPACING: Duration = Duration::from_millis(100);
/// How long the first word waits for what it is to say: the MAC is known with the cluster, and would be a write more.
const FIRST_WORD: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Keeps the object as it should be until the watch ends.
pub async fn keep(node: Arc<Node>, client: Client, mut in_api: watch::Receiver<StateInApi>) {
    let api: Api<NodeState> = Api::all(client);
    let mut known: StateInApi = None;
    let mut pause = FIRST_PAUSE;
    let mut wait = SPACING;
    let mut not_before = Instant::now();
    let speak_at = Instant::now() + FIRST_WORD;
    // A definition of an older version leaves out what it does not know: that must not be written again and again.
    let mut pruned = false;
    loop {
        tokio::select! {
            changed = in_api.changed() => {
                if changed.is_err() {
                    return;
                }
                known = in_api.borrow_and_update().clone();
                // A status that was deleted comes back at once.
            }
            () = node.changed.notified() => tokio::time::sleep(SPACING).await,
            () = tokio::time::sleep(wait) => {}
        }
        // News is no reason to hurry an API server that just refused.
        tokio::time::sleep_until(not_before).await;
        wait = LOOK;
        if node.status().is_none() && Instant::now() < speak_at {
            continue;
        }
        let (Some(present), Some(mut wanted)) = (&known, wanted(&node)) else { continue };
        let before = present.as_ref().map(|spec| spec.conditions.as_slice()).unwrap_or_default();
        keep_times(&mut wanted.conditions, before);
        if present.as_ref().is_some_and(|present| says_the_same(present, &wanted, pruned)) {
            continue;
        }
        let sent = wanted.pod_cidrs.clone();
        match write(&api, &node.config.node, present.is_some(), wanted).await {
            Ok(spec) => {
                pruned = spec.pod_cidrs != sent;
                known = Some(Some(spec));
                pause = FIRST_PAUSE;
            }
            Err(error) => {
                tracing::debug!(%error, "write the NodeState");
                // Somebody else was there first, or took it away: the watch will tell; until then the other way.
                match &error {
                    kube::Error::Api(status) if status.code == 404 => known = Some(None),
                    kube::Error::Api(status) if status.code == 409 => known = Some(Some(NodeStateSpec::default())),
                    _ => {}
                }
                wait = pause / 2 + jitter(pause);
                not_before = Instant::now() + wait;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Whether the object says what it should, but for what a definition of an older version leaves out.
fn says_the_same(present: &NodeStateSpec, wanted: &NodeStateSpec, pruned: bool) -> bool {
    let known = |spec: &NodeStateSpec| NodeStateSpec { pod_cidrs: Vec::new(), ..spec.clone() };
    if pruned { known(present) == known(wanted) } else { present == wanted }
}

async fn write(api: &Api<NodeState>, name: &str, present: bool, spec: NodeStateSpec) -> kube::Result<NodeStateSpec> {
    let written = if present {
        // A list in a merge patch takes the old one's place; an absent field would stay.
        let patch = serde_json::json!({ "spec": {
            "bootID": spec.boot_id,
            "heldBlocks": spec.held_blocks,
            "underlayMAC": spec.underlay_mac,
            "routing": spec.routing,
            "podCIDRs": spec.pod_cidrs,
            "agentVersion": spec.agent_version,
            "conditions": spec.conditions,
        }});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?
    } else {
        api.create(&PostParams::default(), &NodeState::new(name, spec)).await?
    };
    Ok(written.spec)
}

/// What the object should say; `None` while that is not known.
fn wanted(node: &Node) -> Option<NodeStateSpec> {
    let status = node.status();
    // Pods whose block is not known yet must not look like none.
    if status.is_none() && !node.ledger.leases().is_empty() {
        return None;
    }
    let status = status.unwrap_or_default();
    let ready = match node.ready() {
        Ok(()) => condition("Ready", true, "AddressesAvailable", String::new()),
        Err(reason) => condition("Ready", false, "NoAddress", reason),
    };
    let degraded = match status.degraded() {
        Some((reason, message)) => condition("Degraded", true, reason, message),
        None => condition("Degraded", false, "AsItShouldBe", String::new()),
    };
    let native = status.fabric.as_ref().map(|fabric| Condition {
        status: fabric.carries.map_or("Unknown", |carries| if carries { "True" } else { "False" }).to_owned(),
        ..condition("NativeRouting", true, fabric.reason, fabric.message.clone())
    });
    let gateway = status.gateway.as_ref().map(|(has, message)| {
        let reason = if *has { "HasEgressIPs" } else { "Standby" };
        condition("EgressGateway", *has, reason, message.clone())
    });
    let held: BTreeSet<_> = status.held.iter().map(ToString::to_string).collect();
    Some(NodeStateSpec {
        boot_id: node.boot_id.clone(),
        held_blocks: held.into_iter().collect(),
        underlay_mac: status.underlay_mac.as_ref().map(mac_text).unwrap_or_default(),
        routing: status.routing.as_ref().map(routing_words),
        pod_cidrs: status.pod_cidrs.iter().map(ToString::to_string).collect(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        conditions: [ready, degraded].into_iter().chain(native).chain(gateway).collect(),
    })
}

fn condition(kind: &str, status: bool, reason: &str, message: String) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: clock::wall(),
        observed_generation: None,
    }
}

/// The time of a condition that did not change its status stays as it was.
fn keep_times(conditions: &mut [Condition], before: &[Condition]) {
    for condition in conditions {
        if let Some(old) = before.iter().find(|old| old.type_ == condition.type_ && old.status == condition.status) {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: an object that is written again and again because only its time differs.

    use super::*;

    #[test]
    fn what_an_older_definition_leaves_out_is_no_difference() {
        let wanted = NodeStateSpec { pod_cidrs: vec!["10.244.0.0/16".to_owned()], ..NodeStateSpec::default() };
        let present = NodeStateSpec::default();
        assert!(says_the_same(&present, &wanted, true) && !says_the_same(&present, &wanted, false));
        assert!(!says_the_same(&NodeStateSpec { boot_id: "other".to_owned(), ..present }, &wanted, true));
    }

    #[test]
    fn times_move_with_the_status_alone() {
        let mut old = condition("Ready", true, "A", String::new());
        old.last_transition_time =
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        let mut same = [condition("Ready", true, "A", String::new())];
        keep_times(&mut same, std::slice::from_ref(&old));
        assert_eq!(same[0], old);
        let mut other = [condition("Ready", false, "A", String::new())];
        keep_times(&mut other, std::slice::from_ref(&old));
        assert_ne!(other[0].last_transition_time, old.last_transition_time);
    }
}
