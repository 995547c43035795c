//! What is wrong with a recording.

use std::io;
use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;

use super::{FORMAT, FlowProtocol, MOST_FLOWS, VERSION};

/// A recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// There is nothing in it.
    #[error("there is nothing in it: give a file that `overlane policy record` wrote")]
    Empty,
    /// The system does not let it be read.
    #[error("line {line}: {cause}")]
    Read {
        /// Where, counted from 1.
        line: usize,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A line is too long to be one of a recording.
    #[error("line {line} is longer than {most} bytes: no recording's is")]
    Long {
        /// Where.
        line: usize,
        /// How long one may be.
        most: u64,
    },
    /// It is too big.
    #[error("line {line}: the file has more than {most} bytes by here: record for a shorter time, or fewer flows")]
    Big {
        /// Where.
        line: usize,
        /// How many are read.
        most: u64,
    },
    /// A line is no text.
    #[error("line {line} is no UTF-8")]
    Text {
        /// Where.
        line: usize,
    },
    /// A line is no JSON, or not what such a line has.
    #[error("line {line}: {cause}")]
    Json {
        /// Where.
        line: usize,
        /// What is wrong with it; its own line is always 1.
        #[source]
        cause: serde_json::Error,
    },
    /// It is something else.
    #[error("line 1: it is no recording of flows, whose format is `{FORMAT}`; `overlane policy record` writes one")]
    Format,
    /// It is another version's.
    #[error(
        "line 1: version {given} of the format is not known to this program, which reads {VERSION}: record again, or use the `overlane` that wrote it"
    )]
    Version {
        /// The version.
        given: u32,
    },
    /// It says that there are too many.
    #[error("line 1: {said} flows are more than the {MOST_FLOWS} that are read")]
    Many {
        /// How many it says.
        said: usize,
    },
    /// A flow cannot have been.
    #[error("line {line}: {cause}")]
    Flow {
        /// Where.
        line: usize,
        /// What is wrong with it.
        #[source]
        cause: FlowError,
    },
    /// There are flows beyond those that it says it has.
    #[error("line {line}: the header says that there are {said} flows, and here is another")]
    More {
        /// Where.
        line: usize,
        /// How many it says.
        said: usize,
    },
    /// Its end is missing.
    #[error("it ends after {found} flows, and the header says that there are {said}: the file was cut")]
    Short {
        /// How many it says.
        said: usize,
        /// How many there are.
        found: usize,
    },
}

/// A recorded flow cannot have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// The protocol means nothing.
    #[error("`{given}` is no protocol: tcp, udp, sctp, icmp, icmpv6 or a number up to 255 is")]
    Protocol {
        /// The text as it came.
        given: String,
    },
    /// The ends are of two families.
    #[error("{from} and {to} are not of one family, or `asked` is of another")]
    Families {
        /// Who opened it.
        from: IpAddr,
        /// Who answered.
        to: IpAddr,
    },
    /// A port is there and must not be, or the other way round.
    #[error("a port is what tcp, udp and sctp have and nothing else has; the protocol is {protocol}")]
    Port {
        /// The protocol.
        protocol: FlowProtocol,
    },
    /// None began.
    #[error("count is 0")]
    Count,
    /// The last began before the first.
    #[error("first is {first}, which is after last, {last}")]
    Times {
        /// When the first began.
        first: Timestamp,
        /// When the last did.
        last: Timestamp,
    },
    /// A pod has no name.
    #[error("{field}.pod lacks a namespace or a name")]
    Nameless {
        /// Which end.
        field: &'static str,
    },
    /// An address was a pod's and a node's.
    #[error("{field} has both a pod and a node: an address is one's or the other's")]
    Both {
        /// Which end.
        field: &'static str,
    },
}
