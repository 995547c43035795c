//! Threads that ask questions, each going from namespace to namespace as the questions want it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::plan::{Place, Question};
use super::probe::{self, Seen};
use crate::netns;

/// Questions asked at once.
const THREADS: usize = 64;

/// A question and what came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The question.
    pub question: Question,
    /// The answer, or why there is none.
    pub result: Result<Seen>,
}

/// Asks all questions; `told` hears how many are done. Each waits at most as long as `patience` says.
pub fn ask(
    places: &[Place],
    questions: Vec<Question>,
    patience: impl Fn(&Question) -> Duration + Sync,
    told: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::with_capacity(questions.len()));
    let threads = THREADS.min(questions.len());
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..threads {
            std::thread::Builder::new().stack_size(512 << 10).spawn_scoped(scope, || {
                let mut inside = PathBuf::new();
                while let Some(question) = questions.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = ask_one(places, question, &mut inside, patience(question));
                    let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    outcomes.push(Outcome { question: question.clone(), result });
                    told(done.fetch_add(1, Ordering::Relaxed) + 1);
                }
            })?;
        }
        Ok(())
    })?;
    Ok(outcomes.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn ask_one(places: &[Place], question: &Question, inside: &mut PathBuf, patience: Duration) -> Result<Seen> {
    let place = places.get(question.from).ok_or_else(|| anyhow!("nobody to ask"))?;
    if *inside != place.namespace {
        netns::enter(&place.namespace)?;
        inside.clone_from(&place.namespace);
    }
    probe::ask(question.kind, &question.target, patience)
}
