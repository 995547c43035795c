//! rtnetlink: requests as values, answers as values. Pure: nothing here has a socket.

#[cfg(feature = "node")]
pub mod address;
pub mod link;
#[cfg(feature = "node")]
pub mod neighbour;
#[cfg(feature = "node")]
pub mod nsid;
#[cfg(feature = "node")]
pub mod qdisc;
#[cfg(feature = "node")]
pub mod route;
#[cfg(feature = "node")]
pub mod rule;

/// `AF_...` of an address.
#[cfg(feature = "node")]
fn family_of(address: &std::net::IpAddr) -> u8 {
    number(overlane_core::family::Family::of(address))
}

/// `AF_INET` or `AF_INET6`.
#[cfg(feature = "node")]
fn number(family: overlane_core::family::Family) -> u8 {
    match family {
        overlane_core::family::Family::V4 => 2,
        overlane_core::family::Family::V6 => 10,
    }
}

/// With strict checking the kernel answers "no such entry" for a table that nobody has used, and "not supported" for a
/// family that it has not.
#[cfg(feature = "node")]
pub(crate) fn none_if_absent(
    dump: Result<Vec<crate::netlink::Message>, crate::netlink::NetlinkError>,
) -> Result<Vec<crate::netlink::Message>, crate::netlink::NetlinkError> {
    use nix::errno::Errno;
    match dump {
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        other => other,
    }
}
