//! A controller with a view that lags, and with jobs that are done one action at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use overlane_core::blocks::{Action, Settings, Source, World};
use overlane_core::cidr::Cidr;
use overlane_core::cluster::ClusterPlan;

use crate::api::{Api, Event};

pub struct Job {
    pub node: String,
    pub actions: VecDeque<Action>,
    pub reserved: Vec<Cidr>,
    pub begun_ms: u64,
}

pub struct Controller {
    pub world: World,
    /// Events under way, by watch, with the time at which they happened.
    pub queues: [VecDeque<(u64, Event)>; 4],
    pub jobs: Vec<Job>,
    pub ready: BTreeSet<String>,
    /// Nodes that are to be asked about again at a time.
    pub timers: BTreeMap<String, u64>,
}

impl Controller {
    /// One that has just listed everything.
    pub fn start(plan: &ClusterPlan, settings: Settings, api: &Api, now_ms: u64) -> Self {
        let mut world = World::new(settings);
        world.set_plan(Some(plan.clone()));
        let mut new = Self {
            world,
            queues: Default::default(),
            jobs: Vec::new(),
            ready: BTreeSet::new(),
            timers: BTreeMap::new(),
        };
        new.list(api, now_ms);
        new
    }

    /// Lists everything, as after a watch that cannot go on.
    pub fn list(&mut self, api: &Api, now_ms: u64) {
        // What is under way was decided on what is no more.
        while !self.jobs.is_empty() {
            self.end(0);
        }
        let world = &mut self.world;
        for node in api.nodes.values() {
            world.upsert_node(
                overlane_core::blocks::NodeView { first_seen_ms: now_ms, ..node.clone() },
                Source::List,
                now_ms,
            );
        }
        for claim in api.claims.values() {
            world.upsert_claim(claim.clone(), Source::List);
        }
        world.retain_nodes(&api.nodes.keys().cloned().collect(), now_ms);
        world.retain_claims(&api.claims.keys().copied().collect(), now_ms);
        for state in api.states.values() {
            world.upsert_state(state.clone(), Source::List, now_ms);
        }
        for config in api.configs.values() {
            world.upsert_config(config.clone(), Source::List);
        }
        world.retain_states(&api.states.keys().cloned().collect(), now_ms);
        world.retain_configs(&api.configs.keys().cloned().collect());
        self.collect();
    }

    fn collect(&mut self) {
        self.ready.extend(self.world.take_touched());
    }

    pub fn learn(&mut self, event: Event, now_ms: u64) {
        let known = |uid: String| (!uid.is_empty()).then_some(uid);
        let world = &mut self.world;
        match event {
            Event::Node(view) => {
                let view = overlane_core::blocks::NodeView { first_seen_ms: now_ms, ..view };
                world.upsert_node(view, Source::News, now_ms);
            }
            Event::NodeGone(name, uid) => world.remove_node(&name, known(uid).as_deref(), now_ms),
            Event::Claim(claim) => world.upsert_claim(claim, Source::News),
            Event::ClaimGone(block, uid) => world.remove_claim(&block, known(uid).as_deref()),
            Event::State(state) => world.upsert_state(state, Source::News, now_ms),
            Event::StateGone(name, uid) => world.remove_state(&name, known(uid).as_deref(), now_ms),
            Event::Config(config) => world.upsert_config(config, Source::News),
            Event::ConfigGone(name, uid) => world.remove_config(&name, known(uid).as_deref()),
        }
        self.collect();
    }

    pub fn tick(&mut self, now_ms: u64) {
        self.world.tick(now_ms);
        let due: Vec<String> =
            self.timers.iter().filter(|(_, at)| **at <= now_ms).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.timers.remove(&name);
            self.ready.insert(name);
        }
        if self.world.take_room() {
            self.ready.extend(self.world.nodes().keys().cloned());
        }
    }

    /// Decides about one of the nodes that are ready and begins what was decided.
    pub fn begin(&mut self, which: usize, now_ms: u64) {
        self.tick(now_ms);
        let idle: Vec<&String> =
            self.ready.iter().filter(|name| !self.jobs.iter().any(|job| job.node == **name)).collect();
        if idle.is_empty() || self.jobs.len() >= 3 {
            return;
        }
        let node = idle[which % idle.len()].clone();
        self.ready.remove(&node);
        let verdict = self.world.decide(&node, now_ms);
        self.timers.remove(&node);
        if let Some(at) = verdict.retry_at_ms {
            assert!(at > now_ms, "{node} is to be asked about again at once: {verdict:?}");
            self.timers.insert(node.clone(), at);
        }
        if verdict.actions.is_empty() {
            return;
        }
        let mut reserved = Vec::new();
        for action in &verdict.actions {
            if let Action::Assign { block, .. } = action {
                self.world.alloc_mut().reserve(*block, &node);
                reserved.push(*block);
            }
        }
        self.jobs.push(Job { node, actions: verdict.actions.into(), reserved, begun_ms: now_ms });
    }

    /// Does the next action of a job.
    pub fn step(&mut self, which: usize, api: &mut Api, now_ms: u64) {
        if self.jobs.is_empty() {
            return;
        }
        let at = which % self.jobs.len();
        let job = &mut self.jobs[at];
        let action = job.actions.pop_front().expect("a job without actions");
        let (events, refused) = match api.act(&action, now_ms) {
            Ok(events) => (events, false),
            Err(events) => (events, true),
        };
        let over = refused || job.actions.is_empty();
        for event in events {
            self.learn(event, now_ms);
        }
        if over {
            self.end(at);
        }
    }

    pub fn end(&mut self, at: usize) {
        let job = self.jobs.remove(at);
        for block in job.reserved {
            self.world.alloc_mut().unreserve(&block);
        }
        self.ready.insert(job.node);
    }
}
