//! Which nodes are to be decided about, and when. Time comes in as milliseconds, by the caller's clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Nodes by name: ready, busy, or waiting for a time. A busy one that is touched is ready again once it is not.
#[derive(Debug, Default)]
pub struct Queue {
    ready: VecDeque<String>,
    queued: BTreeSet<String>,
    busy: BTreeSet<String>,
    again: BTreeSet<String>,
    timers: BTreeSet<(u64, String)>,
    timer_of: BTreeMap<String, u64>,
    tries: BTreeMap<String, u32>,
}

/// How a node's job ended, as far as the queue goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Look once more whether all is as it should be.
    Look,
    /// Decide again: at once for the first few times, then with growing pauses.
    Again,
    /// A request failed: with growing pauses.
    Later,
}

impl Queue {
    /// A decision about this node may have changed.
    pub fn touch(&mut self, name: &str) {
        if self.busy.contains(name) {
            self.again.insert(name.to_owned());
        } else if self.queued.insert(name.to_owned()) {
            self.ready.push_back(name.to_owned());
        }
    }

    /// Touches the node at a time, or sooner if that was to be already.
    pub fn touch_at(&mut self, name: &str, at_ms: u64) {
        if let Some(before) = self.timer_of.get(name).copied() {
            if before <= at_ms {
                return;
            }
            self.timers.remove(&(before, name.to_owned()));
        }
        self.timer_of.insert(name.to_owned(), at_ms);
        self.timers.insert((at_ms, name.to_owned()));
    }

    /// Touches those whose time has come.
    pub fn tick(&mut self, now_ms: u64) {
        while let Some((at, name)) = self.timers.first().cloned() {
            if at > now_ms {
                return;
            }
            self.timers.pop_first();
            self.timer_of.remove(&name);
            self.touch(&name);
        }
    }

    /// The next node to decide about.
    pub fn pop(&mut self) -> Option<String> {
        let name = self.ready.pop_front()?;
        self.queued.remove(&name);
        Some(name)
    }

    /// A job for the node begins.
    pub fn begin(&mut self, name: &str) {
        self.busy.insert(name.to_owned());
    }

    /// Nothing is to be done about the node.
    pub fn rest(&mut self, name: &str) {
        self.tries.remove(name);
    }

    /// The node's job has ended. Gives how often in a row it did so badly.
    pub fn end(&mut self, name: &str, ending: Ending, now_ms: u64) -> u32 {
        self.busy.remove(name);
        let touched = self.again.remove(name);
        let tries = match ending {
            Ending::Look => {
                self.tries.remove(name);
                0
            }
            Ending::Again | Ending::Later => {
                let tries = self.tries.entry(name.to_owned()).or_default();
                *tries = tries.saturating_add(1);
                *tries
            }
        };
        let pause = match ending {
            Ending::Look => 0,
            Ending::Again if tries <= 3 => 0,
            Ending::Again => (10_u64 << tries.min(9)).min(5_000),
            Ending::Later => (250_u64 << tries.min(7)).min(30_000),
        };
        // News about a node that fails is no reason to try it at once: most news is of what was tried before.
        if pause == 0 || touched && ending == Ending::Again {
            self.touch(name);
        } else {
            self.touch_at(name, now_ms.saturating_add(pause));
        }
        tries
    }

    /// Nodes that wait to be decided about.
    pub fn len(&self) -> usize {
        self.ready.len()
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a node that is touched while it is busy and then forgotten.
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn a_busy_node_that_is_touched_comes_again() {
        let mut queue = Queue::default();
        queue.touch("a");
        queue.touch("a");
        assert_eq!(queue.pop().as_deref(), Some("a"));
        queue.begin("a");
        queue.touch("a");
        assert_eq!(queue.pop(), None);
        queue.end("a", Ending::Look, 0);
        assert_eq!(queue.pop().as_deref(), Some("a"));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut queue = Queue::default();
        let mut now = 0;
        for round in 1..40 {
            queue.begin("a");
            assert_eq!(queue.end("a", Ending::Later, now), round);
            assert_eq!(queue.pop(), None);
            queue.tick(now + 30_000);
            assert_eq!(queue.pop().as_deref(), Some("a"), "it is tried again within half a minute");
            now += 30_000;
        }
        queue.rest("a");
        queue.begin("a");
        assert_eq!(queue.end("a", Ending::Again, now), 1);
        assert_eq!(queue.pop().as_deref(), Some("a"));
    }

    #[test]
    fn the_sooner_time_counts() {
        let mut queue = Queue::default();
        queue.touch_at("a", 50);
        queue.touch_at("a", 20);
        queue.touch_at("a", 90);
        queue.tick(19);
        assert_eq!(queue.pop(), None);
        queue.tick(20);
        assert_eq!(queue.pop().as_deref(), Some("a"));
        queue.tick(100);
        assert_eq!(queue.pop(), None);
    }
}
