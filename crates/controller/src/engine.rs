//! The main loop: words in, decisions out.
//!
//! It owns everything that is known; jobs run beside it and bring back what they learnt. It never waits for the API.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use overlane_api::crd::{CLUSTER_NETWORK, ClusterNetwork};
use overlane_core::blocks::{Action, Settings, Trouble, World};
use overlane_core::cidr::Cidr;
use overlane_core::cluster::{ClusterPlan, NetworkPolicy};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::cluster::Gate;
use crate::events::{Events, Subject};
use crate::executor::{End, Epoch, Executor, Outcome};
use crate::gateway_status::{Means, Teller};
use crate::gateways::Gateways;
use crate::metrics::Metrics;
use crate::objects::now_ms;
use crate::queue::{Ending, Queue};
use crate::watch::{Deaf, Object, Source, Word};
use crate::{cluster_status, facts};

/// The ClusterNetwork as a write of its status left it, and the version that was written over.
type Written = (Option<String>, ClusterNetwork);

/// Nodes whose writes are under way at a time.
const JOBS: usize = 32;
/// Words taken in before decisions are made again.
const WORDS: usize = 512;
/// Decisions made before words are taken in again.
const DECISIONS: usize = 512;
/// How often time is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often status and gauges are brought up to date.
const REPORT_MS: u64 = 1_000;
/// How often the ClusterNetwork is written for the sake of its messages' words alone.
const WORDING_MS: u64 = 10_000;
/// Longest pause after a failed write of its status.
const STATUS_PAUSE_MS: u64 = 10_000;
/// How long jobs may take to end once they are to.
const GRACE: Duration = Duration::from_secs(3);

/// What the loop is made of.
pub struct Engine {
    client: Client,
    world: World,
    gate: Gate,
    gateways: Gateways,
    teller: Teller,
    queue: Queue,
    executor: Executor,
    events: Events,
    metrics: Metrics,
    epoch: Epoch,
    jobs: JoinSet<Outcome>,
    /// Of each job, its node and the blocks that are reserved for it.
    under_way: HashMap<Id, (String, Vec<Cidr>)>,
    /// The write of the ClusterNetwork's status, if one is under way.
    report: JoinSet<Option<Written>>,
    /// When it was last written, how often it has failed since, and when it may be tried again.
    told_ms: u64,
    tell_failures: u32,
    tell_at_ms: u64,
    troubles: BTreeMap<String, Trouble>,
    /// When time alone may make room for those that wait for a block.
    room_ms: Option<u64>,
    complete: BTreeSet<Source>,
    deaf: Deaf,
    seen_names: BTreeMap<Source, BTreeSet<String>>,
    seen_blocks: BTreeSet<Cidr>,
    lead: watch::Receiver<bool>,
    leads: bool,
    report_ms: u64,
    /// Who enforces network policy by the plan in force.
    policy: watch::Sender<Option<NetworkPolicy>>,
}

impl Engine {
    /// One that acts while `lead` says so.
    pub fn new(
        client: Client,
        settings: Settings,
        identity: &str,
        metrics: Metrics,
        lead: watch::Receiver<bool>,
        policy: watch::Sender<Option<NetworkPolicy>>,
    ) -> Self {
        let epoch = Epoch::default();
        let events = Events::new(&client, identity);
        let means =
            Means { client: client.clone(), events: events.clone(), metrics: metrics.clone(), epoch: epoch.clone() };
        let executor = Executor::new(client.clone(), events.clone(), metrics.clone(), epoch.clone());
        Self {
            client,
            world: World::new(settings),
            gate: Gate::default(),
            gateways: Gateways::default(),
            teller: Teller::new(means),
            queue: Queue::default(),
            executor,
            events,
            metrics,
            epoch,
            jobs: JoinSet::new(),
            under_way: HashMap::new(),
            report: JoinSet::new(),
            told_ms: 0,
            tell_failures: 0,
            tell_at_ms: 0,
            troubles: BTreeMap::new(),
            room_ms: None,
            complete: BTreeSet::new(),
            deaf: Deaf::default(),
            seen_names: BTreeMap::new(),
            seen_blocks: BTreeSet::new(),
            lead,
            leads: false,
            report_ms: 0,
            policy,
        }
    }

