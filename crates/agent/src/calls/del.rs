//! DEL: out of service at once, the link's end behind the answer.

use std::time::Duration;

use overlane_api::cni::code;
use overlane_api::socket::{DelCall, Failure, Outcome};

use super::{attachment, failure};
use crate::ledger::Ended;
use crate::node::Node;

/// How long a DEL waits for an ADD of the same attachment to see that it is superseded.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ends the attachment, if it began before this DEL; says yes to what is not there.
pub fn serve(node: &Node, call: &DelCall) -> Result<Outcome, Failure> {
    let ended = node
        .ledger
        .del(&attachment(&call.attachment), call.began_ns)
        .map_err(|error| failure(code::IO_FAILURE, error.to_string()))?;
    finish(node, ended);
    Ok(Outcome::Done)
}

/// Takes what a DEL or a GC ended out of service.
pub fn finish(node: &Node, ended: Ended) {
    if ended.ours.is_empty() && ended.running.is_empty() {
        tracing::debug!("nothing to end");
        return;
    }
    for lease in &ended.ours {
        tracing::info!(attachment = %lease.attachment, addresses = ?lease.addresses, link = %lease.link, "ended");
    }
    node.retire(ended.ours);
    if !ended.running.is_empty() && !node.ledger.wait_left(&ended.running, PATIENCE) {
        tracing::warn!(leases = ?ended.running, "an ADD that was superseded is still undoing itself");
    }
}
