//! Packets that are fired all the while something else happens: each that is allowed has to pass, none that is denied.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use overlane_suites::volley::{Shot, Volley};
use overlane_suites::wait::millis;

use crate::stage::Range;

/// How often they are fired.
const BEAT: Duration = Duration::from_millis(20);

/// What was done meanwhile, for failures to say what they followed.
#[derive(Default)]
pub struct Notes {
    fired: AtomicUsize,
    done: Mutex<Vec<(usize, String)>>,
}

impl Notes {
    /// Notes what is done next.
    pub fn note(&self, what: impl Into<String>) {
        let entry = (self.fired.load(Ordering::Relaxed), what.into());
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// What was begun last before this volley, and before that.
    fn before(&self, volley: usize) -> String {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = done.iter().filter(|(at, _)| *at <= volley);
        let told: Vec<String> =
            earlier.rev().take(4).map(|(at, what)| format!("{what} ({} before)", volley - at)).collect();
        told.join(", ")
    }
}

/// Fires while `work` goes on, and ends the test if one packet fared otherwise. Nothing is tried twice.
pub fn while_doing<T>(range: &Range, what: &str, open: &[Shot], shut: &[Shot], work: impl FnOnce(&Notes) -> T) -> T {
    let (done, volleys, mut wrong) = watched(range, open, shut, work);
    println!("{what}: {volleys} volleys of {} packets, {} wrong", open.len() + shut.len(), wrong.len());
    let count = wrong.len();
    wrong.truncate(40);
    assert!(wrong.is_empty(), "{what}, {count} wrong in {volleys} volleys: {wrong:#?}");
    done
}

/// Fires while `work` goes on; gives how often, and what became of each packet that fared otherwise.
pub fn watched<T>(
    range: &Range,
    open: &[Shot],
    shut: &[Shot],
    work: impl FnOnce(&Notes) -> T,
) -> (T, usize, Vec<String>) {
    let (stop, notes) = (AtomicBool::new(false), Notes::default());
    let all = [open, shut].concat();
    let (done, volleys) = std::thread::scope(|scope| {
        let firing = scope.spawn(|| {
            let mut volleys: Vec<Volley> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                volleys.push(range.field.fire(&all, Duration::ZERO));
                notes.fired.store(volleys.len(), Ordering::Relaxed);
                std::thread::sleep(BEAT);
            }
            volleys
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&notes)));
        // The last ones get their time.
        std::thread::sleep(millis(200));
        stop.store(true, Ordering::Relaxed);
        (done, firing.join().unwrap())
    });
    let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    std::thread::sleep(millis(500));
    let mut wrong = Vec::new();
    for (number, volley) in volleys.iter().enumerate() {
        for (at, (shot, fate)) in all.iter().zip(range.field.fates(volley)).enumerate() {
            let right = if at < open.len() { fate.answered } else { !fate.arrived && !fate.answered };
            if !right {
                let is = if at < open.len() { "is allowed throughout" } else { "is denied throughout" };
                let told = range.tell(shot);
                wrong.push(format!("volley {number}: {told} {is}: {fate:?}, after {}", notes.before(number)));
            }
        }
    }
    (done, volleys.len(), wrong)
}
