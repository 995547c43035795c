//! Leader election by a Lease.
//!
//! Who holds the Lease acts. A holder that could not renew for [`RENEW_WITHIN`] stops acting before anyone else can take
//! over: others wait until they have seen the Lease unchanged for its whole duration, by their own monotonic clocks, so
//! that clocks that differ do no harm. A holder that goes gives the Lease back, and the next one need not wait.
//!
//! Not what keeps a block from two nodes: the API does that. This keeps controllers from getting in each other's way.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use overlane_api::crd::NAMESPACE;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// Name of the Lease.
pub const LEASE: &str = "overlane-controller";

/// How long the office lasts without renewal.
const DURATION: Duration = Duration::from_secs(15);
/// How long a holder goes on acting without having renewed.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// How often it renews, and others look.
const EVERY: Duration = Duration::from_secs(2);

/// The Lease as it was last seen, and when it was seen to change.
struct Seen {
    holder: String,
    version: String,
    duration: Duration,
    at: Instant,
}

struct Candidate {
    api: Api<Lease>,
    identity: String,
    seen: Option<Seen>,
}

/// Stands for election until `stop`, then gives the office back. `lead` tells whether it is held.
pub async fn run(client: Client, identity: String, lead: watch::Sender<bool>, mut stop: watch::Receiver<bool>) {
    let mut candidate = Candidate { api: Api::namespaced(client, NAMESPACE), identity, seen: None };
    let mut renewed = Instant::now();
    loop {
        let begun = Instant::now();
        let left = if *lead.borrow() { RENEW_WITHIN.saturating_sub(renewed.elapsed()) } else { RENEW_WITHIN };
        let result = tokio::select! {
            result = timeout(left, candidate.step()) => result,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match result {
            // What was written counts from before it was sent.
            Ok(Ok(true)) => {
                renewed = begun;
                set(&lead, true);
            }
            Ok(Ok(false)) => set(&lead, false),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be read or written"),
            Err(_) => tracing::warn!("the Lease could not be read or written in time"),
        }
        if *lead.borrow() && renewed.elapsed() >= RENEW_WITHIN {
            set(&lead, false);
        }
        let pause = if *lead.borrow() { EVERY.min(RENEW_WITHIN.saturating_sub(renewed.elapsed())) } else { EVERY };
        tokio::select! {
            () = sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    if lead.send_replace(false) {
        match timeout(EVERY, candidate.release()).await {
            Ok(Ok(())) => tracing::info!("gave the Lease back"),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be given back"),
            Err(_) => tracing::warn!("the Lease could not be given back in time"),
        }
    }
}

fn set(lead: &watch::Sender<bool>, leads: bool) {
    let changed = lead.send_if_modified(|now| std::mem::replace(now, leads) != leads);
    match (changed, leads) {
        (true, true) => tracing::info!("leading from now on"),
        (true, false) => tracing::warn!("not leading any more"),
        (false, _) => {}
    }
}

impl Candidate {
    /// Renews, takes over, or looks. Gives whether the office is held after it.
    async fn step(&mut self) -> kube::Result<bool> {
        let Some(lease) = self.api.get_opt(LEASE).await? else {
            let mut lease = Lease::default();
            lease.metadata.name = Some(LEASE.to_owned());
            lease.spec = Some(self.claim(None));
            return self.won(self.api.create(&PostParams::default(), &lease).await);
        };
        self.look(&lease);
        if !self.may_claim() {
            return Ok(false);
        }
        let claimed = Lease { spec: Some(self.claim(lease.spec.as_ref())), ..lease };
        // With the resourceVersion that was read: of two that try, one is refused.
        self.won(self.api.replace(LEASE, &PostParams::default(), &claimed).await)
    }

    fn won(&mut self, answer: kube::Result<Lease>) -> kube::Result<bool> {
        match answer {
            Ok(lease) => {
                self.look(&lease);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn look(&mut self, lease: &Lease) {
        let version = lease.resource_version().unwrap_or_default();
        if self.seen.as_ref().is_some_and(|seen| seen.version == version) {
            return;
        }
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        self.seen = Some(Seen {
            holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
            version,
            duration: seconds.map_or(DURATION, Duration::from_secs),
            at: Instant::now(),
        });
    }

    fn may_claim(&self) -> bool {
        self.seen.as_ref().is_none_or(|seen| {
            seen.holder.is_empty() || seen.holder == self.identity || seen.at.elapsed() >= seen.duration
        })
    }

    fn claim(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same = before.filter(|before| before.holder_identity.as_deref() == Some(self.identity.as_str()));
        let transitions = before.map_or(0, |before| before.lease_transitions.unwrap_or(0).saturating_add(1));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: same.and_then(|same| same.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: same.map_or(Some(transitions), |same| same.lease_transitions),
            ..before.cloned().unwrap_or_default()
        }
    }

    /// Clears the holder, unless it is somebody else by now.
    async fn release(&mut self) -> kube::Result<()> {
        let Some(lease) = self.api.get_opt(LEASE).await? else { return Ok(()) };
        let Some(mut spec) = lease.spec.clone().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
        else {
            return Ok(());
        };
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        let released = Lease { spec: Some(spec), ..lease };
        self.api.replace(LEASE, &PostParams::default(), &released).await.map(drop)
    }
}
