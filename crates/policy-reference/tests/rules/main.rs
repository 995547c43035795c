//! Cases from the text of the API, by hand: each rule that the crate's documentation names has at least one.
//!
//! Must catch: a rule of the evaluator that is turned round or left out. The modules name theirs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod cluster_rules;
mod invalid;
mod isolation;
mod peers;
mod pods;
mod ports;
mod selectors;
mod tiers;
mod world;
