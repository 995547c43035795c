//! Flows as the forward hook of the packet filter met them when they began, to be judged again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::errno::Errno;

use super::{
    CTA_ID, CTA_PROTO_DST_PORT, CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_TUPLE_IP, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY, ENDS_FROM, HEADER_LEN, deletion, list,
};
use crate::netlink::{NetlinkError, Request, Socket, find, ip_of};

/// A flow: who opened it, and who answers. Where a Service was asked, that is the pod behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Who opened it.
    pub from: IpAddr,
    /// The port there; 0 where the protocol has none.
    pub from_port: u16,
    /// Who answers.
    pub to: IpAddr,
    /// The port there.
    pub to_port: u16,
}

/// Flows that are to end.
#[derive(Debug, Default)]
pub struct Doomed {
    flows: Vec<Flow>,
    deletions: Vec<Request>,
}

impl Doomed {
    /// They.
    #[must_use]
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// Has the kernel forget them; gives how many it still knew. Nothing else ends them: what comes next of such a flow is the
    /// first packet of another, in either direction.
    ///
    /// # Errors
    /// An entry could not be deleted for another reason than absence.
    pub fn end(self) -> Result<usize, NetlinkError> {
        let mut count = 0;
        for answer in Socket::netfilter()?.batch(self.deletions)? {
            match answer {
                Ok(()) => count += 1,
                Err(refused) if refused.errno == Errno::ENOENT => {}
                Err(refused) => return Err(refused.into()),
            }
        }
        Ok(count)
    }
}

/// The flows that `doomed` says it of, of all that the kernel remembers.
///
/// # Errors
/// The list could not be read whole.
pub fn flows_that(mut doomed: impl FnMut(&Flow) -> bool) -> Result<Doomed, NetlinkError> {
    let found = Socket::netfilter()?.dump_some(list(), |message| {
        let attributes = message.after(HEADER_LEN);
        let flow = flow(attributes).filter(&mut doomed)?;
        let id = find(attributes, CTA_ID).unwrap_or(&[]).to_vec();
        Some(((id, flow), deletion(&message, attributes)?))
    })?;
    // By the entry's own number: a list may show one twice.
    let found: BTreeMap<_, _> = found.into_iter().collect();
    let (flows, deletions) = found.into_iter().map(|((_, flow), deletion)| (flow, deletion)).unzip();
    Ok(Doomed { flows, deletions })
}

/// Reads an entry's attributes.
pub(super) fn flow(attributes: &[u8]) -> Option<Flow> {
    let (asks, answers) = (find(attributes, CTA_TUPLE_ORIG)?, find(attributes, CTA_TUPLE_REPLY)?);
    let from = |tuple| {
        let ip = find(tuple, CTA_TUPLE_IP)?;
        ENDS_FROM.iter().find_map(|end| find(ip, *end)).and_then(ip_of)
    };
    let proto = find(asks, CTA_TUPLE_PROTO)?;
    let port = |proto, kind| find(proto, kind).and_then(|port| port.try_into().ok()).map_or(0, u16::from_be_bytes);
    let from_port = port(proto, CTA_PROTO_SRC_PORT);
    // The other side's, as it is behind any translation.
    let answering = find(answers, CTA_TUPLE_PROTO)?;
    let to_port = if find(answering, CTA_PROTO_DST_PORT).is_some() { port(answering, CTA_PROTO_SRC_PORT) } else { 0 };
    Some(Flow {
        protocol: *find(proto, CTA_PROTO_NUM)?.first()?,
        from: from(asks)?,
        from_port,
        to: from(answers)?,
        to_port,
    })
}
