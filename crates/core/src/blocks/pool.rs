//! What is free in one pod CIDR.

use std::collections::BTreeSet;

use super::ranges::Ranges;
use crate::cidr::Cidr;
use crate::cluster::Pool;

/// One pod CIDR's blocks, by index.
#[derive(Clone, Debug)]
pub(super) struct PoolIndex {
    pub(super) pool: Pool,
    /// Indexes that no object, no agent and no plan of ours stands on.
    pub(super) free: Ranges,
    /// Released claims by the time of their release: the longest free comes first.
    pub(super) resting: BTreeSet<(u64, u64)>,
}

impl PoolIndex {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool, free: Ranges::up_to(pool.block_count()), resting: BTreeSet::new() }
    }

    /// The index of a block of exactly this pool's size.
    pub(super) fn exact(&self, block: &Cidr) -> Option<u64> {
        (block.prefix_len() == self.pool.node_mask).then(|| self.pool.cidr.index_of(block)).flatten()
    }

    /// The indexes, first and last, that a block of any size stands on.
    pub(super) fn span(&self, block: &Cidr) -> Option<(u64, u64)> {
        let mask = self.pool.node_mask;
        if block.contains_cidr(&self.pool.cidr) {
            return Some((0, self.pool.block_count().checked_sub(1)?));
        }
        if !self.pool.cidr.contains_cidr(block) {
            return None;
        }
        let index = |addr| Cidr::around(addr, mask).ok().and_then(|block| self.pool.cidr.index_of(&block));
        Some((index(block.network())?, index(block.last())?))
    }
}
