//! Who is who: addresses grouped by what rules can tell of them.
//!
//! Two addresses that the same terms of rules are about, and whose pods give the same numbers to the port names that rules ask
//! for, are one to every rule: they have one key. So a data plane looks an address up once, and what follows depends on the
//! key alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{NamedPort, Peer, Profile, World};
use crate::cidr::Cidr;
use crate::family::Family;

/// What rules can tell of an address: which terms are about it (by index), and its ports that they name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) terms: BTreeSet<usize>,
    pub(super) ports: BTreeSet<NamedPort>,
}

/// Terms of rules, and the names of ports that rules ask the other side's pod for.
#[derive(Debug, Default)]
pub(super) struct Terms<'a> {
    pub(super) peers: Vec<&'a Peer>,
    pub(super) names: BTreeSet<&'a str>,
}

/// Addresses from one to another, of one family.
pub(super) type Span = (IpAddr, IpAddr);

impl<'a> Terms<'a> {
    pub(super) fn new(peers: BTreeSet<&'a Peer>, names: BTreeSet<&'a str>) -> Self {
        Self { peers: peers.into_iter().collect(), names }
    }

    /// Keys of addresses that are somebody's, pods' and nodes', without those that no term is about; `spans` are [`Self::spans`].
    pub(super) fn hosts(&self, world: &World, spans: &BTreeMap<Span, BTreeSet<usize>>) -> BTreeMap<IpAddr, Key> {
        let of_profile: Vec<Key> = world.profiles.iter().map(|profile| self.of_profile(profile, world)).collect();
        let nodes = self.nodes(world);
        let block = |address: &IpAddr| {
            let at = spans.range(..=(*address, address_max(address))).next_back();
            at.filter(|((_, last), _)| last >= address).map(|(_, terms)| terms)
        };
        let mut keys = BTreeMap::new();
        let addresses = world.addresses.keys().chain(nodes.keys());
        for address in addresses {
            let profile = world.addresses.get(address).and_then(|index| of_profile.get(*index));
            // Most of a large cluster's pods no rule here is about.
            if spans.is_empty() && nodes.is_empty() && profile.is_none_or(|key| *key == Key::default()) {
                continue;
            }
            let mut key = profile.cloned().unwrap_or_default();
            key.terms.extend(block(address).into_iter().flatten());
            key.terms.extend(nodes.get(address).into_iter().flatten());
            if key != Key::default() {
                keys.insert(*address, key);
            }
        }
        keys
    }

    /// Terms of all other addresses: what blocks are about them.
    pub(super) fn spans(&self) -> BTreeMap<Span, BTreeSet<usize>> {
        Family::ALL.into_iter().flat_map(|family| self.spans_of(family)).collect()
    }

    fn spans_of(&self, family: Family) -> BTreeMap<Span, BTreeSet<usize>> {
        let blocks: Vec<(usize, &Cidr, &BTreeSet<Cidr>)> = self
            .peers
            .iter()
            .enumerate()
            .filter_map(|(index, peer)| match peer {
                Peer::Block { cidr, except } if cidr.family() == family => Some((index, cidr, except)),
                _ => None,
            })
            .collect();
        // Where anything begins or ends, by the address before which it does; `None` is the end of the family's.
        let mut turns: BTreeMap<Option<IpAddr>, Vec<(usize, i32)>> = BTreeMap::new();
        let mut turn = |index: usize, cidr: &Cidr, sign: i32| {
            turns.entry(Some(cidr.network())).or_default().push((index, sign));
            turns.entry(next(cidr.last())).or_default().push((index, -sign));
        };
        for (index, cidr, except) in blocks {
            turn(index, cidr, 1);
            for except in crate::cidr::outermost(except.iter().copied()).iter().filter(|e| cidr.contains_cidr(e)) {
                turn(index, except, -1);
            }
        }
        let ends = turns.remove(&None).is_some();
        let mut counts: BTreeMap<usize, i32> = BTreeMap::new();
        let mut spans: BTreeMap<Span, BTreeSet<usize>> = BTreeMap::new();
        let starts: Vec<IpAddr> = turns.keys().copied().flatten().collect();
        let lasts = starts.iter().skip(1).map(|next| before(*next)).chain([ends.then(|| last_of(family))]);
        for ((start, turns), last) in turns.into_iter().zip(lasts) {
            for (index, sign) in turns {
                *counts.entry(index).or_default() += sign;
            }
            counts.retain(|_, count| *count != 0);
            let terms: BTreeSet<usize> =
                counts.iter().filter(|(_, count)| **count > 0).map(|(index, _)| *index).collect();
            let (Some(start), Some(last)) = (start, last) else { continue };
            if terms.is_empty() {
                continue;
            }
            // Those that touch and are alike are one.
            match spans.last_entry() {
                Some(before) if *before.get() == terms && next(before.key().1) == Some(start) => {
                    let (first, _) = *before.key();
                    before.remove();
                    spans.insert((first, last), terms);
                }
                _ => _ = spans.insert((start, last), terms),
            }
        }
        spans
    }

    fn of_profile(&self, profile: &Profile, world: &World) -> Key {
        let is = |peer: &Peer| matches!(peer, Peer::Pods(pods) if pods.selects(profile, world));
        Key {
            terms: self.peers.iter().enumerate().filter(|(_, peer)| is(peer)).map(|(index, _)| index).collect(),
            ports: profile.ports.iter().filter(|port| self.names.contains(port.name.as_str())).cloned().collect(),
        }
    }

    fn nodes(&self, world: &World) -> BTreeMap<IpAddr, BTreeSet<usize>> {
        let mut all: BTreeMap<IpAddr, BTreeSet<usize>> = BTreeMap::new();
        for node in world.nodes.values() {
            let is = |peer: &Peer| matches!(peer, Peer::Nodes(selector) if selector.selects(&node.labels));
            let terms = self.peers.iter().enumerate().filter(|(_, peer)| is(peer)).map(|(index, _)| index);
            let terms: BTreeSet<usize> = terms.collect();
            for address in &node.addresses {
                all.entry(*address).or_default().extend(&terms);
            }
        }
        all
    }
}

fn address_max(like: &IpAddr) -> IpAddr {
    last_of(Family::of(like))
}

fn last_of(family: Family) -> IpAddr {
    Cidr::everything(family).last()
}

/// The address behind; none behind the family's last.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    }
}

/// The address in front; none in front of the family's first.
fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(ip) => ip.to_bits().checked_sub(1).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_sub(1).map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    }
}
