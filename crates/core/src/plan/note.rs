//! What is said about a plan that could not be made as it was meant.

use std::net::IpAddr;

use crate::cidr::Cidr;

/// Something that could not be planned as it was meant. The rest of the plan holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Note {
    /// A peer has a block of a family in which its node has no address.
    #[error("block {block} of node {peer} gets no route: the node has no address of that family")]
    PeerWithoutAddress {
        /// The peer.
        peer: String,
        /// Its block.
        block: Cidr,
    },
    /// A peer has no address of a family that this node has one of; nothing carries packets between them.
    #[error("block {block} of node {peer} gets no route: the node has no address of a family that this node has")]
    PeerOutOfReach {
        /// The peer.
        peer: String,
        /// Its block.
        block: Cidr,
    },
    /// Two peers have overlapping blocks; neither is routed, since nothing here tells whose it is.
    #[error("block {block} of node {peer} and block {other_block} of node {other} overlap; neither is routed")]
    PeersOverlap {
        /// One peer.
        peer: String,
        /// Its block.
        block: Cidr,
        /// The other.
        other: String,
        /// Its block.
        other_block: Cidr,
    },
    /// A peer has a block that overlaps one of this node's; it is not routed.
    #[error("block {block} of node {peer} overlaps this node's block {own}; it is not routed")]
    PeerClaimsOurs {
        /// The peer.
        peer: String,
        /// Its block.
        block: Cidr,
        /// This node's.
        own: Cidr,
    },
    /// A block lies outside every pod CIDR; it is made part of the pods' space by itself.
    #[error("block {block} of {} lies outside every pod CIDR of the cluster", whose(node.as_deref()))]
    OutsidePodCidrs {
        /// The node; `None` is this one.
        node: Option<String>,
        /// The block.
        block: Cidr,
    },
    /// A block outside every pod CIDR has a pod CIDR or a node's address in it, which would be lost to it; it is not
    /// routed.
    #[error("block {block} of {} has {inside} in it; it is not routed", whose(node.as_deref()))]
    TooWide {
        /// The node; `None` is this one.
        node: Option<String>,
        /// The block.
        block: Cidr,
        /// One of the ranges in it.
        inside: Cidr,
    },
    /// A pod of this node has an address in another node's block; it is taken off the network.
    #[error("pod link {link} has address {address} of node {peer}; it is taken off the network")]
    PodOfPeer {
        /// The host's side of the pod's link.
        link: String,
        /// The address.
        address: IpAddr,
        /// Whose block it is in.
        peer: String,
    },
    /// This node has a block of a family in which it has no address.
    #[error("this node has block {block} but no address of that family")]
    NodeWithoutAddress {
        /// The block.
        block: Cidr,
    },
}

fn whose(node: Option<&str>) -> String {
    node.map_or_else(|| "this node".to_owned(), |name| format!("node {name}"))
}
