//! What may happen, and to what.

use overlane_core::ipam::{Attachment, Block};
use proptest::prelude::*;

use crate::{COOL_DOWN, attachment, blocks};

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// ADD of this container, in this sandbox, begun that many milliseconds ago.
    Add(u8, u8, u64),
    Activate(u8),
    Del(u8, u64),
    Drain(u8),
    Free(u8),
    /// GC that names the containers of which the bit is set.
    Gc(u16, u64),
    Wait(u64),
    Blocks(u8),
    /// Crash: what was written is all that is left.
    Replay,
    /// Crash after the log was shortened.
    Compact,
}

pub(super) const CONTAINERS: u8 = 12;

pub(super) fn step() -> impl Strategy<Value = Step> {
    let container = || 0..CONTAINERS;
    let age = || prop_oneof![4 => Just(0), 1 => 0_u64..50];
    prop_oneof![
        8 => (container(), 0_u8..16, age()).prop_map(|(name, inode, age)| Step::Add(name, inode, age)),
        3 => container().prop_map(Step::Activate),
        4 => (container(), age()).prop_map(|(name, age)| Step::Del(name, age)),
        1 => container().prop_map(Step::Drain),
        6 => container().prop_map(Step::Free),
        1 => (any::<u16>(), age()).prop_map(|(valid, age)| Step::Gc(valid, age)),
        3 => (0_u64..20).prop_map(Step::Wait),
        1 => (0..COOL_DOWN * 2).prop_map(Step::Wait),
        1 => (0_u8..5).prop_map(Step::Blocks),
        1 => Just(Step::Replay),
        1 => Just(Step::Compact),
    ]
}

/// Small ones, so that they fill.
pub(super) fn layout(number: u8) -> Vec<Block> {
    match number {
        0 => blocks(&[("10.0.0.0/29", 0), ("fd00::/125", 0)]),
        1 => blocks(&[("10.0.0.0/29", 0), ("fd00::/125", 0), ("10.0.1.0/30", 1), ("fd01::/126", 1)]),
        2 => blocks(&[("10.0.0.0/29", 0), ("10.0.2.0/30", 3), ("fd00::/125", 0)]),
        3 => blocks(&[("10.0.0.0/29", 0)]),
        _ => blocks(&[("10.0.4.0/28", 1), ("fd00::/125", 0)]),
    }
}

pub(super) fn name(container: u8) -> Attachment {
    attachment(&format!("c{container}"))
}
