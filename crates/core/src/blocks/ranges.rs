//! The free part of a sequence of numbered slots, as ranges.
//!
//! An IPv6 pod CIDR may have 2^32 blocks and more; what is free is nearly all of it, so ranges stay few.

use std::collections::BTreeMap;

/// A set of numbers, kept as ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// First number of a range to its last.
    by_first: BTreeMap<u64, u64>,
}

impl Ranges {
    /// The numbers `0..count`.
    pub(super) fn up_to(count: u64) -> Self {
        let by_first = count.checked_sub(1).map(|last| (0, last)).into_iter().collect();
        Self { by_first }
    }

    /// The range that `number` is in.
    fn around(&self, number: u64) -> Option<(u64, u64)> {
        let (&first, &last) = self.by_first.range(..=number).next_back()?;
        (number <= last).then_some((first, last))
    }

    /// Whether `number` is in the set.
    #[cfg(test)]
    pub(super) fn contains(&self, number: u64) -> bool {
        self.around(number).is_some()
    }

    /// The lowest number that is not below `from`.
    pub(super) fn next(&self, from: u64) -> Option<u64> {
        if self.around(from).is_some() {
            return Some(from);
        }
        self.by_first.range(from..).next().map(|(&first, _)| first)
    }

    /// Takes `first..=last` out; what is out already stays out.
    pub(super) fn take(&mut self, first: u64, last: u64) {
        if let Some((start, end)) = self.around(first) {
            self.by_first.remove(&start);
            if start < first {
                self.by_first.insert(start, first - 1);
            }
            if end > last {
                self.by_first.insert(last + 1, end);
                return;
            }
        }
        while let Some((&start, &end)) = self.by_first.range(first..=last).next() {
            self.by_first.remove(&start);
            if end > last {
                self.by_first.insert(last + 1, end);
            }
        }
    }

    /// Puts one number in.
    pub(super) fn put(&mut self, number: u64) {
        if self.around(number).is_some() {
            return;
        }
        let mut first = number;
        let mut last = number;
        if let Some((start, _)) = number.checked_sub(1).and_then(|below| self.around(below)) {
            first = start;
        }
        if let Some((start, end)) = number.checked_add(1).and_then(|above| self.around(above)) {
            last = end;
            self.by_first.remove(&start);
        }
        self.by_first.insert(first, last);
    }

    /// How many numbers are in the set, saturating.
    pub(super) fn len(&self) -> u64 {
        self.by_first.iter().fold(0, |sum: u64, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }
}

/// The lowest number that is in every set; `None` for no sets.
pub(super) fn common(sets: &[&Ranges]) -> Option<u64> {
    let mut number = sets.first()?.next(0)?;
    loop {
        let mut highest = number;
        for set in sets {
            highest = set.next(highest)?;
        }
        if highest == number {
            return Some(number);
        }
        number = highest;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Must catch: an off-by-one where a range is split or joined.
        #[test]
        fn agrees_with_a_plain_set(steps in proptest::collection::vec((any::<bool>(), 0_u64..40, 0_u64..5), 0..60)) {
            let mut ranges = Ranges::up_to(40);
            let mut plain: BTreeSet<u64> = (0..40).collect();
            for (put, number, more) in steps {
                if put {
                    ranges.put(number);
                    plain.insert(number);
                } else {
                    ranges.take(number, number + more);
                    plain.retain(|n| *n < number || *n > number + more);
                }
                for n in 0..46 {
                    prop_assert_eq!(ranges.contains(n), plain.contains(&n));
                    prop_assert_eq!(ranges.next(n), plain.range(n..).next().copied());
                }
                prop_assert_eq!(ranges.len(), plain.len() as u64);
                let touching = ranges.by_first.iter().zip(ranges.by_first.iter().skip(1));
                for ((_, last), (first, _)) in touching {
                    prop_assert!(last + 1 < *first);
                }
            }
        }
    }

    #[test]
    fn the_lowest_common_number() {
        let mut a = Ranges::up_to(10);
        let mut b = Ranges::up_to(8);
        a.take(0, 3);
        b.take(4, 5);
        assert_eq!(common(&[&a, &b]), Some(6));
        b.take(6, 7);
        assert_eq!(common(&[&a, &b]), None);
        assert_eq!(common(&[]), None);
        assert_eq!(Ranges::up_to(0).next(0), None);
    }
}
