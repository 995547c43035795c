//! What one node's kernel should hold, as values: routes, membership of the packet filter's sets, masquerade.
//!
//! [`plan`] is the same function for every data plane; it knows no names of Linux, and none of nft or eBPF. What is
//! switched off is empty here, so that a difference against what is there removes it.

mod build;
mod conflict;
mod egress;
mod gateway;
mod note;
mod probe;
mod tunnel;

pub use egress::{EgressPlan, Outside};
pub use gateway::{ExitPlan, GatewayPlan, Place, TunnelWay};
pub use note::Note;
pub use probe::{ProbePlan, ProbeTarget};
pub use tunnel::{TunnelPeer, TunnelPlan, TunnelSender, vtep_mac};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::cluster::{Carrier, Egress, Outbound, Routing, Vxlan};
use crate::egress::Gateway;
use crate::family::Family;
use crate::masq::MasqConfig;
use crate::ports::{PortMapping, Protocol};

/// A link-layer address.
pub type Mac = [u8; 6];

/// Another node, as the controller told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node's name.
    pub name: String,
    /// Its blocks, in any order.
    pub blocks: Vec<Cidr>,
    /// Its address of each family; one may be missing.
    pub node_ips: BTreeMap<Family, IpAddr>,
    /// What its packets bear as their sender on the nodes' own segment, where that is known.
    pub mac: Option<Mac>,
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// The host's side of the pod's link; a word of our own where the link is another plugin's.
    pub link: String,
    /// The link is another plugin's: neither its routes nor what it may send are ours to say.
    pub foreign_link: bool,
    /// MAC of the pod's side.
    pub mac: Mac,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to the pod.
    pub ports: Vec<PortMapping>,
}

/// Everything that a node's plan follows from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInput {
    /// This node's name.
    pub name: String,
    /// The cluster's pod CIDRs.
    pub pod_cidrs: Vec<Cidr>,
    /// How pod packets cross nodes.
    pub routing: Routing,
    /// How they may come besides, while the routing changes.
    pub accept: BTreeSet<Carrier>,
    /// The tunnel's numbers.
    pub vxlan: Vxlan,
    /// Addresses of nodes that are reached by a router alone.
    pub beyond: BTreeSet<IpAddr>,
    /// Networks of nodes between which the fabric is known to carry pods' packets.
    pub trusted: Vec<Cidr>,
    /// Blocks whose probe passes: the fabric carries bare packets to them and back.
    pub passing: BTreeSet<Cidr>,
    /// This node's address of each family.
    pub node_ips: BTreeMap<Family, IpAddr>,
    /// This node's blocks.
    pub own_blocks: Vec<Cidr>,
    /// The other nodes; this one is not among them.
    pub peers: Vec<Peer>,
    /// The pods of this node.
    pub endpoints: Vec<EndpointSpec>,
    /// What is not masqueraded; `None` switches masquerade off.
    pub masquerade: Option<MasqConfig>,
    /// The cluster's Service CIDRs.
    pub service_cidrs: Vec<Cidr>,
    /// How packets leave the cluster.
    pub outbound: Outbound,
    /// Next hops and exceptions of the outbound type.
    pub egress: Egress,
    /// Egress gateways in force.
    pub gateways: Vec<Gateway>,
    /// Nodes among theirs that are no gateways now: they do not answer. This node too while it is not ready for it.
    pub silent: BTreeSet<String>,
    /// This node has just come up: it answers nobody who asks for a gateway, so that all notice that it was gone.
    pub hushed: bool,
    /// Whether pods of this node leave by gateways, so that it matters which of them answer.
    pub asks_gateways: bool,
    /// Whether network policy is in force.
    pub policed: bool,
    /// Whether what it drops is logged.
    pub logs_denied: bool,
}

/// What happens to packets for a destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteAction {
    /// On to the node that has this address, of the destination's family, on this node's link.
    Via(IpAddr),
    /// On towards the node that has this address, of the destination's family, by whatever router leads to it: the
    /// fabric knows the destination.
    Fabric(IpAddr),
    /// To this node itself.
    Here,
    /// In the tunnel, to the node that has the address `to`, from this node's `from`: of either family.
    Tunnel {
        /// This node's address.
        from: IpAddr,
        /// The other node's.
        to: IpAddr,
    },
    /// To a pod of this node, by its link.
    Local {
        /// The host's side of the pod's link.
        link: String,
    },
    /// Answered with "unreachable". Least preferred: anything else for the same destination goes first.
    Unreachable,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteSpec {
    /// Where the packets go.
    pub destination: Cidr,
    /// What becomes of them.
    pub action: RouteAction,
}

/// What a pod of this node may send: from this link, with this MAC, from this address. Anything else is forged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodMember {
    /// The host's side of the pod's link.
    pub link: String,
    /// MAC of the pod's side.
    pub mac: Mac,
    /// One of the pod's addresses.
    pub address: IpAddr,
}

/// A port of the node that leads to an address of a pod, of the address' family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortMember {
    /// The protocol.
    pub protocol: Protocol,
    /// The node's one address that it is bound to; all without.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's address.
    pub address: IpAddr,
    /// The pod's port.
    pub pod_port: u16,
}

