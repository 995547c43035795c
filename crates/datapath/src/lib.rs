//! The kernel side of a node: netlink, nftables, namespaces, sysctls.
//!
//! `render` and the request builders are pure (plan to text or bytes); the rest reads and writes the kernel of the
//! calling thread's network namespace. Nothing here knows Kubernetes, decides what a node should hold, or keeps a
//! clock. Everything is synchronous.
//!
//! Without the feature `node` only [`netns`], [`netlink`] and [`link_del`] are built (the CNI plugin needs no more).

pub mod link_del;
pub mod loopback;
pub mod mac;
pub mod netlink;
pub mod netns;
pub mod owned;
pub mod rtnl;

#[cfg(feature = "node")]
pub mod announce;
#[cfg(feature = "node")]
pub mod conntrack;
#[cfg(feature = "node")]
pub mod echo;
#[cfg(feature = "node")]
pub mod events;
#[cfg(feature = "node")]
pub mod foreign;
#[cfg(feature = "node")]
pub mod nflog;
#[cfg(feature = "node")]
pub mod nft;
#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "node")]
pub mod offload;
#[cfg(feature = "node")]
pub mod pod;
#[cfg(feature = "node")]
pub mod render;
#[cfg(feature = "node")]
pub mod sysctl;
#[cfg(feature = "node")]
pub mod uninstall;
