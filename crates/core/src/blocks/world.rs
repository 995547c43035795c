//! All that is known of the cluster, kept up to date by whoever watches it.
//!
//! Every change notes the nodes that it may matter to; [`World::take_touched`] gives them out.

use std::collections::{BTreeMap, BTreeSet};

use super::alloc::Allocator;
use super::given::Given;
use super::view::{Claim, ConfigView, NodeView, ObjectRef, StateView};
use super::{Action, Settings, Verdict, absent, node};
use crate::cidr::Cidr;
use crate::cluster::ClusterPlan;
use crate::family::Family;

/// How a view came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A full list: it replaces what was known, even by something older, for the API's store may have been restored
    /// from an older state.
    List,
    /// A watch, a read or the answer to a write: these overtake each other, and an older state is no news.
    News,
}

/// What is known of the cluster.
#[derive(Debug, Default)]
pub struct World {
    settings: Settings,
    plan: Option<ClusterPlan>,
    // Boxed: a tree's nodes are half empty where names come in order.
    nodes: BTreeMap<String, Box<NodeView>>,
    states: BTreeMap<String, Box<StateView>>,
    configs: BTreeMap<String, Box<ConfigView>>,
    alloc: Allocator,
    /// No fresh block is given before.
    settled_ms: u64,
    touched: BTreeSet<String>,
    room: bool,
}

impl World {
    /// An unknown cluster.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// The plan in force.
    #[must_use]
    pub const fn plan(&self) -> Option<&ClusterPlan> {
        self.plan.as_ref()
    }

    /// The blocks.
    #[must_use]
    pub const fn alloc(&self) -> &Allocator {
        &self.alloc
    }

    /// The blocks, to reserve some for writes under way.
    pub const fn alloc_mut(&mut self) -> &mut Allocator {
        &mut self.alloc
    }

    /// The Nodes by name.
    #[must_use]
    pub const fn nodes(&self) -> &BTreeMap<String, Box<NodeView>> {
        &self.nodes
    }

    /// What the agents say, by node.
    #[must_use]
    pub const fn states(&self) -> &BTreeMap<String, Box<StateView>> {
        &self.states
    }

    /// What agents say of machines that are there.
    pub fn speaking(&self) -> impl Iterator<Item = &StateView> {
        self.states.values().map(|state| &**state).filter(|state| state.obsolete_since_ms.is_none())
    }

    /// A node that is announced without an address of a family, of each family that some lack.
    #[must_use]
    pub fn lacking(&self) -> BTreeMap<Family, String> {
        let mut lacking = BTreeMap::new();
        for (name, config) in &self.configs {
            let Some(content) = &config.content else { continue };
            let has = |family: Family| content.node_ips.iter().any(|ip| Family::of(ip) == family);
            for family in Family::ALL.into_iter().filter(|family| !content.containers.is_empty() && !has(*family)) {
                lacking.entry(family).or_insert_with(|| name.clone());
            }
        }
        lacking
    }

    /// What is announced, by node.
    #[must_use]
    pub const fn configs(&self) -> &BTreeMap<String, Box<ConfigView>> {
        &self.configs
    }

