//! Removal of a pod's link from inside the pod's namespace: what makes CNI DEL work while no agent runs.

use nix::errno::Errno;

use crate::netlink::{NetlinkError, Socket};
use crate::netns::{Netns, NetnsError};
use crate::rtnl::link;

/// Why a link was not removed.
#[derive(Debug, thiserror::Error)]
pub enum LinkDelError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The link is of a kind that we never make.
    #[error("link {ifname} is a {kind}, not a veth: left alone", kind = kind.as_deref().unwrap_or("physical device"))]
    NotAVeth {
        /// The link.
        ifname: String,
        /// Its kind; none for hardware.
        kind: Option<String>,
    },
}

/// Deletes `ifname` in `ns` if it is a veth; `false` if there is none.
///
/// # Errors
/// The link is there and could not be removed, or is no veth.
pub fn delete_in(ns: &Netns, ifname: &str) -> Result<bool, LinkDelError> {
    ns.run(|| delete_here(ifname))?
}

fn delete_here(ifname: &str) -> Result<bool, LinkDelError> {
    let mut socket = Socket::route()?;
    let found = link::found(socket.request(link::get(ifname)))?;
    let Some(found) = found else { return Ok(false) };
    if found.kind.as_deref() != Some("veth") {
        return Err(LinkDelError::NotAVeth { ifname: ifname.to_owned(), kind: found.kind });
    }
    match socket.request(link::delete(found.index, ifname)) {
        Ok(_) => Ok(true),
        // It went between the two requests.
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
