//! Everything that can end a call, with its CNI code.

use std::io;
use std::path::PathBuf;

use overlane_api::cni::{self, code};
use overlane_api::socket::Failure;
use overlane_datapath::loopback::LoopbackError;
use overlane_datapath::netns::NetnsError;

use crate::agent::AgentError;

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    /// What the runtime handed over is not in order.
    #[error(transparent)]
    Call(#[from] cni::Error),
    #[error("read the network configuration from standard input: {source}")]
    Stdin { source: io::Error },
    #[error("read the network configuration from standard input: longer than {limit} bytes")]
    StdinTooLong { limit: usize },
    #[error("CNI_NETNS: {0}")]
    Netns(#[from] NetnsError),
    #[error("CNI_NETNS: {path} is the network namespace of the node itself")]
    OwnNetns { path: String },
    /// The agent gave no usable answer.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The same, and the call was STATUS.
    #[error("the agent of this node does not answer: {0}")]
    NotAvailable(AgentError),
    /// The agent's own words.
    #[error("{}", .0.msg)]
    Refused(Failure),
    #[error("leave word for the next agent in {path}: {source}", path = path.display())]
    Tombstone { path: PathBuf, source: io::Error },
    #[error("read CLOCK_BOOTTIME: {source}")]
    Clock { source: io::Error },
    /// As `loopback`: the interface could not be looked at or set up.
    #[error("loopback: {0}")]
    Loopback(#[from] LoopbackError),
    #[error("loopback: interface {ifname} is down")]
    LoopbackDown { ifname: String },
}

impl PluginError {
    /// The CNI code.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::Call(error) => error.code(),
            Self::Stdin { .. } | Self::StdinTooLong { .. } | Self::Tombstone { .. } => code::IO_FAILURE,
            Self::Netns(error) => netns_code(error),
            Self::OwnNetns { .. } => code::INVALID_ENVIRONMENT,
            Self::Agent(error) => error.code(),
            Self::NotAvailable(_) => code::NOT_AVAILABLE,
            Self::Refused(failure) => failure.code,
            Self::Clock { .. } => code::INTERNAL,
            Self::Loopback(LoopbackError::Netns(error)) => netns_code(error),
            Self::Loopback(_) => code::IO_FAILURE,
            Self::LoopbackDown { .. } => code::CHECK_FAILED,
        }
    }

    /// What to do about it; may be empty.
    pub(crate) fn details(&self) -> String {
        match self {
            Self::Call(error) => error.details(),
            Self::Agent(error) | Self::NotAvailable(error) => error.details().to_owned(),
            Self::Refused(failure) => failure.details.clone(),
            _ => String::new(),
        }
    }
}

/// A path that leads nowhere means that the container is gone; one that leads to something else is a wrong variable.
fn netns_code(error: &NetnsError) -> u32 {
    match error {
        NetnsError::Open { source, .. }
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            code::UNKNOWN_CONTAINER
        }
        NetnsError::NotANetns { .. } => code::INVALID_ENVIRONMENT,
        _ => code::IO_FAILURE,
    }
}
