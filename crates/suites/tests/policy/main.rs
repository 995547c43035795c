//! Network policies in force: random ones, changes under traffic, deaths and starts, and the cases of the API's own
//! conformance tests; judged by packets and by a second reading of the API.
//!
//! Must catch: a pod that gets or sends a packet before its policies are in the kernel, or after they forbid it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod axes;
mod canary;
mod churn;
mod conformance;
mod death;
mod established;
mod ground;
mod nodes;
mod objects;
mod off;
mod probes;
mod record;
mod round;
mod scene;
mod stage;
mod start;
mod talk;
mod tally;
mod transitions;
mod watch;
