//! The words of [`Ipam`](super::Ipam): leases, what happens to them, what is refused.

use std::fmt;
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::family::Family;
use crate::ports::PortMapping;
use crate::rate::Bandwidth;

/// What a runtime attaches to the network: an interface of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// The runtime's id of the sandbox.
    pub container_id: String,
    /// The interface's name inside it.
    pub ifname: String,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

/// A pod's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID, as the runtime told it; may be empty.
    pub uid: String,
}

/// What is known of a pod's network namespace. It is gone once nothing answers to `nsid`; `inode` alone proves
/// nothing, since the kernel gives the number of a namespace that went to the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    /// The number by which the node's own namespace knows it.
    pub nsid: Option<i32>,
    /// The namespace file's inode; 0 where that is not known.
    pub inode: u64,
    /// Where the runtime said it is, for messages.
    pub path: String,
}

impl NetnsId {
    /// Whether both may be one namespace. Says yes where it cannot tell.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        let same_id = match (self.nsid, other.nsid) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        self.inode != 0 && self.inode == other.inode && same_id
    }
}

/// One of the node's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The block.
    pub cidr: Cidr,
    /// Blocks of different families with the same number were given together: a pod gets the same offset in each.
    pub pair: u32,
}

/// Where a lease is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseState {
    /// The addresses are taken, the pod's network is being made.
    Wiring,
    /// The pod has its network.
    Active,
    /// The pod lost its network; something may still name the addresses.
    Draining,
}

/// What a lease is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseKind {
    /// An interface of ours.
    #[default]
    Interface,
    /// Addresses alone, for an interface that another plugin makes. No link says anything about such a lease.
    Ipam,
    /// An address that another plugin gives to the node's side as the gateway of leases of kind
    /// [`Self::Ipam`]. It has no pod, and is never ended.
    Gateway,
}

/// Addresses that an attachment has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Never used again by a later lease.
    pub id: u64,
    /// What it is of.
    pub kind: LeaseKind,
    /// Whose.
    pub attachment: Attachment,
    /// Name of the network in the runtime's configuration.
    pub network: String,
    /// The pod, if the runtime named one.
    pub pod: Option<PodName>,
    /// One of each family, in the cluster's order of families.
    pub addresses: Vec<IpAddr>,
    /// The host's side of the pod's link. Where the link is another plugin's: a word that no link can have as its
    /// name, different for each lease.
    pub link: String,
    /// Ports of the node that lead to the pod.
    pub ports: Vec<PortMapping>,
    /// Limits of the pod's traffic.
    pub bandwidth: Bandwidth,
    /// The pod's network namespace.
    pub netns: NetnsId,
    /// When the ADD began.
    pub began_ns: u64,
    /// Where it is in its life.
    pub state: LeaseState,
}

/// What an ADD brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddRequest {
    /// [`LeaseKind::Interface`] or [`LeaseKind::Ipam`]; for gateways there is [`Ipam::gateway`](super::Ipam::gateway).
    pub kind: LeaseKind,
    /// Whose.
    pub attachment: Attachment,
    /// Name of the network in the runtime's configuration.
    pub network: String,
    /// The pod, if the runtime named one.
    pub pod: Option<PodName>,
    /// The host's side of the pod's link, as it will be called; of no meaning where the link is another plugin's.
    pub link: String,
    /// Ports of the node that are to lead to the pod.
    pub ports: Vec<PortMapping>,
    /// Limits of the pod's traffic.
    pub bandwidth: Bandwidth,
    /// The pod's network namespace, with its `nsid`.
    pub netns: NetnsId,
    /// When the ADD began.
    pub began_ns: u64,
}

