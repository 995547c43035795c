//! Objects of one kind by name, as a list followed by a watch tells them.

use std::collections::BTreeMap;

use super::item::Change;

/// What is known of one kind.
#[derive(Debug)]
pub struct Kept<K, T> {
    items: BTreeMap<K, T>,
    listing: Option<BTreeMap<K, T>>,
    heard: bool,
}

impl<K, T> Default for Kept<K, T> {
    /// Nothing.
    fn default() -> Self {
        Self { items: BTreeMap::new(), listing: None, heard: false }
    }
}

impl<K: Ord, T: PartialEq> Kept<K, T> {
    /// What was heard earlier, and counts until there is news.
    pub fn load(&mut self, items: impl IntoIterator<Item = (K, T)>) {
        self.items = items.into_iter().collect();
        self.heard = true;
    }

    /// Whether a list was heard in full.
    pub const fn heard(&self) -> bool {
        self.heard
    }

    /// What is known.
    pub const fn items(&self) -> &BTreeMap<K, T> {
        &self.items
    }

    /// Keeps what a list did not name.
    pub fn keep(&mut self, key: K, item: T) {
        self.items.insert(key, item);
    }

    /// Forgets one.
    pub fn forget(&mut self, key: &K) {
        self.items.remove(key);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes a word; whether that changes anything.
    pub fn take(&mut self, change: Change<(K, T)>) -> bool {
        match change {
            Change::Begin => {
                self.listing = Some(BTreeMap::new());
                false
            }
            Change::Listed((key, item)) => {
                self.listing.get_or_insert_default().insert(key, item);
                false
            }
            Change::Done => {
                let listed = self.listing.take().unwrap_or_default();
                let news = !self.heard || self.items != listed;
                (self.items, self.heard) = (listed, true);
                news
            }
            Change::Applied((key, item)) => {
                let same = self.items.get(&key) == Some(&item);
                self.items.insert(key, item);
                !same
            }
            Change::Gone((key, _)) => self.items.remove(&key).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a list that leaves behind what it does not name.

    use super::*;

    #[test]
    fn lists_and_news() {
        let mut kept = Kept::default();
        assert!(!kept.take(Change::Begin) && !kept.take(Change::Listed(("a", 1))) && !kept.heard());
        assert!(kept.take(Change::Done) && kept.heard());
        assert!(kept.take(Change::Applied(("b", 2))) && !kept.take(Change::Applied(("b", 2))));
        kept.take(Change::Begin);
        kept.take(Change::Listed(("b", 2)));
        assert_eq!(kept.items().len(), 2, "until the list is whole");
        assert!(kept.take(Change::Done));
        assert_eq!(kept.items(), &BTreeMap::from([("b", 2)]));
        assert!(kept.take(Change::Gone(("b", 0))) && !kept.take(Change::Gone(("b", 0))));
    }
}
