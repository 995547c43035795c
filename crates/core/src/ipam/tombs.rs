//! What is remembered of DELs, so that an ADD that began before one and arrives after it gets nothing.
//!
//! Bounded in number and age. What is given up leaves a floor behind: an ADD that began below it might be one of
//! those forgotten, and is refused as well. So forgetting never lets one through.

use std::collections::{BTreeMap, BTreeSet};

use super::{Attachment, Event};

/// How many DELs are remembered.
pub const TOMBSTONES_MOST: usize = 2_048;
/// How long a DEL is remembered: 10 minutes, several times as long as any runtime waits for an ADD.
pub const TOMBSTONE_AGE_MS: u64 = 600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tomb {
    began_ns: u64,
    at_ms: u64,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tombs {
    known: BTreeMap<Attachment, Tomb>,
    oldest: BTreeSet<(u64, Attachment)>,
    /// ADDs that began before this are refused.
    floor_ns: u64,
}

impl Tombs {
    /// The DEL that rules out an ADD that began then, by the time when that DEL began or may have begun.
    pub(super) fn after(&self, attachment: &Attachment, began_ns: u64) -> Option<u64> {
        let known = self.known.get(attachment).map(|tomb| tomb.began_ns).filter(|del| began_ns <= *del);
        known.or_else(|| (began_ns < self.floor_ns).then_some(self.floor_ns))
    }

    pub(super) fn remember(&mut self, attachment: &Attachment, began_ns: u64, at_ms: u64) {
        if let Some(old) = self.known.get(attachment) {
            if old.began_ns >= began_ns {
                return;
            }
            self.oldest.remove(&(old.at_ms, attachment.clone()));
        }
        self.known.insert(attachment.clone(), Tomb { began_ns, at_ms });
        self.oldest.insert((at_ms, attachment.clone()));
    }

    /// Gives up what is too old or too much.
    pub(super) fn expire(&mut self, now_ms: u64) {
        let too_old = now_ms.saturating_sub(TOMBSTONE_AGE_MS);
        while let Some((at_ms, _)) = self.oldest.first() {
            if *at_ms >= too_old && self.oldest.len() <= TOMBSTONES_MOST {
                break;
            }
            let Some((_, attachment)) = self.oldest.pop_first() else {
                break;
            };
            if let Some(tomb) = self.known.remove(&attachment) {
                self.raise_floor(tomb.began_ns.saturating_add(1));
            }
        }
    }

    pub(super) fn raise_floor(&mut self, floor_ns: u64) {
        self.floor_ns = self.floor_ns.max(floor_ns);
    }

    /// Events that give this state to an empty one, oldest first.
    pub(super) fn snapshot(&self) -> impl Iterator<Item = Event> {
        let floor = (self.floor_ns > 0).then_some(Event::Floor { began_ns: self.floor_ns });
        let tombs = self.oldest.iter().filter_map(|(at_ms, attachment)| {
            let tomb = self.known.get(attachment)?;
            Some(Event::Tombstone { attachment: attachment.clone(), began_ns: tomb.began_ns, at_ms: *at_ms })
        });
        floor.into_iter().chain(tombs)
    }
}
