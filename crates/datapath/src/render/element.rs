//! Membership of the packet filter's sets: what an element is, as nft text and as the kernel's key.

use std::collections::BTreeSet;
use std::net::IpAddr;

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::plan::{NodePlan, PodMember};

use crate::mac::{self, Mac};

/// One element of one set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// What a pod may send from.
    Pod(PodMember),
    /// A node's address.
    Node(IpAddr),
    /// What another node's pods may come from, and the node's Ethernet address.
    Peer(Cidr, Mac),
    /// The same where the Ethernet address is not known.
    PeerAnyMac(Cidr),
    /// Sources that are masqueraded.
    MasqueradeSource(Cidr),
    /// Destinations that are not masqueraded.
    MasqueradeExcept(Cidr),
}

/// An element as nf_tables has it. A range is two of them: where it begins, and the first key after it.
///
/// In the order in which the kernel takes them: where one range ends and the next begins, the end comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawElement {
    /// The set's name.
    pub set: String,
    /// The key: components one after the other, each filled up to 4 bytes.
    pub key: Vec<u8>,
    /// It does not end a range.
    pub start: bool,
}

/// `4` or `6`, the last part of most sets' names.
pub(super) fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// Everything of a plan that is membership, but the pods.
#[must_use]
pub fn of_plan(plan: &NodePlan) -> BTreeSet<Element> {
    let mut all: BTreeSet<_> = plan.nodes.iter().copied().map(Element::Node).collect();
    all.extend(plan.peers.iter().map(|peer| match peer.mac {
        Some(mac) => Element::Peer(peer.block, mac),
        None => Element::PeerAnyMac(peer.block),
    }));
    if let Some(masquerade) = &plan.masquerade {
        all.extend(disjoint(&masquerade.sources).map(Element::MasqueradeSource));
        all.extend(disjoint(&masquerade.except).map(Element::MasqueradeExcept));
    }
    all
}

/// Those that lie in no other: ranges of one set must not overlap. (What contains sorts before what it contains.)
fn disjoint(cidrs: &BTreeSet<Cidr>) -> impl Iterator<Item = Cidr> + '_ {
    let mut last: Option<Cidr> = None;
    cidrs.iter().copied().filter(move |cidr| {
        let covered = last.is_some_and(|outer| outer.contains_cidr(cidr));
        if !covered {
            last = Some(*cidr);
        }
        !covered
    })
}

impl Element {
    /// The set that it is part of.
    #[must_use]
    pub fn set(&self) -> String {
        match self {
            Self::Pod(pod) => format!("pod{}", digit(Family::of(&pod.address))),
            Self::Node(address) => format!("node{}", digit(Family::of(address))),
            Self::Peer(block, _) => peer_set(block.family(), block.prefix_len()),
            Self::PeerAnyMac(block) => format!("peer{}_any", digit(block.family())),
            Self::MasqueradeSource(cidr) => format!("masq_source{}", digit(cidr.family())),
            Self::MasqueradeExcept(cidr) => format!("masq_except{}", digit(cidr.family())),
        }
    }

    /// The element as nft reads it.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Pod(pod) => format!("\"{}\" . {} . {}", pod.link, mac::text(pod.mac), pod.address),
            Self::Node(address) => address.to_string(),
            Self::Peer(block, mac) => format!("{} . {}", block.network(), mac::text(*mac)),
            Self::PeerAnyMac(cidr) | Self::MasqueradeSource(cidr) | Self::MasqueradeExcept(cidr) => cidr.to_string(),
        }
    }

    /// The element as the kernel has it.
    #[must_use]
    pub fn raw(&self) -> Vec<RawElement> {
        let set = self.set();
        let mut key = Key::default();
        match self {
            Self::Pod(pod) => key.link(&pod.link).part(&pod.mac).address(pod.address),
            Self::Node(address) => key.address(*address),
            Self::Peer(block, mac) => key.address(block.network()).part(mac),
            Self::PeerAnyMac(cidr) | Self::MasqueradeSource(cidr) | Self::MasqueradeExcept(cidr) => {
                return range(&set, cidr);
            }
        };
        vec![RawElement { set, key: key.0, start: true }]
    }
}

/// The set of the peers whose blocks have this length.
pub(super) fn peer_set(family: Family, prefix_len: u8) -> String {
    format!("peer{}_{prefix_len}", digit(family))
}

fn range(set: &str, cidr: &Cidr) -> Vec<RawElement> {
    let mut start = Key::default();
    start.address(cidr.network());
    let mut raw = vec![RawElement { set: set.to_owned(), key: start.0, start: true }];
    // A range up to the last address has no end.
    if let Some(after) = after(cidr.last()) {
        let mut end = Key::default();
        end.address(after);
        raw.push(RawElement { set: set.to_owned(), key: end.0, start: false });
    }
    raw
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => a.to_bits().checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => a.to_bits().checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

#[derive(Default)]
struct Key(Vec<u8>);

impl Key {
    fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// `IFNAMSIZ` bytes, filled up with NUL.
    fn link(&mut self, name: &str) -> &mut Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
            *to = from;
        }
        self.part(&bytes)
    }

    fn address(&mut self, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(a) => self.part(&a.octets()),
            IpAddr::V6(a) => self.part(&a.octets()),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a key whose parts are not filled up to 4 bytes, a range without its end, overlapping ranges.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn keys_are_padded() {
        let pod = PodMember { link: "ovlpabc".into(), mac: [2, 1, 2, 3, 4, 5], address: "10.0.0.1".parse().unwrap() };
        let raw = Element::Pod(pod).raw();
        assert_eq!(raw[0].key, b"ovlpabc\0\0\0\0\0\0\0\0\0\x02\x01\x02\x03\x04\x05\0\0\x0a\0\0\x01");
        let peer = Element::Peer(cidr("10.244.3.0/24"), [2, 1, 2, 3, 4, 5]).raw();
        assert_eq!(peer[0].key, b"\x0a\xf4\x03\0\x02\x01\x02\x03\x04\x05\0\0");
        assert_eq!(peer[0].set, "peer4_24");
    }

    #[test]
    fn ranges_end_after_their_last_address() {
        let raw = Element::MasqueradeExcept(cidr("10.0.0.0/8")).raw();
        assert_eq!((raw[0].key.as_slice(), raw[0].start), (&[10, 0, 0, 0][..], true));
        assert_eq!((raw[1].key.as_slice(), raw[1].start), (&[11, 0, 0, 0][..], false));
        let next = Element::MasqueradeExcept(cidr("11.0.0.0/8")).raw();
        assert!(raw[1] < next[0], "the kernel refuses a range that begins before the one below it has ended");
        assert_eq!(Element::MasqueradeExcept(cidr("255.0.0.0/8")).raw().len(), 1);
        assert_eq!(Element::MasqueradeExcept(cidr("::/0")).raw().len(), 1);
    }

    #[test]
    fn ranges_within_others_are_left_out() {
        let cidrs = ["10.0.0.0/8", "10.244.0.0/16", "10.244.1.0/24", "11.0.0.0/8", "fd00::/8", "fd12::/16"];
        let kept: Vec<_> = disjoint(&cidrs.map(cidr).into()).map(|c| c.to_string()).collect();
        assert_eq!(kept, ["10.0.0.0/8", "11.0.0.0/8", "fd00::/8"]);
    }
}
