//! Faults of network policies are told where people look: by an Event of the object, and for ClusterNetworkPolicies by a
//! condition, too. What they mean is decided elsewhere; what means nothing is closed, and somebody wonders why.
//!
//! This is the pure part: which objects are to be told of. [`Inspector`] does it.

mod fact;
mod run;
mod tell;

pub use fact::{PolicyFact, key as policy_key};
pub use run::Inspector;

use std::collections::{BTreeMap, BTreeSet};

/// What is known of policies: of sound ones nothing is kept but what their condition lacks.
#[derive(Debug, Default)]
pub struct Policies {
    /// Those that are to be told of.
    open: BTreeMap<String, PolicyFact>,
    /// Generations that faults were told of.
    told: BTreeMap<String, (String, i64)>,
}

impl Policies {
    /// Learns a policy. Whether it is to be told of.
    pub fn hear(&mut self, fact: PolicyFact) -> bool {
        let told = self.told.get(&fact.key).is_some_and(|(uid, generation)| {
            *uid == fact.uid && *generation == fact.generation && fact.condition.is_none()
        });
        if fact.is_settled() || told {
            self.open.remove(&fact.key);
            if fact.message.is_none() {
                self.told.remove(&fact.key);
            }
            return false;
        }
        self.open.insert(fact.key.clone(), fact);
        true
    }

    /// Learns that a policy is gone.
    pub fn forget(&mut self, key: &str) {
        self.open.remove(key);
        self.told.remove(key);
    }

    /// Forgets those of a kind that a full list did not show.
    pub fn retain(&mut self, namespaced: bool, seen: &BTreeSet<String>) {
        let stays = |key: &String| fact::is_namespaced(key) != namespaced || seen.contains(key);
        self.open.retain(|key, _| stays(key));
        self.told.retain(|key, _| stays(key));
    }

    /// What is to be told of a policy.
    pub fn open(&self, key: &str) -> Option<&PolicyFact> {
        self.open.get(key)
    }

    /// Learns that it was told. What was heard meanwhile is still to be told.
    pub fn told(&mut self, fact: &PolicyFact) {
        if self.open.get(&fact.key) == Some(fact) {
            self.open.remove(&fact.key);
        }
        if fact.message.is_some() {
            self.told.insert(fact.key.clone(), (fact.uid.clone(), fact.generation));
        }
    }
}
