//! A node of full size, and one that has lived long.

use overlane_core::family::Family;
use overlane_core::ipam::{Event, TOMBSTONES_MOST};

use super::{Node, START};

#[test]
fn two_hundred_and_fifty_pods_come_and_go() {
    let mut node = Node::dual();
    for number in 0..250 {
        node.start(&format!("c{number}"));
    }
    for round in 1..40 {
        node.now += 1_000;
        for number in 0..250 {
            node.stop(&format!("c{number}"));
        }
        node.now = START + round * 1_000_000;
        for number in 0..250 {
            let lease = node.start(&format!("c{number}"));
            let [v4, v6] = lease.addresses[..] else { panic!() };
            let offset = |block: usize, address| node.ipam.blocks()[block].cidr.offset_of(address);
            assert_eq!(offset(0, v4), offset(1, v6), "pairs stay pairs");
        }
    }
    let usage = node.ipam.usage(node.now);
    assert_eq!((usage[0].leased, usage[0].free, usage[1].leased), (250, 4, 250));
}

#[test]
fn a_long_life_leaves_little_behind() {
    let mut node = Node::new(&[Family::V6], &[("fd00::/80", 0)]);
    for number in 0..20_000_u64 {
        node.now += 100;
        node.start(&format!("c{number}"));
        node.stop(&format!("c{number}"));
        node.log.clear();
    }
    let snapshot = node.ipam.snapshot();
    let rested: usize = snapshot
        .iter()
        .map(|event| match event {
            Event::Rested { addresses, .. } => addresses.len(),
            _ => 0,
        })
        .sum();
    let tombs = snapshot.iter().filter(|event| matches!(event, Event::Tombstone { .. })).count();
    assert_eq!(rested, 4_096);
    assert_eq!(tombs, TOMBSTONES_MOST);
    // What was forgotten was free for longer than all that is remembered, and goes first: 4,097 addresses take turns.
    assert_eq!(node.addresses("next"), format!("fd00::{:x}", 20_000 % 4_097 + 1));
    // What rests is not forgotten, however much it is.
    let mut node = Node::new(&[Family::V6], &[("fd00::/80", 0)]);
    for number in 0..5_000_u64 {
        node.now += 1;
        node.start(&format!("c{number}"));
        node.stop(&format!("c{number}"));
    }
    assert_eq!(node.ipam.usage(node.now)[0].resting, 5_000);
    assert_eq!(node.addresses("next"), "fd00::1389");
}
