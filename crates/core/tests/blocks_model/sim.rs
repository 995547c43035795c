//! Machines with agents, the API, and controllers; and what must hold at every moment.

use std::collections::{BTreeMap, BTreeSet};

use overlane_core::blocks::{MachineId, Settings, StateView};
use overlane_core::cidr::Cidr;
use overlane_core::cluster::ClusterPlan;

use crate::api::{Api, Store};
use crate::controller::Controller;

#[derive(Clone, Debug)]
pub enum Op {
    /// A new machine registers under this name, unless the name is taken.
    Join(u8),
    /// The Node object goes; the machine with it, or not.
    Leave {
        node: u8,
        dies: bool,
    },
    /// The machine of this name registers again, if its Node object is gone.
    Recreate(u8),
    /// The machine of this name reboots: its pods are gone.
    Reboot(u8),
    /// The agent of this machine reads its config and tells what it holds.
    Agent(u8),
    Deliver {
        who: u8,
        kind: u8,
        count: u8,
    },
    Begin {
        who: u8,
        which: u8,
    },
    Step {
        who: u8,
        which: u8,
    },
    Restart(u8),
    Wait(u64),
    Snapshot,
    /// The store is as it was; Nodes of machines that are there come back, those of others go.
    Restore,
}

#[derive(Clone, Debug)]
struct Machine {
    name: String,
    id: MachineId,
    held: BTreeSet<Cidr>,
    /// Its Node object was deleted, and it does not register again by itself.
    left: bool,
    /// When what it tells last ceased to be what it should tell.
    behind_ms: u64,
}

pub struct Sim {
    plan: ClusterPlan,
    settings: Settings,
    api: Api,
    controllers: Vec<Controller>,
    /// By number; the newest of a name is the one that registers.
    machines: BTreeMap<u32, Machine>,
    next_machine: u32,
    now_ms: u64,
    snapshot: Option<Store>,
    /// Controllers whose watches ended and that have not listed yet.
    cut: Vec<bool>,
}

/// Views lag, agents speak and jobs end within this. It must be well under the agents' grace.
const LAG_MS: u64 = 1_000;

impl Sim {
    pub fn new(plan: ClusterPlan, controllers: usize) -> Self {
        let settings = Settings::default();
        let now_ms = 1_000_000;
        let api = Api { hold_down_ms: settings.hold_down_ms, ..Api::default() };
        let controllers: Vec<Controller> =
            (0..controllers).map(|_| Controller::start(&plan, settings, &api, now_ms)).collect();
        Self {
            plan,
            settings,
            api,
            cut: vec![false; controllers.len()],
            controllers,
            machines: BTreeMap::new(),
            next_machine: 0,
            now_ms,
            snapshot: None,
        }
    }

    pub fn apply(&mut self, op: &Op) {
        let name = |node: &u8| format!("n{node}");
        match op {
            Op::Join(node) => self.join(&name(node)),
            Op::Leave { node, dies } => {
                self.api.delete_node(&name(node));
                self.machines.values_mut().filter(|machine| machine.name == name(node)).for_each(|m| m.left = true);
                if *dies {
                    self.machines.retain(|_, machine| machine.name != name(node));
                }
            }
            Op::Recreate(node) => self.recreate(&name(node)),
            Op::Reboot(node) => self.reboot(&name(node)),
            Op::Agent(node) => self.agent(&name(node)),
            Op::Deliver { who, kind, count } => {
                for _ in 0..*count {
                    self.deliver(usize::from(*who), usize::from(*kind));
                }
            }
            Op::Begin { who, which } => self.controllers[usize::from(*who)].begin(usize::from(*which), self.now_ms),
            Op::Step { who, which } => {
                self.controllers[usize::from(*who)].step(usize::from(*which), &mut self.api, self.now_ms);
            }
            Op::Restart(who) => self.restart(usize::from(*who)),
            Op::Wait(ms) => self.wait(*ms),
            Op::Snapshot => self.snapshot = Some(self.api.store()),
            Op::Restore => self.restore(),
        }
        self.route();
        self.check();
    }

    fn join(&mut self, name: &str) {
        // The same name on two living machines is nothing that a controller can set right.
        if self.api.nodes.contains_key(name) || self.machines.values().any(|machine| machine.name == name) {
            return;
        }
        self.next_machine += 1;
        let id =
            MachineId { boot_id: format!("b{}", self.next_machine), provider_id: format!("p{}", self.next_machine) };
        self.api.create_node(name, id.clone(), self.now_ms);
        let machine = Machine { name: name.to_owned(), id, held: BTreeSet::new(), left: false, behind_ms: self.now_ms };
        self.machines.insert(self.next_machine, machine);
    }

    fn recreate(&mut self, name: &str) {
        let Some(machine) = self.machines.values_mut().find(|machine| machine.name == name) else { return };
        machine.left = false;
        if !self.api.nodes.contains_key(name) {
            self.api.create_node(name, machine.id.clone(), self.now_ms);
        }
    }

