//! Capability arguments: what the runtime fills into `runtimeConfig` where a conflist asks for it.
//!
//! Source: CNI's CONVENTIONS.md, "Dynamic Plugin specific fields". containerd writes the keys inside as its own
//! structures have them (`HostPort`; containerd/go-cni, types.go), which decoders of Go take for the same: so does this.

use std::net::IpAddr;

use serde::Deserialize;

use crate::socket;

use super::error::{Error, shown};
use super::json::Object;
use super::result::Dns;

/// What the runtime filled in. Keys that are not listed here are of no concern to the plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// `portMappings`: ports of the node that lead to the pod.
    pub port_mappings: Vec<PortMapping>,
    /// `bandwidth`: limits of the pod's traffic.
    pub bandwidth: Option<Bandwidth>,
    /// `dns`: goes into the result as it is.
    pub dns: Option<Dns>,
    /// The first key that asks for something that no part of Overlane does, with its value.
    pub(super) unsupported: Option<(String, String)>,
}

/// One mapped port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object with hostPort and containerPort")]
pub struct PortMapping {
    /// Port of the node.
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    /// Port of the pod.
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    /// Transport protocol.
    #[serde(default, alias = "Protocol")]
    pub protocol: Protocol,
    /// Address of the node to which the mapping is bound; none or empty means all.
    #[serde(default, rename = "hostIP", alias = "HostIP", deserialize_with = "empty_is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    #[serde(rename = "tcp", alias = "TCP", alias = "")]
    Tcp,
    /// UDP.
    #[serde(rename = "udp", alias = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "sctp", alias = "SCTP")]
    Sctp,
}

/// Limits of a pod's traffic. Rates in bits a second, bursts in bits; 0 means no limit. containerd sends `u32::MAX` as
/// burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object with rates and bursts")]
pub struct Bandwidth {
    /// Towards the pod.
    #[serde(alias = "IngressRate")]
    pub ingress_rate: u64,
    /// Burst towards the pod.
    #[serde(alias = "IngressBurst")]
    pub ingress_burst: u64,
    /// From the pod.
    #[serde(alias = "EgressRate")]
    pub egress_rate: u64,
    /// Burst from the pod.
    #[serde(alias = "EgressBurst")]
    pub egress_burst: u64,
}

/// The `dns` capability names its fields otherwise than the result does.
#[derive(Default, Deserialize)]
#[serde(default, expecting = "an object with servers, searches and options")]
struct DnsCapability {
    #[serde(alias = "Servers", deserialize_with = "null_is_empty")]
    servers: Vec<String>,
    #[serde(alias = "Searches", deserialize_with = "null_is_empty")]
    searches: Vec<String>,
    #[serde(alias = "Options", deserialize_with = "null_is_empty")]
    options: Vec<String>,
}

impl PortMapping {
    /// As the agent is told. A host port of 0 asks for nothing (the kubelet sends such for ports that are only named).
    #[must_use]
    pub fn to_agent(&self) -> Option<socket::PortMap> {
        let protocol = match self.protocol {
            Protocol::Tcp => socket::PortProtocol::Tcp,
            Protocol::Udp => socket::PortProtocol::Udp,
            Protocol::Sctp => socket::PortProtocol::Sctp,
        };
        let Self { host_port, container_port, host_ip, .. } = *self;
        (host_port > 0).then_some(socket::PortMap { protocol, host_ip, host_port, pod_port: container_port })
    }
}

impl Bandwidth {
    /// As the agent is told; none if nothing is limited.
    #[must_use]
    pub fn to_agent(&self) -> Option<socket::Bandwidth> {
        let Self { ingress_rate, ingress_burst, egress_rate, egress_burst } = *self;
        (ingress_rate > 0 || egress_rate > 0).then_some(socket::Bandwidth {
            ingress_rate,
            ingress_burst,
            egress_rate,
            egress_burst,
        })
    }
}

impl RuntimeConfig {
    pub(super) fn parse(conf: &Object<'_>) -> Result<Self, Error> {
        let Some(given) = conf.object("runtimeConfig")? else {
            return Ok(Self::default());
        };
        let dns = given.structure::<DnsCapability>("dns", "runtimeConfig.dns")?;
        Ok(Self {
            port_mappings: given.structure("portMappings", "runtimeConfig.portMappings")?.unwrap_or_default(),
            bandwidth: given.structure("bandwidth", "runtimeConfig.bandwidth")?,
            dns: dns.map(|dns| Dns {
                nameservers: dns.servers,
                domain: String::new(),
                search: dns.searches,
                options: dns.options,
            }),
            unsupported: ["ips", "ipRanges", "mac"].into_iter().find_map(|key| {
                let value = given.get(key).filter(|value| !asks_nothing(value))?;
                Some((given.path_of(key), shown(&value.to_string())))
            }),
        })
    }

    /// Refuses what the plugin understands and cannot do: the conventions ask for an error rather than for silence.
    ///
    /// # Errors
    /// [`Error::UnsupportedField`] with key and value.
    pub fn refuse_unsupported(&self) -> Result<(), Error> {
        match self.unsupported.clone() {
            None => Ok(()),
            Some((key, value)) => Err(Error::UnsupportedField { key, value }),
        }
    }
}

/// An empty list, an empty string and an object of zeros ask for nothing.
pub(super) fn asks_nothing(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        // Bursts alone limit nothing.
        Value::Object(map) => map.iter().all(|(key, value)| key.ends_with("Burst") || asks_nothing(value)),
    }
}

/// A list that Go never made is written as null.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn empty_is_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(from)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}
