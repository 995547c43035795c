//! What is known of the objects that decisions are made of: the few fields of each that matter.

use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::cluster::RoutingState;

/// What tells one machine from another under the same Node name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineId {
    /// The kernel's boot id; empty where it is not known.
    pub boot_id: String,
    /// The cloud's name for the machine; empty where there is none.
    pub provider_id: String,
}

impl MachineId {
    /// Whether there is anything to tell it by.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.boot_id.is_empty() || !self.provider_id.is_empty()
    }

    /// Whether both are surely one machine: the same boot, or the same name by the cloud.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |a: &str, b: &str| !a.is_empty() && a == b;
        same(&self.boot_id, &other.boot_id) || same(&self.provider_id, &other.provider_id)
    }
}

/// An object as it was read; a write that names it is refused once it has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its UID.
    pub uid: String,
    /// Its `resourceVersion`.
    pub resource_version: String,
}

impl ObjectRef {
    /// Whether this is an older state of the same object. Unknown counts as no.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        let number = |text: &str| text.parse::<u64>().ok();
        self.uid == other.uid
            && matches!((number(&self.resource_version), number(&other.resource_version)), (Some(a), Some(b)) if a < b)
    }
}

/// What the Node's own conditions and taints say, as far as they are ours to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConditions {
    /// `NetworkUnavailable`: its status and reason; `None` where the Node has no such condition.
    pub network_unavailable: Option<(bool, String)>,
    /// Whether the Node bears the taint `node.kubernetes.io/network-unavailable`.
    pub tainted: bool,
    /// `OverlaneNetwork`: its status and reason; `None` where the Node has no such condition.
    pub overlane: Option<(bool, String)>,
    /// Where in its list of taints the Node bears the startup taint, with which nodes may be made so that no pod comes
    /// before their agent is ready.
    pub startup_taint: Option<usize>,
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// UID and `resourceVersion`.
    pub object: ObjectRef,
    /// The machine behind it.
    pub machine: MachineId,
    /// `spec.podCIDRs` as written.
    pub pod_cidrs: Vec<String>,
    /// Whether a controller of ours wrote them: the mark that [`super::Action::SetPodCidrs`] leaves names the same.
    pub pod_cidrs_ours: bool,
    /// Its InternalIPs, in the Node's order.
    pub addresses: Vec<IpAddr>,
    /// What it says of its network.
    pub conditions: NodeConditions,
    /// When this Node object was first seen here.
    pub first_seen_ms: u64,
}

impl NodeView {
    /// Whether a decision could be another one for `other`. The `resourceVersion` alone changes nothing.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.object.uid == other.object.uid
            && self.machine == other.machine
            && self.pod_cidrs == other.pod_cidrs
            && self.pod_cidrs_ours == other.pod_cidrs_ours
            && self.addresses == other.addresses
            && self.conditions == other.conditions
    }
}

/// What a node's agent says (`NodeState`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateView {
    /// Name of the node.
    pub node: String,
    /// UID and `resourceVersion`.
    pub object: ObjectRef,
    /// The boot id that the agent runs under.
    pub boot_id: String,
    /// Blocks that pods on the node hold addresses of.
    pub held: Vec<Cidr>,
    /// MAC address of the node's primary interface; empty where it is not told.
    pub mac: String,
    /// Whether an ADD would be served.
    pub ready: bool,
    /// How pod packets cross nodes as far as this one is concerned; `None` where its agent does not say.
    pub routing: Option<RoutingState>,
    /// Since when it speaks of a machine that is gone; kept by [`super::World`].
    pub obsolete_since_ms: Option<u64>,
}

impl StateView {
    /// Whether it can be of the machine that the Node stands for now.
    #[must_use]
    pub fn is_of(&self, node: &NodeView) -> bool {
        let (a, b) = (&self.boot_id, &node.machine.boot_id);
        a.is_empty() || b.is_empty() || a == b
    }
}

/// A `NodeBlock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The block.
    pub cidr: Cidr,
    /// The pod CIDR that it was carved from.
    pub pool: Option<Cidr>,
    /// Name of the Node that holds it.
    pub node: String,
    /// UID of that Node object.
    pub node_uid: String,
    /// The machine behind the Node.
    pub machine: MachineId,
    /// When the node was seen to be gone; `None` while it is there.
    pub released_ms: Option<u64>,
    /// When the object was made.
    pub created_ms: u64,
    /// UID and `resourceVersion`.
    pub object: ObjectRef,
}

impl Claim {
    /// Whether its node is there.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.released_ms.is_none()
    }
}

/// One block as a `NodeNetworkConfig` announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The block.
    pub block: Cidr,
    /// The pod CIDR around it.
    pub pool: Option<Cidr>,
    /// The node's address of the block's family.
    pub node_ip: Option<IpAddr>,
}

/// A `NodeNetworkConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigView {
    /// Name of the node.
    pub node: String,
    /// UID of the Node object that it speaks of.
    pub node_uid: String,
    /// UID and `resourceVersion`.
    pub object: ObjectRef,
    /// What it announces; `None` where an entry is not one that we would write, so that it is written anew.
    pub content: Option<super::Content>,
}

impl ConfigView {
    /// The blocks that it announces.
    pub fn blocks(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.content.iter().flat_map(|content| &content.containers).map(|container| container.block)
    }
}
