//! Whether a pod's namespace still lives, without keeping it alive.
//!
//! The host's namespace numbers others. The number goes away when the namespace does, and only then; so "no such
//! number" is proof that a pod's namespace is gone. The converse is weaker: a number that was freed is given again.

use nix::errno::Errno;

use crate::netlink::{NetlinkError, Socket};
use crate::netns::Netns;
use crate::rtnl::link::{self, Link};
use crate::rtnl::nsid;

/// The number that the calling thread's namespace has for `ns`, if it has one.
///
/// # Errors
/// Netlink does not work.
pub fn netnsid_of(ns: &Netns) -> Result<Option<i32>, NetlinkError> {
    look_up(&mut Socket::route()?, ns)
}

/// The number for `ns`, given now if it has none. Both ends of a veth make the kernel give one too.
///
/// # Errors
/// Netlink does not work, or the kernel has no number left.
pub fn netnsid_assign(ns: &Netns) -> Result<i32, NetlinkError> {
    use std::os::fd::AsFd;
    let mut socket = Socket::route()?;
    if let Some(nsid) = look_up(&mut socket, ns)? {
        return Ok(nsid);
    }
    match socket.request(nsid::assign(ns.as_fd())) {
        Ok(_) => {}
        // Somebody else was quicker (a veth was made, another thread asked).
        Err(error) if error.errno() == Some(Errno::EEXIST) => {}
        Err(error) => return Err(error),
    }
    look_up(&mut socket, ns)?.ok_or(NetlinkError::Malformed { what: "give a namespace a number".into() })
}

/// Whether the number stands for a namespace now. `false` is proof that the one it was given to is gone; after `true`
/// compare something else too (the namespace's inode, the pod's link).
///
/// # Errors
/// Netlink does not work.
pub fn is_alive(number: i32) -> Result<bool, NetlinkError> {
    match Socket::route()?.request(nsid::get_by_number(number)) {
        Ok(answers) => Ok(answers.first().and_then(nsid::read).is_some()),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The name of an interface in the namespace with this number; `None` if there is no such number, or no such interface.
///
/// # Errors
/// Netlink does not work.
pub fn interface_name(number: i32, index: u32) -> Result<Option<String>, NetlinkError> {
    match Socket::route()?.request(link::get_in(number, index)) {
        Ok(answers) => Ok(answers.iter().find_map(Link::read).map(|link| link.name)),
        Err(error) if matches!(error.errno(), Some(Errno::ENODEV | Errno::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn look_up(socket: &mut Socket, ns: &Netns) -> Result<Option<i32>, NetlinkError> {
    use std::os::fd::AsFd;
    Ok(socket.request(nsid::get(ns.as_fd()))?.first().and_then(nsid::read))
}
