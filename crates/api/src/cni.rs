//! The CNI types: network configuration, results and errors of spec versions 0.3.1 to 1.1.0.
//!
//! [`parse`] turns what a runtime hands over (environment and standard input) into an [`Invocation`], or says by the
//! spec's codes what is wrong with it. [`AddResult`] is what ADD answers, in the shape of the version asked for. Nothing
//! here reads the environment, a file or a socket.
//!
//! Source: the CNI specification, <https://github.com/containernetworking/cni/blob/main/SPEC.md>.

mod args;
mod conflist;
mod error;
pub mod exercise;
mod invocation;
mod ipam;
mod json;
mod names;
mod netconf;
mod result;
mod runtime_config;
mod version;

pub use args::Args;
pub use conflist::Conflist;
pub use error::{Error, ErrorObject, SHOWN};
pub use invocation::{Env, Invocation, Verb, parse, version_in_use};
pub use ipam::{IpamConf, IpamInvocation, parse_ipam};
pub use names::{container_id, interface_name, network_name};
pub use netconf::{DEFAULT_RUN_DIR, IPAM_TYPE, NetConf, SOCKET_NAME, Timeouts};
pub use result::{AddResult, Dns, Interface, IpConfig, IpamResult, PodSide, PrevResult, Route};
pub use runtime_config::{Bandwidth, PortMapping, Protocol, RuntimeConfig};
pub use version::{Version, VersionReport};

/// Error codes: those the spec reserves (1 to 99), section "Error", and ours.
pub mod code {
    /// Incompatible CNI version.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// Unsupported field in the network configuration; the message names the key and the value.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// Container unknown or does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// Invalid necessary environment variables; the message names them.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// I/O failure, such as not being able to read the configuration from standard input.
    pub const IO_FAILURE: u32 = 5;
    /// Failed to decode content, such as the configuration's JSON.
    pub const DECODING_FAILURE: u32 = 6;
    /// Invalid network configuration.
    pub const INVALID_NETWORK_CONFIG: u32 = 7;
    /// Try again later: something transient is in the way.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: the plugin is not available, ADD would fail.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: the plugin is not available and existing containers may have limited connectivity.
    pub const NOT_AVAILABLE_LIMITED: u32 = 51;
    /// Ours: the network that CHECK looked at is not as ADD left it.
    pub const CHECK_FAILED: u32 = 100;
    /// Ours: the kernel refused something.
    pub const KERNEL_REFUSED: u32 = 101;
    /// Ours: no address is free on this node.
    pub const NO_ADDRESS: u32 = 102;
    /// Ours: plugin and agent share no version of the socket protocol. The agent has changed nothing, so the plugin
    /// treats it on DEL like an agent that is not there.
    pub const PROTOCOL_MISMATCH: u32 = 103;
    /// Ours: a fault in the plugin itself.
    pub const INTERNAL: u32 = 104;
}
