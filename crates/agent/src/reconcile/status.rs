//! How this node is: what the API, the metrics and people are told.

use std::collections::BTreeSet;

use overlane_core::cidr::Cidr;
use overlane_core::cluster::RoutingState;
use overlane_core::plan::Mac;
use overlane_datapath::node::Segment;

/// Something that is wrong while the node serves. Ordered by weight: the first one is the condition's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A block of ours was given to another node; pods are off the network.
    BlockLost,
    /// Another node's configuration names a block of ours.
    BlockContested,
    /// The lease store was damaged.
    StoreDamaged,
    /// Something could not be written to the kernel.
    ApplyFailed,
    /// The ClusterNetwork is not valid; the last valid one counts.
    InvalidClusterNetwork,
    /// This node's NodeNetworkConfig cannot be understood whole.
    InvalidNodeNetworkConfig,
    /// The CNI plugin is not the one that came with this agent.
    PluginNotInstalled,
    /// Another network's configuration comes before ours, so the container runtime uses that.
    OtherNetworkFirst,
    /// The kubelet may run more pods than there are addresses.
    MaxPodsExceedBlock,
    /// A peer's node is not on this node's link, and no router is known to lead to its pods.
    PeerNotOnLink,
    /// A next hop of packets that leave the cluster is not on this node's link.
    NextHopNotOnLink,
    /// Nearly all ports that flows of pods to one destination can take from the node's address are taken.
    SnatPortsScarce,
    /// The kernel can remember few flows more.
    ConntrackScarce,
    /// The fabric drops bare packets of pods, and nothing else is sent.
    FabricDropsPodAddresses,
    /// The device below the tunnel does not make the checksums that it is asked for.
    ChecksumOffloadBroken,
    /// Something of the plan could not be made.
    PlanIncomplete,
    /// A fragment of the masquerade configuration was left out.
    InvalidMasqueradeConfig,
}

impl Reason {
    /// As conditions name it.
    pub fn text(self) -> &'static str {
        match self {
            Self::BlockLost => "BlockLost",
            Self::BlockContested => "BlockContested",
            Self::StoreDamaged => "StoreDamaged",
            Self::ApplyFailed => "ApplyFailed",
            Self::InvalidClusterNetwork => "InvalidClusterNetwork",
            Self::InvalidNodeNetworkConfig => "InvalidNodeNetworkConfig",
            Self::PluginNotInstalled => "PluginNotInstalled",
            Self::OtherNetworkFirst => "OtherNetworkFirst",
            Self::MaxPodsExceedBlock => "MaxPodsExceedBlock",
            Self::PeerNotOnLink => "PeerNotOnLink",
            Self::NextHopNotOnLink => "NextHopNotOnLink",
            Self::SnatPortsScarce => "SnatPortsScarce",
            Self::ConntrackScarce => "ConntrackScarce",
            Self::FabricDropsPodAddresses => "FabricDropsPodAddresses",
            Self::ChecksumOffloadBroken => "ChecksumOffloadBroken",
            Self::PlanIncomplete => "PlanIncomplete",
            Self::InvalidMasqueradeConfig => "InvalidMasqueradeConfig",
        }
    }
}

/// A reason and what there is to say about it.
pub type Problem = (Reason, String);

/// What the fabric does with bare packets of pods: reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fabric {
    /// Whether it carries them to every block that was asked about; `None` while that is not known.
    pub carries: Option<bool>,
    /// One word for it.
    pub reason: &'static str,
    /// The same for people.
    pub message: String,
}

/// How the node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What is wrong while the node serves.
    pub problems: BTreeSet<Problem>,
    /// What is known of the nodes' segment: whether another node's packets are told by their MACs.
    pub segment: Segment,
    /// MAC of the primary interface.
    pub underlay_mac: Option<Mac>,
    /// How pod packets cross nodes as the kernel has it; `None` while it never had it whole.
    pub routing: Option<RoutingState>,
    /// Pod CIDRs as the kernel has them; empty while it never had them whole.
    pub pod_cidrs: Vec<Cidr>,
    /// What the fabric does with bare packets of pods; `None` where it is not asked.
    pub fabric: Option<Fabric>,
    /// Whether it has egress addresses, and which; `None` where it is no gateway.
    pub gateway: Option<(bool, String)>,
    /// Blocks that are this node's, or that its pods hold addresses of.
    pub held: BTreeSet<Cidr>,
}

impl Status {
    /// The `Degraded` condition: its reason and message, if there is cause.
    pub fn degraded(&self) -> Option<(&'static str, String)> {
        let (first, _) = self.problems.first()?;
        // Many peers may have one trouble; the first few tell it.
        const SHOWN: usize = 5;
        let mut message: Vec<&str> = self.problems.iter().map(|(_, text)| text.as_str()).take(SHOWN).collect();
        let more = self.problems.len().saturating_sub(SHOWN);
        let tail = format!("and {more} more");
        if more > 0 {
            message.push(&tail);
        }
        Some((first.text(), message.join("; ")))
    }
}
