//! Tombstones: what CNI DEL leaves behind when no agent answers, and what the next agent honours.
//!
//! A file a DEL in the directory [`DIR`] below the run directory, JSON, written under a name that starts with a dot and
//! then renamed: a reader that skips dotted names sees only whole ones. Names are never used twice, so that an agent may
//! delete a file that it has honoured without taking a newer one away. What a reader cannot make sense of it leaves
//! where it is, and says so.

use serde::{Deserialize, Serialize};

use crate::socket::Attachment;

/// The directory below the run directory.
pub const DIR: &str = "tombstones";
/// The version of the format that this build writes.
pub const FORMAT: u32 = 1;

/// A DEL that the agent has yet to hear of. Ends ADDs of the attachment that began before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// Version of the format.
    pub format: u32,
    /// Which attachment.
    pub attachment: Attachment,
    /// The network's name in the conflist.
    pub network: String,
    /// `CLOCK_BOOTTIME` when the DEL began, in nanoseconds.
    pub began_ns: u64,
    /// What the lease is of.
    pub mode: Mode,
}

/// What a lease is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// An interface of ours.
    Interface,
    /// Addresses alone, for another plugin's interface.
    Ipam,
}

/// Why a tombstone cannot be honoured.
#[derive(Debug, thiserror::Error)]
pub enum TombstoneError {
    /// It is no JSON of the expected shape.
    #[error("decode tombstone: {source}")]
    Malformed {
        /// The decoder's words.
        #[from]
        source: serde_json::Error,
    },
    /// A newer plugin wrote it.
    #[error("tombstone has format {found}, this build reads {FORMAT}")]
    Format {
        /// Its format.
        found: u32,
    },
}

impl Tombstone {
    /// A tombstone of the current format.
    #[must_use]
    pub fn new(attachment: Attachment, network: String, began_ns: u64, mode: Mode) -> Self {
        Self { format: FORMAT, attachment, network, began_ns, mode }
    }

    /// Reads a file's content.
    ///
    /// # Errors
    /// [`TombstoneError`]; a format number is looked at before anything else.
    pub fn parse(content: &[u8]) -> Result<Self, TombstoneError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let Head { format } = serde_json::from_slice(content)?;
        if format != FORMAT {
            return Err(TombstoneError::Format { found: format });
        }
        Ok(serde_json::from_slice(content)?)
    }

    /// The file's name: a hash of network and attachment, then the time. Holds only `0-9a-f-` and `.json`, whatever the
    /// names are.
    #[must_use]
    pub fn file_name(&self) -> String {
        let Attachment { container_id, ifname } = &self.attachment;
        let hash = fnv1a_128(&[&self.network, container_id, ifname]);
        format!("{hash:032x}-{:016x}.json", self.began_ns)
    }
}

/// FNV-1a with 128 bits over length-prefixed parts (<http://www.isthe.com/chongo/tech/comp/fnv/>). The names come from a
/// runtime that is trusted with more than this; what matters is that the hash is the same in every build.
fn fnv1a_128(parts: &[&str]) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut hash = BASIS;
    let mut eat = |byte: u8| hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
    for part in parts {
        part.len().to_be_bytes().into_iter().for_each(&mut eat);
        part.bytes().for_each(&mut eat);
    }
    hash
}