/// What happens to the state. The caller keeps these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lease is there. In a snapshot it may be in any state.
    Began(Box<Lease>),
    /// Wiring to active.
    Activated {
        /// The lease.
        id: u64,
    },
    /// Wiring or active to draining.
    Draining {
        /// The lease.
        id: u64,
        /// When.
        at_ms: u64,
        /// When the DEL or GC began that ended it; `None` if neither did.
        del_ns: Option<u64>,
    },
    /// The lease is over, its addresses rest.
    Freed {
        /// The lease.
        id: u64,
        /// When.
        at_ms: u64,
    },
    /// A DEL came; ADDs of the attachment that began no later are refused.
    Tombstone {
        /// Whose.
        attachment: Attachment,
        /// When the DEL began.
        began_ns: u64,
        /// When it was recorded.
        at_ms: u64,
    },
    /// In snapshots: ids below this one are used up.
    NextId {
        /// The lowest id that may be given.
        id: u64,
    },
    /// In snapshots: addresses without a lease that once had one.
    Rested {
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// Since when.
        at_ms: u64,
    },
    /// In snapshots: DELs that began before this time were forgotten, so every ADD that did is refused.
    Floor {
        /// The time.
        began_ns: u64,
    },
}

/// Why an ADD gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No address of a family is free.
    #[error("no {family} address is free in {}: {usable} usable, {leased} leased, {draining} draining", Listed(blocks))]
    Full {
        /// The family.
        family: Family,
        /// The node's blocks of it.
        blocks: Vec<Cidr>,
        /// How many addresses pods can have.
        usable: u64,
        /// How many have a pod.
        leased: u64,
        /// How many had one a moment ago; these come free soon.
        draining: u64,
    },
    /// The node has no block yet.
    #[error("this node has no address block yet")]
    NoBlock,
    /// The attachment has a lease, wiring or active.
    #[error("attachment {} already has lease {} with {}", lease.attachment, lease.id, Listed(&lease.addresses))]
    AlreadyActive {
        /// The lease.
        lease: Box<Lease>,
    },
    /// The pod asks for a port of the node twice, for two of its own.
    #[error("port {port} of the node is asked for twice, for ports {} and {other} of the pod", port.pod_port)]
    PortTwice {
        /// The port.
        port: PortMapping,
        /// The other port of the pod.
        other: u16,
    },
    /// A port of the node leads to another pod.
    #[error("port {port} of the node is {}'s", lease.attachment)]
    PortTaken {
        /// The port.
        port: PortMapping,
        /// Who has it.
        lease: Box<Lease>,
    },
    /// A DEL that began no earlier than this ADD came first.
    #[error("add of {attachment} is void: a delete that began after it has been served")]
    Superseded {
        /// Whose.
        attachment: Attachment,
        /// When the DEL began.
        del_ns: u64,
    },
    /// An earlier lease of the same attachment or namespace has not ended yet; ask again once it has.
    #[error("lease {lease} of attachment {attachment} in the same sandbox is still ending")]
    Busy {
        /// Whose lease is ending.
        attachment: Attachment,
        /// Its id.
        lease: u64,
    },
    /// The name of the link is another lease's.
    #[error("link {link} is that of lease {lease}")]
    LinkTaken {
        /// The link.
        link: String,
        /// Whose it is.
        lease: u64,
    },
}

/// Why an event cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// An address has a lease already.
    #[error("lease {lease} cannot have {address}: lease {owner} has it")]
    AddressTaken {
        /// The new lease.
        lease: u64,
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: u64,
    },
    /// The attachment has a lease already.
    #[error("attachment {attachment} cannot have lease {lease}: it has lease {owner}")]
    AttachmentTaken {
        /// The new lease.
        lease: u64,
        /// Whose.
        attachment: Attachment,
        /// The lease that it has.
        owner: u64,
    },
    /// The link's name is in use already.
    #[error("lease {lease} cannot have link {link}: lease {owner} has it")]
    LinkTaken {
        /// The new lease.
        lease: u64,
        /// The link.
        link: String,
        /// Who has it.
        owner: u64,
    },
    /// The id is used up.
    #[error("lease id {lease} was used before")]
    IdTaken {
        /// The id.
        lease: u64,
    },
}

/// A block's numbers. `leased + draining + resting + free` is `usable`, but for leases on its first or last address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockUsage {
    /// The block.
    pub block: Block,
    /// How many addresses pods can have.
    pub usable: u64,
    /// Have a pod, or one that is being wired.
    pub leased: u64,
    /// Had a pod; something may still name them.
    pub draining: u64,
    /// Free, and their cool-down has not passed.
    pub resting: u64,
    /// Free.
    pub free: u64,
}

/// Values with a comma between.
struct Listed<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, value) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{value}")?;
        }
        Ok(())
    }
}
