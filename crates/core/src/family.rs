//! Address families. A cluster has a list of them, and everything else follows that list.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order in which a cluster has them by default.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family that an address belongs to. An IPv4-mapped IPv6 address is IPv6.
    #[must_use]
    pub const fn of(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Length of an address: 32 or 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What was given names no family.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no address family; IPv4 and IPv6 are")]
pub struct FamilyError {
    /// The text as it came.
    pub given: String,
}

impl FromStr for Family {
    type Err = FamilyError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        if given.eq_ignore_ascii_case("ipv4") {
            Ok(Self::V4)
        } else if given.eq_ignore_ascii_case("ipv6") {
            Ok(Self::V6)
        } else {
            Err(FamilyError { given: given.to_owned() })
        }
    }
}
