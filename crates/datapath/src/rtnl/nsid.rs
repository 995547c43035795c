//! The numbers that a namespace gives to others.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

use crate::netlink::{Message, Request, find, u32_of};

const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const HEADER_LEN: usize = 4;
/// What the kernel answers when there is no number, and what asks it to choose one.
const NONE: i32 = -1;

/// Asks which number the namespace behind a descriptor has.
#[must_use]
pub fn get(ns: BorrowedFd<'_>) -> Request {
    Request::new(libc::RTM_GETNSID, 0, "look up a namespace's number")
        .body(&[0; HEADER_LEN])
        .u32(NETNSA_FD, ns.as_raw_fd().cast_unsigned())
}

/// Asks whether a number stands for a namespace.
#[must_use]
pub fn get_by_number(nsid: i32) -> Request {
    Request::new(libc::RTM_GETNSID, 0, format!("look up the namespace with number {nsid}"))
        .body(&[0; HEADER_LEN])
        .u32(NETNSA_NSID, nsid.cast_unsigned())
}

/// Has the kernel give a number to the namespace behind a descriptor.
#[must_use]
pub fn assign(ns: BorrowedFd<'_>) -> Request {
    Request::new(libc::RTM_NEWNSID, 0, "give a namespace a number")
        .body(&[0; HEADER_LEN])
        .u32(NETNSA_NSID, NONE.cast_unsigned())
        .u32(NETNSA_FD, ns.as_raw_fd().cast_unsigned())
}

/// The number in `RTM_NEWNSID` or `RTM_DELNSID`; `None` if there is none.
#[must_use]
pub fn read(message: &Message) -> Option<i32> {
    find(message.after(HEADER_LEN), NETNSA_NSID).and_then(u32_of).map(u32::cast_signed).filter(|nsid| *nsid != NONE)
}
