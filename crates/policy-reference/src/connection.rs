//! A packet as seen from one of its ends.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::{Cluster, Packet, Protocol, ends};

/// Which way the packet goes, seen from the pod that policy is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    /// As `policyTypes` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }
}

/// A packet, and the end of it that policy is asked for.
pub(crate) struct Connection<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) direction: Direction,
    /// The pod that policy is asked for.
    pub(crate) subject: &'a Pod,
    /// The address at the other end.
    pub(crate) peer: IpAddr,
    /// The pod at the other end, if there is one that selectors can mean.
    pub(crate) peer_pod: Option<&'a Pod>,
    pub(crate) protocol: Protocol,
    /// Of the destination.
    pub(crate) port: u16,
}

impl<'a> Connection<'a> {
    /// A packet at its sender, or at its receiver; nothing where that end is no pod subject to policy.
    pub(crate) fn at(cluster: &'a Cluster, packet: &Packet, direction: Direction) -> Option<Self> {
        let Packet { from, to, protocol, port } = *packet;
        let (subject, peer) = match direction {
            Direction::Egress => (from, to),
            Direction::Ingress => (to, from),
        };
        let subject = ends::pod_at(cluster, subject)?;
        let peer_pod = ends::pod_at(cluster, peer);
        Some(Self { cluster, direction, subject, peer, peer_pod, protocol, port })
    }

    /// The pod whose ports names are looked up in.
    pub(crate) fn destination(&self) -> Option<&Pod> {
        match self.direction {
            Direction::Ingress => Some(self.subject),
            Direction::Egress => self.peer_pod,
        }
    }
}
