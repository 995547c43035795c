//! Recorded flows: what `overlane policy record` writes and `overlane policy diff --flows` reads.
//!
//! JSON lines: a header, then a flow a line. docs/policy.md describes them.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, Read as _, Write};
use std::net::IpAddr;
use std::str::FromStr;

use k8s_openapi::jiff::Timestamp;
use overlane_core::family::Family;
use overlane_core::ports::Protocol;
use serde::{Deserialize, Serialize};

use self::error::{FlowError, RecordingError};

pub mod error;

/// What the header calls the format.
pub const FORMAT: &str = "overlane.io/flows";
/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// Longest line that is read, bytes: a pod's labels have 16 KiB at most that count.
const LINE: u64 = 1 << 20;
/// Most flows that are read.
pub const MOST_FLOWS: usize = 1_000_000;
/// Most bytes that are read.
const MOST_BYTES: u64 = 2 << 30;

/// What flows began while somebody listened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// When and where.
    pub header: Header,
    /// The flows.
    pub flows: Vec<RecordedFlow>,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The node where it was recorded; empty where that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// When listening began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Families that pods have addresses of, `IPv4` and `IPv6`.
    pub families: Vec<String>,
    /// How many flows follow.
    pub flows: usize,
    /// Flows that began and were not heard of: they came too fast.
    pub lost: u64,
    /// Flows that were heard of and are not here: there were too many different ones.
    pub beyond: u64,
    /// The namespaces of the pods that follow, with their labels.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// The nodes that follow.
    pub nodes: BTreeMap<String, RecordedNode>,
}

/// A node as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedNode {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Flows that are alike but for the port at the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedFlow {
    /// Who opened them.
    pub from: RecordedEnd,
    /// Who answered: where a Service was asked, the pod behind it.
    pub to: RecordedEnd,
    /// The protocol.
    pub protocol: FlowProtocol,
    /// The port of who answered, of TCP, UDP and SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whom the first packet was for, where that is somebody else than who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// How many began.
    pub count: u64,
    /// When the first did.
    pub first: Timestamp,
    /// When the last did.
    pub last: Timestamp,
}

/// Whom a packet was for before its destination was translated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Asked {
    /// The address.
    pub address: IpAddr,
    /// The port, where the protocol has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedEnd {
    /// Its address.
    pub address: IpAddr,
    /// The pod that had it, if one was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<RecordedPod>,
    /// The node that had it, if it was one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// A pod as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Deployment or the like that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// The node that it ran on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its ports that have names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<RecordedPort>,
}

/// A port of a pod that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedPort {
    /// The name.
    pub name: String,
    /// The protocol.
    pub protocol: FlowProtocol,
    /// The number.
    pub port: u16,
}

/// An IP protocol: `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or the number of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FlowProtocol(pub u8);

/// Protocols that are called by name (IANA, "Protocol Numbers").
const NAMED: [(u8, &str); 5] = [(6, "tcp"), (17, "udp"), (132, "sctp"), (1, "icmp"), (58, "icmpv6")];

impl FlowProtocol {
    /// As policies tell protocols apart; `None` of those whose ports, if they have any, they cannot speak of.
    #[must_use]
    pub fn with_ports(self) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol.number() == self.0)
    }
}

impl fmt::Display for FlowProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMED.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for FlowProtocol {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let named = NAMED.iter().find(|(_, name)| *name == text).map(|(number, _)| *number);
        let number = named.or_else(|| text.parse().ok());
        number.map(Self).ok_or_else(|| FlowError::Protocol { given: text.to_owned() })
    }
}

impl TryFrom<String> for FlowProtocol {
    type Error = FlowError;

    fn try_from(text: String) -> Result<Self, FlowError> {
        text.parse()
    }
}

impl From<FlowProtocol> for String {
    fn from(protocol: FlowProtocol) -> Self {
        protocol.to_string()
    }
}

/// As much of a header as every version has.
#[derive(Deserialize)]
struct Named {
    format: Option<String>,
    version: Option<u32>,
}

