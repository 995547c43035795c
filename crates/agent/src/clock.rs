//! The one clock of leases, deadlines and cool-downs.
//!
//! `CLOCK_BOOTTIME` runs on through suspend, is the same for every process of a machine and starts again with it, as
//! leases do. The plugin stamps its calls with the same clock.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine booted.
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Milliseconds since the machine booted.
pub fn boot_ms() -> u64 {
    boot_ns() / 1_000_000
}

/// The wall clock as Kubernetes writes it (RFC 3339, seconds, UTC); for conditions, never for decisions.
pub fn wall() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now())
}