    /// Names for which a decision may have changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.touched)
    }

    /// Whether there may be room since the last call for a node that found none.
    pub fn take_room(&mut self) -> bool {
        std::mem::take(&mut self.room)
    }

    /// Puts a plan in force. Everything is to be decided anew.
    pub fn set_plan(&mut self, plan: Option<ClusterPlan>) {
        if self.plan == plan {
            return;
        }
        if let Some(plan) = &plan {
            self.alloc.set_plan(plan);
            // How much of an agent's word is believed depends on the pools.
            for state in self.states.values() {
                self.alloc.set_held(&state.node, &state.held, &state.held);
            }
        }
        self.plan = plan;
        self.room = true;
        self.touch_all();
    }

    /// Notes every name that is known.
    pub fn touch_all(&mut self) {
        self.touched.extend(self.nodes.keys().cloned());
        self.touched.extend(self.configs.keys().cloned());
        self.touched.extend(self.states.keys().cloned());
        self.touched.extend(self.alloc.nodes().map(str::to_owned));
    }

    /// Lets time pass for what only time ends.
    pub fn tick(&mut self, now_ms: u64) {
        self.room |= self.alloc.expire(now_ms);
    }

    /// Learns a Node. `first_seen_ms` is kept while the UID stays.
    pub fn upsert_node(&mut self, mut view: NodeView, source: Source, now_ms: u64) {
        if let Some(old) = self.nodes.get(&view.name) {
            if source == Source::News && view.object.is_older_than(&old.object) {
                return;
            }
            if old.object.uid == view.object.uid {
                view.first_seen_ms = old.first_seen_ms;
            }
        }
        let name = view.name.clone();
        let news = self.nodes.get(&name).is_none_or(|old| !old.says_the_same(&view));
        self.nodes.insert(name.clone(), Box::new(view));
        if news {
            self.judge_word(&name, now_ms);
            self.touched.insert(name);
        }
    }

    /// Learns that a Node is gone; with a UID, that this one is.
    pub fn remove_node(&mut self, name: &str, uid: Option<&str>, now_ms: u64) {
        let known = self.nodes.get(name).is_some_and(|node| uid.is_none_or(|uid| uid == node.object.uid));
        if known {
            self.nodes.remove(name);
            self.judge_word(name, now_ms);
            self.touched.insert(name.to_owned());
        }
    }

    /// Forgets the Nodes that a full list did not show.
    pub fn retain_nodes(&mut self, seen: &BTreeSet<String>, now_ms: u64) {
        let gone: Vec<String> = self.nodes.keys().filter(|name| !seen.contains(*name)).cloned().collect();
        for name in gone {
            self.remove_node(&name, None, now_ms);
        }
    }

    /// Learns a claim.
    pub fn upsert_claim(&mut self, claim: Claim, source: Source) {
        if let Some(old) = self.alloc.claim(&claim.cidr) {
            let older = claim.object.is_older_than(&old.object);
            if *old == claim || older && source == Source::News {
                return;
            }
        }
        self.touched.insert(claim.node.clone());
        let released = !claim.is_live();
        if let Some(old) = self.alloc.upsert(claim) {
            self.touched.insert(old.node);
        }
        self.room |= released;
    }

    /// Learns that there is no claim on a block; with a UID, that this one is gone.
    pub fn remove_claim(&mut self, block: &Cidr, uid: Option<&str>) {
        let known = self.alloc.claim(block).is_some_and(|claim| uid.is_none_or(|uid| uid == claim.object.uid));
        if let Some(old) = known.then(|| self.alloc.remove(block)).flatten() {
            self.touched.insert(old.node);
            self.room = true;
        }
    }

    /// Ends a full list of claims: forgets those that it did not show. A list is made at the start, and when the API
    /// cannot go on from where a watch was; its store may have been restored from an older state. So agents get time to
    /// say what they hold before fresh blocks are given.
    pub fn retain_claims(&mut self, seen: &BTreeSet<Cidr>, now_ms: u64) {
        let gone: Vec<Cidr> =
            self.alloc.claims().map(|claim| claim.cidr).filter(|block| !seen.contains(block)).collect();
        self.settled_ms = now_ms.saturating_add(self.settings.agent_grace_ms);
        for block in gone {
            self.remove_claim(&block, None);
        }
    }

    /// Learns what an agent says.
    pub fn upsert_state(&mut self, mut view: StateView, source: Source, now_ms: u64) {
        let old = self.states.get(&view.node);
        if source == Source::News && old.is_some_and(|old| view.object.is_older_than(&old.object)) {
            return;
        }
        let same_word = old.filter(|old| old.object.uid == view.object.uid && old.boot_id == view.boot_id);
        view.obsolete_since_ms = same_word.and_then(|old| old.obsolete_since_ms);
        let before = old.map_or(&[][..], |old| &old.held);
        self.room |= before.iter().any(|block| !view.held.contains(block));
        self.alloc.set_held(&view.node, before, &view.held);
        let name = view.node.clone();
        let news = old.is_none_or(|old| {
            (&old.boot_id, &old.held, &old.mac, old.ready) != (&view.boot_id, &view.held, &view.mac, view.ready)
                || old.object.uid != view.object.uid
        });
        self.states.insert(name.clone(), Box::new(view));
        self.judge_word(&name, now_ms);
        if news {
            self.touched.insert(name);
        }
    }

    /// Learns that an agent's word is gone. What it held is kept for the time in which an agent that lives repeats it.
    pub fn remove_state(&mut self, name: &str, uid: Option<&str>, now_ms: u64) {
        let known = self.states.get(name).is_some_and(|state| uid.is_none_or(|uid| uid == state.object.uid));
        let Some(old) = known.then(|| self.states.remove(name)).flatten() else { return };
        for block in &old.held {
            self.alloc.keep_quiet(*block, now_ms.saturating_add(self.settings.agent_grace_ms));
        }
        self.alloc.set_held(name, &old.held, &[]);
        self.touched.insert(name.to_owned());
        self.room = true;
    }

    /// Forgets the agents that a full list did not show.
    pub fn retain_states(&mut self, seen: &BTreeSet<String>, now_ms: u64) {
        let gone: Vec<String> = self.states.keys().filter(|name| !seen.contains(*name)).cloned().collect();
        for name in gone {
            self.remove_state(&name, None, now_ms);
        }
    }

    /// Learns what is announced for a node.
    pub fn upsert_config(&mut self, view: ConfigView, source: Source) {
        let old = self.configs.get(&view.node);
        if old.is_some_and(|old| **old == view || source == Source::News && view.object.is_older_than(&old.object)) {
            return;
        }
        let before: BTreeSet<Cidr> = old.into_iter().flat_map(|old| old.blocks()).collect();
        let after: BTreeSet<Cidr> = view.blocks().collect();
        self.room |= !before.is_subset(&after);
        self.alloc.set_announced(&view.node, &before, &after);
        self.touched.insert(view.node.clone());
        self.configs.insert(view.node.clone(), Box::new(view));
    }

    /// Learns that nothing is announced for a node; with a UID, that this object is gone.
    pub fn remove_config(&mut self, name: &str, uid: Option<&str>) {
        let known = self.configs.get(name).is_some_and(|config| uid.is_none_or(|uid| uid == config.object.uid));
        if let Some(old) = known.then(|| self.configs.remove(name)).flatten() {
            self.alloc.set_announced(name, &old.blocks().collect(), &BTreeSet::new());
            self.touched.insert(name.to_owned());
            self.room = true;
        }
    }

    /// Forgets the configs that a full list did not show.
    pub fn retain_configs(&mut self, seen: &BTreeSet<String>) {
        let gone: Vec<String> = self.configs.keys().filter(|name| !seen.contains(*name)).cloned().collect();
        for name in gone {
            self.remove_config(&name, None);
        }
    }

    /// Learns an object's newest state after a write that changed nothing else.
    pub fn note_node_version(&mut self, name: &str, object: &ObjectRef) {
        if let Some(node) = self.nodes.get_mut(name).filter(|node| node.object.is_older_than(object)) {
            node.object.resource_version.clone_from(&object.resource_version);
        }
    }

    /// What is to be done about a node, there or not.
    #[must_use]
    pub fn decide(&self, name: &str, now_ms: u64) -> Verdict {
        // A claim of nobody is one that a hand has spoilt: it only keeps its block from being given.
        if name.is_empty() {
            return Verdict::default();
        }
        let state = self.states.get(name).map(|state| &**state);
        let config = self.configs.get(name).map(|config| &**config);
        let gone = || absent::decide(name, &self.alloc, state, config, &self.settings, now_ms);
        let Some(plan) = &self.plan else {
            // What is given back may be what keeps a plan from coming in force.
            return if self.nodes.contains_key(name) { Verdict::default() } else { gone() };
        };
        let mut verdict = match self.nodes.get(name) {
            None => gone(),
            Some(view) => node::decide(&Given {
                plan,
                alloc: &self.alloc,
                settings: &self.settings,
                node: view,
                state,
                config,
                now_ms,
                settled_ms: self.settled_ms,
            }),
        };
        self.clear_outgrown(name, &mut verdict, now_ms);
        verdict
    }

    /// Node masks change while no claim is live; the released ones of the old size go once they have rested.
    fn clear_outgrown(&self, name: &str, verdict: &mut Verdict, now_ms: u64) {
        for (claim, released_ms) in self.alloc.outgrown(name) {
            let due = released_ms.saturating_add(self.settings.hold_down_ms);
            let object = claim.object.clone();
            let assigned = |action: &Action| matches!(action, Action::Assign { block, .. } if *block == claim.cidr);
            if verdict.actions.iter().any(assigned) {
                continue;
            }
            if due <= now_ms {
                verdict.actions.push(Action::DeleteClaim { block: claim.cidr, object });
            } else {
                verdict.retry_at(due);
            }
        }
    }

    /// Notes since when an agent's word is of a machine that is gone.
    fn judge_word(&mut self, name: &str, now_ms: u64) {
        let node = self.nodes.get(name);
        let Some(state) = self.states.get_mut(name) else { return };
        let obsolete = node.is_none_or(|node| !state.is_of(node));
        state.obsolete_since_ms = obsolete.then(|| state.obsolete_since_ms.unwrap_or(now_ms));
    }
}
