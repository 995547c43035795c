//! The node agent: owns this node's leases, wiring, routes and masquerade.
//!
//! A CNI call never waits for the API server, nor for anything else that is not this node's kernel.

pub mod args;
pub mod calls;
pub mod check;
pub mod clock;
pub mod config;
pub mod conflist;
pub mod gate;
pub mod handover;
pub mod leaving;
pub mod ledger;
pub mod links;
pub mod members;
pub mod metrics;
pub mod node;
pub mod nodestate;
pub mod offload;
pub mod pages;
pub mod plugin;
pub mod policy;
pub mod prober;
pub mod proof;
pub mod reaper;
pub mod reconcile;
pub mod remove;
pub mod server;
pub mod store;
pub mod takeover;
pub mod tombstones;
pub mod watch;
pub mod wiring;
pub mod witness;
