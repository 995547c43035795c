//! One lab for a whole suite; a test locks the node that it disturbs.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::{Lab, NodeHandle, clean};

/// A lab of `N` nodes, brought up when the first test asks for it.
pub struct SharedLab<const N: usize> {
    lab: OnceLock<Lab>,
    nodes: [Mutex<()>; N],
}

impl<const N: usize> SharedLab<N> {
    /// Not up yet.
    #[expect(clippy::new_without_default, reason = "a static cannot call Default")]
    pub const fn new() -> Self {
        Self { lab: OnceLock::new(), nodes: [const { Mutex::new(()) }; N] }
    }

    /// The lab.
    pub fn lab(&'static self) -> &'static Lab {
        clean::begin();
        self.lab.get_or_init(|| Lab::up(&["--nodes", &N.to_string()]))
    }

    /// A node whose agent is ready, for as long as the lock is held.
    pub fn node(&'static self, number: usize) -> (MutexGuard<'static, ()>, NodeHandle) {
        let lab = self.lab();
        let lock = self.nodes[number].lock().unwrap_or_else(PoisonError::into_inner);
        let node = lab.node(number);
        node.agent_ready();
        (lock, node)
    }
}
