//! Errors of the packet filter.

use nix::errno::Errno;

use crate::netlink::NetlinkError;

/// Why the packet filter could not be read or written. What was there stays.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program cannot be started.
    #[error("run nft: {source}")]
    Start {
        /// The system's answer.
        source: std::io::Error,
    },
    /// It refused.
    #[error("{what}: nft: {words}")]
    Refused {
        /// What was attempted.
        what: &'static str,
        /// What it wrote.
        words: String,
    },
    /// What it printed cannot be read.
    #[error("{what}: nft printed something unexpected: {source}")]
    Unreadable {
        /// What was attempted.
        what: &'static str,
        /// Where.
        source: serde_json::Error,
    },
    /// Netlink does not work.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Nothing was applied yet, so there is nothing to change or compare with.
    #[error("the packet filter's table was not written yet")]
    NotApplied,
}

impl NftError {
    /// Whether the kernel refused because an element of that key leads elsewhere already.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Netlink(error) if matches!(error.errno(), Some(Errno::EEXIST | Errno::EBUSY)))
    }
}