    /// Runs until `stop`. What is under way then is stopped after its present request.
    pub async fn run(mut self, mut words: mpsc::Receiver<Word>, mut stop: watch::Receiver<bool>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut inbox = Vec::with_capacity(WORDS);
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                changed = self.lead.changed() => if changed.is_err() { break },
                Some(outcome) = self.jobs.join_next_with_id() => self.finish(outcome),
                Some(status) = self.report.join_next() => self.reported(status),
                Some(round) = self.teller.ended() => self.teller.finish(round, &mut self.gateways, now_ms()),
                count = words.recv_many(&mut inbox, WORDS) => {
                    if count == 0 {
                        break;
                    }
                    inbox.drain(..).for_each(|word| self.hear(word));
                }
                _ = tick.tick() => {}
            }
            self.office();
            self.turn();
        }
        self.epoch.advance();
        let _ = timeout(GRACE, async { while self.jobs.join_next().await.is_some() {} }).await;
        self.jobs.shutdown().await;
    }

    /// Notes whether this controller leads. One that does no more stops at once.
    fn office(&mut self) {
        let leads = *self.lead.borrow_and_update();
        if std::mem::replace(&mut self.leads, leads) == leads {
            return;
        }
        self.metrics.set_leader(leads);
        if leads {
            self.gate.look_again();
            self.gateways.look_again();
            self.teller.begin();
            (self.tell_failures, self.tell_at_ms) = (0, 0);
            self.world.touch_all();
        } else {
            self.epoch.advance();
        }
    }

    fn is_synced(&self) -> bool {
        self.complete.len() == Source::ALL.len()
    }

    fn hear(&mut self, word: Word) {
        let now = now_ms();
        match word {
            Word::Listing(source) => {
                // A list after the first: the API could not go on from where the watch was. Its store may be another.
                if self.complete.remove(&source) {
                    tracing::info!(?source, "listing anew");
                    self.epoch.advance();
                }
                self.seen_names.remove(&source);
                if source == Source::Blocks {
                    self.seen_blocks.clear();
                }
            }
            Word::Listed(object) => {
                self.note_seen(&object);
                self.take_in(object, overlane_core::blocks::Source::List, now);
            }
            Word::Complete(source) => self.complete_list(source, now),
            Word::Changed(object) => self.take_in(object, overlane_core::blocks::Source::News, now),
            Word::Deaf(source, reason) => self.deaf.hear(source, &reason, now),
        }
        self.metrics.set_synced(self.is_synced());
    }

    fn note_seen(&mut self, object: &Object) {
        let (source, name) = match object {
            Object::Block(claim) => {
                self.seen_blocks.insert(claim.cidr);
                return;
            }
            Object::Node(view, _) => (Source::Nodes, view.name.clone()),
            Object::State(view) => (Source::States, view.node.clone()),
            Object::Config(view) => (Source::Configs, view.node.clone()),
            Object::Cluster(object) => (Source::Clusters, crate::objects::name(&object.metadata)),
            Object::Gateway(object) => (Source::Gateways, crate::objects::name(&object.metadata)),
            _ => return,
        };
        self.seen_names.entry(source).or_default().insert(name);
    }

    fn complete_list(&mut self, source: Source, now: u64) {
        let seen = self.seen_names.remove(&source).unwrap_or_default();
        match source {
            Source::Nodes => {
                self.world.retain_nodes(&seen, now);
                self.gateways.retain_labels(&seen);
            }
            Source::States => self.world.retain_states(&seen, now),
            Source::Configs => {
                self.world.retain_configs(&seen);
                self.gateways.look_again();
            }
            Source::Blocks => self.world.retain_claims(&std::mem::take(&mut self.seen_blocks), now),
            Source::Clusters if !seen.contains(CLUSTER_NETWORK) => self.gate.remove(CLUSTER_NETWORK),
            Source::Clusters => {}
            Source::Gateways => self.gateways.retain(&seen),
            Source::Pods | Source::Slices | Source::Policies | Source::ClusterPolicies => {}
        }
        self.complete.insert(source);
        if self.is_synced() {
            tracing::info!(nodes = self.world.nodes().len(), "every source was seen whole");
        }
    }

    fn take_in(&mut self, object: Object, source: overlane_core::blocks::Source, now: u64) {
        match object {
            Object::Cluster(object) => self.gate.upsert(*object),
            Object::ClusterGone(name) => self.gate.remove(&name),
            Object::Gateway(object) => self.gateways.upsert(*object, source),
            Object::GatewayGone(name, uid) => self.gateways.remove(&name, &uid),
            object => facts::learn(&mut self.world, &mut self.gateways, object, source, now),
        }
    }

    /// Judges the plan, decides, and begins what was decided; nothing of it before the first full view, or without the
    /// office.
    fn turn(&mut self) {
        let now = now_ms();
        self.metrics.beat(now);
        self.world.tick(now);
        self.queue.tick(now);
        for name in self.world.take_touched() {
            self.queue.touch(&name);
        }
        let in_time = self.room_ms.is_some_and(|at| at <= now);
        if self.world.take_room() || in_time {
            self.room_ms = self.room_ms.filter(|_| !in_time);
            self.wake_waiting();
        }
        if !self.is_synced() {
            return;
        }
        let due = now >= self.report_ms.saturating_add(REPORT_MS);
        if due {
            self.gate.hear_lacking(self.world.lacking());
        }
        if (due || self.world.plan().is_none()) && self.gate.judge(self.world.alloc(), self.world.nodes(), self.leads) {
            self.world.set_plan(self.gate.plan().cloned());
            self.gateways.look_again();
            // Agents wait for the status.
            (self.tell_failures, self.tell_at_ms) = (0, 0);
            self.wake_waiting();
        }
        if due && self.leads && self.gate.step(self.world.speaking()) {
            self.world.set_plan(self.gate.plan().cloned());
            (self.tell_failures, self.tell_at_ms) = (0, 0);
        }
        let policy = self.world.plan().map(ClusterPlan::network_policy);
        self.policy.send_if_modified(|told| std::mem::replace(told, policy) != policy);
        if due {
            self.report_ms = now;
            self.show();
        }
        if !self.leads {
            return;
        }
        if due && self.report.is_empty() && now >= self.tell_at_ms {
            self.tell_cluster(now);
        }
        if due {
            self.tell_gateways(now);
        }
        for _ in 0..DECISIONS {
            if self.jobs.len() >= JOBS {
                return;
            }
            let Some(name) = self.queue.pop() else { return };
            self.decide(name, now);
        }
    }

    /// Those that found no room are asked about again, the longest waiting first.
    fn wake_waiting(&mut self) {
        let nodes = self.world.nodes();
        let since = |name: &str| nodes.get(name).map_or(0, |node| node.first_seen_ms);
        let mut waiting: Vec<(u64, String)> = self
            .troubles
            .iter()
            .filter(|(_, trouble)| !matches!(trouble, Trouble::ForeignAllocator { .. } | Trouble::NoNodeAddress { .. }))
            .map(|(name, _)| (since(name), name.clone()))
            .collect();
        waiting.sort();
        for (_, name) in waiting {
            self.queue.touch(&name);
        }
    }

    fn decide(&mut self, name: String, now: u64) {
        let verdict = self.world.decide(&name, now);
        if let Some(at) = verdict.retry_at_ms {
            // Those that wait for one thing are woken together, in their order.
            if matches!(verdict.trouble, Some(Trouble::NoBlockAvailable { .. })) {
                self.room_ms = Some(self.room_ms.map_or(at, |before| before.min(at)));
            } else {
                self.queue.touch_at(&name, at);
            }
        }
        match verdict.trouble {
            Some(trouble) => drop(self.troubles.insert(name.clone(), trouble)),
            None => drop(self.troubles.remove(&name)),
        }
        if verdict.actions.is_empty() {
            self.queue.rest(&name);
            return;
        }
        let mut reserved = Vec::new();
        for action in &verdict.actions {
            if let Action::Assign { block, .. } = action {
                self.world.alloc_mut().reserve(*block, &name);
                reserved.push(*block);
            }
        }
        tracing::debug!(node = name, actions = ?verdict.actions, "decided");
        self.queue.begin(&name);
        let job = self.jobs.spawn(self.executor.clone().run(verdict.actions));
        self.under_way.insert(job.id(), (name, reserved));
    }

    fn finish(&mut self, outcome: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match outcome {
            Ok(done) => done,
            // A fault of ours. What it wrote the watches tell, and what it has not written is decided anew.
            Err(error) => {
                let end = End::Failed(format!("the job broke off: {error}"));
                (error.id(), Outcome { facts: Vec::new(), announced: false, end })
            }
        };
        let Some((node, reserved)) = self.under_way.remove(&id) else { return };
        let now = now_ms();
        for block in &reserved {
            self.world.alloc_mut().unreserve(block);
        }
        for fact in outcome.facts {
            self.take_in(fact, overlane_core::blocks::Source::News, now);
        }
        if outcome.announced {
            let since = self.world.nodes().get(&node).map_or(now, |view| view.first_seen_ms);
            self.metrics.allocated(now.saturating_sub(since));
            tracing::info!(node, after_ms = now.saturating_sub(since), "the node has its blocks");
        }
        let ending = match &outcome.end {
            End::Done | End::Stopped => Ending::Look,
            End::Refused(_) => Ending::Again,
            End::Failed(_) => Ending::Later,
        };
        let tries = self.queue.end(&node, ending, now);
        match outcome.end {
            End::Failed(reason) => tracing::warn!(node, tries, reason, "a request failed; it will be tried again"),
            End::Refused(kind) if tries > 5 => tracing::warn!(node, tries, kind, "refused again and again"),
            End::Refused(kind) => tracing::debug!(node, kind, "refused: things are not as they were"),
            End::Done | End::Stopped => {}
        }
    }

    fn show(&self) {
        let configs = self.world.configs().values();
        let announced = configs.filter(|config| config.blocks().next().is_some()).count();
        self.metrics.set_nodes(self.world.nodes().len(), announced, self.troubles.len());
        self.metrics.set_blocks(&self.world.alloc().usage());
        self.metrics.set_queue(self.queue.len());
    }

    /// Judges the gateways if something that they depend on has changed, and writes what is not as it should be.
    fn tell_gateways(&mut self, now: u64) {
        let Some(plan) = self.world.plan() else { return };
        if self.teller.is_free(now) && self.gateways.take_stale() {
            let standings = self.gateways.standings(plan, &self.world);
            self.teller.tell(&mut self.gateways, &standings, self.world.nodes().len(), now);
        }
    }

    /// Writes the ClusterNetwork's status if it is not what it should be.
    fn tell_cluster(&mut self, now: u64) {
        self.troubles.retain(|name, _| self.world.nodes().contains_key(name));
        let usage = self.world.alloc().usage();
        let Some(report) = cluster_status::report(&self.gate, &self.troubles, &usage, now) else { return };
        if !report.urgent && now < self.told_ms.saturating_add(WORDING_MS) {
            return;
        }
        let Some(object) = self.gate.object() else { return };
        let uid = object.metadata.uid.clone().unwrap_or_default();
        // What a leader of a moment ago still has under way must not take a step of the routing back.
        let version = object.metadata.resource_version.clone();
        let (client, events, metrics) = (self.client.clone(), self.events.clone(), self.metrics.clone());
        self.report.spawn(async move {
            let api: Api<ClusterNetwork> = Api::all(client);
            // A list in a merge patch replaces the list, and a field that is left out is left alone.
            let patch = json!({ "metadata": { "uid": uid, "resourceVersion": &version }, "status": report.status });
            metrics.write("patch-clusternetwork-status");
            let patched = api.patch_status(CLUSTER_NETWORK, &PatchParams::default(), &Patch::Merge(patch)).await;
            let written = match patched {
                Ok(written) => written,
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    tracing::debug!("the ClusterNetwork has changed; its status is written anew");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(%error, "the ClusterNetwork's status could not be written");
                    return None;
                }
            };
            for (reason, message) in &report.warnings {
                tracing::warn!(reason, "{message}");
                events.warn(Subject::cluster(CLUSTER_NETWORK, &uid), reason, message).await;
            }
            Some((version, written))
        });
    }

    fn reported(&mut self, written: Result<Option<Written>, JoinError>) {
        let now = now_ms();
        let Ok(Some((before, written))) = written else {
            let pause = REPORT_MS.checked_shl(self.tell_failures).unwrap_or(STATUS_PAUSE_MS).min(STATUS_PAUSE_MS);
            self.tell_failures = (self.tell_failures + 1).min(16);
            self.tell_at_ms = now.saturating_add(pause);
            return;
        };
        (self.told_ms, self.tell_failures) = (now, 0);
        // What the watch has told meanwhile is newer.
        let current = self.gate.object().map(|object| &object.metadata);
        if current.is_some_and(|current| current.uid == written.metadata.uid && current.resource_version == before) {
            self.gate.upsert(written);
        }
    }
}
