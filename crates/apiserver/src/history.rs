//! The bounded history of one table, from which watches are served.
//!
//! A watch keeps only its place in the history and pulls from there, so that a slow one costs no memory and an event is
//! serialised once for all of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use tokio::sync::watch;

use crate::store::{Key, Object};

/// Most events kept for a table.
pub const EVENTS_KEPT: usize = 10_000;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there before.
    Added,
    /// It was there before.
    Modified,
    /// It is gone.
    Deleted,
}

impl Change {
    /// As a watch spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object.
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The object after it; for a deletion the last state, at the revision of the deletion.
    pub object: Arc<Object>,
    /// The object before it.
    pub previous: Option<Arc<Object>>,
    lines: [OnceLock<Bytes>; 3],
}

impl Event {
    /// An event that no watch has seen yet.
    pub fn new(change: Change, object: Arc<Object>, previous: Option<Arc<Object>>) -> Self {
        Self { change, object, previous, lines: Default::default() }
    }

    /// The line of a watch, told as `change`: a selector may see a modification as an addition or a deletion.
    pub fn line(&self, change: Change) -> Bytes {
        self.lines[change as usize].get_or_init(|| line(change.name(), &self.shown(change).bytes)).clone()
    }

    /// The object that is told of. What leaves a selection is shown as it last was in it, at the revision of leaving.
    pub fn shown(&self, change: Change) -> Arc<Object> {
        match &self.previous {
            Some(previous) if change == Change::Deleted && self.change != Change::Deleted => {
                Arc::new(previous.at_revision(self.object.revision))
            }
            _ => self.object.clone(),
        }
    }
}

/// One line of a watch.
pub fn line(change: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(change.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}

/// The place of a watch in a history.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    next: u64,
    epoch: u64,
}

/// The history that a reader wants is gone; `oldest` is the oldest revision that can be read from.
#[derive(Clone, Copy, Debug)]
pub struct Gone {
    /// Oldest revision to start from.
    pub oldest: u64,
}

#[derive(Default)]
struct State {
    events: VecDeque<Arc<Event>>,
    /// Number of the first event kept.
    first: u64,
    /// Everything up to this revision is dropped.
    compacted: u64,
    /// Goes up when the whole table is replaced.
    epoch: u64,
}

/// The history of one table.
pub struct History {
    state: RwLock<State>,
    wake: watch::Sender<()>,
}

impl Default for History {
    fn default() -> Self {
        Self { state: RwLock::default(), wake: watch::Sender::new(()) }
    }
}

impl History {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of every later change.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }

    /// Wakes every watch, after the store has published the new revision.
    pub fn wake(&self) {
        self.wake.send_replace(());
    }

    /// Adds an event; the oldest goes if there are too many.
    pub fn push(&self, event: Event) {
        let mut state = self.write();
        state.events.push_back(Arc::new(event));
        if state.events.len() > EVENTS_KEPT
            && let Some(oldest) = state.events.pop_front()
        {
            state.first += 1;
            state.compacted = oldest.object.revision;
        }
    }

    /// Drops all events up to `revision`, the store's current one.
    pub fn compact(&self, revision: u64) {
        let mut state = self.write();
        state.first += state.events.len() as u64;
        state.events.clear();
        state.compacted = revision;
    }

    /// The table was replaced as a whole: every watch ends.
    pub fn restart(&self, revision: u64) {
        self.compact(revision);
        self.write().epoch += 1;
        self.wake();
    }

    /// The place right after `revision`.
    ///
    /// # Errors
    /// If events after it are gone.
    pub fn after(&self, revision: u64) -> Result<Place, Gone> {
        let state = self.read();
        if revision < state.compacted {
            return Err(Gone { oldest: state.compacted });
        }
        let skipped = state.events.partition_point(|event| event.object.revision <= revision);
        Ok(Place { next: state.first + skipped as u64, epoch: state.epoch })
    }

    /// Up to `most` events from `place` on, and the place after them.
    ///
    /// # Errors
    /// If the reader fell behind what is kept, or the table was replaced.
    pub fn next(&self, place: Place, most: usize) -> Result<(Vec<Arc<Event>>, Place), Gone> {
        let state = self.read();
        let gone = Gone { oldest: state.compacted };
        if place.epoch != state.epoch {
            return Err(gone);
        }
        let skipped = place.next.checked_sub(state.first).ok_or(gone)? as usize;
        let events: Vec<_> = state.events.iter().skip(skipped).take(most).cloned().collect();
        let next = place.next + events.len() as u64;
        Ok((events, Place { next, ..place }))
    }

    /// What the objects changed after `revision` were at that revision.
    ///
    /// # Errors
    /// If events after it are gone.
    pub fn undo(&self, revision: u64) -> Result<BTreeMap<Key, Option<Arc<Object>>>, Gone> {
        let state = self.read();
        if revision < state.compacted {
            return Err(Gone { oldest: state.compacted });
        }
        let later = state.events.iter().rev().take_while(|event| event.object.revision > revision);
        Ok(later.map(|event| (event.object.key.clone(), event.previous.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn object(revision: u64) -> Arc<Object> {
        let value = json!({"metadata": {"resourceVersion": revision.to_string()}});
        Arc::new(Object::read((String::new(), "x".to_owned()), value, revision))
    }

    #[test]
    fn an_event_is_serialised_once_for_all_watches() {
        let event = Event::new(Change::Modified, object(2), Some(object(1)));
        assert_eq!(event.line(Change::Modified).as_ptr(), event.line(Change::Modified).as_ptr());
        let left = event.line(Change::Deleted);
        assert!(left.starts_with(b"{\"type\":\"DELETED\"") && left.ends_with(b"\"2\"}}}\n"));
    }

    #[test]
    fn a_reader_is_told_when_it_lost_something() {
        let history = History::default();
        history.push(Event::new(Change::Added, object(1), None));
        let start = history.after(0).unwrap();
        let (events, caught_up) = history.next(start, 10).unwrap();
        assert_eq!(events.len(), 1);
        history.compact(1);
        assert!(history.next(start, 10).is_err(), "it had not read the event");
        assert!(history.next(caught_up, 10).unwrap().0.is_empty());
        assert!(history.after(0).is_err());
        assert!(history.after(1).is_ok());
        history.restart(5);
        assert!(history.next(caught_up, 10).is_err());
    }
}
