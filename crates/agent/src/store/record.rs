//! The records of the lease store: `core`'s events as they are written down.
//!
//! Fields are added, never renamed or given another meaning within a format; readers pass over fields that they do not
//! know.

use std::net::IpAddr;

use overlane_core::ipam;
use overlane_core::ports::{PortMapping, Protocol};
use overlane_core::rate::{Bandwidth, RateLimit};
use serde::{Deserialize, Serialize};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Record {
    /// A lease is there.
    Began(Box<Lease>),
    /// Wiring to active.
    Activated {
        /// The lease.
        id: u64,
    },
    /// To draining.
    Draining {
        /// The lease.
        id: u64,
        /// When.
        at_ms: u64,
        /// When the DEL or GC began that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        del_ns: Option<u64>,
    },
    /// The lease is over.
    Freed {
        /// The lease.
        id: u64,
        /// When.
        at_ms: u64,
    },
    /// A DEL came.
    Tombstone {
        /// Whose.
        attachment: Attachment,
        /// When the DEL began.
        began_ns: u64,
        /// When it was recorded.
        at_ms: u64,
    },
    /// Ids below this one are used up.
    NextId {
        /// The lowest id that may be given.
        id: u64,
    },
    /// Addresses without a lease that once had one.
    Rested {
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// Since when.
        at_ms: u64,
    },
    /// ADDs that began no later are refused.
    Floor {
        /// When the youngest forgotten DEL began.
        began_ns: u64,
    },
}

/// Whose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    container_id: String,
    ifname: String,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    id: u64,
    #[serde(default, skip_serializing_if = "Kind::is_interface")]
    kind: Kind,
    attachment: Attachment,
    network: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Pod>,
    addresses: Vec<IpAddr>,
    link: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ingress: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    egress: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nsid: Option<i32>,
    #[serde(default)]
    netns_inode: u64,
    #[serde(default)]
    netns_path: String,
    began_ns: u64,
    state: State,
}

/// What a lease is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// An interface of ours.
    #[default]
    Interface,
    /// Addresses for another plugin's interface.
    Ipam,
    /// A gateway of such addresses.
    Gateway,
}

impl Kind {
    fn is_interface(&self) -> bool {
        *self == Self::Interface
    }
}

impl From<ipam::LeaseKind> for Kind {
    fn from(of: ipam::LeaseKind) -> Self {
        match of {
            ipam::LeaseKind::Interface => Self::Interface,
            ipam::LeaseKind::Ipam => Self::Ipam,
            ipam::LeaseKind::Gateway => Self::Gateway,
        }
    }
}

impl From<Kind> for ipam::LeaseKind {
    fn from(of: Kind) -> Self {
        match of {
            Kind::Interface => Self::Interface,
            Kind::Ipam => Self::Ipam,
            Kind::Gateway => Self::Gateway,
        }
    }
}

/// A pod's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    namespace: String,
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uid: String,
}

/// A port of the node that leads to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// IANA's number.
    protocol: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host_ip: Option<IpAddr>,
    host_port: u16,
    pod_port: u16,
}

/// A limit of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// Bits a second.
    rate: u64,
    /// Bits.
    #[serde(default)]
    burst: u64,
}

/// A lease's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Being wired.
    Wiring,
    /// In use.
    Active,
    /// Being taken apart.
    Draining,
}

impl From<&ipam::Attachment> for Attachment {
    fn from(of: &ipam::Attachment) -> Self {
        Self { container_id: of.container_id.clone(), ifname: of.ifname.clone() }
    }
}

impl From<Attachment> for ipam::Attachment {
    fn from(of: Attachment) -> Self {
        Self { container_id: of.container_id, ifname: of.ifname }
    }
}

impl From<&PortMapping> for Port {
    fn from(of: &PortMapping) -> Self {
        let PortMapping { protocol, host_ip, host_port, pod_port } = *of;
        Self { protocol: protocol.number(), host_ip, host_port, pod_port }
    }
}

impl TryFrom<Port> for PortMapping {
    type Error = u8;

