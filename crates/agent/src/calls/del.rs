//! DEL: out of service at once, the link's end behind the answer.

use std::time::Duration;

use overlane_api::cni::code;
use overlane_api::socket::{DelCall, Failure, Outcome};
use overlane_core::ipam::LeaseKind;

use super::{attachment, failure};
use crate::ledger::{Ended, LedgerError};
use crate::node::Node;

/// How long a DEL waits for an ADD of the same attachment to see that it is superseded.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ends the attachment, if it is of this kind and began before this DEL; says yes to what is not there.
pub fn serve(node: &Node, kind: LeaseKind, call: &DelCall) -> Result<Outcome, Failure> {
    let ended = node.ledger.del(kind, &attachment(&call.attachment), call.began_ns);
    finish(node, ended).map_err(|error| failure(code::IO_FAILURE, error.to_string()))?;
    Ok(Outcome::Done)
}

/// Takes what a DEL or a GC ended out of service.
///
/// # Errors
/// Why it did not end all that it should.
pub fn finish(node: &Node, ended: Ended) -> Result<(), LedgerError> {
    let result = ended.failed.map_or(Ok(()), Err);
    if ended.ours.is_empty() && ended.running.is_empty() {
        tracing::debug!("nothing to end");
        return result;
    }
    for lease in &ended.ours {
        tracing::info!(attachment = %lease.attachment, addresses = ?lease.addresses, link = %lease.link, "ended");
    }
    node.retire(ended.ours);
    if !ended.running.is_empty() && !node.ledger.wait_left(&ended.running, PATIENCE) {
        tracing::warn!(leases = ?ended.running, "an ADD that was superseded is still undoing itself");
    }
    result
}
