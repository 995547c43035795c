//! A range of addresses that never has host bits, and its arithmetic: blocks of a pod CIDR, addresses of a block.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::family::Family;

/// A network with its prefix length. Ordered by family, network, prefix length, so that what contains comes right
/// before what it contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    family: Family,
    /// The network address as a number, its highest byte first; an IPv4 address fills the low 32 bits. Not as `u128`, which
    /// would make of 18 bytes 32.
    network: [u8; 16],
    prefix_len: u8,
}

/// Why a text or a pair of address and length is no [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// It is not `address/length`.
    #[error("`{given}` is no CIDR; one looks like 10.244.0.0/16 or fd12:3456:789a::/64")]
    Syntax {
        /// The text as it came.
        given: String,
    },
    /// The length does not fit the family.
    #[error("`{given}` has prefix length {prefix_len}, but the longest of {family} is /{longest}")]
    PrefixLen {
        /// The text as it came.
        given: String,
        /// The length in it.
        prefix_len: u8,
        /// Family of the address in it.
        family: Family,
        /// 32 or 128.
        longest: u8,
    },
    /// There are bits set after the prefix.
    #[error("`{given}` has host bits set; the network is {meant}")]
    HostBits {
        /// The text as it came.
        given: String,
        /// The network that the address lies in.
        meant: Cidr,
    },
}

impl Cidr {
    /// A network out of its address and prefix length.
    ///
    /// # Errors
    /// [`CidrError::PrefixLen`] and [`CidrError::HostBits`].
    pub fn new(network: IpAddr, prefix_len: u8) -> Result<Self, CidrError> {
        let around = Self::around(network, prefix_len)?;
        if around.number() == number(network) {
            Ok(around)
        } else {
            Err(CidrError::HostBits { given: format!("{network}/{prefix_len}"), meant: around })
        }
    }

    /// The network of that length in which an address lies.
    ///
    /// # Errors
    /// [`CidrError::PrefixLen`].
    pub fn around(addr: IpAddr, prefix_len: u8) -> Result<Self, CidrError> {
        let family = Family::of(&addr);
        if prefix_len > family.bits() {
            return Err(CidrError::PrefixLen {
                given: format!("{addr}/{prefix_len}"),
                prefix_len,
                family,
                longest: family.bits(),
            });
        }
        Ok(Self::of(family, number(addr) & !low_bits(family.bits() - prefix_len), prefix_len))
    }

    /// All addresses of a family: `0.0.0.0/0` or `::/0`.
    #[must_use]
    pub const fn everything(family: Family) -> Self {
        Self::of(family, 0, 0)
    }

    /// The range that holds one address: `/32` or `/128`.
    #[must_use]
    pub fn host_range(addr: IpAddr) -> Self {
        let family = Family::of(&addr);
        Self::of(family, number(addr), family.bits())
    }

