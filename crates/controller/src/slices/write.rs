//! Does what is to be done about one slice.

use std::time::Duration;

use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Error};
use overlane_api::crd::{PodSlice, PodSliceSpec};
use overlane_core::blocks::ObjectRef;
use tokio::time::timeout;

use super::{Change, Digester, SlimSlice};
use crate::executor::End;
use crate::metrics::Metrics;
use crate::slim::SlimNode;
use crate::watch::Object;
use crate::writes;

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    /// What was learnt.
    pub fact: Option<Object>,
    /// How it ended.
    pub end: End,
}

impl Outcome {
    fn done(fact: Object) -> Self {
        Self { fact: Some(fact), end: End::Done }
    }
}

/// Writes slices. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    metrics: Metrics,
    digester: Digester,
}

impl Writer {
    /// One that tells what it has written in digests of this kind.
    pub const fn new(client: Client, metrics: Metrics, digester: Digester) -> Self {
        Self { client, metrics, digester }
    }

    /// Does it; nothing is retried here. With `confirm`, only the slice of a Node that is gone is deleted: slices may be
    /// heard of before Nodes are, as those are that another controller has just made.
    pub async fn run(self, node: String, change: Change, confirm: bool) -> Outcome {
        let kind = match change {
            Change::Create(_) => "create-podslice",
            Change::Replace(..) => "patch-podslice",
            Change::Delete(_) => "delete-podslice",
        };
        let job = async {
            match change {
                Change::Create(spec) => self.create(&node, spec, kind).await,
                Change::Replace(spec, object) => self.replace(&node, &spec, &object, kind).await,
                Change::Delete(object) => self.delete(&node, &object, confirm, kind).await,
            }
        };
        let result = timeout(2 * REQUEST, job).await;
        let outcome = match result {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome { fact: None, end: End::Failed(format!("{kind}: {error}")) },
            Err(_) => Outcome { fact: None, end: End::Failed(format!("{kind}: no answer")) },
        };
        match outcome.end {
            End::Refused(_) => self.metrics.conflict(kind),
            End::Failed(_) => self.metrics.failure(kind),
            End::Done | End::Stopped => {}
        }
        outcome
    }

    async fn create(&self, node: &str, spec: PodSliceSpec, kind: &'static str) -> kube::Result<Outcome> {
        self.metrics.write(kind);
        let api: Api<PodSlice> = self.api();
        match api.create(&PostParams::default(), &PodSlice::new(node, spec)).await {
            // What the API has made of it is read as any other.
            Ok(made) => self.written(&made),
            Err(error) if is_stale(&error) => self.refused(node, kind).await,
            Err(error) => Err(error),
        }
    }

    async fn replace(
        &self,
        node: &str,
        spec: &PodSliceSpec,
        over: &ObjectRef,
        kind: &'static str,
    ) -> kube::Result<Outcome> {
        self.metrics.write(kind);
        let patch = writes::slice(over, spec).map_err(Error::SerdeError)?;
        match self.api::<PodSlice>().patch(node, &PatchParams::default(), &Patch::Json::<()>(patch)).await {
            Ok(written) => self.written(&written),
            Err(error) if is_stale(&error) => self.refused(node, kind).await,
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, node: &str, object: &ObjectRef, confirm: bool, kind: &'static str) -> kube::Result<Outcome> {
        // What is there the watch will tell; it may be gone again before this answer is heard.
        if confirm && Api::<SlimNode>::all(self.client.clone()).get_opt(node).await?.is_some() {
            return Ok(Outcome { fact: None, end: End::Refused(kind) });
        }
        self.metrics.write(kind);
        match self.api::<PodSlice>().delete(node, &writes::delete(object)).await {
            Ok(_) => Ok(Outcome::done(Object::SliceGone(node.to_owned(), object.uid.clone()))),
            Err(error) if is_stale(&error) => self.refused(node, kind).await,
            Err(error) => Err(error),
        }
    }

    fn written(&self, object: &PodSlice) -> kube::Result<Outcome> {
        let slim = serde_json::to_value(object).and_then(serde_json::from_value::<SlimSlice>);
        Ok(Outcome::done(Object::Slice(self.digester.seen(&slim.map_err(Error::SerdeError)?))))
    }

    /// The API has not what was thought: what it has is read.
    async fn refused(&self, node: &str, kind: &'static str) -> kube::Result<Outcome> {
        let found = self.api::<SlimSlice>().get_opt(node).await?;
        let gone = || Object::SliceGone(node.to_owned(), String::new());
        let fact = found.map_or_else(gone, |slice| Object::Slice(self.digester.seen(&slice)));
        Ok(Outcome { fact: Some(fact), end: End::Refused(kind) })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>,
    {
        Api::all(self.client.clone())
    }
}

fn is_stale(error: &Error) -> bool {
    matches!(error, Error::Api(status) if matches!(status.code, 404 | 409 | 422))
}
