//! GC: ends every attachment of the network that the runtime does not name and that began before.

use std::collections::BTreeSet;

use overlane_api::cni::code;
use overlane_api::socket::{Failure, GcCall, Outcome};
use overlane_core::ipam::LeaseKind;

use super::{attachment, del, failure};
use crate::node::Node;

/// Serves a GC of the network's leases of this kind.
pub fn serve(node: &Node, kind: LeaseKind, call: &GcCall) -> Result<Outcome, Failure> {
    let valid: BTreeSet<_> = call.valid.iter().map(attachment).collect();
    let ended = node.ledger.gc(kind, &call.network, &valid, call.began_ns);
    del::finish(node, ended).map_err(|error| failure(code::IO_FAILURE, error.to_string()))?;
    Ok(Outcome::Done)
}