    /// The family.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// The first address.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        address(self.family, self.number())
    }

    /// The last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        address(self.family, self.number() | self.host_mask())
    }

    /// The prefix length: 0 to 32, or to 128.
    #[must_use]
    pub const fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// How many addresses there are, the first and the last included; `u64::MAX` stands for that and more.
    #[must_use]
    pub fn address_count(&self) -> u64 {
        power_of_two(self.family.bits() - self.prefix_len)
    }

    /// Whether an address lies within. One of the other family never does.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        Family::of(&addr) == self.family && number(addr) & !self.host_mask() == self.number()
    }

    /// Whether a network lies within, which one does in itself.
    #[must_use]
    pub fn contains_cidr(&self, other: &Self) -> bool {
        self.family == other.family
            && self.prefix_len <= other.prefix_len
            && other.number() & !self.host_mask() == self.number()
    }

    /// Whether they have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains_cidr(other) || other.contains_cidr(self)
    }

    /// How many networks of that length fit; `u64::MAX` stands for that and more. `None` where the length is shorter
    /// than this one's or longer than the family's.
    #[must_use]
    pub fn subnet_count(&self, prefix_len: u8) -> Option<u64> {
        (self.prefix_len..=self.family.bits()).contains(&prefix_len).then(|| power_of_two(prefix_len - self.prefix_len))
    }

    /// The network of that length and index, counted from 0. `None` where there is none.
    #[must_use]
    pub fn subnet(&self, prefix_len: u8, index: u64) -> Option<Self> {
        let below = self.subnet_count(prefix_len)?;
        let enough = index < below || prefix_len - self.prefix_len >= 64;
        let offset = shift_left(u128::from(index), self.family.bits() - prefix_len);
        enough.then_some(Self::of(self.family, self.number() | offset, prefix_len))
    }

    /// Which one of this network's subnets of its length `sub` is. `None` where it is none of them, or where its
    /// index is beyond `u64`.
    #[must_use]
    pub fn index_of(&self, sub: &Self) -> Option<u64> {
        if !self.contains_cidr(sub) {
            return None;
        }
        let offset = sub.number() - self.number();
        u64::try_from(shift_right(offset, self.family.bits() - sub.prefix_len)).ok()
    }

    /// The address at an offset from the first. `None` where that is beyond the last.
    #[must_use]
    pub fn host(&self, offset: u64) -> Option<IpAddr> {
        let offset = u128::from(offset);
        (offset <= self.host_mask()).then(|| address(self.family, self.number() | offset))
    }

    /// How far an address is from the first. `None` where it is not within, or farther than `u64` counts.
    #[must_use]
    pub fn offset_of(&self, addr: IpAddr) -> Option<u64> {
        if self.contains(addr) { u64::try_from(number(addr) - self.number()).ok() } else { None }
    }

    const fn of(family: Family, network: u128, prefix_len: u8) -> Self {
        Self { family, network: network.to_be_bytes(), prefix_len }
    }

    const fn number(&self) -> u128 {
        u128::from_be_bytes(self.network)
    }

    fn host_mask(&self) -> u128 {
        low_bits(self.family.bits() - self.prefix_len)
    }
}

/// The given networks without those that lie within another of them.
#[must_use]
pub fn outermost(cidrs: impl IntoIterator<Item = Cidr>) -> std::collections::BTreeSet<Cidr> {
    let sorted: std::collections::BTreeSet<Cidr> = cidrs.into_iter().collect();
    let mut kept = std::collections::BTreeSet::new();
    let mut outer: Option<Cidr> = None;
    for cidr in sorted {
        if !outer.is_some_and(|outer| outer.contains_cidr(&cidr)) {
            outer = Some(cidr);
            kept.insert(cidr);
        }
    }
    kept
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.network(), self.prefix_len))
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let syntax = || CidrError::Syntax { given: given.to_owned() };
        let (addr, len) = given.split_once('/').ok_or_else(syntax)?;
        let addr: IpAddr = addr.parse().map_err(|_| syntax())?;
        // `u8::from_str` would take "+24" and "024", which no other reader of CIDRs takes.
        let digits = len.bytes().all(|b| b.is_ascii_digit()) && (len == "0" || !len.starts_with('0'));
        let len: u8 = if digits {
            len.parse().map_err(|_| syntax())?
        } else {
            return Err(syntax());
        };
        Self::new(addr, len)
    }
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        // The upper bits of an IPv4 network are zero by construction.
        #[expect(clippy::cast_possible_truncation, reason = "an IPv4 network fills the low 32 bits only")]
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// A number whose lowest `count` bits are set; `count` is at most 128.
fn low_bits(count: u8) -> u128 {
    !u128::MAX.checked_shl(u32::from(count)).unwrap_or(0)
}

fn shift_left(value: u128, by: u8) -> u128 {
    value.checked_shl(u32::from(by)).unwrap_or(0)
}

fn shift_right(value: u128, by: u8) -> u128 {
    value.checked_shr(u32::from(by)).unwrap_or(0)
}

fn power_of_two(exponent: u8) -> u64 {
    1_u64.checked_shl(u32::from(exponent)).unwrap_or(u64::MAX)
}
