//! How many nodes there are, month by month.

/// Months that are looked ahead at most: what grows for longer than a century is as good as for ever.
pub const MONTHS_MAX: u32 = 1_200;

/// How a pool grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Growth {
    /// It does not.
    #[default]
    None,
    /// By so many nodes a month.
    Nodes(u64),
    /// By so many percent a month, each month on the last.
    Percent(u64),
}

impl Growth {
    /// How many nodes `count` have become a month later.
    #[must_use]
    pub const fn after_a_month(self, count: u64) -> u64 {
        match self {
            Self::None => count,
            Self::Nodes(more) => count.saturating_add(more),
            Self::Percent(percent) => count.saturating_add(count.saturating_mul(percent).div_ceil(100)),
        }
    }
}

/// How many nodes there are after so many months, all pools together.
pub(super) fn nodes_after(pools: &[(u64, Growth)], months: u32) -> u64 {
    counts(pools).nth(usize::try_from(months).unwrap_or(usize::MAX)).unwrap_or(u64::MAX)
}

/// The first month in which more nodes are wanted than `room`, counted from 0, which is now; `None` if there is none.
pub(super) fn runs_out(pools: &[(u64, Growth)], surge: u64, room: u64) -> Option<u32> {
    let grows = pools.iter().any(|(count, growth)| growth.after_a_month(*count) > *count);
    let months = if grows { MONTHS_MAX } else { 0 };
    counts(pools).zip(0..=months).find(|(count, _)| count.saturating_add(surge) > room).map(|(_, month)| month)
}

/// Nodes of all pools together, now and after each month; saturates.
fn counts(pools: &[(u64, Growth)]) -> impl Iterator<Item = u64> {
    let month = |pools: &Vec<(u64, Growth)>| {
        Some(pools.iter().map(|(count, growth)| (growth.after_a_month(*count), *growth)).collect::<Vec<_>>())
    };
    let months = std::iter::successors(Some(pools.to_vec()), month);
    months.map(|pools| pools.iter().fold(0, |sum: u64, (count, _)| sum.saturating_add(*count)))
}

#[cfg(test)]
mod tests {
    //! Must catch: growth that is rounded down to none, a month too late.

    use super::*;

    #[test]
    fn pools_grow_each_in_its_way() {
        let pools = [(10, Growth::None), (4, Growth::Nodes(3)), (3, Growth::Percent(10))];
        assert_eq!([0, 1, 2, 12].map(|months| nodes_after(&pools, months)), [17, 21, 25, 69]);
        assert_eq!(nodes_after(&[(u64::MAX, Growth::Percent(50))], 3), u64::MAX);
        assert_eq!(nodes_after(&[], 7), 0);
    }

    #[test]
    fn the_first_month_without_room_is_told() {
        let pools = [(4, Growth::Nodes(3))];
        assert_eq!(runs_out(&pools, 0, 3), Some(0));
        assert_eq!(runs_out(&pools, 0, 4), Some(1));
        assert_eq!(runs_out(&pools, 0, 10), Some(3));
        assert_eq!(runs_out(&pools, 1, 10), Some(2));
        assert_eq!(runs_out(&[(4, Growth::None)], 1, 5), None);
        assert_eq!(runs_out(&[(4, Growth::Nodes(0))], 1, 5), None);
        assert_eq!(runs_out(&[(1, Growth::Nodes(1))], 0, u64::MAX), None);
    }
}
