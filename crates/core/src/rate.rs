//! Limits of a pod's traffic: what is asked for, and what a token bucket needs to be told.

use std::fmt;

/// Bursts without which a bucket would hold up single packets, bytes.
const LEAST_BURST: u64 = 32 << 10;
/// How long a sender may go on at full speed where nobody named a burst.
const BURST_MS: u64 = 10;
/// How long a packet may wait for its turn.
const QUEUE_MS: u64 = 50;
/// What may wait at any rate, bytes: a segmented packet of the largest size.
const LEAST_QUEUE: u64 = 64 << 10;

/// A limit of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    bits: u64,
    burst_bits: u64,
}

/// A pod's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bandwidth {
    /// Of what goes to the pod.
    pub ingress: Option<RateLimit>,
    /// Of what comes from the pod.
    pub egress: Option<RateLimit>,
}

impl RateLimit {
    /// A limit of `bits` a second, `None` if that is 0, which means no limit. `burst_bits` may pass at once; 0, and
    /// `u32::MAX` (which containerd sends, having nothing to say), leave the burst to us.
    #[must_use]
    pub fn new(bits: u64, burst_bits: u64) -> Option<Self> {
        let burst_bits = if burst_bits == u64::from(u32::MAX) { 0 } else { burst_bits };
        (bits > 0).then_some(Self { bits, burst_bits })
    }

    /// Bits a second, at least 1.
    #[must_use]
    pub const fn bits(&self) -> u64 {
        self.bits
    }

    /// The burst that was asked for, bits; 0 if none was.
    #[must_use]
    pub const fn burst_bits(&self) -> u64 {
        self.burst_bits
    }

    /// Bytes a second, at least 1.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bits.div_ceil(8)
    }

    /// The bucket's size, bytes. The kernel counts it in 32 bits (linux/pkt_sched.h, `TCA_TBF_BURST`).
    #[must_use]
    pub fn burst_bytes(&self) -> u32 {
        let asked = if self.burst_bits > 0 { self.burst_bits / 8 } else { self.during(BURST_MS) };
        in_32_bits(asked.max(LEAST_BURST))
    }

    /// How much may be there at once, waiting or passing, bytes. More is dropped.
    #[must_use]
    pub fn queue_bytes(&self) -> u32 {
        in_32_bits(u64::from(self.burst_bytes()).saturating_add(self.during(QUEUE_MS).max(LEAST_QUEUE)))
    }

    fn during(&self, ms: u64) -> u64 {
        self.bytes().saturating_mul(ms) / 1000
    }
}

fn in_32_bits(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit/s", self.bits)
    }
}

impl Bandwidth {
    /// Whether nothing is limited.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a burst of half a gigabyte because a runtime had none to name; a bucket that no packet fits into.

    use super::*;

    #[test]
    fn no_rate_is_no_limit() {
        assert_eq!(RateLimit::new(0, 1000), None);
        assert!(Bandwidth::default().is_none());
        assert!(!Bandwidth { egress: RateLimit::new(1, 0), ..Bandwidth::default() }.is_none());
    }

    #[test]
    fn bursts_are_ours_where_none_was_named() {
        for nothing in [0, u64::from(u32::MAX)] {
            assert_eq!(RateLimit::new(1_000_000, nothing).unwrap().burst_bytes(), 32 << 10);
            assert_eq!(RateLimit::new(8_000_000_000, nothing).unwrap().burst_bytes(), 10_000_000);
        }
        assert_eq!(RateLimit::new(1_000_000, 8 << 20).unwrap().burst_bytes(), 1 << 20);
        assert_eq!(RateLimit::new(1_000_000, 8).unwrap().burst_bytes(), 32 << 10);
    }

    #[test]
    fn extremes_are_held() {
        let most = RateLimit::new(u64::MAX, u64::MAX).unwrap();
        assert_eq!((most.bytes(), most.burst_bytes(), most.queue_bytes()), (1 << 61, u32::MAX, u32::MAX));
        let least = RateLimit::new(1, 1).unwrap();
        assert_eq!((least.bytes(), least.burst_bytes(), least.queue_bytes()), (1, 32 << 10, 96 << 10));
        assert_eq!(RateLimit::new(10_000_000_000, 0).unwrap().queue_bytes(), 12_500_000 + 62_500_000);
    }
}
