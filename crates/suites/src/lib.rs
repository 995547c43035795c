//! What the suites stand on: namespaces, a container runtime's way of calling a plugin, packets, and checkers that
//! read the kernel through `ip`, `nft` and `conntrack`.
//!
//! Nothing here shares code with the product, so that a fault in the product cannot hide itself. A helper that cannot
//! do its work panics and names what it was doing: each caller is a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "support for tests: a failed step must end the test there"
)]

pub mod agent;
pub mod api;
pub mod books;
pub mod clean;
pub mod exec;
pub mod far;
pub mod faults;
pub mod http;
pub mod ip;
pub mod kube;
pub mod lab;
pub mod monitor;
pub mod nft;
pub mod ns;
pub mod outage;
pub mod packet;
pub mod probe;
pub mod runtime;
pub mod shared;
pub mod stream;
pub mod tracer;
pub mod volley;
pub mod wait;

pub use lab::{Lab, NodeHandle};
pub use ns::Ns;
pub use wait::{eventually, holds};
