//! Which blocks are taken, and which one is next.
//!
//! Order: never-used blocks by index first, then the one that has been free the longest and whose hold-down has
//! passed. A block is not given while an object, an agent's word or a write under way stands on it or overlaps it.

use std::collections::{BTreeMap, BTreeSet};

use super::cidr_map::{CidrMap, Marks};
use super::pool::PoolIndex;
use super::ranges;
use super::view::{Claim, ObjectRef};
use crate::cidr::Cidr;
use crate::cluster::{ClusterPlan, Pool};

/// Most blocks of one agent's word that are believed: no node has that many, and an agent that lies must not be able to
/// keep a cluster from its addresses.
const MOST_HELD: usize = 16;
/// A held block may be so many bits shorter than the pool's: adopted ones have any mask, and masks change.
const WIDEST_HELD: u8 = 4;

/// A block that may be claimed, and the object to replace for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The block.
    pub block: Cidr,
    /// The pod CIDR around it.
    pub pool: Option<Cidr>,
    /// The released claim on it, if there is one.
    pub over: Option<ObjectRef>,
}

/// How full a pool is, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// The pool.
    pub pool: Pool,
    /// All of them; `u64::MAX` stands for that and more.
    pub total: u64,
    /// Claimed.
    pub used: u64,
    /// Given back, hold-down passed or not.
    pub resting: u64,
    /// Held by an agent's word, announced or reserved, without a claim.
    pub kept: u64,
}

/// An index over claims and what else keeps a block from being given.
#[derive(Clone, Debug, Default)]
pub struct Allocator {
    pools: Vec<PoolIndex>,
    /// Boxed: a tree's nodes are half empty where keys come in order.
    claims: CidrMap<Box<Claim>>,
    /// In order.
    by_node: BTreeMap<String, Vec<Cidr>>,
    /// Blocks that agents say are held.
    held: Marks,
    /// Blocks that configs announce. They have claims, but for a store that was restored in between.
    announced: Marks,
    /// Blocks of writes under way.
    reserved: CidrMap<String>,
    /// Blocks whose holder's word was deleted, and until when an agent that lives may repeat it.
    quiet: CidrMap<u64>,
}

impl Allocator {
    /// Takes over the pod CIDRs of a plan.
    pub fn set_plan(&mut self, plan: &ClusterPlan) {
        self.pools = plan.pools().iter().copied().map(PoolIndex::new).collect();
        for slot in 0..self.pools.len() {
            self.rebuild(slot);
        }
    }

    /// The claim on exactly this block.
    #[must_use]
    pub fn claim(&self, block: &Cidr) -> Option<&Claim> {
        self.claims.get(block).map(|claim| &**claim)
    }

