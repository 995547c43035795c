//! The decision about a node that is there.

use super::alloc::Choice;
use super::given::{Given, Holdings};
use super::view::{Claim, ObjectRef};
use super::{Action, Trouble, Verdict, adopt, allocate, conditions, content};
use crate::cidr::Cidr;
use crate::cluster::{NodeCidrs, Routing};

/// A block that the node is to have.
pub(super) struct Slot {
    pub(super) block: Cidr,
    pub(super) pool: Option<Cidr>,
    pub(super) write: Write,
}

/// What it takes to have it.
pub(super) enum Write {
    /// Nothing: it is claimed already.
    No,
    /// A new object.
    Create,
    /// Another object in place of one: the node's own claim, or a rested one.
    Replace(ObjectRef),
}

impl Slot {
    /// A claim of this machine; `released` ones and those of an older Node object are rewritten.
    pub(super) fn keep(given: &Given<'_>, claim: &Claim) -> Self {
        let current = Holdings::is_current(given, claim);
        let write = if current { Write::No } else { Write::Replace(claim.object.clone()) };
        // A pod CIDR that was made larger is told as it is now.
        let pool = given.alloc.pool_around(&claim.cidr).or(claim.pool);
        Self { block: claim.cidr, pool, write }
    }

    /// A block that is not this machine's yet.
    pub(super) fn take(choice: Choice) -> Self {
        let write = choice.over.map_or(Write::Create, Write::Replace);
        Self { block: choice.block, pool: choice.pool, write }
    }
}

/// What a node is to have, by the rules of `allocate` or of `adopt`.
#[derive(Default)]
pub(super) struct Want<'a> {
    pub(super) slots: Vec<Slot>,
    /// Whether that is all of it: a node that has never had a block gets all families together.
    pub(super) complete: bool,
    /// Live claims that were never announced and are one too many: two controllers each made one.
    pub(super) surplus: Vec<&'a Claim>,
    /// Live claims that the node is to lose.
    pub(super) unwanted: Vec<&'a Claim>,
    /// Announced blocks of which it is not known whose they are: until then nothing is announced instead.
    pub(super) unsure: bool,
    /// Blocks that must prove to be unclaimed before the trouble is told.
    pub(super) prove: Vec<Cidr>,
    pub(super) trouble: Option<Trouble>,
    pub(super) retry_at_ms: Option<u64>,
}

impl Want<'_> {
    pub(super) fn has(&self, block: &Cidr) -> bool {
        self.slots.iter().any(|slot| slot.block == *block)
    }

    /// Asks again at `at_ms`, or sooner if that was to be already.
    pub(super) fn retry_at(&mut self, at_ms: u64) {
        self.retry_at_ms = Some(self.retry_at_ms.map_or(at_ms, |before| before.min(at_ms)));
    }
}

pub(super) fn decide(given: &Given<'_>) -> Verdict {
    let holdings = Holdings::of(given);
    let mut want = match given.plan.node_cidrs() {
        NodeCidrs::Allocate => allocate::want(given, &holdings),
        NodeCidrs::Adopt => adopt::want(given, &holdings),
    };
    if holdings.unclear {
        want.retry_at(given.grace_ends());
    }
    let announced = given.config.is_some_and(|config| config.blocks().next().is_some());
    if want.unsure {
        return Verdict { retry_at_ms: want.retry_at_ms, ..Verdict::default() };
    }
    if let Some(trouble) = rival(given, &want) {
        want.trouble = Some(trouble);
        want.complete = false;
    }
    let served = !want.slots.is_empty() && (want.complete || announced);
    if served && want.trouble.is_none() {
        no_address(given, &mut want);
    }
    let mut actions = Vec::new();
    if needs_proof(given, &holdings, &want) {
        let node = given.node.name.clone();
        actions.push(Action::ConfirmNode { node, uid: Some(given.node.object.uid.clone()) });
    }
    claims(given, &want, &mut actions);
    let settled = announce(given, &holdings, &want, served, &mut actions);
    hand_back(given, &holdings, &want, settled, &mut actions);
    let changes = conditions::changes(given, served, want.trouble.as_ref());
    if !changes.is_empty() {
        actions.extend(want.prove.iter().map(|block| Action::ConfirmUnclaimed { block: *block }));
        let uid = given.node.object.uid.clone();
        actions.push(Action::SetConditions { node: given.node.name.clone(), uid, changes });
    }
    if let Some(index) = given.node.conditions.startup_taint.filter(|_| served && conditions::agent_is_ready(given)) {
        let (node, uid) = (given.node.name.clone(), given.node.object.uid.clone());
        actions.push(Action::RemoveStartupTaint { node, uid, index });
    }
    obsolete_word(given, &mut want, &mut actions);
    Verdict { actions, trouble: want.trouble, retry_at_ms: want.retry_at_ms }
}

/// An older claim of another node on what this one is to have. Blocks of one size cannot get there, for the API refuses
/// the second; adopted ones of different sizes can.
fn rival(given: &Given<'_>, want: &Want<'_>) -> Option<Trouble> {
    want.slots.iter().filter(|slot| !given.is_announced(&slot.block)).find_map(|slot| {
        let own = given.alloc.claim(&slot.block).filter(|claim| claim.node == given.node.name && claim.is_live());
        let rank = |claim: &Claim| (claim.created_ms, claim.cidr);
        let by = given
            .alloc
            .rivals(&slot.block, &given.node.name)
            .find(|other| own.is_none_or(|own| rank(other) < rank(own)))?;
        Some(Trouble::PodCidrTaken { block: slot.block, by: by.node.clone() })
    })
}