    fn restore(&mut self) {
        let Some(store) = self.snapshot.clone() else { return };
        self.api.restore(store);
        for (controller, cut) in self.controllers.iter_mut().zip(&mut self.cut) {
            controller.queues.iter_mut().for_each(std::collections::VecDeque::clear);
            // The API servers are down while their store is restored: what was under way has failed.
            while !controller.jobs.is_empty() {
                controller.end(0);
            }
            *cut = true;
        }
        // A kubelet that finds a Node of its name takes it over.
        for machine in self.machines.values() {
            let id = machine.id.clone();
            if self.api.nodes.contains_key(&machine.name) {
                self.api.touch_node(&machine.name, |node| node.machine = id);
            }
        }
    }

    fn relist(&mut self, who: usize) {
        if std::mem::take(&mut self.cut[who]) {
            self.controllers[who].queues.iter_mut().for_each(std::collections::VecDeque::clear);
            self.controllers[who].list(&self.api, self.now_ms);
        }
    }

    fn reboot(&mut self, name: &str) {
        let number = self.next_machine + 1;
        let Some(machine) = self.machines.values_mut().find(|machine| machine.name == name) else { return };
        self.next_machine = number;
        machine.id.boot_id = format!("b{number}");
        machine.held.clear();
        let id = machine.id.clone();
        self.api.touch_node(name, |node| node.machine = id);
    }

    /// Starts pods on what is announced for its Node, and says what it holds.
    fn agent(&mut self, name: &str) {
        let Some(machine) = self.machines.values_mut().find(|machine| machine.name == name) else { return };
        let node = self.api.nodes.get(name).filter(|node| node.machine == machine.id);
        let config = self.api.configs.get(name);
        let announced: BTreeSet<Cidr> = match (node, config) {
            (Some(node), Some(config)) if config.node_uid == node.object.uid => config.blocks().collect(),
            _ => BTreeSet::new(),
        };
        machine.held.extend(announced);
        let told = self.api.states.get(name);
        if told.is_some_and(|told| told.held.iter().eq(&machine.held) && told.boot_id == machine.id.boot_id) {
            return;
        }
        let state = StateView {
            node: name.to_owned(),
            boot_id: machine.id.boot_id.clone(),
            held: machine.held.iter().copied().collect(),
            ready: true,
            ..StateView::default()
        };
        self.api.put_state(state);
    }

    /// Sends what happened to everyone.
    fn route(&mut self) {
        for event in std::mem::take(&mut self.api.fresh) {
            for controller in &mut self.controllers {
                controller.queues[event.kind()].push_back((self.now_ms, event.clone()));
            }
        }
    }

    fn deliver(&mut self, who: usize, kind: usize) {
        self.relist(who);
        let controller = &mut self.controllers[who];
        if let Some((_, event)) = controller.queues[kind].pop_front() {
            controller.learn(event, self.now_ms);
        }
    }

    fn restart(&mut self, who: usize) {
        self.controllers[who] = Controller::start(&self.plan, self.settings, &self.api, self.now_ms);
    }

    /// Time passes, at most a lag at a time: nothing is later than that.
    fn wait(&mut self, mut ms: u64) {
        while ms > 0 {
            let step = ms.min(LAG_MS / 2);
            self.now_ms += step;
            ms -= step;
            let oldest = self.now_ms.saturating_sub(LAG_MS);
            for who in 0..self.controllers.len() {
                self.relist(who);
                for kind in 0..4 {
                    while self.controllers[who].queues[kind].front().is_some_and(|(at, _)| *at <= oldest) {
                        self.deliver(who, kind);
                    }
                }
                let controller = &mut self.controllers[who];
                while let Some(at) = controller.jobs.iter().position(|job| job.begun_ms <= oldest) {
                    controller.end(at);
                }
                controller.tick(self.now_ms);
            }
            self.agents_catch_up(oldest);
        }
    }

    /// An agent whose word is not what it should be for longer than the lag speaks.
    fn agents_catch_up(&mut self, oldest: u64) {
        let mut late = Vec::new();
        let missing: Vec<String> = self
            .machines
            .values()
            .filter(|machine| !machine.left && !self.api.nodes.contains_key(&machine.name))
            .map(|machine| machine.name.clone())
            .collect();
        missing.iter().for_each(|name| self.recreate(name));
        let here = |name: &String| self.machines.values().any(|machine| machine.name == *name && !machine.left);
        let dead: Vec<String> = self.api.nodes.keys().filter(|name| !here(name)).cloned().collect();
        dead.iter().for_each(|name| self.api.delete_node(name));
        self.route();
        for machine in self.machines.values_mut() {
            let told = self.api.states.get(&machine.name);
            let fine =
                told.is_some_and(|told| told.held.iter().eq(&machine.held) && told.boot_id == machine.id.boot_id);
            if fine {
                machine.behind_ms = self.now_ms;
            } else if machine.behind_ms <= oldest {
                late.push(machine.name.clone());
            }
        }
        for name in late {
            self.agent(&name);
            self.route();
        }
    }

