//! Network namespaces as open descriptors, and work done inside one.
//!
//! A thread that has entered another namespace never comes back to other work: [`Netns::run`] takes a fresh thread
//! that ends with the work, so no early return can leave a worker in a pod's namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{FsType, fstatfs};

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: nix::libc::c_long = 0x6e73_6673;

/// What can go wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path cannot be opened.
    #[error("open network namespace {path}: {source}", path = path.display())]
    Open {
        /// The path given.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The descriptor is something else (a file, another kind of namespace).
    #[error("{what} is not a network namespace")]
    NotANetns {
        /// The path, or a description of the descriptor.
        what: String,
    },
    /// The descriptor cannot be examined.
    #[error("examine network namespace: {source}")]
    Examine {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not let us in.
    #[error("enter network namespace: {source}")]
    Enter {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("start a thread to enter a network namespace: {source}")]
    Thread {
        /// The system's answer.
        source: io::Error,
    },
    /// The work inside panicked.
    #[error("work in a network namespace panicked")]
    Panicked,
}

/// A network namespace, held open. It stays alive for as long as this value: drop it soon.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    inode: u64,
}

impl Netns {
    /// Opens a namespace by path (`/proc/PID/ns/net`, `/run/netns/NAME`).
    ///
    /// # Errors
    /// The path cannot be opened, or is no network namespace.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref();
        // O_NONBLOCK: the path comes from outside and may be a FIFO.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let fd = open(path, flags, Mode::empty())
            .map_err(|errno| NetnsError::Open { path: path.to_owned(), source: errno.into() })?;
        Self::checked(fd, || path.display().to_string())
    }

    /// Takes over a descriptor (as received from the CNI plugin).
    ///
    /// # Errors
    /// It is no network namespace.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NetnsError> {
        Self::checked(fd, || "the descriptor received".to_owned())
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// `/proc` is absent.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    fn checked(fd: OwnedFd, what: impl Fn() -> String) -> Result<Self, NetnsError> {
        let examine = |errno: nix::Error| NetnsError::Examine { source: errno.into() };
        let kind = fstatfs(&fd).map_err(examine)?.filesystem_type();
        if kind != FsType(NSFS_MAGIC) || ns_type(&fd).map_err(examine)? != nix::libc::CLONE_NEWNET {
            return Err(NetnsError::NotANetns { what: what() });
        }
        let inode = fstat(&fd).map_err(examine)?.st_ino;
        Ok(Self { fd, inode })
    }

    /// The inode number: equal for two descriptors of one namespace, given again after a namespace has ended.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `f` on a fresh thread inside the namespace and waits for it.
    ///
    /// # Errors
    /// The namespace cannot be entered; what `f` gives back is passed through as it is.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || self.enter_for_good().map(|()| f()))
                .map_err(|source| NetnsError::Thread { source })?;
            thread.join().map_err(|_| NetnsError::Panicked)?
        })
    }

    /// Moves the calling thread; only for threads that end with their work.
    pub(crate) fn enter_for_good(&self) -> Result<(), NetnsError> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Enter { source: errno.into() })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `ioctl(NS_GET_NSTYPE)`: which kind of namespace a descriptor is.
fn ns_type(fd: &OwnedFd) -> nix::Result<i32> {
    mod raw {
        nix::ioctl_none_bad!(ns_get_nstype, nix::request_code_none!(0xb7, 0x3));
    }
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: NS_GET_NSTYPE takes no argument and writes no memory; the descriptor is open.
    unsafe {
        raw::ns_get_nstype(fd.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a regular file or another kind of namespace accepted as a network namespace.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn other_things_are_refused() {
        assert!(matches!(Netns::open("/proc/self/ns/mnt"), Err(NetnsError::NotANetns { .. })));
        assert!(matches!(Netns::open("/etc/passwd"), Err(NetnsError::NotANetns { .. })));
        assert!(matches!(Netns::open("/nonexistent/netns"), Err(NetnsError::Open { .. })));
    }

    #[test]
    fn own_namespace_has_one_inode() {
        assert_eq!(Netns::current().unwrap().inode(), Netns::open("/proc/self/ns/net").unwrap().inode());
    }
}
