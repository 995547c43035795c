//! What is said on a Node: that it has no network yet and why, that it has one now.

use std::fmt;

use super::given::Given;
use crate::cidr::Cidr;
use crate::family::Family;

/// What stands in the way of serving a node, or of serving it well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A pod CIDR has no block to give.
    NoBlockAvailable {
        /// The pod CIDR.
        pool: Cidr,
    },
    /// Somebody else writes `node.spec.podCIDRs`, though Overlane is to allocate.
    ForeignAllocator {
        /// What is written there.
        pod_cidrs: Vec<String>,
    },
    /// `node.spec.podCIDRs`, which cannot be changed, has blocks that the node lost since.
    StalePodCidrs {
        /// What is written there.
        pod_cidrs: Vec<String>,
    },
    /// `node.spec.podCIDRs` cannot be adopted.
    BadPodCidrs {
        /// Why.
        reason: String,
    },
    /// A block of `node.spec.podCIDRs` belongs to another node.
    PodCidrTaken {
        /// The block.
        block: Cidr,
        /// The node that has it.
        by: String,
    },
    /// A block of `node.spec.podCIDRs` was given back a moment ago.
    BlockResting {
        /// The block.
        block: Cidr,
    },
    /// Nobody has written `node.spec.podCIDRs` yet, and Overlane is to adopt it.
    WaitingForPodCidrs,
    /// The Node has no InternalIP of these families, so no route leads to its blocks.
    NoNodeAddress {
        /// The families.
        families: Vec<Family>,
    },
}

/// The reason of `NetworkUnavailable` once a node is served.
pub const SERVED: &str = "OverlaneIsUp";

impl Trouble {
    /// Every reason that [`Self::reason`] gives: what an uninstall knows our conditions by.
    pub const REASONS: [&str; 8] = [
        "NoBlockAvailable",
        "ForeignAllocator",
        "StalePodCIDRs",
        "BadPodCIDRs",
        "PodCIDRTaken",
        "BlockResting",
        "WaitingForPodCIDRs",
        "NoNodeAddress",
    ];

    /// One word for it, as conditions and events have it.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoBlockAvailable { .. } => "NoBlockAvailable",
            Self::ForeignAllocator { .. } => "ForeignAllocator",
            Self::StalePodCidrs { .. } => "StalePodCIDRs",
            Self::BadPodCidrs { .. } => "BadPodCIDRs",
            Self::PodCidrTaken { .. } => "PodCIDRTaken",
            Self::BlockResting { .. } => "BlockResting",
            Self::WaitingForPodCidrs => "WaitingForPodCIDRs",
            Self::NoNodeAddress { .. } => "NoNodeAddress",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBlockAvailable { pool } => {
                write!(
                    f,
                    "no block is left in pod CIDR {pool}; goes on by itself once a node is gone and its block has rested, or the pod CIDR is larger"
                )
            }
            Self::ForeignAllocator { pod_cidrs } => write!(
                f,
                "spec.podCIDRs has {}, which Overlane did not allocate; stop the other allocator (kube-controller-manager --allocate-node-cidrs=false) and make the Node anew, or set nodeCIDRs to adopt",
                pod_cidrs.join(", ")
            ),
            Self::StalePodCidrs { pod_cidrs } => write!(
                f,
                "spec.podCIDRs has {}, which is the node's no more; it cannot be changed but by making the Node anew",
                pod_cidrs.join(", ")
            ),
            Self::BadPodCidrs { reason } => write!(f, "spec.podCIDRs cannot be adopted: {reason}"),
            Self::PodCidrTaken { block, by } => write!(f, "block {block} overlaps one of node {by}"),
            Self::BlockResting { block } => {
                write!(f, "block {block} was another node's a moment ago and rests before it is used again")
            }
            Self::WaitingForPodCidrs => {
                write!(f, "spec.podCIDRs is empty, and Overlane is to adopt what another allocator writes there")
            }
            Self::NoNodeAddress { families } => {
                let names: Vec<String> = families.iter().map(Family::to_string).collect();
                write!(
                    f,
                    "no InternalIP of {}; pods have addresses, but no other node has a route to them",
                    names.join(" and ")
                )
            }
        }
    }
}

