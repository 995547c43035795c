//! Hears of policies, while this controller leads and Overlane enforces them, and has their faults told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use kube::Client;
use overlane_core::cluster::NetworkPolicy;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use super::tell::Teller;
use super::{Policies, PolicyFact};
use crate::events::Events;
use crate::executor::End;
use crate::metrics::Metrics;
use crate::objects::now_ms;
use crate::queue::{Ending, Queue};
use crate::watch::{Deaf, Object, Source, Watch, Word, of_watch, start_policies};

/// Policies told of at a time: who makes faulty ones all day makes no more work than this.
const JOBS: usize = 4;
/// How often time is looked at.
const TICK: Duration = Duration::from_millis(500);

/// Tells faults of policies.
pub struct Inspector {
    client: Client,
    teller: Teller,
    policies: Policies,
    queue: Queue,
    jobs: JoinSet<(PolicyFact, End)>,
    /// Of each job, its policy.
    under_way: HashMap<Id, String>,
    watch: Option<Watch>,
    seen: BTreeMap<Source, BTreeSet<String>>,
    deaf: Deaf,
    lead: watch::Receiver<bool>,
    enforcer: watch::Receiver<Option<NetworkPolicy>>,
}

impl Inspector {
    /// One that tells while `lead` says so, and `enforcer` says that it is for Overlane to enforce policies.
    pub fn new(
        client: Client,
        identity: &str,
        metrics: Metrics,
        lead: watch::Receiver<bool>,
        enforcer: watch::Receiver<Option<NetworkPolicy>>,
    ) -> Self {
        let events = Events::new(&client, identity);
        Self {
            teller: Teller::new(client.clone(), events, metrics),
            client,
            policies: Policies::default(),
            queue: Queue::default(),
            jobs: JoinSet::new(),
            under_way: HashMap::new(),
            watch: None,
            seen: BTreeMap::new(),
            deaf: Deaf::default(),
            lead,
            enforcer,
        }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut inbox = Vec::new();
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                changed = self.lead.changed() => if changed.is_err() { break },
                changed = self.enforcer.changed() => if changed.is_err() { break },
                Some(outcome) = self.jobs.join_next_with_id() => self.finish(outcome),
                count = of_watch(&mut self.watch, &mut inbox) => if count == 0 { self.watch = None },
                _ = tick.tick() => {}
            }
            inbox.drain(..).for_each(|word| self.hear(word));
            self.steer();
            self.turn();
        }
        self.jobs.shutdown().await;
    }

    /// Begins to hear, or stops and forgets.
    fn steer(&mut self) {
        let leads = *self.lead.borrow_and_update();
        let is_ours = *self.enforcer.borrow_and_update() == Some(NetworkPolicy::Overlane);
        if (leads && is_ours) == self.watch.is_some() {
            return;
        }
        self.watch = (leads && is_ours).then(|| start_policies(&self.client));
        self.policies = Policies::default();
        self.queue = Queue::default();
        self.jobs = JoinSet::new();
        self.under_way.clear();
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Listing(source) => drop(self.seen.remove(&source)),
            Word::Listed(object) => {
                if let Object::Policy(source, fact) = &object {
                    self.seen.entry(*source).or_default().insert(fact.key.clone());
                }
                self.take_in(object);
            }
            Word::Complete(source) => {
                let seen = self.seen.remove(&source).unwrap_or_default();
                self.policies.retain(source == Source::Policies, &seen);
            }
            Word::Changed(object) => self.take_in(object),
            Word::Deaf(source, reason) => self.deaf.hear(source, &reason, now_ms()),
        }
    }

    fn take_in(&mut self, object: Object) {
        match object {
            Object::Policy(_, fact) => {
                let key = fact.key.clone();
                if self.policies.hear(*fact) {
                    self.queue.touch(&key);
                }
            }
            Object::PolicyGone(key) => self.policies.forget(&key),
            _ => {}
        }
    }

    fn turn(&mut self) {
        self.queue.tick(now_ms());
        while self.jobs.len() < JOBS {
            let Some(key) = self.queue.pop() else { return };
            let Some(fact) = self.policies.open(&key) else {
                self.queue.rest(&key);
                continue;
            };
            self.queue.begin(&key);
            let job = self.jobs.spawn(self.teller.clone().tell(fact.clone()));
            self.under_way.insert(job.id(), key);
        }
    }

    fn finish(&mut self, outcome: Result<(Id, (PolicyFact, End)), JoinError>) {
        let (id, end) = match outcome {
            Ok((id, (fact, end))) => {
                // What was refused has changed, which the watch tells.
                if !matches!(end, End::Failed(_)) {
                    self.policies.told(&fact);
                }
                (id, end)
            }
            Err(error) => (error.id(), End::Failed(format!("it broke off: {error}"))),
        };
        let Some(key) = self.under_way.remove(&id) else { return };
        let ending = if matches!(end, End::Failed(_)) { Ending::Later } else { Ending::Look };
        let tries = self.queue.end(&key, ending, now_ms());
        if let End::Failed(reason) = end {
            tracing::warn!(policy = key, tries, reason, "a fault of a policy could not be told");
        }
    }
}
