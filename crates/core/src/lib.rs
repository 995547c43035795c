//! The pure decisions of Overlane: address plan, block allocation, a node's addresses, routes and masquerade.
//!
//! Everything here is a function from values to values. There is no clock, no chance, no file, no socket and no
//! environment: time comes in as an argument, what is decided goes out as a value, and somebody else acts on it. No
//! Linux names either, so that another kernel can render the same plan. Collections are ordered, so that the same
//! input gives the same bytes.

pub mod blocks;
pub mod cidr;
pub mod cluster;
pub mod egress;
pub mod family;
pub mod few;
pub mod firewall;
pub mod ipam;
pub mod labels;
pub mod masq;
pub mod plan;
pub mod policy;
pub mod ports;
pub mod rate;
pub mod sizing;