    /// A protocol of a later version has no mapping here.
    fn try_from(of: Port) -> Result<Self, u8> {
        let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.number() == of.protocol);
        let Port { host_ip, host_port, pod_port, protocol } = of;
        Ok(Self { protocol: known.ok_or(protocol)?, host_ip, host_port, pod_port })
    }
}

impl From<RateLimit> for Limit {
    fn from(of: RateLimit) -> Self {
        Self { rate: of.bits(), burst: of.burst_bits() }
    }
}

impl Limit {
    fn read(self) -> Option<RateLimit> {
        RateLimit::new(self.rate, self.burst)
    }
}

impl From<&ipam::Lease> for Lease {
    fn from(of: &ipam::Lease) -> Self {
        let ipam::Lease {
            id,
            kind,
            attachment,
            network,
            pod,
            addresses,
            link,
            ports,
            bandwidth,
            netns,
            began_ns,
            state,
        } = of;
        Self {
            id: *id,
            kind: (*kind).into(),
            attachment: attachment.into(),
            network: network.clone(),
            pod: pod.as_ref().map(|pod| Pod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            }),
            addresses: addresses.clone(),
            link: link.clone(),
            ports: ports.iter().map(Port::from).collect(),
            ingress: bandwidth.ingress.map(Limit::from),
            egress: bandwidth.egress.map(Limit::from),
            nsid: netns.nsid,
            netns_inode: netns.inode,
            netns_path: netns.path.clone(),
            began_ns: *began_ns,
            state: match state {
                ipam::LeaseState::Wiring => State::Wiring,
                ipam::LeaseState::Active => State::Active,
                ipam::LeaseState::Draining => State::Draining,
            },
        }
    }
}

impl From<Lease> for ipam::Lease {
    fn from(of: Lease) -> Self {
        Self {
            id: of.id,
            kind: of.kind.into(),
            attachment: of.attachment.into(),
            network: of.network,
            pod: of.pod.map(|pod| ipam::PodName { namespace: pod.namespace, name: pod.name, uid: pod.uid }),
            addresses: of.addresses,
            link: of.link,
            ports: of.ports.into_iter().filter_map(|port| port.try_into().ok()).collect(),
            bandwidth: Bandwidth { ingress: of.ingress.and_then(Limit::read), egress: of.egress.and_then(Limit::read) },
            netns: ipam::NetnsId { nsid: of.nsid, inode: of.netns_inode, path: of.netns_path },
            began_ns: of.began_ns,
            state: match of.state {
                State::Wiring => ipam::LeaseState::Wiring,
                State::Active => ipam::LeaseState::Active,
                State::Draining => ipam::LeaseState::Draining,
            },
        }
    }
}

impl From<&ipam::Event> for Record {
    fn from(of: &ipam::Event) -> Self {
        match of {
            ipam::Event::Began(lease) => Self::Began(Box::new((&**lease).into())),
            ipam::Event::Activated { id } => Self::Activated { id: *id },
            ipam::Event::Draining { id, at_ms, del_ns } => Self::Draining { id: *id, at_ms: *at_ms, del_ns: *del_ns },
            ipam::Event::Freed { id, at_ms } => Self::Freed { id: *id, at_ms: *at_ms },
            ipam::Event::Tombstone { attachment, began_ns, at_ms } => {
                Self::Tombstone { attachment: attachment.into(), began_ns: *began_ns, at_ms: *at_ms }
            }
            ipam::Event::NextId { id } => Self::NextId { id: *id },
            ipam::Event::Rested { addresses, at_ms } => Self::Rested { addresses: addresses.clone(), at_ms: *at_ms },
            ipam::Event::Floor { began_ns } => Self::Floor { began_ns: *began_ns },
        }
    }
}

