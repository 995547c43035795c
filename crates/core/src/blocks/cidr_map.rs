//! A map by block that finds what overlaps a block.

use std::collections::BTreeMap;

use crate::cidr::Cidr;
use crate::family::Family;

/// Values by block. Blocks may contain one another.
#[derive(Clone, Debug)]
pub(super) struct CidrMap<V> {
    entries: BTreeMap<Cidr, V>,
    /// How many entries there are of each prefix length: what could contain a block is looked for only there.
    lengths: BTreeMap<(Family, u8), usize>,
}

impl<V> Default for CidrMap<V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), lengths: BTreeMap::new() }
    }
}

impl<V> CidrMap<V> {
    pub(super) fn get(&self, cidr: &Cidr) -> Option<&V> {
        self.entries.get(cidr)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Cidr, &V)> {
        self.entries.iter()
    }

    pub(super) fn insert(&mut self, cidr: Cidr, value: V) -> Option<V> {
        let old = self.entries.insert(cidr, value);
        if old.is_none() {
            *self.lengths.entry((cidr.family(), cidr.prefix_len())).or_default() += 1;
        }
        old
    }

    pub(super) fn remove(&mut self, cidr: &Cidr) -> Option<V> {
        let old = self.entries.remove(cidr)?;
        let key = (cidr.family(), cidr.prefix_len());
        if let Some(count) = self.lengths.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&key);
            }
        }
        Some(old)
    }

    /// Everything that has an address in common with `cidr`, itself included.
    pub(super) fn overlapping<'a>(&'a self, cidr: &Cidr) -> impl Iterator<Item = (&'a Cidr, &'a V)> + use<'a, V> {
        let network = cidr.network();
        let around = self
            .lengths
            .range((cidr.family(), 0)..(cidr.family(), cidr.prefix_len()))
            .filter_map(move |((_, length), _)| Cidr::around(network, *length).ok())
            .filter_map(|outer| self.entries.get_key_value(&outer));
        // What lies within comes right after it, up to its last address.
        let within = self.entries.range(*cidr..=Cidr::host_range(cidr.last()));
        around.chain(within)
    }

    /// Whether anything has an address in common with `cidr`.
    pub(super) fn overlaps(&self, cidr: &Cidr) -> bool {
        self.overlapping(cidr).next().is_some()
    }
}

/// Which nodes have a mark on a block: nearly always one.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks(CidrMap<Vec<Box<str>>>);

impl Marks {
    pub(super) fn set(&mut self, block: Cidr, node: &str) {
        match self.0.entries.get_mut(&block) {
            Some(nodes) if nodes.iter().any(|marked| **marked == *node) => {}
            Some(nodes) => nodes.push(node.into()),
            None => drop(self.0.insert(block, vec![node.into()])),
        }
    }

    pub(super) fn clear(&mut self, block: &Cidr, node: &str) {
        let Some(nodes) = self.0.entries.get_mut(block) else { return };
        nodes.retain(|marked| **marked != *node);
        if nodes.is_empty() {
            self.0.remove(block);
        }
    }

    /// A node other than `node` with a mark on something that overlaps the block.
    pub(super) fn by_other(&self, block: &Cidr, node: &str) -> Option<&str> {
        self.0.overlapping(block).flat_map(|(_, nodes)| nodes).map(|name| &**name).find(|name| *name != node)
    }

    pub(super) fn overlaps(&self, block: &Cidr) -> bool {
        self.0.overlaps(block)
    }

    pub(super) fn overlapping<'a>(&'a self, block: &Cidr) -> impl Iterator<Item = Cidr> + use<'a> {
        self.0.overlapping(block).map(|(block, _)| *block)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn small() -> impl Strategy<Value = Cidr> {
        (any::<u8>(), 24_u8..=32)
            .prop_map(|(last, len)| Cidr::around(Ipv4Addr::new(10, 0, 0, last).into(), len).unwrap())
    }

    proptest! {
        /// Must catch: an outer or an inner block that is not found.
        #[test]
        fn finds_what_overlaps(entries in proptest::collection::vec(small(), 0..30), gone in proptest::collection::vec(small(), 0..30), asked in small()) {
            let mut map = CidrMap::default();
            for cidr in &entries {
                map.insert(*cidr, ());
            }
            for cidr in &gone {
                map.remove(cidr);
            }
            let found: std::collections::BTreeSet<Cidr> = map.overlapping(&asked).map(|(cidr, ())| *cidr).collect();
            let meant = entries.iter().filter(|cidr| !gone.contains(cidr) && cidr.overlaps(&asked)).copied().collect();
            prop_assert_eq!(found, meant);
        }
    }
}
