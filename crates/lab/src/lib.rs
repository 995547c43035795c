//! A cluster of network namespaces on one machine: a VNet with a router, nodes, a VM and a host outside, an in-process
//! Kubernetes API, and a small kubelet a node that execs the real CNI plugin. Agents and controllers are the real
//! programs, as processes of their own.
//!
//! It holds no product logic: what it knows of pods' networks it has from the API, or from packets.

pub mod check;
pub mod client;
pub mod daemon;
pub mod down;
pub mod echo;
pub mod error;
pub mod exec;
pub mod fabric;
pub mod files;
pub mod kubelet;
pub mod kubernetes;
pub mod manifests;
pub mod names;
pub mod netns;
pub mod paths;
pub mod process;
pub mod run;
pub mod spawn;
pub mod spec;
pub mod state;
pub mod status;
pub mod up;
pub mod vnet;
pub mod wire;