impl Recording {
    /// Writes it.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let header = Header { flows: self.flows.len(), ..self.header.clone() };
        writeln!(out, "{}", serde_json::to_string(&header)?)?;
        for flow in &self.flows {
            writeln!(out, "{}", serde_json::to_string(flow)?)?;
        }
        out.flush()
    }

    /// Reads one, and nothing that is not whole.
    ///
    /// # Errors
    /// It cannot be read, or a line is not what it has to be.
    pub fn read(mut input: impl BufRead) -> Result<Self, RecordingError> {
        let Some(first) = line(&mut input, 1)? else { return Err(RecordingError::Empty) };
        let header = header(&first)?;
        let (mut flows, mut bytes) = (Vec::new(), 0_u64);
        for number in 2.. {
            let Some(text) = line(&mut input, number)? else { break };
            if flows.len() >= header.flows {
                return Err(RecordingError::More { line: number, said: header.flows });
            }
            bytes = bytes.saturating_add(text.len() as u64);
            if bytes > MOST_BYTES {
                return Err(RecordingError::Big { line: number, most: MOST_BYTES });
            }
            let flow: RecordedFlow =
                serde_json::from_str(&text).map_err(|cause| RecordingError::Json { line: number, cause })?;
            flow.check().map_err(|cause| RecordingError::Flow { line: number, cause })?;
            flows.push(flow);
        }
        if flows.len() < header.flows {
            return Err(RecordingError::Short { said: header.flows, found: flows.len() });
        }
        Ok(Self { header, flows })
    }
}

/// The next line, without its end; `None` behind the last.
fn line(input: &mut impl BufRead, number: usize) -> Result<Option<String>, RecordingError> {
    let mut bytes = Vec::new();
    let read = |cause| RecordingError::Read { line: number, cause };
    input.by_ref().take(LINE + 1).read_until(b'\n', &mut bytes).map_err(read)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let ended = bytes.pop_if(|byte| *byte == b'\n').is_some();
    if !ended && bytes.len() as u64 > LINE {
        return Err(RecordingError::Long { line: number, most: LINE });
    }
    String::from_utf8(bytes).map(Some).map_err(|_| RecordingError::Text { line: number })
}

fn header(text: &str) -> Result<Header, RecordingError> {
    let json = |cause| RecordingError::Json { line: 1, cause };
    let named: Named = serde_json::from_str(text).map_err(json)?;
    if named.format.as_deref() != Some(FORMAT) {
        return Err(RecordingError::Format);
    }
    if named.version != Some(VERSION) {
        return Err(RecordingError::Version { given: named.version.unwrap_or_default() });
    }
    let header: Header = serde_json::from_str(text).map_err(json)?;
    if header.flows > MOST_FLOWS {
        return Err(RecordingError::Many { said: header.flows });
    }
    Ok(header)
}

impl RecordedFlow {
    /// What its first packet is about, as policies have it.
    #[must_use]
    pub fn about(&self) -> Option<(Protocol, u16)> {
        self.protocol.with_ports().zip(self.port)
    }

    /// Whether it can have been.
    fn check(&self) -> Result<(), FlowError> {
        let family = |end: &IpAddr| Family::of(end);
        let (from, to) = (self.from.address, self.to.address);
        if family(&from) != family(&to)
            || self.asked.as_ref().is_some_and(|asked| family(&asked.address) != family(&to))
        {
            return Err(FlowError::Families { from, to });
        }
        let has_ports = self.protocol.with_ports().is_some();
        let asked = self.asked.as_ref().map_or(self.port, |asked| asked.port);
        if self.port.is_some() != has_ports || asked.is_some() != has_ports {
            return Err(FlowError::Port { protocol: self.protocol });
        }
        if self.count == 0 {
            return Err(FlowError::Count);
        }
        if self.first > self.last {
            return Err(FlowError::Times { first: self.first, last: self.last });
        }
        [("from", &self.from), ("to", &self.to)].into_iter().try_for_each(|(field, end)| end.check(field))
    }
}

impl RecordedEnd {
    fn check(&self, field: &'static str) -> Result<(), FlowError> {
        let Some(pod) = &self.pod else { return Ok(()) };
        if pod.namespace.is_empty() || pod.name.is_empty() {
            return Err(FlowError::Nameless { field });
        }
        if self.node.is_some() {
            return Err(FlowError::Both { field });
        }
        match pod.ports.iter().find(|port| port.protocol.with_ports().is_none()) {
            Some(port) => Err(FlowError::Port { protocol: port.protocol }),
            None => Ok(()),
        }
    }
}
