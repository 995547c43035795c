//! Which blocks of other nodes cannot be believed: those that meet a block of somebody else.

use std::collections::BTreeSet;

use super::{Note, Peer};
use crate::cidr::Cidr;

/// Whose a block is: this node's (`None`), or that of the peer with this index.
type Owner = Option<usize>;

/// The blocks of peers that are not to be routed, by the peer's index. A peer's block that meets one of this node's
/// gives way; of two peers' that meet neither is taken, since nothing here tells whose the addresses are. Blocks of
/// one node may lie in each other.
pub(super) fn disputed(own: &[Cidr], peers: &[Peer], notes: &mut BTreeSet<Note>) -> BTreeSet<(usize, Cidr)> {
    let mut blocks: Vec<(Cidr, Owner)> = own.iter().map(|block| (*block, None)).collect();
    for (index, peer) in peers.iter().enumerate() {
        blocks.extend(peer.blocks.iter().map(|block| (*block, Some(index))));
    }
    blocks.sort_unstable();
    let mut disputed = BTreeSet::new();
    // In this order what contains a block comes before it: those are on the stack.
    let mut around: Vec<(Cidr, Owner)> = Vec::new();
    for (block, owner) in blocks {
        while around.last().is_some_and(|(outer, _)| !outer.contains_cidr(&block)) {
            around.pop();
        }
        let mut others = around.iter().rev().filter(|(_, other)| *other != owner).copied().peekable();
        if let Some(nearest) = others.peek() {
            notes.extend(note(peers, (block, owner), *nearest));
        }
        for (other_block, other) in others {
            // Against this node only the peer loses.
            for (block, peer) in [(block, owner), (other_block, other)] {
                disputed.extend(peer.map(|peer| (peer, block)));
            }
        }
        around.push((block, owner));
    }
    disputed
}

fn note(peers: &[Peer], one: (Cidr, Owner), two: (Cidr, Owner)) -> Option<Note> {
    let name = |index: usize| peers.get(index).map(|peer| peer.name.clone());
    match (one, two) {
        ((own, None), (block, Some(peer))) | ((block, Some(peer)), (own, None)) => {
            Some(Note::PeerClaimsOurs { peer: name(peer)?, block, own })
        }
        ((block, Some(peer)), (other_block, Some(other))) => {
            Some(Note::PeersOverlap { peer: name(peer)?, block, other: name(other)?, other_block })
        }
        ((_, None), (_, None)) => None,
    }
}
