//! Kubernetes network policy as the API's text has it, one packet at a time, for tests to compare a compiler with.
//!
//! [`judge`] loops over every object for every packet and keeps nothing. It follows the documentation of
//! `networking.k8s.io/v1` NetworkPolicy and `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy (CNP). Where they
//! are silent, or easily misread, these rules hold:
//!
//! **Who has an address.** A pod is found by its `status.podIPs`. One whose phase is Succeeded or Failed does not
//! count: its address may be another's. One that is being deleted counts until then. A pod of the host's network is
//! never subject to policy and never meant by a selector: its address is the node's, which blocks, networks and `nodes`
//! peers match. Should two pods have an address, it is the first one's.
//!
//! **Always allowed**, before any tier: between a pod and any address in the `status.addresses` of the Node of its
//! `spec.nodeName`, both ways, and from a pod to its own addresses.
//!
//! **Tiers.** Admin CNPs by ascending priority, then name; rules in order; the first that matches decides. Accept and
//! Deny are final, Pass goes to the next tier. NetworkPolicies are final for a pod that one of them isolates in that
//! direction. Baseline CNPs are as Admin ones; there, Pass means allowed. What nothing decides is allowed.
//!
//! **NetworkPolicy.** No `policyTypes` means Ingress, and Egress too if there are egress rules; a type other than these
//! two means nothing. No peers, or an empty list, is everyone, outside the cluster too; no ports, or an empty list, is
//! every protocol, ICMP too. A port without protocol is TCP, one without `port` all of its protocol. A namespace
//! without object has no labels.
//!
//! **Named ports** are looked up at the destination: for ingress the pod selected, for egress the pod at the other end,
//! also if a block or network names it. Every port of that name and protocol counts, of containers and of init
//! containers that always restart. Where there is none, or no pod, nothing matches.
//!
//! **Blocks.** An address is an address: pods and nodes match too. A block never matches the other family. Bits of the
//! host in a CIDR are cut off. An `except` may be all of the block.
//!
//! **An invalid NetworkPolicy** still isolates whom it selects. A rule with one invalid item allows nothing; the other
//! rules count. If the `podSelector` is invalid, all pods of the namespace are isolated and the policy allows nothing.
//! Invalid are: bad CIDRs, an `except` not inside, a peer with nothing set or with a block beside a selector, an
//! operator unknown or with values where there must be none (or none where there must be), an unknown protocol, a port
//! not in 1 to 65535, an `endPort` below the port or without a numeric one.
//!
//! **An invalid CNP rule**: Accept matches nothing, Deny and Pass deny everything. Invalid are: no peers; a peer with
//! no field known, with more than one, or with `domainNames`; bad CIDRs and selectors as above; a protocol with no
//! field known or more than one; a port that is not exactly one of a number and a range that ascends. If the `subject`
//! is invalid, the subject is every pod, and all rules are invalid.

pub mod cnp;
mod connection;
mod ends;
pub mod generate;
mod network;
mod peers;
mod ports;
mod selector;
mod tiers;
mod why;

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::{Deserialize, Serialize};

pub use crate::why::why;

use crate::cnp::ClusterNetworkPolicy;
use crate::connection::{Connection, Direction};

/// Everything that policy depends on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// All Namespaces.
    pub namespaces: Vec<Namespace>,
    /// All Pods.
    pub pods: Vec<Pod>,
    /// All Nodes.
    pub nodes: Vec<Node>,
    /// All NetworkPolicies.
    pub policies: Vec<NetworkPolicy>,
    /// All ClusterNetworkPolicies.
    pub cluster_policies: Vec<ClusterNetworkPolicy>,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP, or ICMPv6 with IPv6.
    Icmp,
}

impl Protocol {
    /// The name that the API has for it; ICMP has none.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Tcp => Some("TCP"),
            Self::Udp => Some("UDP"),
            Self::Sctp => Some("SCTP"),
            Self::Icmp => None,
        }
    }
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// Source address.
    pub from: IpAddr,
    /// Destination address, of the same family.
    pub to: IpAddr,
    /// What it carries.
    pub protocol: Protocol,
    /// Destination port; means nothing with ICMP.
    pub port: u16,
}

/// What policy says about a packet, at either end. An end that is no pod subject to policy allows everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What selects the sender allows it.
    pub egress: bool,
    /// What selects the receiver allows it.
    pub ingress: bool,
}

impl Judgement {
    /// Whether the packet may arrive.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.egress && self.ingress
    }
}

/// Judges a packet, at both ends.
#[must_use]
pub fn judge(cluster: &Cluster, packet: &Packet) -> Judgement {
    let end = |direction| Connection::at(cluster, packet, direction).is_none_or(|connection| allowed(&connection));
    Judgement { egress: end(Direction::Egress), ingress: end(Direction::Ingress) }
}

fn allowed(connection: &Connection<'_>) -> bool {
    let Connection { cluster, subject, peer, .. } = *connection;
    ends::always_allowed(cluster, subject, peer) || tiers::allowed(connection)
}