fn no_address(given: &Given<'_>, want: &mut Want<'_>) {
    if given.plan.routing() != Routing::Native {
        return;
    }
    // A tunnel carries each family over either.
    let any = given.plan.routing() != Routing::Native && !given.node.addresses.is_empty();
    let lacks = |family: &crate::family::Family| {
        want.slots.iter().any(|slot| slot.block.family() == *family)
            && !any
            && super::first_of(&given.node.addresses, *family).is_none()
    };
    let families: Vec<_> = given.plan.families().iter().copied().filter(lacks).collect();
    if families.is_empty() {
        return;
    }
    // A Node is often made first and given its addresses a moment later.
    if given.now_ms < given.grace_ends() {
        want.retry_at(given.grace_ends());
    } else {
        want.trouble = Some(Trouble::NoNodeAddress { families });
    }
}

/// Whether anything is taken from a claim because of what the Node is: then our view of the Node must be the latest.
fn needs_proof(given: &Given<'_>, holdings: &Holdings<'_>, want: &Want<'_>) -> bool {
    let own = |block: &Cidr| given.alloc.claim(block).filter(|claim| claim.node == given.node.name);
    let rebinds =
        want.slots.iter().filter(|slot| matches!(slot.write, Write::Replace(_))).any(|slot| {
            own(&slot.block).is_some_and(|claim| claim.node_uid != given.node.object.uid || !claim.is_live())
        });
    rebinds || !holdings.foreign.is_empty() || !want.unwanted.is_empty()
}

fn claims(given: &Given<'_>, want: &Want<'_>, actions: &mut Vec<Action>) {
    for slot in &want.slots {
        let over = match &slot.write {
            Write::No => continue,
            Write::Create => None,
            Write::Replace(object) => Some(object.clone()),
        };
        let own = given.alloc.claim(&slot.block).filter(|claim| claim.node == given.node.name);
        actions.push(Action::Assign { block: slot.block, pool: slot.pool, over, owner: given.owner(own) });
    }
}

/// Makes the config say what the node has. Gives whether it says so already.
fn announce(
    given: &Given<'_>,
    holdings: &Holdings<'_>,
    want: &Want<'_>,
    served: bool,
    actions: &mut Vec<Action>,
) -> bool {
    let node = given.node.name.clone();
    if !served {
        let other = given.config.filter(|config| config.blocks().next().is_some() || !given.config_is_of_node());
        if let Some(config) = other.filter(|_| !holdings.unclear && want.slots.is_empty()) {
            actions.push(Action::DeleteConfig { node, object: config.object.clone() });
        }
        return false;
    }
    let content = content::of(given, &want.slots);
    let settled =
        given.config_is_of_node() && given.config.is_some_and(|config| config.content.as_ref() == Some(&content));
    if !settled {
        let current = given.config.map(|config| config.object.clone());
        let rebind = current.is_some() && !given.config_is_of_node();
        let node_uid = given.node.object.uid.clone();
        actions.push(Action::WriteConfig { node: node.clone(), node_uid, current, rebind, content });
    }
    let allocates = given.plan.node_cidrs() == NodeCidrs::Allocate;
    if allocates && want.complete && given.node.pod_cidrs.is_empty() {
        let mut cidrs: Vec<Cidr> = Vec::new();
        for pool in given.plan.pools() {
            // The field takes one of each family.
            cidrs.extend(want.slots.iter().map(|slot| slot.block).find(|block| block.family() == pool.cidr.family()));
        }
        actions.push(Action::SetPodCidrs { node, uid: given.node.object.uid.clone(), cidrs });
    }
    settled
}

fn hand_back(given: &Given<'_>, holdings: &Holdings<'_>, want: &Want<'_>, settled: bool, actions: &mut Vec<Action>) {
    for claim in holdings.foreign.iter().chain(&want.unwanted) {
        actions.push(Action::Release { block: claim.cidr, object: claim.object.clone(), at_ms: given.now_ms });
    }
    // Not deleted, though nobody ever used it: another controller may be about to announce it, and rests as long as that
    // may take.
    for claim in want.surplus.iter().filter(|_| settled) {
        actions.push(Action::Release { block: claim.cidr, object: claim.object.clone(), at_ms: given.now_ms });
    }
}

/// The word of a machine that is gone is deleted once the hold-down has passed, so that what it held is free again.
fn obsolete_word(given: &Given<'_>, want: &mut Want<'_>, actions: &mut Vec<Action>) {
    let Some((state, since)) = given.state.and_then(|state| Some((state, state.obsolete_since_ms?))) else { return };
    let due = since.saturating_add(given.settings.hold_down_ms);
    if given.now_ms < due {
        want.retry_at(due);
        return;
    }
    let node = given.node.name.clone();
    if !actions.iter().any(|action| matches!(action, Action::ConfirmNode { .. })) {
        actions.push(Action::ConfirmNode { node: node.clone(), uid: Some(given.node.object.uid.clone()) });
    }
    actions.push(Action::DeleteState { node, object: state.object.clone() });
}
