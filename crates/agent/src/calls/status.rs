//! STATUS: whether an ADD could be served now.

use overlane_api::cni::code;
use overlane_api::socket::{Failure, Outcome};

use super::failure;
use crate::node::Node;

/// Serves a STATUS.
pub fn serve(node: &Node) -> Result<Outcome, Failure> {
    node.ready().map(|()| Outcome::Done).map_err(|reason| failure(code::NOT_AVAILABLE, reason))
}
