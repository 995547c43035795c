//! GC: ends every attachment of the network that the runtime does not name and that began before.

use std::collections::BTreeSet;

use overlane_api::cni::code;
use overlane_api::socket::{Failure, GcCall, Outcome};

use super::{attachment, del, failure};
use crate::node::Node;

/// Serves a GC.
pub fn serve(node: &Node, call: &GcCall) -> Result<Outcome, Failure> {
    let valid: BTreeSet<_> = call.valid.iter().map(attachment).collect();
    let ended = node.ledger.gc(&call.network, &valid, call.began_ns);
    del::finish(node, ended).map_err(|error| failure(code::IO_FAILURE, error.to_string()))?;
    Ok(Outcome::Done)
}
