//! Versions of the CNI spec, and what differs between them.

use std::fmt;

use serde::Serialize;

use super::error::Error;
use super::invocation::Verb;

/// A version of the CNI spec that the plugin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.3.1: ADD, DEL, VERSION.
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// 1.0.0: `ips[].version` is gone.
    V1_0_0,
    /// 1.1.0: GC, STATUS, `interfaces[].mtu` and more fields of routes.
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest one.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it is written in a `cniVersion`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Reads a `cniVersion`.
    ///
    /// # Errors
    /// [`Error::MalformedVersion`] for what is no version number, [`Error::UnsupportedVersion`] for one that the plugin
    /// does not speak. A patch release of ours that does not exist, such as 1.0.7, is not spoken either.
    pub fn parse(given: &str) -> Result<Self, Error> {
        if let Some(version) = Self::ALL.into_iter().find(|v| v.as_str() == given) {
            return Ok(version);
        }
        if is_number(given) {
            Err(Error::UnsupportedVersion { given: given.to_owned() })
        } else {
            Err(Error::MalformedVersion { given: given.to_owned() })
        }
    }

    /// Whether this version knows the verb.
    #[must_use]
    pub fn knows(self, verb: Verb) -> bool {
        self >= verb.since()
    }

    /// All versions as text, for messages.
    #[must_use]
    pub fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether this is a version number: one to three dot-separated decimal numbers of at most five digits.
pub(super) fn is_number(given: &str) -> bool {
    let mut parts = 0;
    for part in given.split('.') {
        parts += 1;
        if parts > 3 || part.is_empty() || part.len() > 5 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return false;
        }
    }
    true
}

/// What VERSION answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionReport {
    cni_version: String,
    supported_versions: [&'static str; 4],
}

impl VersionReport {
    /// The answer to a VERSION call that named this `cniVersion`: the spec wants it echoed.
    #[must_use]
    pub fn echoing(cni_version: String) -> Self {
        Self { cni_version, supported_versions: Version::ALL.map(Version::as_str) }
    }
}
