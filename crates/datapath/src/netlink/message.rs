//! Messages from the kernel: taken out of a datagram, and what refusals in them say.

use nix::errno::Errno;
use nix::libc;

use super::codec::{HEADER, find, text, u16_of, u32_of};

/// `NLMSGERR_ATTR_MSG` of linux/netlink.h.
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

/// One message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its kind (`RTM_NEWLINK` ...).
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// The answered request's number; 0 in a notification.
    pub seq: u32,
    /// The port of the socket that asked, or that caused the change which a notification tells.
    pub port: u32,
    /// What follows the netlink header.
    pub payload: Vec<u8>,
}

impl Message {
    /// The payload after a fixed header of `len` bytes (that is: the attributes); empty if it is shorter.
    #[must_use]
    pub fn after(&self, len: usize) -> &[u8] {
        self.payload.get(len..).unwrap_or(&[])
    }
}

#[derive(Clone, Copy)]
pub(super) struct MessageRef<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    seq: u32,
    port: u32,
    payload: &'a [u8],
}

impl<'a> MessageRef<'a> {
    /// The first message, its number, and its length with the header.
    pub(super) fn first(bytes: &'a [u8]) -> Option<(Self, u32, usize)> {
        let length = usize::try_from(u32_of(bytes)?).ok()?;
        let kind = u16_of(bytes.get(4..)?)?;
        let flags = u16_of(bytes.get(6..)?)?;
        let seq = u32_of(bytes.get(8..)?)?;
        let port = u32_of(bytes.get(12..)?)?;
        let payload = bytes.get(HEADER..length)?;
        Some((Self { kind, flags, seq, port, payload }, seq, length))
    }

    pub(super) fn to_owned(self) -> Message {
        Message { kind: self.kind, flags: self.flags, seq: self.seq, port: self.port, payload: self.payload.to_vec() }
    }

    /// Of an acknowledgement or an end of dump: the error number, if it is one, and the kernel's words.
    pub(super) fn refusal(&self) -> Option<(Errno, Option<String>)> {
        let code = u32_of(self.payload)?.cast_signed();
        if code >= 0 {
            return None;
        }
        // The request's header follows, and its payload too unless it was cut (we ask for that).
        let attributes = match i32::from(self.kind) {
            libc::NLMSG_DONE => 4,
            _ if self.flags & NLM_F_CAPPED != 0 => 4 + HEADER,
            _ => 4 + usize::try_from(u32_of(self.payload.get(4..)?)?).ok()?.next_multiple_of(4),
        };
        let words = (self.flags & NLM_F_ACK_TLVS != 0)
            .then(|| find(self.payload.get(attributes..)?, NLMSGERR_ATTR_MSG).map(text))
            .flatten();
        Some((Errno::from_raw(code.wrapping_neg()), words))
    }
}
