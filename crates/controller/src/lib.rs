//! The cluster controller of Overlane: gives every node its blocks of pod addresses, and tells every agent where every
//! block is.
//!
//! `watch` folds what the API has into `core::blocks::World`; `core` decides; `executor` does it, one node's writes after
//! another, many nodes at once. Nothing is decided before every source was seen whole. A refused write is a fact to
//! learn from: the object is read again and the node is decided anew.
//!
//! # What a node costs
//! A node that joins a dual-stack cluster takes five writes, in this order:
//!
//! 1. create its IPv4 `NodeBlock`,
//! 2. create its IPv6 `NodeBlock`,
//! 3. create its `NodeNetworkConfig`,
//! 4. write that object's status, which announces the blocks,
//! 5. patch the Node: `spec.podCIDRs`, and the mark that it was us (not where `nodeCIDRs: adopt`).
//!
//! A single-stack node takes four. A reused block is written once as well: its released object is replaced in place.
//! Conditions are written only on Nodes that say themselves that they wait for a network (a true `NetworkUnavailable` or
//! its taint), or that something is wrong with. A node that goes takes two or three: delete the `NodeNetworkConfig`,
//! mark each `NodeBlock` as released; and later one more that deletes its `NodeState`. An EgressGateway whose nodes change
//! by it takes one more.
//!
//! Where Overlane enforces network policy, a node that joins takes one more: its PodSlice. That is written again, at once,
//! when a pod there comes, goes, or changes in what policies can tell of it (`slices`), and deleted with the Node.

pub mod args;
pub mod config;
pub mod metrics;
pub mod wiring;

mod cluster;
mod cluster_status;
mod engine;
mod events;
mod executor;
mod facts;
mod gateway_status;
mod gateways;
mod labels;
mod leader;
mod objects;
mod pages;
mod policies;
mod queue;
mod slices;
mod slim;
mod watch;
mod writes;
