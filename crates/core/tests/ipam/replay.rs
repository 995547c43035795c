//! What was written down gives back what was.

use overlane_core::family::Family;
use overlane_core::ipam::{Event, Ipam, LeaseState};

use super::{COOL_DOWN, Node};

pub(super) fn rebuilt(of: &Ipam, families: &[Family], events: &[Event]) -> Ipam {
    let mut ipam = Ipam::new(families.to_vec(), COOL_DOWN);
    ipam.set_blocks(of.blocks().to_vec());
    for event in events {
        ipam.apply(event).unwrap();
    }
    ipam
}

#[test]
fn the_log_and_the_snapshot_give_the_same() {
    let mut node = Node::dual();
    for name in ["a", "b", "c"] {
        node.now += 1;
        node.start(name);
    }
    node.stop("a");
    node.now += 1;
    node.del("b", node.ns());
    node.del("unknown", node.ns());
    assert_eq!(rebuilt(&node.ipam, &Family::ALL, &node.log), node.ipam);
    assert_eq!(rebuilt(&node.ipam, &Family::ALL, &node.ipam.snapshot()), node.ipam);
    let twice: Vec<Event> = node.ipam.snapshot().into_iter().chain(node.ipam.snapshot()).collect();
    assert_eq!(rebuilt(&node.ipam, &Family::ALL, &twice), node.ipam);
}

#[test]
fn blocks_may_come_after_the_log() {
    let mut node = Node::dual();
    node.start("a");
    node.stop("a");
    node.start("b");
    let mut late = Ipam::new(Family::ALL.to_vec(), COOL_DOWN);
    for event in &node.log {
        late.apply(event).unwrap();
    }
    late.set_blocks(node.ipam.blocks().to_vec());
    assert_eq!(late, node.ipam);
}

/// The agent may die after any event was written.
#[test]
fn a_log_that_ends_anywhere_is_a_state() {
    let mut node = Node::v4("10.0.0.0/29");
    node.start("a");
    node.now += 1;
    node.start("b");
    node.stop("a");
    for end in 0..=node.log.len() {
        let ipam = rebuilt(&node.ipam, &[Family::V4], &node.log[..end]);
        let wiring = ipam.leases().filter(|lease| lease.state == LeaseState::Wiring).count();
        assert!(wiring <= 1);
        for lease in ipam.leases() {
            assert!(ipam.by_address(lease.addresses[0]).is_some_and(|owner| owner.id == lease.id));
        }
    }
}
