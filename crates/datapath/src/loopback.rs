//! The loopback interface of a pod's namespace.

use crate::netlink::{NetlinkError, Socket};
use crate::netns::{Netns, NetnsError};
use crate::rtnl::link::{self, Link};

/// Why `lo` could not be looked at or set up.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// There is no such interface.
    #[error("there is no interface {ifname}")]
    Absent {
        /// Its name.
        ifname: String,
    },
}

/// Sets it up; the kernel gives it its addresses.
///
/// # Errors
/// It is not there, or could not be set up.
pub fn set_up(ns: &Netns, ifname: &str) -> Result<(), LoopbackError> {
    ns.run(|| {
        let mut socket = Socket::route()?;
        let found = find(&mut socket, ifname)?;
        if !found.is_up() {
            socket.request(link::set_up(found.index, ifname))?;
        }
        Ok(())
    })?
}

/// Whether it is up.
///
/// # Errors
/// It is not there, or could not be looked at.
pub fn is_up(ns: &Netns, ifname: &str) -> Result<bool, LoopbackError> {
    ns.run(|| Ok(find(&mut Socket::route()?, ifname)?.is_up()))?
}

fn find(socket: &mut Socket, ifname: &str) -> Result<Link, LoopbackError> {
    let answers = socket.request(link::get(ifname))?;
    answers.first().and_then(Link::read).ok_or_else(|| LoopbackError::Absent { ifname: ifname.to_owned() })
}
