//! A model of the API: objects by name, one `resourceVersion`, watch events in order, refusals as the real one has them.

use std::collections::BTreeMap;

use overlane_core::blocks::{Action, Claim, ConditionKind, ConfigView, MachineId, NodeView, ObjectRef, StateView};
use overlane_core::cidr::Cidr;

/// A change as a watch tells it.
#[derive(Clone, Debug)]
pub enum Event {
    Node(NodeView),
    NodeGone(String, String),
    Claim(Claim),
    ClaimGone(Cidr, String),
    State(StateView),
    StateGone(String, String),
    Config(ConfigView),
    ConfigGone(String, String),
}

impl Event {
    /// Which watch it comes by.
    pub fn kind(&self) -> usize {
        match self {
            Self::Node(_) | Self::NodeGone(..) => 0,
            Self::Claim(_) | Self::ClaimGone(..) => 1,
            Self::State(_) | Self::StateGone(..) => 2,
            Self::Config(_) | Self::ConfigGone(..) => 3,
        }
    }
}

/// The store.
#[derive(Debug, Default)]
pub struct Api {
    pub revision: u64,
    pub nodes: BTreeMap<String, NodeView>,
    pub claims: BTreeMap<Cidr, Claim>,
    pub states: BTreeMap<String, StateView>,
    pub configs: BTreeMap<String, ConfigView>,
    /// Events that no controller has been sent yet.
    pub fresh: Vec<Event>,
    pub hold_down_ms: u64,
    pub was_restored: bool,
}

/// What a snapshot holds.
#[derive(Clone, Debug)]
pub struct Store {
    nodes: BTreeMap<String, NodeView>,
    claims: BTreeMap<Cidr, Claim>,
    states: BTreeMap<String, StateView>,
    configs: BTreeMap<String, ConfigView>,
}

/// A refusal, with what a read by name told then.
pub type Refused = Vec<Event>;

impl Api {
    pub fn store(&self) -> Store {
        let Self { nodes, claims, states, configs, .. } = self;
        Store { nodes: nodes.clone(), claims: claims.clone(), states: states.clone(), configs: configs.clone() }
    }

    /// Objects are as they were; the revision goes on.
    pub fn restore(&mut self, store: Store) {
        let Store { nodes, claims, states, configs } = store;
        *self = Self { nodes, claims, states, configs, fresh: Vec::new(), ..std::mem::take(self) };
        self.was_restored = true;
        self.next();
    }

    fn next(&mut self) -> String {
        self.revision += 1;
        self.revision.to_string()
    }

    fn made(&mut self) -> ObjectRef {
        let resource_version = self.next();
        ObjectRef { uid: format!("u{resource_version}"), resource_version }
    }

    pub fn create_node(&mut self, name: &str, machine: MachineId, now_ms: u64) {
        let object = self.made();
        let addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let node = NodeView {
            name: name.to_owned(),
            object,
            machine,
            addresses,
            first_seen_ms: now_ms,
            ..NodeView::default()
        };
        self.nodes.insert(name.to_owned(), node.clone());
        self.fresh.push(Event::Node(node));
    }

    pub fn touch_node(&mut self, name: &str, change: impl FnOnce(&mut NodeView)) {
        let version = self.next();
        let Some(node) = self.nodes.get_mut(name) else { return };
        change(node);
        node.object.resource_version = version;
        self.fresh.push(Event::Node(node.clone()));
    }

    pub fn delete_node(&mut self, name: &str) {
        self.next();
        if let Some(node) = self.nodes.remove(name) {
            self.fresh.push(Event::NodeGone(name.to_owned(), node.object.uid));
        }
    }

    pub fn put_state(&mut self, mut state: StateView) {
        state.object = match self.states.get(&state.node) {
            Some(old) => ObjectRef { uid: old.object.uid.clone(), resource_version: self.next() },
            None => self.made(),
        };
        self.states.insert(state.node.clone(), state.clone());
        self.fresh.push(Event::State(state));
    }

    fn read_node(&self, name: &str) -> Event {
        let gone = || Event::NodeGone(name.to_owned(), String::new());
        self.nodes.get(name).cloned().map_or_else(gone, Event::Node)
    }

    fn read_claim(&self, block: &Cidr) -> Event {
        let gone = || Event::ClaimGone(*block, String::new());
        self.claims.get(block).cloned().map_or_else(gone, Event::Claim)
    }

    fn read_config(&self, name: &str) -> Event {
        let gone = || Event::ConfigGone(name.to_owned(), String::new());
        self.configs.get(name).cloned().map_or_else(gone, Event::Config)
    }

