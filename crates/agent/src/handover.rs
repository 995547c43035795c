//! The word that an agent leaves when it ends in good order: its successor is about to come, so the node is no worse.

use overlane_api::socket::HANDOVER;

use crate::clock;
use crate::node::Node;

/// Leaves it, if an ADD would have been served.
pub fn leave(node: &Node) {
    if node.ready().is_err() {
        return;
    }
    let file = node.config.socket().with_file_name(HANDOVER);
    if let Err(error) = std::fs::write(&file, clock::boot_ms().to_string()) {
        tracing::warn!(%error, file = %file.display(), "leave word for STATUS");
    }
}

/// Takes the last agent's away: from now on this one answers.
pub fn take(node: &Node) {
    let _ = std::fs::remove_file(node.config.socket().with_file_name(HANDOVER));
}
