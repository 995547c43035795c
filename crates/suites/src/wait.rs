//! Waiting with a limit, and saying what was waited for.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long a poll sleeps.
const STEP: Duration = Duration::from_millis(20);

/// Seconds, for tables and limits.
pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Milliseconds.
pub fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Polls until `probe` is `Ok`, and returns that; after `limit` the last error ends the test.
pub fn eventually<T, E: Display>(limit: Duration, what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        let error = match probe() {
            Ok(value) => return value,
            Err(error) => error.to_string(),
        };
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}: {error}");
        std::thread::sleep(STEP);
    }
}

/// Polls for the whole of `span`; the first error ends the test.
pub fn holds<E: Display>(span: Duration, what: &str, mut probe: impl FnMut() -> Result<(), E>) {
    let began = Instant::now();
    while began.elapsed() < span {
        if let Err(error) = probe() {
            panic!("{what}: broken after {:?}: {error}", began.elapsed());
        }
        std::thread::sleep(STEP);
    }
}

/// `Ok` if `yes`, else the text.
pub fn ensure(yes: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if yes { Ok(()) } else { Err(why()) }
}