impl PortMember {
    /// What mappings come to for a pod's addresses.
    pub fn of<'a>(ports: &'a [PortMapping], addresses: &'a [IpAddr]) -> impl Iterator<Item = Self> + 'a {
        addresses.iter().flat_map(|address| {
            ports.iter().filter(|port| port.is_for(Family::of(address))).map(|port| Self {
                protocol: port.protocol,
                host_ip: port.bound_to(),
                host_port: port.host_port,
                address: *address,
                pod_port: port.pod_port,
            })
        })
    }
}

/// What of a pod the data plane is told when the pod comes, and forgets when it goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodElement {
    /// What it may send.
    Source(PodMember),
    /// What leads to it.
    Port(PortMember),
    /// An address behind another plugin's link: it is no forgery, whatever link of this node it comes from.
    Delegated(IpAddr),
    /// It is known by which gateways its packets leave the cluster: until then, where there are gateways, none do.
    Decided(IpAddr),
    /// It leaves by the gateway slot of this number.
    Exit(u8, IpAddr),
}

impl PodElement {
    /// The address that the pod sends from, of what says that.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Source(member) => Some(member.address),
            Self::Delegated(address) => Some(*address),
            Self::Port(_) | Self::Decided(_) | Self::Exit(..) => None,
        }
    }
}

/// What a peer may send from: addresses of this block, and from this MAC where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerMember {
    /// The block.
    pub block: Cidr,
    /// The sender's MAC; `None` where any must be taken.
    pub mac: Option<Mac>,
}

/// Another node's address, and the MAC that its packets bear where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeMember {
    /// The address.
    pub address: IpAddr,
    /// The sender's MAC; `None` where any must be taken.
    pub mac: Option<Mac>,
}

/// How packets that leave the pods' space are disguised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasqPlan {
    /// Sources that are disguised: this node's blocks.
    pub sources: BTreeSet<Cidr>,
    /// Destinations that see the pod's own address: the pods' space and what the configuration adds. None of them
    /// lies in another.
    pub except: BTreeSet<Cidr>,
    /// What the packets take as source where they leave by the interface that has it.
    pub node_ips: BTreeMap<Family, IpAddr>,
}

/// What a node's kernel should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePlan {
    /// Every route of ours.
    pub routes: BTreeSet<RouteSpec>,
    /// The pods' space: the pod CIDRs, and blocks outside them. Packets to it follow our routes and no others. None
    /// of them lies in another.
    pub pod_space: BTreeSet<Cidr>,
    /// This node's address of each family: what it uses as source towards its pods.
    pub node_ips: BTreeMap<Family, IpAddr>,
    /// What this node's pods may send.
    pub pods: BTreeSet<PodMember>,
    /// Addresses of this node's pods behind other plugins' links.
    pub delegated: BTreeSet<IpAddr>,
    /// Ports of this node that lead to its pods.
    pub ports: BTreeSet<PortMember>,
    /// Other nodes of the cluster: what may reach pods of this one. (This node's own packets are never forwarded.)
    pub nodes: BTreeSet<NodeMember>,
    /// What may come from other nodes' pods, bare.
    pub peers: BTreeSet<PeerMember>,
    /// The tunnel; `None` where none is used.
    pub tunnel: Option<TunnelPlan>,
    /// What the fabric is asked.
    pub probes: ProbePlan,
    /// Masquerade; `None` where it is off.
    pub masquerade: Option<MasqPlan>,
    /// What becomes of packets that leave the cluster; `None` where they go as any packet of this node.
    pub egress: Option<EgressPlan>,
    /// Addresses of Services: some proxies give them to the node as its own, which makes no port of theirs a pod's.
    pub service_space: BTreeSet<Cidr>,
    /// Whether network policy is in force.
    pub policed: bool,
    /// Whether what it drops is logged.
    pub logs_denied: bool,
    /// What could not be planned as it was meant.
    pub notes: BTreeSet<Note>,
}

impl NodePlan {
    /// Everything of this node's pods that the data plane is told.
    #[must_use]
    pub fn pod_elements(&self) -> BTreeSet<PodElement> {
        let sources = self.pods.iter().cloned().map(PodElement::Source);
        let ports = self.ports.iter().copied().map(PodElement::Port);
        sources.chain(ports).chain(self.delegated.iter().copied().map(PodElement::Delegated)).collect()
    }
}

/// Plans a node.
///
/// A pod with an address in another node's block is left out of everything: the block was given away, and an address
/// has one owner. A pod with an address in nobody's block keeps what it has.
#[must_use]
pub fn plan(input: &NodeInput) -> NodePlan {
    build::build(input)
}

/// What turns what is observed into what is desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<T> {
    /// Goes first: what is there and should not be.
    pub remove: Vec<T>,
    /// What should be there and is not.
    pub add: Vec<T>,
}

impl<T> Changes<T> {
    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

/// Compares two sets. Both lists come out ordered.
#[must_use]
pub fn diff<T: Ord + Clone>(desired: &BTreeSet<T>, observed: &BTreeSet<T>) -> Changes<T> {
    Changes {
        remove: observed.difference(desired).cloned().collect(),
        add: desired.difference(observed).cloned().collect(),
    }
}
