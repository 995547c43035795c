//! STATUS: whether an ADD could be served now.

use overlane_api::cni::code;
use overlane_api::socket::{Failure, Outcome};

use super::failure;
use crate::node::Node;

/// Serves a STATUS: 51 where pods that run are off the network as well.
pub fn serve(node: &Node) -> Result<Outcome, Failure> {
    node.ready().map(|()| Outcome::Done).map_err(|reason| {
        let cut = !node.gate.env().cut.is_empty();
        failure(if cut { code::NOT_AVAILABLE_LIMITED } else { code::NOT_AVAILABLE }, reason)
    })
}
