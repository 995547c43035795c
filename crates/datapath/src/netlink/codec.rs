//! Building messages and reading attributes. Reading is total: what is malformed ends the iteration, attributes that
//! are not asked for do not matter, so a newer kernel's or a foreign object's attributes never fail a dump.

use std::borrow::Cow;
use std::net::IpAddr;

use nix::libc;

pub(super) const HEADER: usize = 16;
const ALIGN: usize = 4;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// A message to the kernel, with the words that an error about it will begin with.
#[derive(Debug, Clone)]
pub struct Request {
    pub(super) bytes: Vec<u8>,
    pub(super) what: Cow<'static, str>,
    pub(super) too_long: bool,
}

impl Request {
    /// A message of `kind` with `NLM_F_REQUEST` and `flags`; `what` names act and object ("add route 10.0.0.0/8").
    #[must_use]
    pub fn new(kind: u16, flags: i32, what: impl Into<Cow<'static, str>>) -> Self {
        let mut bytes = Vec::with_capacity(128);
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or(0);
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes, what: what.into(), too_long: false }
    }

    /// The fixed header of the message's kind, or any bytes that follow it.
    #[must_use]
    pub fn body(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// An attribute.
    #[must_use]
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or_else(|_| {
            self.too_long = true;
            4
        });
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// An attribute of 8 bits.
    #[must_use]
    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.attr(kind, &[value])
    }

    /// An attribute of 32 bits in the machine's order.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// An attribute of 32 bits in the network's order.
    #[must_use]
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A text attribute, with its NUL.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// An address, 4 or 16 bytes.
    #[must_use]
    pub fn ip(self, kind: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => self.attr(kind, &a.octets()),
            IpAddr::V6(a) => self.attr(kind, &a.octets()),
        }
    }

    /// An attribute that holds attributes, marked as such.
    #[must_use]
    pub fn nest(self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        self.nest_unmarked(kind | NESTED, inner)
    }

    /// As [`Request::nest`], without the mark: what old parts of rtnetlink expect.
    #[must_use]
    pub fn nest_unmarked(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let mut done = inner(self);
        let length = u16::try_from(done.bytes.len() - start).unwrap_or_else(|_| {
            done.too_long = true;
            4
        });
        done.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        done.bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        done
    }

    pub(super) fn kind(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[4], self.bytes[5]])
    }

    /// What follows the netlink header.
    #[cfg(all(test, feature = "node"))]
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    fn pad(&mut self) {
        let len = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(len, 0);
    }

    pub(super) fn finish(&mut self, seq: u32, extra_flags: i32) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(0);
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | u16::try_from(extra_flags).unwrap_or(0);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&seq.to_ne_bytes());
    }
}

/// The attributes in `bytes`, in order: kind without flags, value.
#[must_use]
pub fn attrs(bytes: &[u8]) -> Attrs<'_> {
    Attrs { rest: bytes }
}

/// See [`attrs`].
#[derive(Debug, Clone)]
pub struct Attrs<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_of(self.rest)?);
        let kind = u16_of(self.rest.get(2..)?)? & TYPE_MASK;
        let value = self.rest.get(4..length)?;
        self.rest = self.rest.get(length.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// The first attribute of `kind` in `bytes`.
#[must_use]
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// The first 16 bits, in the machine's order.
#[must_use]
pub fn u16_of(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

/// The first 32 bits, in the machine's order.
#[must_use]
pub fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

/// A text attribute up to its NUL; what is not UTF-8 is replaced.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address of 4 or 16 bytes.
#[must_use]
pub fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a wrong length or padding in a nested attribute, and a panic on bytes that are no attributes.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_built_is_read_again() {
        let request = Request::new(16, 0, "x")
            .nest(3, |r| r.text(1, "abc").u32(2, 7).nest(5, |r| r.attr(1, &[1, 2, 3, 4, 5])))
            .u8(4, 9);
        let body = &request.bytes[HEADER..];
        let nested = find(body, 3).unwrap();
        assert_eq!(text(find(nested, 1).unwrap()), "abc");
        assert_eq!(u32_of(find(nested, 2).unwrap()), Some(7));
        assert_eq!(find(find(nested, 5).unwrap(), 1), Some(&[1, 2, 3, 4, 5][..]));
        assert_eq!(find(body, 4), Some(&[9][..]));
    }

    #[test]
    fn a_value_too_long_is_marked() {
        assert!(Request::new(1, 0, "x").attr(1, &[0; 70_000]).too_long);
        assert!(Request::new(1, 0, "x").nest(1, |r| r.attr(1, &[0; 40_000]).attr(2, &[0; 40_000])).too_long);
    }

    proptest::proptest! {
        #[test]
        fn reading_is_total(bytes: Vec<u8>) {
            for (_, value) in attrs(&bytes) {
                let _ = (text(value), ip_of(value), attrs(value).count());
            }
        }
    }
}
