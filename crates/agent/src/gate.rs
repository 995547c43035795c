//! Whether an ADD can be served, and what it needs to know for it. Opened by the reconciler once the kernel holds the
//! rules that a pod's first packet must meet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use overlane_core::family::Family;

/// What an ADD needs of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env {
    /// MTU of pods' links, bytes.
    pub mtu: u32,
    /// The node's address of each family: the source that it uses towards its pods.
    pub node_ips: BTreeMap<Family, IpAddr>,
    /// The cluster's families.
    pub families: Vec<Family>,
    /// Links of pods whose address was given to another node; they are off the network.
    pub cut: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
enum State {
    Closed(String),
    Open(Arc<Env>),
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    state: RwLock<State>,
    /// What the node is known to be, also while closed: for CHECK and the audit.
    env: RwLock<Arc<Env>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { state: RwLock::new(State::Closed("the agent is starting".to_owned())), env: RwLock::new(Arc::default()) }
    }
}

impl Gate {
    /// What ADDs need, or why none can be served.
    pub fn enter(&self) -> Result<Arc<Env>, String> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(env) => Ok(Arc::clone(env)),
            State::Closed(reason) => Err(reason.clone()),
        }
    }

    /// What the node was last known to be.
    pub fn env(&self) -> Arc<Env> {
        Arc::clone(&self.env.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what the node is, and lets ADDs through unless there is a reason not to.
    pub fn set(&self, env: Env, closed: Option<String>) {
        let env = Arc::new(env);
        *self.env.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&env);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = closed.map_or(State::Open(env), State::Closed);
    }

    /// Lets none through.
    pub fn close(&self, reason: String) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::Closed(reason);
    }
}
