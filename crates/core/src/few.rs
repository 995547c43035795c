//! Sets of a few things, of which there are many: what an agent keeps of 10,000 policies.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::ops::Deref;

/// A set that does not change: its members in order, in one piece of memory that is no larger than they are. (A `BTreeSet` takes
/// room for eleven members when it has one.)
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Few<T>(Box<[T]>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T: Ord> Few<T> {
    /// Whether it has a member.
    pub fn has<Q: Ord + ?Sized>(&self, member: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.0.binary_search_by(|one| one.borrow().cmp(member)).is_ok()
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Ord> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        let mut members: Vec<T> = members.into_iter().collect();
        members.sort_unstable();
        members.dedup();
        Self(members.into_boxed_slice())
    }
}

impl<T: Ord> From<BTreeSet<T>> for Few<T> {
    fn from(set: BTreeSet<T>) -> Self {
        Self(set.into_iter().collect())
    }
}

impl<T: Ord, const N: usize> From<[T; N]> for Few<T> {
    fn from(members: [T; N]) -> Self {
        members.into_iter().collect()
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: members that are kept twice, or in no order.

    use super::Few;

    #[test]
    fn it_is_a_set() {
        let few: Few<&str> = ["b", "a", "b"].into();
        assert_eq!(few.to_vec(), ["a", "b"]);
        assert!(few.has("a") && !few.has("c"));
        assert_eq!(few, ["a", "b"].into_iter().collect());
        assert!(Few::<u8>::default().is_empty());
    }
}
