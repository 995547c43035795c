//! Hears, decides, and has it written. It runs beside the main loop: no block waits for 200,000 pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use kube::Client;
use overlane_core::blocks::Source as From;
use overlane_core::cluster::NetworkPolicy;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::write::{Outcome, Writer};
use super::{Digester, Slices};
use crate::executor::End;
use crate::metrics::Metrics;
use crate::objects::now_ms;
use crate::queue::{Ending, Queue};
use crate::watch::{Deaf, Object, Source, Watch, Word, of_watch, start_pods};

/// Writes under way at a time; of one node, one.
const JOBS: usize = 32;
/// Words taken in before decisions are made again.
const WORDS: usize = 512;
/// How often time is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How long slices stay when nobody enforces policies any more: agents have heard of that before they see slices go.
const KEEP: Duration = Duration::from_secs(5);
/// Nodes up to which a slice is written whenever it changes.
const FEW_NODES: usize = 500;
/// In larger clusters, how much of a pause each node brings between two writes of a slice: every agent reads every write.
const PAUSE: Duration = Duration::from_micros(200);
/// How long writes may take to end once they are to.
const GRACE: Duration = Duration::from_secs(3);

/// Keeps the slices.
pub struct Slicer {
    client: Client,
    writer: Writer,
    metrics: Metrics,
    slices: Slices,
    queue: Queue,
    jobs: JoinSet<Outcome>,
    /// Of each write, its node, and since when it was due.
    under_way: HashMap<Id, (String, Instant)>,
    /// UIDs of slices that went while a write was under way: its answer may be older than that.
    buried: BTreeSet<String>,
    /// When slices were written last, while that matters.
    written: BTreeMap<String, Instant>,
    /// Since when slices that are not written yet are due.
    due: BTreeMap<String, Instant>,
    /// The watch of Pods, while slices are to be.
    pods: Option<Watch>,
    complete: BTreeSet<Source>,
    seen: BTreeMap<Source, BTreeSet<String>>,
    deaf: Deaf,
    lead: watch::Receiver<bool>,
    leads: bool,
    enforcer: watch::Receiver<Option<NetworkPolicy>>,
    enforced_by: Option<NetworkPolicy>,
    keep_until: Instant,
}

impl Slicer {
    /// One that writes while `lead` says so; `enforcer` says who enforces policies, once that is known.
    pub fn new(
        client: Client,
        metrics: Metrics,
        lead: watch::Receiver<bool>,
        enforcer: watch::Receiver<Option<NetworkPolicy>>,
    ) -> Self {
        let slices = Slices::default();
        Self {
            writer: Writer::new(client.clone(), metrics.clone(), slices.digester().clone()),
            client,
            metrics,
            slices,
            queue: Queue::default(),
            jobs: JoinSet::new(),
            under_way: HashMap::new(),
            buried: BTreeSet::new(),
            written: BTreeMap::new(),
            due: BTreeMap::new(),
            pods: None,
            complete: BTreeSet::new(),
            seen: BTreeMap::new(),
            deaf: Deaf::default(),
            lead,
            leads: false,
            enforcer,
            enforced_by: None,
            keep_until: Instant::now(),
        }
    }

    /// Makes the digests that slices are to be heard by.
    pub fn digester(&self) -> Digester {
        self.slices.digester().clone()
    }

