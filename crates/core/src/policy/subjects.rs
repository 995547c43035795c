//! Which policies select this node's pods.
//!
//! What was found out of a kind of pod is kept until a policy that selects it, or a namespace's labels, change.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::world::Moment;
use super::{Applied, Direction, NamedPort, Namespaces, OwnPod, Policy, PolicyName, PortMatch, Profile, Rule, World};

/// What makes a class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClassKey {
    pub(super) direction: Direction,
    pub(super) policies: Vec<PolicyName>,
    pub(super) ports: BTreeSet<NamedPort>,
}

/// Policies that select pods in one direction; one whose policies change becomes another.
#[derive(Debug)]
pub(super) struct Selected {
    /// No two have this in common.
    pub(super) serial: u64,
    pub(super) key: ClassKey,
    pub(super) policies: Vec<Arc<Policy>>,
    /// One of the pods.
    pub(super) profile: Profile,
}

impl Selected {
    /// They, to be walked through.
    pub(super) fn applied(&self) -> Applied<'_> {
        Applied::of(self.key.direction, self.policies.iter().map(Arc::as_ref).collect())
    }

    /// Their rules.
    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.policies.iter().flat_map(|policy| policy.rules.get(&self.key.direction).into_iter().flatten())
    }
}

/// Addresses of this node's pods by what selects them, and of those that nothing selects.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) selected: BTreeMap<u64, (Arc<Selected>, Vec<IpAddr>)>,
    pub(super) free: Vec<(Direction, IpAddr)>,
}

/// What is known of kinds of pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Subjects {
    list: Vec<Arc<Policy>>,
    policies: BTreeMap<PolicyName, Arc<Policy>>,
    /// By the namespaces whose pods they may be for.
    named: HashMap<String, BTreeSet<PolicyName>>,
    labelled: BTreeSet<PolicyName>,
    namespaces: Moment,
    known: HashMap<Arc<Profile>, [Option<Arc<Selected>>; 2]>,
    selected: HashMap<ClassKey, Arc<Selected>>,
    serial: u64,
}

impl Subjects {
    /// These are the cluster's policies now.
    pub(super) fn learn(&mut self, world: &World, policies: &[Arc<Policy>]) {
        if self.namespaces != world.namespaces_changed() {
            self.namespaces = world.namespaces_changed();
            self.known.clear();
            self.selected.clear();
        }
        let pointers = |list: &[Arc<Policy>]| list.iter().map(Arc::as_ptr).collect::<HashSet<_>>();
        if self.list.len() == policies.len() && self.list.iter().zip(policies).all(|(a, b)| Arc::ptr_eq(a, b)) {
            return;
        }
        let before = std::mem::replace(&mut self.list, policies.to_vec());
        let (were, are) = (pointers(&before), pointers(policies));
        let came = || policies.iter().filter(|policy| !were.contains(&Arc::as_ptr(policy)));
        let named: HashSet<&PolicyName> = came().map(|policy| &policy.name).collect();
        let mut changed: Vec<Arc<Policy>> = Vec::new();
        for old in before.iter().filter(|old| !are.contains(&Arc::as_ptr(old)) && !named.contains(&old.name)) {
            if let Some(old) = self.policies.remove(&old.name) {
                self.index(&old, false);
                changed.push(old);
            }
        }
        for new in came() {
            // Who read an object again has another copy of what was known.
            if self.policies.get(&new.name) == Some(new) {
                continue;
            }
            if let Some(old) = self.policies.insert(new.name.clone(), Arc::clone(new)) {
                self.index(&old, false);
                changed.push(old);
            }
            self.index(new, true);
            changed.push(Arc::clone(new));
        }
        if !changed.is_empty() {
            let touches = |profile: &Profile| changed.iter().any(|policy| policy.subject.selects(profile, world));
            self.known.retain(|profile, _| !touches(profile));
            let names: BTreeSet<&PolicyName> = changed.iter().map(|policy| &policy.name).collect();
            self.selected.retain(|key, _| !key.policies.iter().any(|name| names.contains(name)));
        }
    }

    fn index(&mut self, policy: &Policy, there: bool) {
        let names = match &policy.subject.namespaces {
            Namespaces::Named(name) => self.named.entry(name.clone()).or_default(),
            Namespaces::Labelled(_) => &mut self.labelled,
        };
        if there {
            names.insert(policy.name.clone());
        } else {
            names.remove(&policy.name);
        }
    }

    /// What selects these pods.
    pub(super) fn of(&mut self, world: &World, own: &[OwnPod]) -> Members {
        let mut members = Members::default();
        for pod in own {
            if !self.known.contains_key(&pod.profile) {
                let found = Direction::ALL.map(|direction| self.find(world, &pod.profile, direction));
                self.known.insert(Arc::clone(&pod.profile), found);
            }
            let known = self.known.get(&pod.profile).into_iter().flatten();
            for (direction, selected) in Direction::ALL.into_iter().zip(known) {
                match selected {
                    Some(selected) => {
                        let entry = members.selected.entry(selected.serial);
                        entry.or_insert_with(|| (Arc::clone(selected), Vec::new())).1.extend(&pod.addresses);
                    }
                    None => members.free.extend(pod.addresses.iter().map(|address| (direction, *address))),
                }
            }
        }
        if self.known.len() > 2 * own.len() {
            let here: HashSet<&Arc<Profile>> = own.iter().map(|pod| &pod.profile).collect();
            self.known.retain(|profile, _| here.contains(profile));
            self.selected.retain(|_, selected| Arc::strong_count(selected) > 1);
        }
        members
    }

    fn find(&mut self, world: &World, profile: &Profile, direction: Direction) -> Option<Arc<Selected>> {
        let names = self.named.get(&profile.namespace).into_iter().flatten().chain(&self.labelled);
        let candidates = names.filter_map(|name| self.policies.get(name)).map(Arc::as_ref);
        let applied = Applied::to(profile, direction, candidates, world);
        if applied.policies().is_empty() {
            return None;
        }
        let asked: BTreeSet<&str> = match direction {
            Direction::Ingress => applied.rules().flat_map(named).collect(),
            Direction::Egress => BTreeSet::new(),
        };
        let key = ClassKey {
            direction,
            policies: applied.policies().iter().map(|policy| policy.name.clone()).collect(),
            ports: profile.ports.iter().filter(|port| asked.contains(port.name.as_str())).cloned().collect(),
        };
        if let Some(selected) = self.selected.get(&key) {
            return Some(Arc::clone(selected));
        }
        self.serial += 1;
        let policies = key.policies.iter().filter_map(|name| self.policies.get(name).cloned()).collect();
        let selected = Selected { serial: self.serial, key: key.clone(), policies, profile: profile.clone() };
        let selected = Arc::new(selected);
        self.selected.insert(key, Arc::clone(&selected));
        Some(selected)
    }
}

/// Names of ports that a rule asks for.
pub(super) fn named(rule: &Rule) -> impl Iterator<Item = &str> {
    rule.ports.iter().flatten().filter_map(|port| match port {
        PortMatch::Named(_, name) => Some(name.as_str()),
        PortMatch::Range(..) => None,
    })
}
