//! The task that folds words into views and hands them on.
//!
//! A change goes out at once; while changes keep coming they are gathered, so that a join of thousands of nodes costs
//! tens of views a second, not thousands.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlane_api::crd::NodeStateSpec;
use overlane_core::cluster::ClusterPlan;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant as TokioInstant, sleep_until};

use super::cache;
use super::fold::{Effect, Fold};
use super::follow::Word;
use super::item::Item;
use super::view::{Own, View};
use crate::clock;
use crate::leaving::Selection;
use crate::metrics::Metrics;
use crate::policy;
use crate::reconcile::Wake;

/// Views are no closer together than this.
const SPACING: Duration = Duration::from_millis(20);
/// A change of other nodes may wait so long until it is on file.
const LAZY: Duration = Duration::from_secs(1);

/// The own NodeState as the API has it: not known yet, absent, or there.
pub type StateInApi = Option<Option<NodeStateSpec>>;

/// What the task needs.
pub struct Folding {
    /// What was heard so far.
    pub fold: Fold,
    /// Where views go.
    pub wake: std::sync::mpsc::Sender<Wake>,
    /// Where the own NodeState goes.
    pub state: watch::Sender<StateInApi>,
    /// Whether every watch hears.
    pub deaf: watch::Sender<BTreeSet<&'static str>>,
    /// Whether it matters what labels pods have.
    pub asks_pods: watch::Sender<bool>,
    /// Whether it matters what other nodes' pods are like.
    pub asks_slices: watch::Sender<bool>,
    /// Where what network policy depends on goes.
    pub policy: std::sync::mpsc::Sender<policy::Wake>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where the view is cached.
    pub run_dir: PathBuf,
    /// The boot that it is cached for.
    pub boot_id: String,
}

/// What of a view an agent that starts without an API server needs first, and must not have older than what counted.
#[derive(PartialEq)]
struct First {
    own: Own,
    cluster: Option<Arc<ClusterPlan>>,
}

/// When what is due.
#[derive(Default)]
struct Due {
    publish: Option<(TokioInstant, Instant)>,
    cache: Option<TokioInstant>,
}

impl Folding {
    /// Runs until the watches or the reconciler are gone.
    pub async fn run(mut self, mut words: mpsc::Receiver<Word<Item>>) {
        self.asks_pods.send_replace(self.fold.asks_pods());
        self.asks_slices.send_replace(self.fold.asks_slices());
        self.tell_policy();
        let mut due = Due::default();
        let mut published = TokioInstant::now();
        let mut on_file: Option<First> = None;
        let mut leaving_on_file: Option<Option<Arc<Selection>>> = None;
        loop {
            let expiry = self.fold.next_expiry().map(|at_ms| {
                TokioInstant::now() + Duration::from_millis(at_ms.saturating_sub(clock::boot_ms()).max(1))
            });
            let next = [due.publish.map(|(at, _)| at), due.cache, expiry].into_iter().flatten().min();
            let far = if self.fold.waits_for_slices() { LAZY } else { Duration::from_secs(3600) };
            let far = TokioInstant::now() + far;
            let next = next.map(|next| next.min(far));
            tokio::select! {
                word = words.recv() => {
                    let Some(word) = word else { return };
                    self.hear(word, published, &mut due);
                    while let Ok(word) = words.try_recv() {
                        self.hear(word, published, &mut due);
                    }
                }
                () = sleep_until(next.unwrap_or(far)) => {}
            }
            self.tell_policy();
            if self.fold.expire(clock::boot_ms()) == Effect::View {
                due.publish.get_or_insert((TokioInstant::now(), Instant::now()));
            }
            let now = TokioInstant::now();
            if let Some((_, heard)) = due.publish.take_if(|(at, _)| *at <= now) {
                published = now;
                if !self.fold.complete() {
                    continue;
                }
                let view = self.fold.view();
                if leaving_on_file.as_ref() != Some(&view.selection) {
                    self.write_leaving();
                    leaving_on_file = Some(view.selection.clone());
                }
                let first = First { own: view.own.clone(), cluster: view.cluster.clone() };
                if on_file.as_ref() == Some(&first) {
                    due.cache.get_or_insert(now + LAZY);
                } else {
                    // An agent that is killed once this counts must not go back behind it.
                    due.cache = None;
                    self.write_cache();
                    on_file = Some(first);
                }
                self.publish(view, heard);
            }
            if due.cache.take_if(|at| *at <= TokioInstant::now()).is_some() {
                self.write_cache();
            }
        }
    }

    fn hear(&mut self, word: Word<Item>, published: TokioInstant, due: &mut Due) {
        let Word { what, said } = word;
        let item = match said {
            Ok(item) => item,
            Err(reason) => {
                if self.deaf.send_if_modified(|deaf| deaf.insert(what)) {
                    tracing::warn!(what, reason, "the API server is not heard; what is known stays in force");
                } else {
                    tracing::debug!(what, reason, "still not heard");
                }
                self.metrics.api_connected.set(0);
                return;
            }
        };
        if self.deaf.send_if_modified(|deaf| deaf.remove(what)) {
            tracing::info!(what, "heard again");
        }
        self.metrics.api_connected.set(i64::from(self.deaf.borrow().is_empty()));
        let effect = self.fold.take(item, clock::boot_ms());
        let asks = self.fold.asks_pods();
        self.asks_pods.send_if_modified(|asked| std::mem::replace(asked, asks) != asks);
        let asks = self.fold.asks_slices();
        self.asks_slices.send_if_modified(|asked| std::mem::replace(asked, asks) != asks);
        match effect {
            Effect::None => {}
            Effect::View => {
                let at = TokioInstant::now().max(published + SPACING);
                due.publish.get_or_insert((at, Instant::now()));
            }
            Effect::State => _ = self.state.send_replace(self.fold.state().map(|state| state.cloned())),
        }
    }

    /// Hands on what network policy depends on, if that is new.
    fn tell_policy(&mut self) {
        if let Some(view) = self.fold.policy_news(clock::boot_ms()) {
            let _ = self.policy.send(policy::Wake::View(Box::new(view), Instant::now()));
        }
    }

    /// Hands the view on.
    fn publish(&self, view: View, heard: Instant) {
        self.metrics.peers.set(i64::try_from(view.peers.len()).unwrap_or(i64::MAX));
        let _ = self.wake.send(Wake::View(Box::new(view), heard));
    }

    fn write_leaving(&self) {
        let written = cache::encode_leaving(&self.fold, &self.boot_id)
            .and_then(|bytes| cache::write_leaving(&self.run_dir, bytes.as_deref()));
        if let Err(error) = written {
            tracing::warn!("keep on file who leaves by egress gateways: {error:#}");
        }
    }

    fn write_cache(&self) {
        let written = cache::encode(&self.fold, &self.boot_id).and_then(|bytes| cache::write(&self.run_dir, &bytes));
        if let Err(error) = written {
            tracing::warn!("keep the view on file: {error:#}");
        }
    }
}

/// The view from file, to start with.
pub fn cached(fold: &mut Fold, run_dir: &std::path::Path, boot_id: &str) -> Option<View> {
    match cache::load(run_dir, boot_id, fold) {
        Ok(true) => Some(fold.view()),
        Ok(false) => None,
        Err(error) => {
            tracing::warn!("the view on file is passed over: {error:#}");
            None
        }
    }
}