    /// Runs until `stop`.
    pub async fn run(mut self, mut words: mpsc::Receiver<Word>, mut stop: watch::Receiver<bool>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut inbox, mut of_pods) = (Vec::with_capacity(WORDS), Vec::with_capacity(WORDS));
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                changed = self.lead.changed() => if changed.is_err() { break },
                changed = self.enforcer.changed() => if changed.is_err() { break },
                Some(outcome) = self.jobs.join_next_with_id() => self.finish(outcome),
                count = words.recv_many(&mut inbox, WORDS) => if count == 0 { break },
                // A fault of ours: another one begins.
                count = of_watch(&mut self.pods, &mut of_pods) => if count == 0 { self.enforced_by = None },
                _ = tick.tick() => {}
            }
            // Before the watch of Pods may be another.
            inbox.drain(..).chain(of_pods.drain(..)).for_each(|word| self.hear(word));
            self.steer();
            self.turn();
        }
        let _ = timeout(GRACE, async { while self.jobs.join_next().await.is_some() {} }).await;
        self.jobs.shutdown().await;
    }

    /// Notes whether this controller leads, and who enforces policies.
    fn steer(&mut self) {
        let leads = *self.lead.borrow_and_update();
        if leads && !self.leads {
            self.slices.touch_all();
        }
        self.leads = leads;
        let enforcer = *self.enforcer.borrow_and_update();
        if std::mem::replace(&mut self.enforced_by, enforcer) == enforcer {
            return;
        }
        let wanted = enforcer == Some(NetworkPolicy::Overlane);
        self.complete.remove(&Source::Pods);
        self.pods = wanted.then(|| start_pods(&self.client));
        self.keep_until = Instant::now() + KEEP;
        self.slices.set_wanted(wanted);
    }

    /// Whether all was seen whole that is to be known, and nothing is to be waited for.
    fn is_ready(&self) -> bool {
        let known = |sources: &[Source]| sources.iter().all(|source| self.complete.contains(source));
        match self.enforced_by {
            None => false,
            Some(NetworkPolicy::Overlane) => known(&[Source::Nodes, Source::Pods, Source::Slices]),
            Some(NetworkPolicy::None) => known(&[Source::Slices]) && Instant::now() >= self.keep_until,
        }
    }

    fn hear(&mut self, word: Word) {
        match word {
            // What was known stays until the list has ended: what it shows is so, and only then what it does not.
            Word::Listing(Source::Pods) => self.slices.list_pods(),
            Word::Listing(source) => drop(self.seen.remove(&source)),
            Word::Listed(object) => {
                self.note_seen(&object);
                self.take_in(object, From::List);
            }
            Word::Complete(source) => self.complete_list(source),
            Word::Changed(object) => {
                if let Object::SliceGone(_, uid) = &object
                    && !self.under_way.is_empty()
                {
                    self.buried.insert(uid.clone());
                }
                self.take_in(object, From::News);
            }
            Word::Deaf(Source::Nodes, _) => {}
            Word::Deaf(source, reason) => self.deaf.hear(source, &reason, now_ms()),
        }
    }

    fn note_seen(&mut self, object: &Object) {
        let (source, name) = match object {
            Object::Node(view, _) => (Source::Nodes, &view.name),
            Object::Slice(slice) => (Source::Slices, &slice.node),
            _ => return,
        };
        self.seen.entry(source).or_default().insert(name.clone());
    }

    fn complete_list(&mut self, source: Source) {
        let seen = self.seen.remove(&source).unwrap_or_default();
        match source {
            Source::Nodes => self.slices.retain_nodes(&seen),
            Source::Slices => self.slices.retain_slices(&seen),
            Source::Pods => self.slices.pods_listed(),
            _ => return,
        }
        self.complete.insert(source);
    }

    fn take_in(&mut self, object: Object, from: From) {
        match object {
            Object::Node(view, node) => self.slices.hear_node(&view.name, &node),
            Object::NodeGone(name, _) => self.slices.forget_node(&name),
            Object::Pod(fact) => self.slices.hear_pod(*fact),
            Object::PodGone(key) => self.slices.forget_pod(&key),
            Object::Slice(slice) => self.slices.hear_slice(slice, from),
            Object::SliceGone(node, uid) => self.slices.forget_slice(&node, &uid),
            _ => {}
        }
    }

    /// Begins what is to be written; nothing before the first full view, or without the office.
    fn turn(&mut self) {
        self.metrics.set_slice_pods(self.slices.pods());
        if !self.is_ready() {
            return;
        }
        let touched = self.slices.take_touched();
        if !self.leads {
            return;
        }
        let now = Instant::now();
        for node in touched {
            self.queue.touch(&node);
            self.due.entry(node).or_insert(now);
        }
        self.queue.tick(now_ms());
        while self.jobs.len() < JOBS {
            let Some(node) = self.queue.pop() else { return };
            self.decide(node, now);
        }
    }

    fn decide(&mut self, node: String, now: Instant) {
        let next = self.written.get(&node).map(|at| *at + pause(self.slices.nodes()));
        if let Some(left) = next.and_then(|next| next.checked_duration_since(now)).filter(|left| !left.is_zero()) {
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            return self.queue.touch_at(&node, now_ms().saturating_add(left));
        }
        self.written.remove(&node);
        let due = self.due.remove(&node).unwrap_or(now);
        let Some(change) = self.slices.change(&node) else {
            self.queue.rest(&node);
            return;
        };
        self.queue.begin(&node);
        let confirm = self.enforced_by == Some(NetworkPolicy::Overlane);
        let job = self.jobs.spawn(self.writer.clone().run(node.clone(), change, confirm));
        self.under_way.insert(job.id(), (node, due));
    }

    fn finish(&mut self, outcome: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match outcome {
            Ok(done) => done,
            // A fault of ours. What it wrote the watch tells.
            Err(error) => {
                let end = End::Failed(format!("the write broke off: {error}"));
                (error.id(), Outcome { fact: None, end })
            }
        };
        let Some((node, due)) = self.under_way.remove(&id) else { return };
        let buried = |fact: &Object| matches!(fact, Object::Slice(slice) if self.buried.contains(&slice.object.uid));
        if let Some(fact) = outcome.fact.filter(|fact| !buried(fact)) {
            self.take_in(fact, From::News);
        }
        if self.under_way.is_empty() {
            self.buried.clear();
        }
        let ending = match &outcome.end {
            End::Done | End::Stopped => Ending::Look,
            End::Refused(_) => Ending::Again,
            End::Failed(_) => Ending::Later,
        };
        if !pause(self.slices.nodes()).is_zero() {
            self.written.insert(node.clone(), Instant::now());
        }
        let tries = self.queue.end(&node, ending, now_ms());
        match outcome.end {
            End::Done | End::Stopped => return self.metrics.slice_written(due.elapsed()),
            End::Failed(reason) => tracing::warn!(node, tries, reason, "a PodSlice could not be written"),
            End::Refused(kind) if tries > 5 => tracing::warn!(node, tries, kind, "refused again and again"),
            End::Refused(kind) => tracing::debug!(node, kind, "refused: the PodSlice is not as it was"),
        }
        self.due.insert(node, due);
    }
}

/// How long a slice rests between two writes. The first after a rest is made at once: that is when policies come to count for a
/// pod.
const fn pause(nodes: usize) -> Duration {
    if nodes <= FEW_NODES { Duration::ZERO } else { PAUSE.saturating_mul(nodes as u32) }
}
