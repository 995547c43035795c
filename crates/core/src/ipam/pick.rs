//! Which addresses go next.

use std::net::IpAddr;

use super::Ipam;
use super::lane::Lane;
use crate::cidr::Cidr;
use crate::family::Family;

/// The ways of choosing, the best first. To keep an address at rest comes before giving a pod the same offset in
/// both families: the first is about somebody else's packets, the second about looks.
const ORDER: [Way; 4] = [
    Way { together: true, at_rest: false },
    Way { together: false, at_rest: false },
    Way { together: true, at_rest: true },
    Way { together: false, at_rest: true },
];

#[derive(Clone, Copy)]
struct Way {
    /// One offset in blocks that were given together, or each family by itself.
    together: bool,
    /// Whether addresses may be taken whose cool-down has not passed.
    at_rest: bool,
}

impl Ipam {
    /// One address of each of these families, in their order.
    pub(super) fn pick(&self, families: &[Family], now_ms: u64) -> Option<Vec<IpAddr>> {
        // Free since then or before is at rest no longer.
        let rested_by = now_ms.checked_sub(self.cool_down_ms);
        ORDER.iter().find_map(|way| {
            let latest = if way.at_rest { Some(u64::MAX) } else { rested_by };
            if way.together {
                self.pick_from(families, latest)
            } else {
                families.iter().map(|family| Some(*self.pick_from(&[*family], latest)?.first()?)).collect()
            }
        })
    }

    /// One address of this block, chosen as any other.
    pub(super) fn pick_in(&self, block: &Cidr, now_ms: u64) -> Option<IpAddr> {
        let lane = self.lanes.iter().find(|lane| lane.is_of(block))?;
        let rested_by = now_ms.checked_sub(self.cool_down_ms);
        let over = |(since, offset): (u64, u32)| rested_by.is_some_and(|by| since <= by).then_some(offset);
        let rested = || lane.longest_free();
        let offset = lane.freshest().or_else(|| rested().and_then(over)).or_else(|| rested().map(|(_, at)| at))?;
        lane.addresses(offset, &[block.family()])?.first().copied()
    }

    /// The best offset of the lanes that serve just these families: never used, lowest in the first lane that has
    /// one; else free for longest in any lane, and since no later than `latest`; `None` is
    /// before all times.
    fn pick_from(&self, families: &[Family], latest: Option<u64>) -> Option<Vec<IpAddr>> {
        let lanes = || self.lanes.iter().filter(|lane| lane.serves(families));
        if let Some((lane, offset)) = lanes().find_map(|lane| Some((lane, lane.freshest()?))) {
            return lane.addresses(offset, families);
        }
        let longest_free =
            |lane: &Lane| lane.longest_free().filter(|(since, _)| latest.is_some_and(|latest| *since <= latest));
        let oldest = lanes().filter_map(|lane| Some((longest_free(lane)?, lane)));
        let ((_, offset), lane) = oldest.min_by_key(|(found, _)| *found)?;
        lane.addresses(offset, families)
    }
}
