//! A set of offsets kept as ranges: a block starts as one range, and stays few.

use std::collections::BTreeMap;

/// Offsets, as first to last; no two ranges touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u32, u32>);

impl Ranges {
    /// `first` to `last`, both included; nothing if they are the wrong way round.
    pub(super) fn span(first: u32, last: u32) -> Self {
        Self(if first <= last { BTreeMap::from([(first, last)]) } else { BTreeMap::new() })
    }

    pub(super) fn first(&self) -> Option<u32> {
        self.0.keys().next().copied()
    }

    pub(super) fn contains(&self, offset: u32) -> bool {
        self.around(offset).is_some()
    }

    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    pub(super) fn remove(&mut self, offset: u32) {
        let Some((first, last)) = self.around(offset) else {
            return;
        };
        self.0.remove(&first);
        if first < offset {
            self.0.insert(first, offset - 1);
        }
        if offset < last {
            self.0.insert(offset + 1, last);
        }
    }

    pub(super) fn insert(&mut self, offset: u32) {
        if self.contains(offset) {
            return;
        }
        let before = offset.checked_sub(1).and_then(|previous| self.around(previous));
        let after = offset.checked_add(1).and_then(|next| self.around(next));
        let first = before.map_or(offset, |(first, _)| first);
        let last = after.map_or(offset, |(_, last)| last);
        if let Some((next, _)) = after {
            self.0.remove(&next);
        }
        self.0.insert(first, last);
    }

    /// The range that an offset is in.
    fn around(&self, offset: u32) -> Option<(u32, u32)> {
        let (first, last) = self.0.range(..=offset).next_back()?;
        (offset <= *last).then_some((*first, *last))
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a range that is not split on removal, so that an offset in use is offered again.

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Ranges;

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in proptest::collection::vec((any::<bool>(), 0_u32..20), 0..200)) {
            let mut ranges = Ranges::span(3, 12);
            let mut set: BTreeSet<u32> = (3..=12).collect();
            for (add, offset) in steps {
                if add {
                    ranges.insert(offset);
                    set.insert(offset);
                } else {
                    ranges.remove(offset);
                    set.remove(&offset);
                }
                prop_assert_eq!(ranges.first(), set.first().copied());
                prop_assert_eq!(ranges.len(), set.len() as u64);
                for probe in 0..22 {
                    prop_assert_eq!(ranges.contains(probe), set.contains(&probe));
                }
                let joined = ranges.0.iter().zip(ranges.0.keys().skip(1)).any(|((_, last), next)| last + 1 >= *next);
                prop_assert!(!joined, "ranges touch: {:?}", ranges);
            }
        }
    }

    #[test]
    fn holds_the_extremes() {
        let mut ranges = Ranges::span(1, 0);
        assert_eq!(ranges.first(), None);
        ranges.insert(u32::MAX);
        ranges.insert(0);
        assert!(ranges.contains(u32::MAX) && ranges.contains(0));
        ranges.remove(u32::MAX);
        assert_eq!(ranges.len(), 1);
    }
}
