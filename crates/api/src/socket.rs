//! Messages between the CNI plugin and the node agent.
//!
//! One call a connection on a unix stream socket. A frame is a four-byte big-endian length followed by that many
//! bytes of JSON; the plugin sends one [`Request`], the agent answers with one [`Response`]. With [`Call::Add`] and
//! [`Call::Check`] the descriptor of the pod's network namespace travels as `SCM_RIGHTS` on the frame's first byte.
//!
//! Both sides name the protocol version they speak. An agent serves [`OLDEST`] to [`PROTOCOL`] and answers anything
//! else with an error that says so, having changed nothing.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The protocol version that this build speaks.
pub const PROTOCOL: u32 = 3;
/// The oldest protocol version that this build's agent still serves.
pub const OLDEST: u32 = 1;
/// The longest frame that either side reads, in bytes. A GC call that names 250 attachments takes about 40 KiB.
pub const MAX_FRAME: u32 = 1 << 20;

/// The file beside the socket in which an agent that ends in good order leaves word of that, if it would have served an
/// ADD: when, in milliseconds of `CLOCK_BOOTTIME`, in decimal digits. The next agent takes it away.
pub const HANDOVER: &str = "handover";
/// How long after that STATUS takes the node for one whose next agent is about to come, in milliseconds: as long as
/// its image may take to be pulled.
pub const HANDOVER_MS: u64 = 300_000;

/// What identifies an attachment: CNI's container id and interface name (CNI spec 1.1.0, section "Parameters").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// The Kubernetes pod behind an attachment, from `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; for a static pod this is not the mirror pod's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// A call as it goes over the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The version that the plugin speaks.
    pub protocol: u32,
    /// The plugin's own version, for the log.
    #[serde(default)]
    pub plugin_version: String,
    /// What is asked.
    pub call: Call,
}

/// The CNI verbs that reach the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "UPPERCASE")]
pub enum Call {
    /// Give the pod its network.
    Add(AddCall),
    /// Take it away again.
    Del(DelCall),
    /// Compare what is there with what ADD made.
    Check(CheckCall),
    /// Remove every attachment of this network that the runtime does not name.
    Gc(GcCall),
    /// Say whether an ADD could be served now.
    Status,
    /// Addresses alone, for another plugin's interface; from protocol 3.
    Ipam(IpamCall),
}

/// The CNI verbs of an IPAM plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "UPPERCASE")]
pub enum IpamCall {
    /// Give the attachment an address of each family. Carries the namespace's descriptor.
    Add(IpamAddCall),
    /// Take them back.
    Del(DelCall),
    /// Compare the lease with the runtime's result.
    Check(IpamCheckCall),
    /// Take back what the runtime does not name of this network's.
    Gc(GcCall),
    /// Say whether an ADD could be served now.
    Status,
}

/// `ADD` of an IPAM plugin. Carries the namespace's descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamAddCall {
    /// Which attachment.
    pub attachment: Attachment,
    /// The network's name in the conflist.
    pub network: String,
    /// `CNI_NETNS`, for messages and for looking after the namespace later.
    pub netns_path: String,
    /// `CLOCK_BOOTTIME` when the plugin began, in nanoseconds.
    pub began_ns: u64,
    /// `CLOCK_BOOTTIME` after which the plugin no longer listens, in nanoseconds.
    pub deadline_ns: u64,
    /// The pod, if the runtime named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// Which gateways the addresses have.
    pub gateway: GatewayMode,
}

/// Which gateways the addresses of pure IPAM have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// An address of the pod's own block that no pod gets, within the prefix of the pod's address.
    #[default]
    Block,
    /// 169.254.1.1 and fe80::1, as with pods of Overlane's own; each address stands for itself.
    LinkLocal,
}

/// `CHECK` of an IPAM plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamCheckCall {
    /// Which attachment.
    pub attachment: Attachment,
    /// The network's name in the conflist.
    pub network: String,
    /// The addresses in the runtime's `prevResult`, without prefix length; must be those of the lease.
    pub expected: Vec<IpAddr>,
}

/// `ADD`. Carries the namespace's descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddCall {
    /// Which attachment.
    pub attachment: Attachment,
    /// The network's name in the conflist.
    pub network: String,
    /// `CNI_NETNS`, for messages and for looking after the namespace later.
    pub netns_path: String,
    /// `CLOCK_BOOTTIME` when the plugin began, in nanoseconds: orders this ADD against DELs of the same attachment.
    pub began_ns: u64,
    /// `CLOCK_BOOTTIME` after which the plugin no longer listens, in nanoseconds.
    pub deadline_ns: u64,
    /// The pod, if the runtime named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// Ports of the node that are to lead to the pod; from protocol 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMap>,
    /// Limits of the pod's traffic; from protocol 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