    /// Everything is delivered and done, until nothing is left to do; then hold-downs pass, and again.
    pub fn settle(&mut self) {
        // Once for what is released now, once for words that are deleted then, once for those who waited for both.
        for _ in 0..3 {
            self.quiesce();
            self.wait(self.settings.hold_down_ms + 2 * self.settings.agent_grace_ms);
            self.route();
        }
        self.quiesce();
        self.check_settled();
    }

    fn quiesce(&mut self) {
        let names: Vec<String> = self.machines.values().map(|machine| machine.name.clone()).collect();
        for turn in 0.. {
            assert!(turn < 5_000, "controllers never come to rest");
            let mut busy = false;
            for name in &names {
                self.agent(name);
            }
            self.route();
            for who in 0..self.controllers.len() {
                self.relist(who);
                for kind in 0..4 {
                    while !self.controllers[who].queues[kind].is_empty() {
                        self.deliver(who, kind);
                    }
                }
                let controller = &mut self.controllers[who];
                for _ in 0..3 {
                    controller.begin(0, self.now_ms);
                    busy |= !controller.jobs.is_empty() || !controller.ready.is_empty();
                    controller.step(turn, &mut self.api, self.now_ms);
                }
                self.route();
                self.check();
            }
            if !busy {
                return;
            }
        }
    }

    /// How many Nodes have a block of every family announced.
    pub fn served(&self) -> usize {
        let families = self.plan.families().len();
        let served =
            |name: &String| self.api.configs.get(name).is_some_and(|config| config.blocks().count() == families);
        self.api.nodes.keys().filter(|name| served(name)).count()
    }

    fn check(&self) {
        let mut owner: BTreeMap<Cidr, u32> = BTreeMap::new();
        for (number, machine) in &self.machines {
            for block in &machine.held {
                let other = owner.insert(*block, *number);
                assert!(other.is_none(), "{block} is held by machines {other:?} and {number} ({})", machine.name);
            }
        }
        let mut announced: BTreeMap<Cidr, &str> = BTreeMap::new();
        for (name, config) in &self.api.configs {
            if self.api.nodes.get(name).is_none_or(|node| node.object.uid != config.node_uid) {
                continue;
            }
            for block in config.blocks() {
                let other = announced.insert(block, name);
                assert!(other.is_none(), "{block} is announced for {other:?} and {name}");
            }
        }
    }

    fn check_settled(&self) {
        let families = self.plan.families().len();
        let capacity = self.plan.pools().iter().map(|pool| pool.block_count()).min().unwrap();
        // Machines whose Node object is gone keep what their pods hold.
        let lingering = self.machines.values().filter(|machine| !self.api.nodes.contains_key(&machine.name));
        let kept: usize = lingering.map(|machine| machine.held.len() / families).sum();
        let room = usize::try_from(capacity).unwrap() - kept;
        assert_eq!(
            self.served(),
            self.api.nodes.len().min(room),
            "served, of {} nodes and room for {room}",
            self.api.nodes.len()
        );
        for (block, claim) in &self.api.claims {
            if claim.released_ms.is_some() {
                continue;
            }
            let node = self.api.nodes.get(&claim.node).unwrap_or_else(|| panic!("{block} leaked: {claim:?}"));
            assert_eq!(node.object.uid, claim.node_uid, "{block} is bound to another Node object");
            // A node that found only some of its families' blocks keeps them for when the others are there.
            let Some(config) = self.api.configs.get(&claim.node) else { continue };
            assert!(config.blocks().any(|announced| announced == *block), "{block} leaked: {claim:?}, {config:?}");
        }
        for (name, config) in &self.api.configs {
            let node = self.api.nodes.get(name).unwrap_or_else(|| panic!("config of no node {name}"));
            let blocks: Vec<Cidr> = config.blocks().collect();
            if blocks.len() < families {
                // A restored store can cost a node one of its blocks while none is left.
                assert!(self.api.was_restored && node.conditions.overlane.as_ref().is_some_and(|(fine, _)| !fine));
                continue;
            }
            assert_eq!(blocks.len(), families, "{name} has {blocks:?}");
            let texts: Vec<String> = blocks.iter().map(Cidr::to_string).collect();
            let stale = node.conditions.overlane.as_ref().is_some_and(|(fine, why)| !fine && why == "StalePodCIDRs");
            assert_eq!(node.pod_cidrs == texts, !stale, "{name}: {:?} {texts:?} {:?}", node.pod_cidrs, node.conditions);
            let machine = self.machines.values().find(|machine| machine.name == *name).unwrap();
            assert!(blocks.iter().all(|block| machine.held.contains(block)));
            let kept = machine.held.iter().all(|block| blocks.contains(block));
            assert!(kept || self.api.was_restored, "{name} lost blocks under its pods: {:?}, {blocks:?}", machine.held);
        }
    }
}
