//! `CLOCK_BOOTTIME`: goes on while the machine sleeps, and is the same for every process of a node.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::error::PluginError;

/// Now, in nanoseconds since boot.
pub(crate) fn now_ns() -> Result<u64, PluginError> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|errno| PluginError::Clock { source: errno.into() })?;
    u64::try_from(Duration::from(now).as_nanos())
        .map_err(|_| PluginError::Clock { source: std::io::ErrorKind::InvalidData.into() })
}

/// The time from now until a moment; zero if it has passed or the clock cannot be read.
pub(crate) fn until(deadline_ns: u64) -> Duration {
    now_ns().map_or(Duration::ZERO, |now| Duration::from_nanos(deadline_ns.saturating_sub(now)))
}

/// The moment a timeout after another.
pub(crate) fn after(began_ns: u64, timeout: Duration) -> u64 {
    began_ns.saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
}
