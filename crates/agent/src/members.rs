//! Changes of pods' packet-filter elements, several calls in one transaction.
//!
//! A transaction has a price whatever it holds, and only one runs at a time. Whoever finds none running takes
//! everybody's changes along; who comes meanwhile waits for the next one.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use overlane_datapath::nft::{NftError, PodChange, Table};

use crate::policy::Engine;

/// Why changes were not made; none of them was.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct MembersError(#[from] pub Arc<NftError>);

type Outcome = Result<(), MembersError>;

#[derive(Default)]
struct Queue {
    next: u64,
    waiting: Vec<(u64, Vec<PodChange>)>,
    running: bool,
    done: BTreeMap<u64, Outcome>,
}

/// The pods' elements.
pub struct Members {
    table: OnceLock<Table>,
    policy: Arc<Engine>,
    turns: Turns,
}

/// Who commits, and whose changes.
#[derive(Default)]
struct Turns {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Members {
    /// None yet; what network policy says of pods comes with them.
    pub fn new(policy: Arc<Engine>) -> Self {
        Self { table: OnceLock::new(), policy, turns: Turns::default() }
    }

    /// The table, once [`Self::begin`] has made it.
    pub fn table(&self) -> Option<&Table> {
        self.table.get()
    }

    /// Makes the table. Only the first call counts.
    pub fn begin(&self, make: impl FnOnce() -> Table) -> &Table {
        self.table.get_or_init(make)
    }

    /// Makes the changes, all of them or none, in one transaction with whoever asks at the same time.
    pub fn change(&self, changes: Vec<PodChange>) -> Outcome {
        if changes.is_empty() {
            return Ok(());
        }
        self.turns.group(changes, |all| match self.table.get() {
            Some(table) => self.commit(table, all),
            None => Err(NftError::NotApplied),
        })
    }

    /// Puts in force what network policy says now.
    pub fn police(&self) -> Outcome {
        self.turns.group(Vec::new(), |all| self.table.get().map_or(Ok(()), |table| self.commit(table, all)))
    }

    /// Pods and what policy says of them, in one transaction. Only one runs at a time, so a plan never takes the place of a
    /// later one.
    fn commit(&self, table: &Table, changes: &[PodChange]) -> Result<(), NftError> {
        let used = || table.used().inspect_err(|error| tracing::warn!(%error, "read numbers of network policy")).ok();
        match self.policy.plan(used) {
            Some(plan) => table.police(plan, changes),
            None => table.pods(changes),
        }
    }
}

impl Turns {
    fn group(&self, changes: Vec<PodChange>, commit: impl Fn(&[PodChange]) -> Result<(), NftError>) -> Outcome {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push((ticket, changes));
        loop {
            if let Some(outcome) = queue.done.remove(&ticket) {
                return outcome;
            }
            if queue.running {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.running = true;
            let batch = std::mem::take(&mut queue.waiting);
            drop(queue);
            // The turn is given on whatever happens in the transaction.
            let mut turn = Turn { turns: self, outcomes: Vec::with_capacity(batch.len()) };
            run(batch, &commit, &mut turn.outcomes);
            drop(turn);
            queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct Turn<'a> {
    turns: &'a Turns,
    outcomes: Vec<(u64, Outcome)>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.turns.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.running = false;
        queue.done.extend(self.outcomes.drain(..));
        drop(queue);
        self.turns.changed.notify_all();
    }
}

fn run(
    batch: Vec<(u64, Vec<PodChange>)>,
    commit: &impl Fn(&[PodChange]) -> Result<(), NftError>,
    outcomes: &mut Vec<(u64, Outcome)>,
) {
    let single = |changes: &[PodChange]| commit(changes).map_err(|error| MembersError(Arc::new(error)));
    if let [(ticket, changes)] = batch.as_slice() {
        outcomes.push((*ticket, single(changes)));
        return;
    }
    let all: Vec<PodChange> = batch.iter().flat_map(|(_, changes)| changes.iter().cloned()).collect();
    if single(&all).is_ok() {
        outcomes.extend(batch.iter().map(|(ticket, _)| (*ticket, Ok(()))));
        return;
    }
    // Somebody's change was refused: nobody else shall pay for it.
    for (ticket, changes) in &batch {
        outcomes.push((*ticket, single(changes)));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a change that is lost when several come at once; one refused change that fails the others'.

    use super::*;
    use overlane_core::plan::{PodElement, PodMember};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn change(n: u8) -> PodChange {
        let (link, mac, address) = (format!("ovlp{n}"), [2, 0, 0, 0, 0, n], [10, 0, 0, n].into());
        PodChange::Add(PodElement::Source(PodMember { link, mac, address }))
    }

    #[test]
    fn several_share_a_transaction_and_only_the_bad_one_fails() {
        let members = Turns::default();
        let transactions = AtomicUsize::new(0);
        let applied = Mutex::new(Vec::new());
        let commit = |changes: &[PodChange]| {
            transactions.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
            if changes.contains(&change(13)) {
                return Err(NftError::NotApplied);
            }
            applied.lock().unwrap().extend(changes.iter().cloned());
            Ok(())
        };
        let (members, commit) = (&members, &commit);
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..20).map(|n| scope.spawn(move || (n, members.group(vec![change(n)], commit)))).collect();
            for thread in threads {
                let (n, outcome) = thread.join().unwrap();
                assert_eq!(outcome.is_err(), n == 13, "change {n}: {outcome:?}");
            }
        });
        let mut applied: Vec<_> = applied.lock().unwrap().iter().map(|c| format!("{c:?}")).collect();
        applied.sort();
        applied.dedup();
        assert_eq!(applied.len(), 19);
        assert!(members.queue.lock().unwrap().done.is_empty());
        println!("{} transactions for 20 changes", transactions.load(Ordering::Relaxed));
    }

    #[test]
    fn before_the_table_is_there_changes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, _) = crate::takeover::open(dir.path(), "boot", 0).unwrap();
        let members = Members::new(Arc::new(Engine::new("n1", Arc::new(ledger))));
        assert!(members.change(vec![change(1)]).is_err());
        assert!(members.change(Vec::new()).is_ok() && members.police().is_ok());
    }
}
