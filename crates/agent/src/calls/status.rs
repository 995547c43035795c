//! STATUS: whether an ADD could be served now.

use std::time::Duration;

use overlane_api::cni::code;
use overlane_api::socket::{Failure, Outcome};

use super::failure;
use crate::node::Node;

/// How long an agent may take from its start to its first pass; before that, it knows no reason to say no.
const START: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);

/// Serves a STATUS, an agent that has just started waiting for its first pass: 51 where pods that run are off the network as well.
pub fn serve(node: &Node) -> Result<Outcome, Failure> {
    while node.status().is_none() && node.started.elapsed() < START {
        std::thread::sleep(LOOK);
    }
    node.ready().map(|()| Outcome::Done).map_err(|reason| {
        let cut = !node.gate.env().cut.is_empty();
        failure(if cut { code::NOT_AVAILABLE_LIMITED } else { code::NOT_AVAILABLE }, reason)
    })
}
