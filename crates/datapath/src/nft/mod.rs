//! The table `inet overlane`: structure by the `nft` program in one transaction, membership over netlink.

mod error;
mod members;
mod policing;
mod program;
mod state;
mod table;

pub use error::NftError;
pub use policing::Verdict;
pub(crate) use program::query;
pub use program::run;
pub use table::{Applied, Audit, PodChange, Table};

use crate::netlink::NetlinkError;
use crate::owned::NFT_TABLE;

/// Whether our table is there.
///
/// # Errors
/// Netlink does not work.
pub fn is_there() -> Result<bool, NetlinkError> {
    members::Members::open()?.table_is_there()
}

/// Removes our table; `false` if there is none.
///
/// # Errors
/// nft cannot be run, or refused.
pub fn remove() -> Result<bool, NftError> {
    if !is_there()? {
        return Ok(false);
    }
    program::run("remove the table", &format!("delete table inet {NFT_TABLE}\n"))?;
    Ok(true)
}
