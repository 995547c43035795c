//! Tells what there is to be told of one policy.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Error};
use overlane_api::policy::ClusterNetworkPolicy;
use tokio::time::timeout;

use super::PolicyFact;
use super::fact::INVALID;
use crate::events::{Events, Subject};
use crate::executor::End;
use crate::metrics::Metrics;
use crate::writes;

/// How long it may take.
const REQUESTS: Duration = Duration::from_secs(20);

/// Tells. Cheap to clone.
#[derive(Clone)]
pub struct Teller {
    client: Client,
    events: Events,
    metrics: Metrics,
}

impl Teller {
    /// One that counts its writes.
    pub const fn new(client: Client, events: Events, metrics: Metrics) -> Self {
        Self { client, events, metrics }
    }

    /// The Event first: the condition says that it was told.
    pub async fn tell(self, fact: PolicyFact) -> (PolicyFact, End) {
        let told = timeout(REQUESTS, async {
            if let Some(message) = &fact.message {
                self.warn(&fact, message).await?;
            }
            self.patch(&fact).await
        });
        let end = match told.await {
            Ok(Ok(())) => End::Done,
            // It has changed, or has no place for Events any more; the watch tells what to do.
            Ok(Err(Error::Api(status))) if matches!(status.code, 403 | 404 | 409 | 422) => {
                tracing::debug!(policy = fact.key, status = status.message, "refused");
                End::Refused("tell-policy")
            }
            Ok(Err(error)) => End::Failed(error.to_string()),
            Err(_) => End::Failed("no answer".to_owned()),
        };
        (fact, end)
    }

    async fn warn(&self, fact: &PolicyFact, message: &str) -> kube::Result<()> {
        let about = match fact.namespace() {
            Some(namespace) => Subject::policy(namespace, fact.name(), &fact.uid),
            None => Subject::cluster_policy(fact.name(), &fact.uid),
        };
        tracing::warn!(policy = fact.key, "{message}");
        self.metrics.write("create-policy-event");
        self.events.warn_once(about, &fact.event(), INVALID, message).await
    }

    async fn patch(&self, fact: &PolicyFact) -> kube::Result<()> {
        let Some(conditions) = &fact.condition else { return Ok(()) };
        let patch = writes::policy_status(fact.version.as_deref(), conditions).map_err(Error::SerdeError)?;
        let api: Api<ClusterNetworkPolicy> = Api::all(self.client.clone());
        self.metrics.write("patch-clusternetworkpolicy-status");
        api.patch_status(fact.name(), &PatchParams::default(), &Patch::Json::<()>(patch)).await.map(drop)
    }
}
