//! Ports and protocols of rules.

use k8s_openapi::api::networking::v1::NetworkPolicyPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use overlane_core::policy::PortMatch;
use overlane_core::ports::Protocol;

use crate::convert::ConvertError;

/// A protocol by the API's name; TCP where none is given.
pub(super) fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

/// What a NetworkPolicy's port is about.
pub(super) fn port(field: &str, port: &NetworkPolicyPort) -> Result<PortMatch, ConvertError> {
    let protocol = super::protocol(field, port.protocol.as_deref())?;
    match (&port.port, port.end_port) {
        (None, None) => Ok(PortMatch::Range(protocol, 0, u16::MAX)),
        (Some(IntOrString::Int(first)), end) => range(field, protocol, *first, end.unwrap_or(*first)),
        (Some(IntOrString::String(name)), None) => named(&format!("{field}.port"), Some(protocol), name),
        (None | Some(IntOrString::String(_)), Some(end)) => {
            let expected = "an endPort beside a port that is a number";
            Err(ConvertError::Port { field: format!("{field}.endPort"), given: end.to_string(), expected })
        }
    }
}

/// The port of that name. One that no container's port can have is meant for something else.
pub(super) fn named(field: &str, protocol: Option<Protocol>, name: &str) -> Result<PortMatch, ConvertError> {
    // As the API has it for containers: a service's name by RFC 6335, section 5.1.
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let dashes = name.starts_with('-') || name.ends_with('-') || name.contains("--");
    let letter = name.bytes().any(|byte| byte.is_ascii_lowercase());
    if name.len() <= 15 && name.bytes().all(known) && letter && !dashes {
        return Ok(PortMatch::Named(protocol, name.to_owned()));
    }
    let expected = "a port's name: 1 to 15 of a-z, 0-9 and single dashes between them, with a letter";
    Err(ConvertError::Port { field: field.to_owned(), given: name.to_owned(), expected })
}

/// Ports from one to another, both included.
pub(super) fn range(field: &str, protocol: Protocol, first: i32, last: i32) -> Result<PortMatch, ConvertError> {
    let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(PortMatch::Range(protocol, first, last)),
        _ => {
            let given = if first == last { first.to_string() } else { format!("{first} to {last}") };
            let expected = "ports from 1 to 65535, the lower first";
            Err(ConvertError::Port { field: field.to_owned(), given, expected })
        }
    }
}
