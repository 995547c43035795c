//! What the controller does, as values: block allocation, identity of nodes, hand-back.
//!
//! [`World`] holds what is known of the cluster; [`World::decide`] turns it into a [`Verdict`] for one node: a list of
//! [`Action`]s in the order in which they are to be done. Whoever does them stops at the first that is refused, puts
//! what it learnt back into the world and asks again. So nothing here relies on a view being up to date:
//!
//! - A block is claimed by creating an object named after it, and changed hands by replacing that object under its
//!   `resourceVersion`: the API refuses the second of two that try.
//! - What a node's `NodeNetworkConfig` announces is settled: it is one object, replaced under its `resourceVersion`, and
//!   no block is struck from it unless the block's claim says why. A second claim for the same node that was never
//!   announced is surplus and is given back.
//! - What looks absent is looked up by name before anything is taken from it ([`Action::ConfirmNode`]): two watches are
//!   never at the same point in time.
//!
//! Times are milliseconds since the Unix epoch, by the clock of whoever calls.

mod absent;
mod adopt;
mod alloc;
mod allocate;
mod cidr_map;
mod conditions;
mod content;
mod gate;
mod given;
mod node;
mod pool;
mod ranges;
mod view;
mod world;

use std::net::IpAddr;

pub use alloc::{Allocator, Choice, PoolUse};
pub use conditions::{ConditionChange, ConditionKind, SERVED, Trouble};
pub use gate::{admit, admit_after};
pub use view::{Claim, ConfigView, Container, MachineId, NodeConditions, NodeView, ObjectRef, StateView};
pub use world::{Source, World};

use crate::cidr::Cidr;

/// When to ask again about a block on which a write for another node is under way, in milliseconds.
const SOON_MS: u64 = 1_000;

/// How long things are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a block rests after its node is gone before another may have it, in milliseconds.
    pub hold_down_ms: u64,
    /// How long an agent may take to say which blocks its pods hold, in milliseconds. Until then no fresh block is
    /// given to a node that has not spoken, nor to any node after a full list of claims.
    pub agent_grace_ms: u64,
}

impl Default for Settings {
    /// Five minutes and five seconds.
    fn default() -> Self {
        Self { hold_down_ms: 300_000, agent_grace_ms: 5_000 }
    }
}

/// For whom a block is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the Node.
    pub node: String,
    /// UID of the Node object.
    pub node_uid: String,
    /// The machine behind it.
    pub machine: MachineId,
}

/// What a `NodeNetworkConfig` is to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// One entry a block; paired blocks beside each other, in the cluster's order of families.
    pub containers: Vec<Container>,
    /// The node's addresses, the first of each family.
    pub node_ips: Vec<IpAddr>,
    /// MAC address of the node's primary interface; empty where no agent has told it.
    pub mac: String,
}

/// One thing to do. Each is safe to be done late, twice, or by two controllers: it is refused where what it was decided
/// on has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look the Node up by name; what follows holds only if its UID is this one, or with `None`, if there is none.
    ConfirmNode {
        /// Name of the Node.
        node: String,
        /// The UID that it must have.
        uid: Option<String>,
    },
    /// Look a block's object up by name; what follows holds only if there is none.
    ConfirmUnclaimed {
        /// The block.
        block: Cidr,
    },
    /// Claim a block: create its object, or replace the one that was read, and only that one.
    Assign {
        /// The block.
        block: Cidr,
        /// The pod CIDR around it; `None` for an adopted block outside every pod CIDR.
        pool: Option<Cidr>,
        /// The object to replace: the node's own claim, or a released one that has rested.
        over: Option<ObjectRef>,
        /// For whom.
        owner: Owner,
    },
    /// Announce the node's blocks: create its `NodeNetworkConfig`, or replace the one that was read, and only that one.
    WriteConfig {
        /// Name of the Node.
        node: String,
        /// UID of the Node object.
        node_uid: String,
        /// The object to replace.
        current: Option<ObjectRef>,
        /// Whether the object itself (not its status) must be rewritten: it speaks of another Node UID.
        rebind: bool,
        /// What it is to say.
        content: Content,
    },
    /// Withdraw the node's blocks: delete its `NodeNetworkConfig`, and only the one that was read.
    DeleteConfig {
        /// Name of the Node.
        node: String,
        /// The object.
        object: ObjectRef,
    },
    /// Write `node.spec.podCIDRs`, which is empty, and in the same write a mark that it was us.
    SetPodCidrs {
        /// Name of the Node.
        node: String,
        /// UID of the Node object.
        uid: String,
        /// The blocks, primary family first.
        cidrs: Vec<Cidr>,
    },
    /// Mark a claim as given back. The object stays, so that the hold-down and the order of reuse outlive controllers.
    Release {
        /// The block.
        block: Cidr,
        /// Its object.
        object: ObjectRef,
        /// When.
        at_ms: u64,
    },
    /// Delete a released claim that has rested, on a block that no pod CIDR is cut into any more: nobody can get it, and it
    /// would keep its range from being given for good.
    DeleteClaim {
        /// The block.
        block: Cidr,
        /// Its object.
        object: ObjectRef,
    },
    /// Delete the `NodeState` of a machine that is gone. An agent that lives after all makes it anew, and so proves it.
    DeleteState {
        /// Name of the Node.
        node: String,
        /// The object.
        object: ObjectRef,
    },
    /// Take the startup taint from the Node.
    RemoveStartupTaint {
        /// Name of the Node.
        node: String,
        /// UID of the Node object.
        uid: String,
        /// Where in the list it is; it is looked at once more.
        index: usize,
    },
    /// Write conditions of the Node.
    SetConditions {
        /// Name of the Node.
        node: String,
        /// UID of the Node object.
        uid: String,
        /// What changes.
        changes: Vec<ConditionChange>,
    },
}

/// What is to be done about one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// In this order; the first that is refused ends it.
    pub actions: Vec<Action>,
    /// What stands in the way of serving the node, or of serving it well.
    pub trouble: Option<Trouble>,
    /// When to ask again, if nothing changes before.
    pub retry_at_ms: Option<u64>,
}

impl Verdict {
    /// Asks again at `at_ms`, or sooner if that was to be already.
    fn retry_at(&mut self, at_ms: u64) {
        self.retry_at_ms = Some(self.retry_at_ms.map_or(at_ms, |before| before.min(at_ms)));
    }
}

/// The first address of a family, as Kubernetes itself takes a node's.
fn first_of(addresses: &[IpAddr], family: crate::family::Family) -> Option<IpAddr> {
    addresses.iter().copied().find(|addr| crate::family::Family::of(addr) == family)
}
