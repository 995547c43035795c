//! Sets of what a packet can be about: a port of TCP, UDP or SCTP, or anything else, as one.

use std::fmt;

use crate::ports::Protocol;

/// The ports of each protocol, one after the other.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
/// What has no such port: other protocols, ICMP among them.
const REST: u32 = 3 << 16;

fn base(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1 << 16,
        Protocol::Sctp => 2 << 16,
    }
}

/// A set: ranges in order that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet {
    ranges: Vec<(u32, u32)>,
}

/// Ports of one protocol, the first and the last included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The protocol.
    pub protocol: Protocol,
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl PortSet {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self { ranges: vec![(0, REST)] }
    }

    /// What has no port.
    #[must_use]
    pub fn rest() -> Self {
        Self { ranges: vec![(REST, REST)] }
    }

    /// One port, or what has none.
    #[must_use]
    pub fn point(of: Option<(Protocol, u16)>) -> Self {
        of.map_or_else(Self::rest, |(protocol, port)| {
            [PortRange { protocol, first: port, last: port }].into_iter().collect()
        })
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether something is in it: a port, or what has none.
    #[must_use]
    pub fn contains(&self, about: Option<(Protocol, u16)>) -> bool {
        let at = about.map_or(REST, |(protocol, port)| base(protocol) + u32::from(port));
        let behind = self.ranges.partition_point(|(first, _)| *first <= at);
        behind.checked_sub(1).and_then(|index| self.ranges.get(index)).is_some_and(|(_, last)| at <= *last)
    }

    /// Whether what has no port is in it.
    #[must_use]
    pub fn has_rest(&self) -> bool {
        self.ranges.last().is_some_and(|(_, last)| *last == REST)
    }

    /// Its ports.
    pub fn ports(&self) -> impl Iterator<Item = PortRange> + '_ {
        self.ranges.iter().flat_map(|(first, last)| {
            PROTOCOLS.into_iter().filter_map(move |protocol| {
                let (low, high) = ((*first).max(base(protocol)), (*last).min(base(protocol) | 0xffff));
                let port = |at: u32| u16::try_from(at & 0xffff).ok();
                (low <= high).then_some(())?;
                Some(PortRange { protocol, first: port(low)?, last: port(high)? })
            })
        })
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            let (low, high) = (a.0.max(b.0), a.1.min(b.1));
            if low <= high {
                ranges.push((low, high));
            }
            if a.1 < b.1 {
                left.next()
            } else {
                right.next()
            };
        }
        Self { ranges }
    }

    /// What is in this one alone.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        let mut others = other.ranges.iter().peekable();
        for (first, last) in &self.ranges {
            let mut at = *first;
            while let Some((low, high)) = others.peek() {
                if *low > *last {
                    break;
                }
                if *low > at {
                    ranges.push((at, low - 1));
                }
                at = at.max(high.saturating_add(1));
                if *high > *last {
                    break;
                }
                others.next();
            }
            if at <= *last {
                ranges.push((at, *last));
            }
        }
        Self { ranges }
    }

    /// What is in one or the other.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self::of(self.ranges.iter().chain(&other.ranges).copied().collect())
    }

    fn of(mut all: Vec<(u32, u32)>) -> Self {
        all.sort_unstable();
        let mut ranges: Vec<(u32, u32)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match ranges.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }
}

impl FromIterator<PortRange> for PortSet {
    fn from_iter<T: IntoIterator<Item = PortRange>>(ranges: T) -> Self {
        let at = |range: PortRange| {
            let base = base(range.protocol);
            (base + u32::from(range.first), base + u32::from(range.last))
        };
        Self::of(ranges.into_iter().filter(|range| range.first <= range.last).map(at).collect())
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (0 | 1, u16::MAX) => write!(f, "{}", self.protocol),
            (first, last) if first == last => write!(f, "{first}/{}", self.protocol),
            (first, last) => write!(f, "{first}-{last}/{}", self.protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a subtraction that loses what lies between two ranges.

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn sets() -> impl Strategy<Value = PortSet> {
        // Around the borders of protocols.
        let at = prop_oneof![0..12_u32, 65530..65545_u32, (REST - 8)..=REST];
        proptest::collection::vec((at, 0..6_u32), 0..6).prop_map(|all| {
            PortSet::of(all.into_iter().map(|(first, more)| (first, (first + more).min(REST))).collect())
        })
    }

    fn points(set: &PortSet) -> BTreeSet<u32> {
        set.ranges.iter().flat_map(|(first, last)| *first..=*last).collect()
    }

    proptest! {
        #[test]
        fn sets_of_numbers_do_the_same(a in sets(), b in sets()) {
            prop_assert_eq!(points(&a.and(&b)), &points(&a) & &points(&b));
            prop_assert_eq!(points(&a.or(&b)), &points(&a) | &points(&b));
            prop_assert_eq!(points(&a.without(&b)), &points(&a) - &points(&b));
            for set in [a.and(&b), a.or(&b), a.without(&b)] {
                prop_assert!(set.ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0 || pair[0].1 < pair[1].0));
            }
            let again: PortSet = a.ports().collect();
            prop_assert_eq!(a.without(&PortSet::rest()), again);
        }
    }

    #[test]
    fn names_for_people() {
        let range = |first, last| PortRange { protocol: Protocol::Tcp, first, last };
        assert_eq!(range(80, 80).to_string(), "80/tcp");
        assert_eq!(range(80, 90).to_string(), "80-90/tcp");
        assert_eq!(range(0, 65535).to_string(), "tcp");
        assert!(PortSet::all().has_rest() && PortSet::point(None).ports().next().is_none());
    }
}