    /// Does one action, as the executor does. What it learns is told either way.
    pub fn act(&mut self, action: &Action, now_ms: u64) -> Result<Vec<Event>, Refused> {
        match action {
            Action::ConfirmNode { node, uid } => {
                let is = self.nodes.get(node).map(|node| &node.object.uid);
                if is == uid.as_ref() { Ok(vec![]) } else { Err(vec![self.read_node(node)]) }
            }
            Action::ConfirmUnclaimed { block } => {
                if self.claims.contains_key(block) {
                    Err(vec![self.read_claim(block)])
                } else {
                    Ok(vec![])
                }
            }
            Action::Assign { block, pool, over, owner } => {
                let old = self.claims.get(block);
                if old.map(|claim| &claim.object) != over.as_ref() {
                    return Err(vec![self.read_claim(block)]);
                }
                if let Some(old) = old.filter(|old| old.node != owner.node) {
                    let released = old.released_ms.expect("a live claim of another node was taken over");
                    assert!(released + self.hold_down_ms <= now_ms, "{block} was reused before its hold-down: {old:?}");
                }
                let (uid, created_ms) = match old {
                    Some(old) => (old.object.uid.clone(), old.created_ms),
                    None => (format!("u{}", self.revision + 1), now_ms / 1000 * 1000),
                };
                let claim = Claim {
                    cidr: *block,
                    pool: *pool,
                    node: owner.node.clone(),
                    node_uid: owner.node_uid.clone(),
                    machine: owner.machine.clone(),
                    released_ms: None,
                    created_ms,
                    object: ObjectRef { uid, resource_version: self.next() },
                };
                Ok(vec![self.put_claim(claim)])
            }
            Action::Release { block, object, at_ms } => {
                let Some(old) = self.claims.get(block).filter(|old| old.object == *object).cloned() else {
                    return Err(vec![self.read_claim(block)]);
                };
                self.assert_gone(&old.node, &old.node_uid, block);
                let resource_version = self.next();
                let object = ObjectRef { resource_version, ..old.object };
                Ok(vec![self.put_claim(Claim { released_ms: Some(*at_ms), object, ..old })])
            }
            Action::DeleteClaim { block, .. } => panic!("{block} has the size that this plan gives"),
            Action::WriteConfig { node, node_uid, current, content, .. } => {
                if self.configs.get(node).map(|config| &config.object) != current.as_ref() {
                    return Err(vec![self.read_config(node)]);
                }
                for block in
                    self.configs.get(node).filter(|old| old.node_uid == *node_uid).iter().flat_map(|old| old.blocks())
                {
                    let lost = content.containers.iter().all(|container| container.block != block);
                    let theirs = self.claims.get(&block).is_some_and(|claim| claim.is_live() && claim.node == *node);
                    assert!(!lost || !theirs || self.was_restored, "{block} of {node} is announced no more");
                }
                let object = match current {
                    Some(current) => ObjectRef { uid: current.uid.clone(), resource_version: self.next() },
                    None => self.made(),
                };
                let config = ConfigView {
                    node: node.clone(),
                    node_uid: node_uid.clone(),
                    object,
                    content: Some(content.clone()),
                };
                self.configs.insert(node.clone(), config.clone());
                self.fresh.push(Event::Config(config.clone()));
                Ok(vec![Event::Config(config)])
            }
            Action::DeleteConfig { node, object } => {
                if self.configs.get(node).is_none_or(|old| old.object != *object) {
                    return Err(vec![self.read_config(node)]);
                }
                let config = self.configs[node].clone();
                config.blocks().for_each(|block| self.assert_gone(node, &config.node_uid, &block));
                self.next();
                self.configs.remove(node);
                let event = Event::ConfigGone(node.clone(), object.uid.clone());
                self.fresh.push(event.clone());
                Ok(vec![event])
            }
            Action::SetPodCidrs { node, uid, cidrs } => {
                let now = self.nodes.get(node);
                if now.is_none_or(|now| now.object.uid != *uid || !now.pod_cidrs.is_empty()) {
                    return Err(vec![self.read_node(node)]);
                }
                self.touch_node(node, |view| {
                    view.pod_cidrs = cidrs.iter().map(Cidr::to_string).collect();
                    view.pod_cidrs_ours = true;
                });
                Ok(vec![self.read_node(node)])
            }
            Action::DeleteState { node, object } => {
                if self.states.get(node).is_none_or(|old| old.object != *object) {
                    return Err(vec![]);
                }
                self.next();
                self.states.remove(node);
                let event = Event::StateGone(node.clone(), object.uid.clone());
                self.fresh.push(event.clone());
                Ok(vec![event])
            }
            Action::RemoveStartupTaint { node, uid, index } => {
                let now = self.nodes.get(node);
                if now.is_none_or(|now| now.object.uid != *uid || now.conditions.startup_taint != Some(*index)) {
                    return Err(vec![self.read_node(node)]);
                }
                self.touch_node(node, |view| view.conditions.startup_taint = None);
                Ok(vec![self.read_node(node)])
            }
            Action::SetConditions { node, uid, changes } => {
                if self.nodes.get(node).is_none_or(|now| now.object.uid != *uid) {
                    return Err(vec![self.read_node(node)]);
                }
                self.touch_node(node, |view| {
                    for change in changes {
                        let now = Some((change.status, change.reason.to_owned()));
                        match change.kind {
                            ConditionKind::NetworkUnavailable => view.conditions.network_unavailable = now,
                            ConditionKind::OverlaneNetwork => view.conditions.overlane = now,
                        }
                    }
                });
                Ok(vec![self.read_node(node)])
            }
        }
    }

    /// Nothing that is announced is taken from a Node object that is there. A Node that was looked up and then came back
    /// by a restore is beyond anyone's knowledge.
    fn assert_gone(&self, node: &str, uid: &str, block: &Cidr) {
        let there = self.nodes.get(node).is_some_and(|node| node.object.uid == uid);
        let announced = self.configs.get(node).is_some_and(|c| c.node_uid == uid && c.blocks().any(|b| b == *block));
        assert!(!there || !announced || self.was_restored, "{block} was taken from {node}, which is there");
    }

    fn put_claim(&mut self, claim: Claim) -> Event {
        self.claims.insert(claim.cidr, claim.clone());
        self.fresh.push(Event::Claim(claim.clone()));
        Event::Claim(claim)
    }
}
