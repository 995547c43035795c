//! What can be wrong with a call, and the error object that the runtime sees.

use serde::{Deserialize, Serialize};

use super::invocation::Verb;
use super::version::Version;
use super::{Args, code};

/// What is wrong with what the runtime handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The verb needs variables that are not set, or are empty.
    #[error("{} needs the environment variables {}", verb.as_str(), names.join(", "))]
    MissingEnv {
        /// What was asked.
        verb: Verb,
        /// All that are missing.
        names: Vec<&'static str>,
    },
    /// No verb at all.
    #[error("the environment variable CNI_COMMAND is not set")]
    NoVerb,
    /// A verb that the spec does not have.
    #[error("CNI_COMMAND={given:?} is no verb of CNI")]
    UnknownVerb {
        /// What was asked.
        given: String,
    },
    /// A variable whose value breaks a rule.
    #[error("{name}={value:?}: {rule}")]
    InvalidEnv {
        /// The variable.
        name: &'static str,
        /// What it holds, cut to [`SHOWN`] characters.
        value: String,
        /// The rule.
        rule: &'static str,
    },
    /// A `CNI_ARGS` that cannot be read.
    #[error("CNI_ARGS: {pair:?}: {rule}")]
    Args {
        /// The offending pair, cut to [`SHOWN`] characters.
        pair: String,
        /// The rule.
        rule: &'static str,
    },
    /// Standard input is no JSON.
    #[error("decode the network configuration: {reason}")]
    NotJson {
        /// The decoder's words.
        reason: String,
    },
    /// A key holds another type than it must.
    #[error("decode the network configuration: {key} must be {want}, it is {found}")]
    WrongType {
        /// Path of the key.
        key: String,
        /// What it must be.
        want: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A structure below a key cannot be read.
    #[error("decode the network configuration: {key}: {reason}")]
    Malformed {
        /// Path of the key.
        key: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// `cniVersion` is no version number.
    #[error("decode the network configuration: cniVersion {given:?} is no version number")]
    MalformedVersion {
        /// What it is.
        given: String,
    },
    /// A version that the plugin does not speak.
    #[error("cniVersion {given:?} is not supported; supported are {}", Version::list())]
    UnsupportedVersion {
        /// What was asked; empty if the configuration names none, which means 0.1.0.
        given: String,
    },
    /// The version of the configuration does not have the verb.
    #[error("cniVersion {version} does not know {}; it came with {}", verb.as_str(), verb.since())]
    VerbNotInVersion {
        /// The configuration's version.
        version: Version,
        /// What was asked.
        verb: Verb,
    },
    /// A key that must be there is not.
    #[error("network configuration: {key} is missing: {rule}")]
    MissingKey {
        /// Path of the key.
        key: &'static str,
        /// Why it must be there.
        rule: &'static str,
    },
    /// A key's value breaks a rule.
    #[error("network configuration: {key} is {value}: {rule}")]
    BadValue {
        /// Path of the key.
        key: String,
        /// What it holds, cut to [`SHOWN`] characters.
        value: String,
        /// The rule.
        rule: &'static str,
    },
    /// Something that the plugin understands and cannot do.
    #[error("network configuration: {key} = {value} is not supported")]
    UnsupportedField {
        /// Path of the key.
        key: String,
        /// What it holds, cut to [`SHOWN`] characters.
        value: String,
    },
}

/// The most characters of a foreign value that a message shows.
pub const SHOWN: usize = 120;

impl Error {
    /// The spec's code for it.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::MissingEnv { .. }
            | Self::NoVerb
            | Self::UnknownVerb { .. }
            | Self::InvalidEnv { .. }
            | Self::Args { .. } => code::INVALID_ENVIRONMENT,
            Self::NotJson { .. } | Self::WrongType { .. } | Self::Malformed { .. } | Self::MalformedVersion { .. } => {
                code::DECODING_FAILURE
            }
            Self::UnsupportedVersion { .. } | Self::VerbNotInVersion { .. } => code::INCOMPATIBLE_VERSION,
            Self::MissingKey { .. } | Self::BadValue { .. } => code::INVALID_NETWORK_CONFIG,
            Self::UnsupportedField { .. } => code::UNSUPPORTED_FIELD,
        }
    }

    /// What to do about it; may be empty.
    #[must_use]
    pub fn details(&self) -> String {
        match self {
            Self::UnknownVerb { .. } => format!("verbs are {}", Verb::list()),
            Self::Args { .. } => format!("known keys are {}", Args::KEYS.join(", ")),
            Self::UnsupportedVersion { given } if given.is_empty() => {
                "the configuration has no cniVersion, which means 0.1.0".to_owned()
            }
            _ => String::new(),
        }
    }
}

/// Cuts a foreign value to [`SHOWN`] characters.
pub(super) fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        None => value.to_owned(),
        Some((at, _)) => format!("{}...", value.get(..at).unwrap_or_default()),
    }
}

/// The error object on standard output (spec section "Error").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorObject {
    /// The version in use; the newest one where none is known yet.
    pub cni_version: String,
    /// One of [`code`].
    pub code: u32,
    /// One line.
    pub msg: String,
    /// What to do, causes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl ErrorObject {
    /// The error object for a call that could not be read.
    #[must_use]
    pub fn of(error: &Error, version: Version) -> Self {
        Self {
            cni_version: version.as_str().to_owned(),
            code: error.code(),
            msg: error.to_string(),
            details: error.details(),
        }
    }
}
