//! The agent as a process in a network namespace, driven over its socket and judged from outside: by `ip`, `nft`, its
//! files, its answers.
//!
//! Must catch, as a suite: an address with two owners or none after any of these bad days; a pod that loses its network
//! because its agent went away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod api;
mod audit;
mod blocks;
mod client;
mod races;
mod scale;
mod takeover;
mod verbs;
mod world;
