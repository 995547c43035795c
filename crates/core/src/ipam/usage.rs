//! How much of the blocks is used.

use super::{Block, BlockUsage, Ipam, LeaseState, Refusal};
use crate::cidr::Cidr;
use crate::family::Family;

impl Ipam {
    /// Each block's numbers, in the order of the blocks.
    #[must_use]
    pub fn usage(&self, now_ms: u64) -> Vec<BlockUsage> {
        self.blocks.iter().map(|block| self.usage_of(block, now_ms)).collect()
    }

    fn usage_of(&self, block: &Block, now_ms: u64) -> BlockUsage {
        let mut usage = BlockUsage {
            block: *block,
            usable: usable(&block.cidr).into(),
            leased: 0,
            draining: 0,
            resting: 0,
            free: 0,
        };
        for (_, id) in self.addresses.range(block.cidr.network()..=block.cidr.last()) {
            match self.lease(*id).map(|lease| lease.state) {
                Some(LeaseState::Draining) => usage.draining += 1,
                Some(LeaseState::Wiring | LeaseState::Active) => usage.leased += 1,
                None => {}
            }
        }
        if let Some(lane) = self.lanes.iter().find(|lane| lane.is_of(&block.cidr)) {
            // Before a whole cool-down has passed since the start of time, all that was freed is at rest.
            usage.resting = match now_ms.checked_sub(self.cool_down_ms) {
                Some(rested_by) => lane.rested_after(rested_by),
                None => lane.rested_count(),
            };
            usage.free = lane.fresh_count() + lane.rested_count() - usage.resting;
        }
        usage
    }

    /// Says of which family nothing is left.
    pub(super) fn full(&self, families: &[Family]) -> Refusal {
        // Each family has something left only if something was picked.
        let empty = families.iter().copied().find(|family| {
            let lanes = self.lanes.iter().filter(|lane| lane.serves(&[*family]));
            lanes.map(|lane| lane.fresh_count() + lane.rested_count()).sum::<u64>() == 0
        });
        let family = empty.or(families.first().copied()).unwrap_or(Family::V4);
        // Time matters to none of the numbers told.
        let usage = self.usage(0).into_iter().filter(|usage| usage.block.cidr.family() == family);
        let (mut blocks, mut usable, mut leased, mut draining) = (Vec::new(), 0, 0, 0);
        for block in usage {
            blocks.push(block.block.cidr);
            usable += block.usable;
            leased += block.leased;
            draining += block.draining;
        }
        Refusal::Full { family, blocks, usable, leased, draining }
    }
}

/// How many addresses of a block pods can have: all but the first and the last, and of IPv6 no more than 65,534.
#[must_use]
pub fn usable(block: &Cidr) -> u32 {
    usable_in(block.family(), block.prefix_len())
}

/// [`usable`] of any block of that family and length. 0 for a length that the family has not.
#[must_use]
pub fn usable_in(family: Family, prefix_len: u8) -> u32 {
    const MOST_V6: u64 = 65_534;
    let Some(host_bits) = family.bits().checked_sub(prefix_len) else {
        return 0;
    };
    let between = 1_u64.checked_shl(u32::from(host_bits)).unwrap_or(u64::MAX).saturating_sub(2);
    let most = match family {
        Family::V4 => u64::from(u32::MAX),
        Family::V6 => MOST_V6,
    };
    u32::try_from(between.min(most)).unwrap_or(u32::MAX)
}
