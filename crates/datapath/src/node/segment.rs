//! Whether the nodes' segment delivers frames with the sender's own MAC address.
//!
//! Not every fabric does: some clouds put one of their own into every frame, and answer every ARP request with it. What
//! the kernel's neighbour table shows for a node's address is what that node's frames bear as well.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, UdpSocket};

use super::Underlay;
use crate::mac::Mac;
use crate::netlink::{NetlinkError, Socket};
use crate::rtnl::neighbour::{self, Neighbour};

/// Port 9, discard (RFC 863): nobody answers, but the kernel looks the receiver's MAC up before it sends.
const DISCARD: u16 = 9;

/// What is known of the segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segment {
    /// No node's MAC was seen yet.
    #[default]
    Unknown,
    /// Frames bear their sender's MAC.
    KeepsMacs,
    /// Frames bear another one: a sender cannot be told by it.
    RewritesMacs,
}

impl Segment {
    /// As people are told.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::KeepsMacs => "keeps MACs",
            Self::RewritesMacs => "rewrites MACs",
        }
    }
}

/// Compares what nodes tell of their MACs (by node address) with what the neighbour table shows.
///
/// # Errors
/// The kernel could not be read.
pub fn segment<'a>(
    told: &BTreeMap<IpAddr, Mac>,
    underlays: impl IntoIterator<Item = &'a Underlay>,
) -> Result<Segment, NetlinkError> {
    let mut socket = Socket::route()?;
    let mut seen = Vec::new();
    for underlay in underlays {
        seen.extend(socket.dump(neighbour::list(underlay.index))?.iter().filter_map(Neighbour::read));
    }
    Ok(judge(told, &seen))
}

/// One node whose card was changed, or whose address somebody else answers for, does not make a fabric that rewrites.
fn judge(told: &BTreeMap<IpAddr, Mac>, seen: &[Neighbour]) -> Segment {
    let verdicts = seen.iter().filter_map(|n| Some(told.get(&n.address)? == n.mac.as_ref()?));
    let (same, other) = verdicts.fold((0, 0), |(s, o), equal| if equal { (s + 1, o) } else { (s, o + 1) });
    match (same, other) {
        (0, 0) => Segment::Unknown,
        (same, other) if same >= other => Segment::KeepsMacs,
        _ => Segment::RewritesMacs,
    }
}

/// Has the kernel look up the MAC of `to`, by one empty datagram from `from`. The answer shows in the neighbour table.
///
/// # Errors
/// The datagram could not be sent.
pub fn look_up(from: IpAddr, to: IpAddr) -> io::Result<()> {
    UdpSocket::bind((from, 0))?.send_to(&[], (to, DISCARD)).map(drop)
}

#[cfg(test)]
mod tests {
    //! Must catch: a fabric's own MAC taken for a peer's, which would cut every node off from every other.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn seen(address: &str, mac: Option<Mac>) -> Neighbour {
        Neighbour { index: 2, address: address.parse().unwrap(), mac, state: 0x02 }
    }

    #[test]
    fn the_neighbour_table_decides() {
        let mac = |n| [2, 0, 0, 0, 0, n];
        let fabric = Some([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);
        let told: BTreeMap<IpAddr, Mac> =
            [("10.0.0.1", 1), ("10.0.0.2", 2), ("fd00::3", 3)].map(|(ip, n)| (ip.parse().unwrap(), mac(n))).into();
        assert_eq!(judge(&told, &[]), Segment::Unknown);
        assert_eq!(judge(&told, &[seen("10.0.0.1", None), seen("10.0.0.9", Some(mac(9)))]), Segment::Unknown);
        assert_eq!(judge(&told, &[seen("10.0.0.1", Some(mac(1)))]), Segment::KeepsMacs);
        assert_eq!(judge(&told, &[seen("fd00::3", Some(mac(3)))]), Segment::KeepsMacs);
        assert_eq!(judge(&told, &[seen("10.0.0.1", fabric), seen("10.0.0.2", fabric)]), Segment::RewritesMacs);
        let one_changed = [seen("10.0.0.1", Some(mac(1))), seen("10.0.0.2", fabric)];
        assert_eq!(judge(&told, &one_changed), Segment::KeepsMacs);
    }
}
