//! What a socket speaks, and which sockets are this process's own.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Links, addresses, routes, rules, neighbours.
    Route,
    /// nftables and conntrack.
    Netfilter,
}

impl Protocol {
    pub(super) fn number(self) -> isize {
        match self {
            Self::Route => 0,
            Self::Netfilter => 12,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Netfilter => "netfilter",
        }
    }
}

/// Ports of this process's open sockets: what was changed through one of them is no news.
pub(super) fn ports() -> MutexGuard<'static, BTreeSet<(Protocol, u32)>> {
    static PORTS: Mutex<BTreeSet<(Protocol, u32)>> = Mutex::new(BTreeSet::new());
    PORTS.lock().unwrap_or_else(PoisonError::into_inner)
}