    /// All claims, live and released, in order of blocks.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.claims.iter().map(|(_, claim)| &**claim)
    }

    /// Blocks of writes under way, each with the node that is to have it.
    pub fn reserved(&self) -> impl Iterator<Item = (&Cidr, &str)> {
        self.reserved.iter().map(|(block, node)| (block, node.as_str()))
    }

    /// The claims under a node's name, live and released.
    pub fn of_node<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Claim> + use<'a> {
        self.by_node.get(node).into_iter().flatten().filter_map(|block| self.claim(block))
    }

    /// Names under which there are claims.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.by_node.keys().map(String::as_str)
    }

    /// Learns a claim. Gives the claim that was known before.
    pub fn upsert(&mut self, claim: Claim) -> Option<Claim> {
        let block = claim.cidr;
        let old = self.remove(&block);
        let of_node = self.by_node.entry(claim.node.clone()).or_default();
        if let Err(place) = of_node.binary_search(&block) {
            of_node.reserve_exact(1);
            of_node.insert(place, block);
        }
        if let Some(released) = claim.released_ms {
            self.each_exact(&block, |pool, index| pool.resting.insert((released, index)));
        }
        self.claims.insert(block, Box::new(claim));
        self.take(&block);
        old
    }

    /// Forgets a claim.
    pub fn remove(&mut self, block: &Cidr) -> Option<Claim> {
        let old = self.claims.remove(block)?;
        if let Some(blocks) = self.by_node.get_mut(&old.node) {
            blocks.retain(|other| other != block);
            if blocks.is_empty() {
                self.by_node.remove(&old.node);
            }
        }
        if let Some(released) = old.released_ms {
            self.each_exact(block, |pool, index| pool.resting.remove(&(released, index)));
        }
        self.give(block);
        Some(*old)
    }

    /// Keeps a block for a write under way.
    pub fn reserve(&mut self, block: Cidr, node: &str) {
        self.reserved.insert(block, node.to_owned());
        self.take(&block);
    }

    /// Ends what [`Allocator::reserve`] began.
    pub fn unreserve(&mut self, block: &Cidr) {
        if self.reserved.remove(block).is_some() {
            self.give(block);
        }
    }

    /// Replaces what a node's agent says that it holds.
    pub(super) fn set_held(&mut self, node: &str, before: &[Cidr], after: &[Cidr]) {
        let believed = |list: &[Cidr]| -> Vec<Cidr> {
            list.iter().filter(|block| self.is_node_sized(block)).take(MOST_HELD).copied().collect()
        };
        let after = believed(after);
        for block in before.iter().filter(|block| !after.contains(block)) {
            self.held.clear(block, node);
            self.give(block);
        }
        for block in &after {
            self.held.set(*block, node);
            self.quiet.remove(block);
            self.take(block);
        }
    }

    /// Whether a node may have a block of this size: none is given one that is larger than sixteen of the pool's.
    fn is_node_sized(&self, block: &Cidr) -> bool {
        self.pools
            .iter()
            .all(|index| !index.pool.cidr.overlaps(block) || block.prefix_len() + WIDEST_HELD >= index.pool.node_mask)
    }

    /// Replaces what is announced for a node.
    pub(super) fn set_announced(&mut self, node: &str, before: &BTreeSet<Cidr>, after: &BTreeSet<Cidr>) {
        for block in before.difference(after) {
            self.announced.clear(block, node);
            self.give(block);
        }
        for block in after.difference(before) {
            self.announced.set(*block, node);
            self.take(block);
        }
    }

    /// Keeps a block until a time, so that a holder whose word was deleted may repeat it.
    pub(super) fn keep_quiet(&mut self, block: Cidr, until_ms: u64) {
        self.quiet.insert(block, until_ms);
        self.take(&block);
    }

    /// Ends what [`Allocator::keep_quiet`] began, where its time has come. Gives whether any did.
    pub(super) fn expire(&mut self, now_ms: u64) -> bool {
        let over: Vec<Cidr> =
            self.quiet.iter().filter(|(_, until)| **until <= now_ms).map(|(block, _)| *block).collect();
        for block in &over {
            self.quiet.remove(block);
            self.give(block);
        }
        !over.is_empty()
    }

    /// Live claims of other nodes that overlap a block.
    pub(super) fn rivals<'a>(&'a self, block: &Cidr, node: &'a str) -> impl Iterator<Item = &'a Claim> + use<'a> {
        self.claims
            .overlapping(block)
            .map(|(_, claim)| &**claim)
            .filter(move |claim| claim.is_live() && claim.node != node)
    }

    /// Whether, and over which object, this very block can be given to a node now. Its own released claim always can.
    ///
    /// # Errors
    /// What stands on it.
    pub(super) fn available(&self, block: &Cidr, node: &str, now_ms: u64, hold_down_ms: u64) -> Result<Choice, Taken> {
        if let Some(by) = self.held.by_other(block, node).or_else(|| self.announced.by_other(block, node)) {
            return Err(Taken::Held(by.to_owned()));
        }
        let mut over = None;
        for (other, claim) in self.claims.overlapping(block) {
            let own = claim.node == node;
            match claim.released_ms {
                None if own && other == block => over = Some(claim.object.clone()),
                // The node's own, of another size: it goes once this one is announced.
                None if own => {}
                None => return Err(Taken::Claimed(claim.node.clone())),
                Some(released) if !own && released.saturating_add(hold_down_ms) > now_ms => {
                    return Err(Taken::Resting(released.saturating_add(hold_down_ms)));
                }
                Some(_) if other == block => over = Some(claim.object.clone()),
                // A rested claim of another size: nobody has it, and nobody can get it while this one is live.
                Some(_) => {}
            }
        }
        if let Some((_, until)) = self.quiet.overlapping(block).find(|(_, until)| **until > now_ms) {
            return Err(Taken::Resting(*until));
        }
        if self.reserved.overlapping(block).any(|(_, by)| by != node) {
            return Err(Taken::Reserved);
        }
        Ok(Choice { block: *block, pool: self.pool_around(block), over })
    }

    /// The pod CIDR around a block.
    #[must_use]
    pub fn pool_around(&self, block: &Cidr) -> Option<Cidr> {
        self.pools.iter().map(|index| index.pool.cidr).find(|cidr| cidr.contains_cidr(block))
    }

    /// A fresh block out of each of the given pods CIDRs (by their place in the plan): of one index where that can be,
    /// preferably `prefer`, the index of a block that the node has already.
    ///
    /// # Errors
    /// The first pool that has none.
    pub(super) fn pick(
        &self,
        wanted: &[usize],
        prefer: Option<u64>,
        now_ms: u64,
        hold_down_ms: u64,
    ) -> Result<Vec<Choice>, NoBlock> {
        let pools: Vec<&PoolIndex> = wanted.iter().filter_map(|slot| self.pools.get(*slot)).collect();
        let at = |index: u64| -> Option<Vec<Choice>> {
            pools.iter().map(|pool| self.usable(pool, index, now_ms, hold_down_ms)).collect()
        };
        if let Some(pair) = prefer.and_then(at) {
            return Ok(pair);
        }
        let never_used: Vec<_> = pools.iter().map(|pool| &pool.free).collect();
        if let Some(pair) = ranges::common(&never_used).and_then(at) {
            return Ok(pair);
        }
        let rested =
            |pool: &'_ PoolIndex| -> Option<Vec<Choice>> { longest_free(pool, now_ms, hold_down_ms).find_map(at) };
        if let Some(pair) = pools.iter().find_map(|pool| rested(pool)) {
            return Ok(pair);
        }
        // No index is free in all of them: each for itself.
        pools
            .iter()
            .map(|pool| {
                let one = |index| self.usable(pool, index, now_ms, hold_down_ms);
                let never_used = pool.free.next(0).and_then(one);
                let choice = never_used.or_else(|| longest_free(pool, now_ms, hold_down_ms).find_map(one));
                choice.ok_or_else(|| NoBlock {
                    pool: pool.pool.cidr,
                    next_ms: self.next_room(pool, now_ms, hold_down_ms),
                })
            })
            .collect()
    }

    /// The index of a block in its pool, and the pool's place in the plan.
    pub(super) fn place(&self, block: &Cidr) -> Option<(usize, u64)> {
        self.pools.iter().enumerate().find_map(|(slot, pool)| Some((slot, pool.exact(block)?)))
    }

    /// Released claims under a node's name that nobody can get: no pod CIDR has blocks of their size there.
    pub(super) fn outgrown<'a>(&'a self, node: &str) -> impl Iterator<Item = (&'a Claim, u64)> + use<'a> {
        self.of_node(node)
            .filter(|claim| self.place(&claim.cidr).is_none())
            .filter_map(|claim| Some((claim, claim.released_ms?)))
    }

    /// How full each pool is.
    #[must_use]
    pub fn usage(&self) -> Vec<PoolUse> {
        self.pools
            .iter()
            .map(|index| {
                let total = index.pool.block_count();
                let resting = index.resting.len() as u64;
                let live =
                    self.claims.overlapping(&index.pool.cidr).filter(|(_, claim)| claim.is_live()).count() as u64;
                let taken = total.saturating_sub(index.free.len());
                let kept = taken.saturating_sub(live).saturating_sub(resting);
                PoolUse { pool: index.pool, total, used: live, resting, kept }
            })
            .collect()
    }

    fn usable(&self, pool: &PoolIndex, index: u64, now_ms: u64, hold_down_ms: u64) -> Option<Choice> {
        let block = pool.pool.block(index)?;
        let choice = Choice { block, pool: Some(pool.pool.cidr), over: None };
        if pool.free.next(index) == Some(index) {
            return Some(choice);
        }
        let claim = self.claims.get(&block)?;
        let rested = claim.released_ms.is_some_and(|at| at.saturating_add(hold_down_ms) <= now_ms);
        let alone = self.claims.overlapping(&block).count() == 1
            && !self.held.overlaps(&block)
            && !self.announced.overlaps(&block)
            && !self.reserved.overlaps(&block)
            && !self.quiet.overlaps(&block);
        (rested && alone).then(|| Choice { over: Some(claim.object.clone()), ..choice })
    }

    /// When time alone may make room in a pool.
    fn next_room(&self, pool: &PoolIndex, now_ms: u64, hold_down_ms: u64) -> Option<u64> {
        let rested = pool.resting.iter().map(|(at, _)| at.saturating_add(hold_down_ms)).find(|at| *at > now_ms);
        let quiet = self.quiet.overlapping(&pool.pool.cidr).map(|(_, until)| *until).filter(|until| *until > now_ms);
        rested.into_iter().chain(quiet).min()
    }

    fn each_exact(&mut self, block: &Cidr, mut change: impl FnMut(&mut PoolIndex, u64) -> bool) {
        for pool in &mut self.pools {
            if let Some(index) = pool.exact(block) {
                change(pool, index);
            }
        }
    }

    /// Something stands on `block` now.
    fn take(&mut self, block: &Cidr) {
        for pool in &mut self.pools {
            if let Some((first, last)) = pool.span(block) {
                pool.free.take(first, last);
            }
        }
    }

    /// Something stands on `block` no more; something else may.
    fn give(&mut self, block: &Cidr) {
        for slot in 0..self.pools.len() {
            let Some((first, last)) = self.pools.get(slot).and_then(|pool| pool.span(block)) else { continue };
            if first != last {
                self.rebuild(slot);
                continue;
            }
            let whole = self.pools.get(slot).and_then(|pool| pool.pool.block(first));
            let free = whole.is_some_and(|whole| !self.is_stood_on(&whole));
            if let Some(pool) = self.pools.get_mut(slot).filter(|_| free) {
                pool.free.put(first);
            }
        }
    }

    fn is_stood_on(&self, block: &Cidr) -> bool {
        self.claims.overlaps(block)
            || self.held.overlaps(block)
            || self.announced.overlaps(block)
            || self.reserved.overlaps(block)
            || self.quiet.overlaps(block)
    }

    fn rebuild(&mut self, slot: usize) {
        let Some(mut index) = self.pools.get(slot).map(|index| PoolIndex::new(index.pool)) else { return };
        let cidr = index.pool.cidr;
        for (block, claim) in self.claims.overlapping(&cidr) {
            if let (Some(released), Some(at)) = (claim.released_ms, index.exact(block)) {
                index.resting.insert((released, at));
            }
        }
        let claimed = self.claims.overlapping(&cidr).map(|(block, _)| *block);
        let held = self.held.overlapping(&cidr);
        let announced = self.announced.overlapping(&cidr);
        let reserved = self.reserved.overlapping(&cidr).map(|(block, _)| *block);
        let quiet = self.quiet.overlapping(&cidr).map(|(block, _)| *block);
        for block in claimed.chain(held).chain(announced).chain(reserved).chain(quiet) {
            if let Some((first, last)) = index.span(&block) {
                index.free.take(first, last);
            }
        }
        if let Some(place) = self.pools.get_mut(slot) {
            *place = index;
        }
    }
}

/// Indexes of released blocks whose hold-down has passed, the longest free first.
fn longest_free(pool: &PoolIndex, now_ms: u64, hold_down_ms: u64) -> impl Iterator<Item = u64> {
    pool.resting.iter().take_while(move |(at, _)| at.saturating_add(hold_down_ms) <= now_ms).map(|(_, index)| *index)
}

/// Why a certain block cannot be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A live claim of that node overlaps it.
    Claimed(String),
    /// That node's agent says that it holds it, or it is announced for that node.
    Held(String),
    /// A write for another node is under way.
    Reserved,
    /// It rests until that time.
    Resting(u64),
}

/// A pool has no block to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoBlock {
    pub(super) pool: Cidr,
    /// When time alone may change that.
    pub(super) next_ms: Option<u64>,
}