impl From<Record> for ipam::Event {
    fn from(of: Record) -> Self {
        match of {
            Record::Began(lease) => Self::Began(Box::new((*lease).into())),
            Record::Activated { id } => Self::Activated { id },
            Record::Draining { id, at_ms, del_ns } => Self::Draining { id, at_ms, del_ns },
            Record::Freed { id, at_ms } => Self::Freed { id, at_ms },
            Record::Tombstone { attachment, began_ns, at_ms } => {
                Self::Tombstone { attachment: attachment.into(), began_ns, at_ms }
            }
            Record::NextId { id } => Self::NextId { id },
            Record::Rested { addresses, at_ms } => Self::Rested { addresses, at_ms },
            Record::Floor { began_ns } => Self::Floor { began_ns },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: an event that does not come back as it was; a record whose text changes without a new format.

    use super::*;
    use overlane_core::ipam::Event;

    fn lease(state: ipam::LeaseState) -> ipam::Lease {
        ipam::Lease {
            id: 7,
            kind: ipam::LeaseKind::Interface,
            attachment: ipam::Attachment { container_id: "c0ffee".into(), ifname: "eth0".into() },
            network: "overlane".into(),
            pod: Some(ipam::PodName { namespace: "default".into(), name: "web-0".into(), uid: String::new() }),
            addresses: vec!["10.244.2.1".parse().unwrap(), "fd12::1".parse().unwrap()],
            link: "ovlpabcdefghijk".into(),
            ports: Vec::new(),
            bandwidth: Bandwidth::default(),
            netns: ipam::NetnsId { nsid: Some(3), inode: 4_026_532_000, path: "/run/netns/x".into() },
            began_ns: 123,
            state,
        }
    }

    #[test]
    fn every_event_comes_back() {
        use ipam::LeaseState::{Active, Draining, Wiring};
        let attachment = lease(Active).attachment;
        let mut bare = lease(Wiring);
        bare.pod = None;
        bare.netns = ipam::NetnsId::default();
        bare.ports = vec![
            PortMapping { protocol: Protocol::Udp, host_ip: None, host_port: 53, pod_port: 5353 },
            PortMapping { protocol: Protocol::Tcp, host_ip: "::1".parse().ok(), host_port: 80, pod_port: 8080 },
        ];
        bare.bandwidth = Bandwidth { ingress: RateLimit::new(1_000_000, 5), egress: RateLimit::new(u64::MAX, 0) };
        let mut delegated = lease(Active);
        (delegated.kind, delegated.link) = (ipam::LeaseKind::Ipam, "ipam:7".into());
        let mut gateway = delegated.clone();
        gateway.kind = ipam::LeaseKind::Gateway;
        let addresses = bare.addresses.clone();
        let mut events: Vec<Event> = [lease(Wiring), lease(Active), lease(Draining), bare, delegated, gateway]
            .map(|l| Event::Began(Box::new(l)))
            .into();
        events.extend([
            Event::Activated { id: 1 },
            Event::Draining { id: 2, at_ms: 3, del_ns: Some(4) },
            Event::Draining { id: 2, at_ms: 3, del_ns: None },
            Event::Freed { id: 5, at_ms: 6 },
            Event::Tombstone { attachment, began_ns: 8, at_ms: 9 },
            Event::NextId { id: 10 },
            Event::Rested { addresses, at_ms: 11 },
            Event::Floor { began_ns: 12 },
        ]);
        for event in events {
            let text = serde_json::to_string(&Record::from(&event)).unwrap();
            let back: Event = serde_json::from_str::<Record>(&text).unwrap().into();
            assert_eq!(back, event, "{text}");
        }
    }

    #[test]
    fn the_text_is_that_of_format_1() {
        let text =
            serde_json::to_string(&Record::from(&Event::Began(Box::new(lease(ipam::LeaseState::Wiring))))).unwrap();
        assert_eq!(
            text,
            r#"{"event":"began","id":7,"attachment":{"containerId":"c0ffee","ifname":"eth0"},"network":"overlane","pod":{"namespace":"default","name":"web-0"},"addresses":["10.244.2.1","fd12::1"],"link":"ovlpabcdefghijk","nsid":3,"netnsInode":4026532000,"netnsPath":"/run/netns/x","beganNs":123,"state":"wiring"}"#
        );
        let text = serde_json::to_string(&Record::from(&Event::Draining { id: 2, at_ms: 3, del_ns: None })).unwrap();
        assert_eq!(text, r#"{"event":"draining","id":2,"atMs":3}"#);
    }
}
