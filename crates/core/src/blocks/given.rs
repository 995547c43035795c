//! What a decision about a node is made of, and whose the claims under its name are.

use super::alloc::Allocator;
use super::view::{Claim, ConfigView, NodeView, StateView};
use super::{Owner, Settings};
use crate::cluster::ClusterPlan;

/// Everything that bears on one node.
pub(super) struct Given<'a> {
    pub(super) plan: &'a ClusterPlan,
    pub(super) alloc: &'a Allocator,
    pub(super) settings: &'a Settings,
    pub(super) node: &'a NodeView,
    pub(super) state: Option<&'a StateView>,
    pub(super) config: Option<&'a ConfigView>,
    pub(super) now_ms: u64,
    /// No fresh block is given before: agents may still be telling what they hold.
    pub(super) settled_ms: u64,
}

impl Given<'_> {
    /// What the agent says, if it can speak of this machine.
    pub(super) fn word(&self) -> Option<&StateView> {
        self.state.filter(|state| state.is_of(self.node))
    }

    /// When whoever has not spoken has been waited for long enough.
    pub(super) fn grace_ends(&self) -> u64 {
        self.node.first_seen_ms.saturating_add(self.settings.agent_grace_ms)
    }

    /// For whom a block is claimed; what the Node does not say of its machine is kept from `before`, its own claim.
    pub(super) fn owner(&self, before: Option<&Claim>) -> Owner {
        let mut machine = self.node.machine.clone();
        if let Some(before) = before.map(|claim| &claim.machine).filter(|before| before.is_same(&machine)) {
            if machine.boot_id.is_empty() {
                machine.boot_id.clone_from(&before.boot_id);
            }
            if machine.provider_id.is_empty() {
                machine.provider_id.clone_from(&before.provider_id);
            }
        }
        Owner { node: self.node.name.clone(), node_uid: self.node.object.uid.clone(), machine }
    }

    /// Whether the config speaks of this Node object.
    pub(super) fn config_is_of_node(&self) -> bool {
        self.config.is_some_and(|config| config.node_uid == self.node.object.uid)
    }

    /// Whether a block is announced for this node or the same machine under an older Node object.
    pub(super) fn is_announced(&self, block: &crate::cidr::Cidr) -> bool {
        self.config.is_some_and(|config| config.blocks().any(|announced| announced == *block))
    }
}

/// The claims under the node's name.
#[derive(Default)]
pub(super) struct Holdings<'a> {
    /// This machine's, and live.
    pub(super) live: Vec<&'a Claim>,
    /// This machine's, but given back; nobody has taken them since.
    pub(super) parked: Vec<&'a Claim>,
    /// Live, of another machine under the same name.
    pub(super) foreign: Vec<&'a Claim>,
    /// Whether there are claims that may turn out to be this machine's: until then they are nobody's else.
    pub(super) unclear: bool,
}

impl<'a> Holdings<'a> {
    pub(super) fn of(given: &Given<'a>) -> Self {
        let mut holdings = Self::default();
        for claim in given.alloc.of_node(&given.node.name) {
            let same_object = claim.node_uid == given.node.object.uid;
            if same_object || claim.machine.is_same(&given.node.machine) {
                if claim.is_live() { holdings.live.push(claim) } else { holdings.parked.push(claim) }
            } else if !given.node.machine.is_known() && given.now_ms < given.grace_ends() {
                holdings.unclear = true;
            } else if claim.is_live() {
                holdings.foreign.push(claim);
            }
        }
        // Of several that were given back the latest is the one that its pods may still use.
        holdings.parked.sort_by_key(|claim| std::cmp::Reverse(claim.released_ms));
        holdings
    }

    /// Whether the claim's object names this Node object and machine as they are.
    pub(super) fn is_current(given: &Given<'_>, claim: &Claim) -> bool {
        let node = given.node;
        let known = |was: &str, is: &str| is.is_empty() || was == is;
        claim.is_live()
            && claim.node_uid == node.object.uid
            && known(&claim.machine.boot_id, &node.machine.boot_id)
            && known(&claim.machine.provider_id, &node.machine.provider_id)
    }
}
