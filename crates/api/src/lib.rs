//! What crosses a boundary: custom resources, CNI types, the agent socket and the tombstones beside it.
//!
//! The only crate that derives serde. It describes and converts; it decides nothing.

pub mod cni;
pub mod socket;
pub mod tombstone;

#[cfg(feature = "kube")]
pub mod convert;
#[cfg(feature = "kube")]
pub mod crd;
#[cfg(feature = "kube")]
pub mod firewall;
#[cfg(feature = "kube")]
pub mod planfile;
#[cfg(feature = "kube")]
pub mod policy;