/// A Node condition that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionKind {
    /// `NetworkUnavailable`, which keeps pods away: true while the node has no block.
    NetworkUnavailable,
    /// `OverlaneNetwork`: false while the node has a block and something is wrong all the same.
    OverlaneNetwork,
}

impl ConditionKind {
    /// Its type, as the Node has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NetworkUnavailable => "NetworkUnavailable",
            Self::OverlaneNetwork => "OverlaneNetwork",
        }
    }
}

/// A condition to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionChange {
    /// Which.
    pub kind: ConditionKind,
    /// Its status.
    pub status: bool,
    /// Its reason, one word.
    pub reason: &'static str,
    /// What it says.
    pub message: String,
    /// Whether an event is to tell it as well: it is news, and no good news.
    pub warn: bool,
}

/// Whether the agent of this very machine says that an ADD would be served.
pub(super) fn agent_is_ready(given: &Given<'_>) -> bool {
    given.state.is_some_and(|state| state.ready && state.is_of(given.node))
}

/// The conditions to write for a node that is `served` (its blocks are announced) or not. Nothing is written where
/// nobody waits for it: a healthy node costs no write.
pub(super) fn changes(given: &Given<'_>, served: bool, trouble: Option<&Trouble>) -> Vec<ConditionChange> {
    let now = &given.node.conditions;
    let mut changes = Vec::new();
    let mut write = |kind, was: Option<&(bool, String)>, status, reason: &'static str, message: String, warn: bool| {
        if was.is_none_or(|(had, why)| *had != status || why != reason) {
            changes.push(ConditionChange { kind, status, reason, message, warn });
        }
    };
    let unavailable = now.network_unavailable.as_ref();
    let overlane = now.overlane.as_ref();
    match trouble {
        Some(trouble) if !served => {
            let message = trouble.to_string();
            write(ConditionKind::NetworkUnavailable, unavailable, true, trouble.reason(), message, true);
        }
        Some(trouble) => {
            write(ConditionKind::OverlaneNetwork, overlane, false, trouble.reason(), trouble.to_string(), true);
        }
        None => {}
    }
    if served && trouble.is_none() && overlane.is_some_and(|(fine, _)| !fine) {
        write(ConditionKind::OverlaneNetwork, overlane, true, "Served", "every block is announced".to_owned(), false);
    }
    let waiting = unavailable.map_or(now.tainted, |(unavailable, _)| *unavailable);
    if served && waiting && agent_is_ready(given) {
        let message = "the node has its blocks and its agent is ready".to_owned();
        write(ConditionKind::NetworkUnavailable, unavailable, false, SERVED, message, false);
    }
    changes
}

#[cfg(test)]
mod tests {
    //! Must catch: a reason that an uninstall would not know again.
    use super::*;

    #[test]
    fn every_reason_is_listed() {
        let block = Cidr::host_range(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        let pod_cidrs = Vec::new;
        let all = [
            Trouble::NoBlockAvailable { pool: block },
            Trouble::ForeignAllocator { pod_cidrs: pod_cidrs() },
            Trouble::StalePodCidrs { pod_cidrs: pod_cidrs() },
            Trouble::BadPodCidrs { reason: String::new() },
            Trouble::PodCidrTaken { block, by: String::new() },
            Trouble::BlockResting { block },
            Trouble::WaitingForPodCidrs,
            Trouble::NoNodeAddress { families: Vec::new() },
        ];
        let reasons: Vec<&str> = all.iter().map(Trouble::reason).collect();
        assert_eq!(reasons, Trouble::REASONS);
    }
}
