//! Errors of netlink.

use std::borrow::Cow;
use std::io;

use nix::errno::Errno;

/// The kernel refused one message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// What was attempted, on which object.
    pub what: Cow<'static, str>,
    /// The error number.
    pub errno: Errno,
    /// The kernel's words (extended acknowledgement), if it had any.
    pub kernel: Option<String>,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.errno.desc().to_lowercase())?;
        match &self.kernel {
            Some(words) => write!(f, " ({words})"),
            None => Ok(()),
        }
    }
}

/// A conversation over netlink failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("open a {protocol} netlink socket: {source}")]
    Open {
        /// The netlink protocol's name.
        protocol: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The message did not go out.
    #[error("{what}: send to the kernel: {source}")]
    Send {
        /// What was attempted.
        what: Cow<'static, str>,
        /// The system's answer.
        source: io::Error,
    },
    /// The answer did not come in.
    #[error("{what}: read the kernel's answer: {source}")]
    Receive {
        /// What was attempted.
        what: Cow<'static, str>,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel did not answer in time; whether it acted is unknown.
    #[error("{what}: no answer from the kernel within {seconds} s")]
    TimedOut {
        /// What was attempted.
        what: Cow<'static, str>,
        /// How long was waited.
        seconds: i64,
    },
    /// Answers were lost because the socket's buffer was full; whether the kernel acted is unknown.
    #[error("{what}: answers were lost (socket buffer full)")]
    Overrun {
        /// What was attempted.
        what: Cow<'static, str>,
    },
    /// The kernel said no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The list changed while it was read, each time.
    #[error("{what}: the list changed during each of {tries} readings")]
    Interrupted {
        /// What was attempted.
        what: Cow<'static, str>,
        /// How often it was read.
        tries: u32,
    },
    /// An answer that cannot be read.
    #[error("{what}: malformed answer from the kernel")]
    Malformed {
        /// What was attempted.
        what: Cow<'static, str>,
    },
    /// A message does not fit into netlink's length fields.
    #[error("{what}: message too long")]
    TooLong {
        /// What was attempted.
        what: Cow<'static, str>,
    },
}

impl NetlinkError {
    /// The kernel's error number, if it is the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused(refused) => Some(refused.errno),
            _ => None,
        }
    }
}