/// Limits of a pod's traffic. Rates in bits a second, bursts in bits; a rate of 0 is no limit, a burst of 0 leaves it to
/// the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Towards the pod.
    pub ingress_rate: u64,
    /// Burst towards the pod.
    pub ingress_burst: u64,
    /// From the pod.
    pub egress_rate: u64,
    /// Burst from the pod.
    pub egress_burst: u64,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMap {
    /// The protocol.
    pub protocol: PortProtocol,
    /// The node's address that it is bound to; all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's.
    pub pod_port: u16,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// `DEL`. Ends only ADDs of the attachment that began before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DelCall {
    /// Which attachment.
    pub attachment: Attachment,
    /// The network's name in the conflist.
    pub network: String,
    /// `CLOCK_BOOTTIME` when the plugin began, in nanoseconds.
    pub began_ns: u64,
}

/// `CHECK`. Carries the namespace's descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckCall {
    /// Which attachment.
    pub attachment: Attachment,
    /// The network's name in the conflist.
    pub network: String,
    /// `CNI_NETNS`.
    pub netns_path: String,
    /// The addresses in the runtime's `prevResult`, without prefix length; must be those of the lease.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<IpAddr>,
}

/// `GC`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcCall {
    /// The network whose attachments are listed.
    pub network: String,
    /// `cni.dev/valid-attachments`.
    pub valid: Vec<Attachment>,
    /// `CLOCK_BOOTTIME` when the plugin began, in nanoseconds: attachments added later are not judged.
    pub began_ns: u64,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// The version that the agent speaks.
    pub protocol: u32,
    /// What came of the call.
    pub outcome: Outcome,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// ADD succeeded.
    Added(Endpoint),
    /// ADD of pure IPAM succeeded: the addresses, in the cluster's order of families.
    Leased(Vec<LeasedAddress>),
    /// Any other verb succeeded.
    Done,
    /// The call failed; the plugin prints this as the CNI error.
    Failed(Failure),
}

/// A failure in the terms of CNI's error object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// A code of [`crate::cni::code`].
    pub code: u32,
    /// One line.
    pub msg: String,
    /// What to do, causes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// A pod's end of the network, as ADD made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The host's side of the veth pair.
    pub host_ifname: String,
    /// MAC of the host's side.
    pub host_mac: String,
    /// MAC of the pod's side.
    pub mac: String,
    /// MTU of the pod's side, bytes.
    pub mtu: u32,
    /// The pod's addresses, one a family, in the cluster's order of families.
    pub addresses: Vec<IpAddr>,
}

/// An address of pure IPAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeasedAddress {
    /// The address.
    pub address: IpAddr,
    /// How many of its leading bits it shares with its gateway and with what is on the same link.
    pub prefix_len: u8,
    /// The next hop of the family's default route.
    pub gateway: IpAddr,
}

/// Why a frame cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The message is longer than [`MAX_FRAME`].
    #[error("frame of {length} bytes is longer than {MAX_FRAME}")]
    TooLong {
        /// Its length, bytes.
        length: usize,
    },
    /// The message does not serialise, or the frame holds something else.
    #[error("frame: {source}")]
    Json {
        /// The coder's words.
        #[from]
        source: serde_json::Error,
    },
}

/// A message as a frame: its length, then its JSON.
///
/// # Errors
/// [`FrameError::TooLong`], or [`FrameError::Json`].
pub fn frame<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    let head = u32::try_from(length).ok().filter(|head| *head <= MAX_FRAME).ok_or(FrameError::TooLong { length })?;
    if let Some(place) = bytes.first_chunk_mut() {
        *place = head.to_be_bytes();
    }
    Ok(bytes)
}

/// How many bytes follow a frame's head.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn frame_length(head: [u8; 4]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(head);
    if length > MAX_FRAME { Err(FrameError::TooLong { length: length as usize }) } else { Ok(length as usize) }
}

impl Call {
    /// The protocol version that this call needs: what an older agent understands as it is meant is sent in its words,
    /// so that a node whose plugin is newer than its agent goes on working.
    #[must_use]
    pub fn protocol(&self) -> u32 {
        match self {
            Self::Ipam(_) => 3,
            Self::Add(call) if call.bandwidth.is_some() => 3,
            Self::Add(call) if !call.ports.is_empty() => 2,
            _ => 1,
        }
    }
}

impl Response {
    /// The answer to a request whose protocol version the agent does not serve; `None` if it serves it. Changes nothing.
    #[must_use]
    pub fn refusal(requested: u32) -> Option<Self> {
        if (OLDEST..=PROTOCOL).contains(&requested) {
            return None;
        }
        Some(Self {
            protocol: PROTOCOL,
            outcome: Outcome::Failed(Failure {
                code: crate::cni::code::PROTOCOL_MISMATCH,
                msg: format!("the agent serves protocol {OLDEST} to {PROTOCOL}, the plugin speaks {requested}"),
                details: "plugin and agent are of versions too far apart; finish the upgrade of this node".to_owned(),
            }),
        })
    }
}
