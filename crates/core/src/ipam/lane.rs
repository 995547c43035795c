//! A lane: blocks out of which one offset is given in all at once. Each block is a lane of its own; blocks that were
//! given together make one more, so that a pod's addresses of both families end alike.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::ranges::Ranges;
use super::{Block, usable};
use crate::cidr::Cidr;
use crate::family::Family;

/// What an address is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// Nobody had it, as far as is remembered.
    Fresh,
    /// Somebody had it until then (milliseconds).
    Rested(u64),
    /// Somebody has it.
    Owned,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    /// One a family at most, in the order of families.
    blocks: BTreeMap<Family, Cidr>,
    /// Offsets that nobody had in any of the blocks.
    fresh: Ranges,
    /// The other offsets that are free in all of the blocks, by the time since when.
    rested: BTreeSet<(u64, u32)>,
    /// The same by offset.
    since: BTreeMap<u32, u64>,
}

impl Lane {
    fn new(blocks: BTreeMap<Family, Cidr>) -> Self {
        let last = blocks.values().map(usable).min().unwrap_or(0);
        Self { blocks, fresh: Ranges::span(1, last), rested: BTreeSet::new(), since: BTreeMap::new() }
    }

    /// One lane a block, then one for each group of blocks that go together, in the order of the blocks.
    pub(super) fn of(blocks: &[Block]) -> Vec<Self> {
        let mut lanes = Vec::new();
        let mut groups: Vec<(u32, BTreeMap<Family, Cidr>)> = Vec::new();
        for block in blocks {
            lanes.push(Self::new(BTreeMap::from([(block.cidr.family(), block.cidr)])));
            // Of two blocks of one family in a group the first counts; the other is a lane of its own all the same.
            match groups.iter_mut().find(|(pair, _)| *pair == block.pair) {
                Some((_, group)) => {
                    group.entry(block.cidr.family()).or_insert(block.cidr);
                }
                None => groups.push((block.pair, BTreeMap::from([(block.cidr.family(), block.cidr)]))),
            }
        }
        lanes.extend(groups.into_iter().map(|(_, group)| group).filter(|group| group.len() > 1).map(Self::new));
        lanes
    }

    /// Whether a pick gives one address of each of these families and no others.
    pub(super) fn serves(&self, families: &[Family]) -> bool {
        self.blocks.len() == families.len() && families.iter().all(|family| self.blocks.contains_key(family))
    }

    /// Whether this is the lane of that block alone.
    pub(super) fn is_of(&self, block: &Cidr) -> bool {
        self.blocks.len() == 1 && self.blocks.get(&block.family()) == Some(block)
    }

    /// The lowest offset that nobody had.
    pub(super) fn freshest(&self) -> Option<u32> {
        self.fresh.first()
    }

    /// The offset that has been free for longest, and since when.
    pub(super) fn longest_free(&self) -> Option<(u64, u32)> {
        self.rested.first().copied()
    }

    /// How many offsets nobody had.
    pub(super) fn fresh_count(&self) -> u64 {
        self.fresh.len()
    }

    /// How many offsets are free since a time later than this.
    pub(super) fn rested_after(&self, at_ms: u64) -> u64 {
        at_ms.checked_add(1).map_or(0, |from| self.rested.range((from, 0)..).count() as u64)
    }

    /// How many offsets somebody had and nobody has.
    pub(super) fn rested_count(&self) -> u64 {
        self.rested.len() as u64
    }

    /// The addresses at an offset, in the order of the families given.
    pub(super) fn addresses(&self, offset: u32, families: &[Family]) -> Option<Vec<IpAddr>> {
        families.iter().map(|family| self.blocks.get(family)?.host(u64::from(offset))).collect()
    }

    /// Takes note that an address is used in another way than before, if it is one of this lane's.
    pub(super) fn refresh(&mut self, address: IpAddr, uses: impl Fn(IpAddr) -> Use) {
        let Some(offset) = self.offset(address) else {
            return;
        };
        let hosts = self.blocks.values().filter_map(|block| block.host(u64::from(offset)));
        let now = hosts.map(uses).max().unwrap_or(Use::Owned);
        if let Some(at) = self.since.remove(&offset) {
            self.rested.remove(&(at, offset));
        }
        match now {
            Use::Fresh => self.fresh.insert(offset),
            Use::Rested(at) => {
                self.fresh.remove(offset);
                self.since.insert(offset, at);
                self.rested.insert((at, offset));
            }
            Use::Owned => self.fresh.remove(offset),
        }
    }

    /// Where in the lane an address is; `None` for those that pods cannot have.
    fn offset(&self, address: IpAddr) -> Option<u32> {
        let block = self.blocks.get(&Family::of(&address))?;
        let offset = u32::try_from(block.offset_of(address)?).ok()?;
        let last = self.blocks.values().map(usable).min().unwrap_or(0);
        (1..=last).contains(&offset).then_some(offset)
    }
}
