//! The address that should go next, found by looking at every one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use overlane_core::family::Family;
use overlane_core::ipam::{Block, usable};

use crate::COOL_DOWN;

impl super::World {
    pub(super) fn has(&self, family: Family) -> bool {
        self.ipam.blocks().iter().any(|block| block.cidr.family() == family)
    }

    /// When an address was freed, 0 if never; `None` if it has an owner.
    fn since(&self, address: IpAddr) -> Option<u64> {
        let owned = self.leases.iter().any(|lease| lease.addresses.contains(&address));
        (!owned).then(|| self.freed.get(&address).copied().unwrap_or(0))
    }

    /// All ways of serving these families with one offset, as (free since, order of the group, offset, addresses).
    fn together(&self, families: &[Family]) -> Vec<(u64, usize, u32, Vec<IpAddr>)> {
        let blocks = self.ipam.blocks();
        let mut groups: Vec<Vec<&Block>> = Vec::new();
        if let [family] = families {
            groups = blocks.iter().filter(|block| block.cidr.family() == *family).map(|block| vec![block]).collect();
        } else {
            // The groups of every layout here come in the order of their numbers.
            for pair in blocks.iter().map(|block| block.pair).collect::<BTreeSet<u32>>() {
                let of =
                    |family: &Family| blocks.iter().find(|block| block.pair == pair && block.cidr.family() == *family);
                groups.extend(families.iter().map(of).collect::<Option<Vec<&Block>>>());
            }
        }
        let mut found = Vec::new();
        for (order, group) in groups.iter().enumerate() {
            let last = group.iter().map(|block| usable(&block.cidr)).min().unwrap();
            for offset in 1..=last {
                let addresses: Vec<IpAddr> =
                    group.iter().map(|block| block.cidr.host(offset.into()).unwrap()).collect();
                let since: Option<Vec<u64>> = addresses.iter().map(|address| self.since(*address)).collect();
                found.extend(since.map(|since| (since.into_iter().max().unwrap(), order, offset, addresses)));
            }
        }
        found
    }

    fn best_together(&self, families: &[Family], at_rest: bool) -> Option<Vec<IpAddr>> {
        let mut found = self.together(families);
        found.retain(|(since, ..)| at_rest || *since == 0 || *since + COOL_DOWN <= self.now);
        found.sort_by_key(|(since, order, offset, _)| (*since, if *since == 0 { *order } else { 0 }, *offset, *order));
        found.into_iter().next().map(|(.., addresses)| addresses)
    }

    pub(super) fn best(&self, families: &[Family]) -> Option<Vec<IpAddr>> {
        [false, true].into_iter().find_map(|at_rest| {
            let each = |family: &Family| self.best_together(&[*family], at_rest).map(|addresses| addresses[0]);
            self.best_together(families, at_rest).or_else(|| families.iter().map(each).collect())
        })
    }
}
