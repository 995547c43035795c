//! Numbers by address, of which a plan shares most with the one before.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::PeerId;

/// Changes that are kept beside what is shared, at least; and at most one of so many addresses.
const FEW: usize = 1024;
const SHARE: usize = 16;

/// Numbers by address. A copy costs what differs from the one that it was copied from, and so does to compare the two.
#[derive(Clone, Debug, Default)]
pub struct HostMap {
    shared: Arc<BTreeMap<IpAddr, PeerId>>,
    /// What differs; `None` where an address is not there.
    changed: BTreeMap<IpAddr, Option<PeerId>>,
}

impl PartialEq for HostMap {
    fn eq(&self, other: &Self) -> bool {
        self.differing(other).is_empty()
    }
}

impl Eq for HostMap {}

impl HostMap {
    /// An address's number.
    #[must_use]
    pub fn get(&self, address: &IpAddr) -> Option<PeerId> {
        self.changed.get(address).copied().unwrap_or_else(|| self.shared.get(address).copied())
    }

    /// All, in the order of the addresses.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, PeerId)> + '_ {
        let mut shared = self.shared.iter().filter(|(address, _)| !self.changed.contains_key(*address)).peekable();
        let mut changed = self.changed.iter().filter_map(|(address, id)| Some((*address, (*id)?))).peekable();
        std::iter::from_fn(move || match (shared.peek(), changed.peek()) {
            (Some((a, _)), Some((b, _))) if *a > b => changed.next(),
            (Some(_), _) => shared.next().map(|(address, id)| (*address, *id)),
            (None, _) => changed.next(),
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let change = |(address, id): (&IpAddr, &Option<PeerId>)| {
            isize::from(id.is_some()) - isize::from(self.shared.contains_key(address))
        };
        self.shared.len().saturating_add_signed(self.changed.iter().map(change).sum())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// An address has a number, or none.
    pub(super) fn set(&mut self, address: IpAddr, id: Option<PeerId>) {
        if self.shared.get(&address).copied() == id {
            self.changed.remove(&address);
        } else {
            self.changed.insert(address, id);
        }
    }

    /// What is to be shared from now on, where much has changed.
    pub(super) fn settle(&mut self) {
        if self.changed.len() > FEW.max(self.shared.len() / SHARE) {
            *self = Self { shared: Arc::new(self.iter().collect()), changed: BTreeMap::new() };
        }
    }

    /// Addresses whose numbers differ, with this one's and the other's.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<(IpAddr, Option<PeerId>, Option<PeerId>)> {
        if !Arc::ptr_eq(&self.shared, &other.shared) {
            return differing(self.iter(), other.iter());
        }
        let addresses: BTreeSet<&IpAddr> = self.changed.keys().chain(other.changed.keys()).collect();
        let both = addresses.into_iter().map(|address| (*address, self.get(address), other.get(address)));
        both.filter(|(_, ours, theirs)| ours != theirs).collect()
    }
}

/// Two lists in the order of their keys, side by side: what differs, with the one's value and the other's.
pub fn differing<K: Ord + Copy, V: PartialEq + Copy>(
    ours: impl Iterator<Item = (K, V)>,
    theirs: impl Iterator<Item = (K, V)>,
) -> Vec<(K, Option<V>, Option<V>)> {
    let (mut ours, mut theirs) = (ours.peekable(), theirs.peekable());
    let mut found = Vec::new();
    loop {
        let order = match (ours.peek(), theirs.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let our = if order.is_le() { ours.next() } else { None };
        let their = if order.is_ge() { theirs.next() } else { None };
        let (values, key) = ((our.map(|(_, v)| v), their.map(|(_, v)| v)), our.or(their).map(|(key, _)| key));
        found.extend(key.filter(|_| values.0 != values.1).map(|key| (key, values.0, values.1)));
    }
}
