//! Sets of numbers as ranges, which addresses, protocols and ports all are here.

/// A set of numbers: ranges with both ends in it, ascending, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RangeSet {
    ranges: Vec<(u128, u128)>,
}

impl RangeSet {
    /// The numbers from one to another, both in it; nothing where they are the wrong way round.
    #[must_use]
    pub fn range(first: u128, last: u128) -> Self {
        Self { ranges: if first <= last { vec![(first, last)] } else { Vec::new() } }
    }

    /// One number.
    #[must_use]
    pub fn one(number: u128) -> Self {
        Self::range(number, number)
    }

    /// The ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[(u128, u128)] {
        &self.ranges
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether a number is in it.
    #[must_use]
    pub fn contains(&self, number: u128) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|(_, last)| number <= *last)
    }

    /// Whether all of another is in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let mut rest = self.ranges.iter().peekable();
        other.ranges.iter().all(|(first, last)| {
            while rest.next_if(|(_, end)| end < first).is_some() {}
            rest.peek().is_some_and(|(start, end)| start <= first && last <= end)
        })
    }

    /// Whether nothing is in both.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        let mut rest = self.ranges.iter().peekable();
        other.ranges.iter().all(|(first, last)| {
            while rest.next_if(|(_, end)| end < first).is_some() {}
            rest.peek().is_none_or(|(start, _)| start > last)
        })
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some((a, b)), Some((c, d))) = (left.peek(), right.peek()) {
            if a.max(c) <= b.min(d) {
                ranges.push((*a.max(c), *b.min(d)));
            }
            if b < d {
                left.next();
            } else {
                right.next();
            }
        }
        Self { ranges }
    }

    /// What is in it and not in another.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.and(&other.complement())
    }

    /// What is in either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        self.ranges.iter().chain(&other.ranges).copied().collect()
    }

    /// Every number that is not in it.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len() + 1);
        let mut next = Some(0);
        for (first, last) in &self.ranges {
            if let (Some(start), Some(end)) = (next, first.checked_sub(1))
                && start <= end
            {
                ranges.push((start, end));
            }
            next = last.checked_add(1);
        }
        ranges.extend(next.map(|start| (start, u128::MAX)));
        Self { ranges }
    }
}

impl FromIterator<(u128, u128)> for RangeSet {
    /// Ranges in any order, which may overlap; those that are the wrong way round are left out.
    fn from_iter<I: IntoIterator<Item = (u128, u128)>>(ranges: I) -> Self {
        let mut sorted: Vec<(u128, u128)> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: an operation that loses or gains a number at the end of a range.

    use proptest::prelude::*;

    use super::*;

    fn set() -> impl Strategy<Value = RangeSet> {
        prop::collection::vec((0..40_u128, 0..6_u128), 0..6)
            .prop_map(|ranges| ranges.into_iter().map(|(first, more)| (first, first + more)).collect())
    }

    proptest! {
        #[test]
        fn operations_are_those_of_sets(a in set(), b in set()) {
            for number in 0..50 {
                let (in_a, in_b) = (a.contains(number), b.contains(number));
                prop_assert_eq!(a.and(&b).contains(number), in_a && in_b);
                prop_assert_eq!(a.or(&b).contains(number), in_a || in_b);
                prop_assert_eq!(a.without(&b).contains(number), in_a && !in_b);
                prop_assert_eq!(a.complement().contains(number), !in_a);
            }
            prop_assert_eq!(a.covers(&b), b.without(&a).is_empty());
            prop_assert_eq!(a.is_disjoint(&b), a.and(&b).is_empty());
            prop_assert_eq!(a.complement().complement(), a);
        }
    }

    #[test]
    fn ends_of_the_number_line() {
        let all = RangeSet::range(0, u128::MAX);
        assert!(all.complement().is_empty());
        assert_eq!(RangeSet::default().complement(), all);
        assert_eq!(RangeSet::one(u128::MAX).complement(), RangeSet::range(0, u128::MAX - 1));
        let touching: RangeSet = [(u128::MAX, u128::MAX), (5, 4), (0, u128::MAX - 1)].into_iter().collect();
        assert_eq!(touching, all);
    }
}
