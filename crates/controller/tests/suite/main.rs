//! The controller against the in-process API, from outside: objects in, objects out.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests; not every suite uses everything that is shared"
)]

mod adopt;
mod api_away;
mod common;
mod exhausted;
mod foreign;
mod gateways;
mod identity;
mod joins;
mod leader;
mod network;
mod policies;
mod program;
mod restore;
mod routing;
mod several;
mod slices;
