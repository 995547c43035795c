//! One case after the other: what a DEL ends, what a late ADD gets, what is refused and with which words.

use std::collections::BTreeSet;

use overlane_core::family::Family;
use overlane_core::ipam::{Event, Ipam, LeaseKind, LeaseState, Refusal, TOMBSTONE_AGE_MS, usable, usable_in};

use super::{MS, Node, START, attachment, blocks, cidr, request};

#[test]
fn usable_addresses() {
    let table = [
        ("10.0.0.0/24", 254),
        ("10.0.0.0/28", 14),
        ("10.0.0.0/30", 2),
        ("10.0.0.0/31", 0),
        ("10.0.0.1/32", 0),
        ("10.0.0.0/20", 4094),
        ("0.0.0.0/0", u32::MAX - 1),
        ("fd00::/80", 65_534),
        ("fd00::/112", 65_534),
        ("fd00::/120", 254),
        ("fd00::/127", 0),
        ("fd00::/128", 0),
        ("::/0", 65_534),
    ];
    for (block, expected) in table {
        assert_eq!(usable(&cidr(block)), expected, "{block}");
    }
    assert_eq!(usable_in(Family::V4, 33), 0);
}

#[test]
fn a_life() {
    let mut node = Node::dual();
    let lease = node.start("a");
    assert_eq!(node.state("a"), Some(LeaseState::Active));
    assert_eq!(lease.state, LeaseState::Wiring);
    assert_eq!(node.ipam.by_address(lease.addresses[1]).unwrap().id, lease.id);
    assert_eq!(node.ipam.by_link(&lease.link).unwrap().id, lease.id);
    node.now += 1;
    let del_ns = node.ns();
    let ended = node.del("a", del_ns);
    assert_eq!(ended, [Event::Draining { id: lease.id, at_ms: START + 1, del_ns: Some(del_ns) }]);
    assert_eq!(node.ipam.activate(lease.id), None, "a DEL during the wiring is seen by it");
    assert!(node.ipam.by_address(lease.addresses[0]).is_some(), "draining still owns");
    node.apply(Event::Freed { id: lease.id, at_ms: START + 2 });
    assert_eq!(node.ipam.leases().count(), 0);
    assert!(node.ipam.by_address(lease.addresses[0]).is_none());
    assert_eq!(node.ipam.free(lease.id, START + 3), None);
    assert_eq!(node.ipam.drain(lease.id, START + 3), None);
}

#[test]
fn ids_are_never_used_again() {
    let mut node = Node::v4("10.0.0.0/28");
    let mut ids = BTreeSet::new();
    for _ in 0..20 {
        node.now += 1;
        assert!(ids.insert(node.start("a").id));
        node.stop("a");
        let mut rebuilt = Ipam::new(vec![Family::V4], super::COOL_DOWN);
        rebuilt.set_blocks(node.ipam.blocks().to_vec());
        for event in node.ipam.snapshot() {
            rebuilt.apply(&event).unwrap();
        }
        node.ipam = rebuilt;
    }
}

#[test]
fn a_del_ends_only_what_began_before() {
    let mut node = Node::v4("10.0.0.0/28");
    let before = node.ns() - 5;
    node.start("a");
    assert!(matches!(node.del("a", before).as_slice(), [Event::Tombstone { .. }]));
    assert_eq!(node.state("a"), Some(LeaseState::Active));
    assert_eq!(node.del("a", before - 1), [], "one that began even earlier adds nothing");
    assert_eq!(node.del("a", node.ns()).len(), 1, "of two that began together the DEL wins");
    assert_eq!(node.state("a"), Some(LeaseState::Draining));
    assert!(matches!(node.del("a", node.ns() + 1).as_slice(), [Event::Tombstone { .. }]), "a second DEL is one");
    assert_eq!(node.state("a"), Some(LeaseState::Draining));
}

#[test]
fn a_late_add_is_refused_and_a_new_one_served() {
    let mut node = Node::v4("10.0.0.0/28");
    let del_ns = node.ns();
    node.del("a", del_ns);
    let superseded = |del_ns| Refusal::Superseded { attachment: attachment("a"), del_ns };
    assert_eq!(node.refused("a", del_ns - 10), superseded(del_ns));
    assert_eq!(node.refused("a", del_ns), superseded(del_ns));
    let event = node.ipam.add(&request("a", del_ns + 1), node.now).unwrap();
    node.apply(event);
    assert_eq!(node.state("a"), Some(LeaseState::Wiring));
    // An ADD that was on its way all the while.
    assert_eq!(node.refused("a", del_ns - 20), superseded(del_ns));
    // It is refused too after the DEL that ended a lease.
    let del_ns = node.ns() + 100;
    node.del("a", del_ns);
    let id = node.ipam.by_attachment(&attachment("a")).unwrap().id;
    node.apply(Event::Freed { id, at_ms: node.now });
    assert_eq!(node.refused("a", del_ns - 1), superseded(del_ns));
    assert!(node.ipam.add(&request("a", del_ns + 1), node.now).is_ok());
}

#[test]
fn a_beginning_in_the_future_outranks_nothing() {
    let mut node = Node::v4("10.0.0.0/28");
    node.del("a", u64::MAX);
    node.now += 2;
    node.start("a");
    node.now += 2;
    assert_eq!(node.del("a", node.ns()).len(), 1);
    let event = node.ipam.add(&request("b", u64::MAX), node.now).unwrap();
    node.apply(event);
    node.now += 2;
    assert!(matches!(node.del("b", node.ns()).as_slice(), [Event::Draining { .. }]));
}

#[test]
fn gc_ends_what_is_not_named() {
    let mut node = Node::v4("10.0.0.0/27");
    for name in ["kept", "gone", "late"] {
        node.now += 1;
        node.start(name);
    }
    let mut other = request("other", node.ns());
    other.network = "another".into();
    let event = node.ipam.add(&other, node.now).unwrap();
    node.apply(event);
    let valid = BTreeSet::from([attachment("kept"), attachment("never-seen")]);
    let began_ns = (START + 2) * MS;
    node.now += 10;
    let gone = node.ipam.by_attachment(&attachment("gone")).unwrap().id;
    let events = node.ipam.gc(LeaseKind::Interface, "net", &valid, began_ns, node.now);
    assert_eq!(events, [Event::Draining { id: gone, at_ms: node.now, del_ns: Some(began_ns) }]);
    node.apply(events[0].clone());
    assert_eq!(node.ipam.gc(LeaseKind::Interface, "net", &valid, began_ns, node.now), [], "twice is once");
    assert_eq!(node.state("other"), Some(LeaseState::Wiring));
    assert!(matches!(node.refused("gone", began_ns), Refusal::Superseded { .. }));
}

#[test]
fn events_that_say_nothing_new_change_nothing() {
    let mut node = Node::dual();
    node.start("a");
    node.now += 1;
    node.start("b");
    node.stop("b");
    let began = node.log[0].clone();
    let before = node.ipam.clone();
    for event in [began, Event::Activated { id: 1 }, Event::Activated { id: 2 }, Event::Freed { id: 2, at_ms: 9 }] {
        node.ipam.apply(&event).unwrap();
    }
    node.ipam.apply(&Event::Draining { id: 99, at_ms: node.now, del_ns: Some(5) }).unwrap();
    assert_eq!(node.ipam, before);
}

#[test]
fn leases_outside_the_blocks_stay_and_are_told() {
    let mut node = Node::dual();
    let lease = node.start("a");
    assert_eq!(node.ipam.outside().count(), 0);
    node.ipam.set_blocks(blocks(&[("10.244.9.0/24", 0), ("fd12:3456:789a:0:2::/80", 1)]));
    assert_eq!(node.ipam.outside().map(|lease| lease.id).collect::<Vec<_>>(), [lease.id]);
    assert_eq!(node.addresses("b"), "10.244.9.1,fd12:3456:789a:0:2::2", "what is taken stays taken");
    node.stop("a");
    node.ipam.set_blocks(blocks(&[("10.244.2.0/24", 0), ("fd12:3456:789a:0:2::/80", 0)]));
    assert_eq!(node.addresses("c"), "10.244.2.3,fd12:3456:789a:0:2::3", "what was used is remembered");
}

#[test]
fn usage_adds_up() {
    let mut node = Node::v4("10.0.0.0/28");
    for name in ["a", "b", "c", "d"] {
        node.start(name);
    }
    node.now += 1;
    node.stop("a");
    node.now += 1;
    node.stop("b");
    node.del("c", node.ns());
    let [usage] = node.ipam.usage(node.now)[..] else { panic!() };
    assert_eq!((usage.usable, usage.leased, usage.draining, usage.resting, usage.free), (14, 1, 1, 2, 10));
    let [usage] = node.ipam.usage(node.now + super::COOL_DOWN - 1)[..] else { panic!() };
    assert_eq!((usage.resting, usage.free), (1, 11));
    let [usage] = node.ipam.usage(node.now + super::COOL_DOWN)[..] else { panic!() };
    assert_eq!((usage.resting, usage.free), (0, 12));
}

#[test]
fn what_is_remembered_of_dels_has_an_end() {
    let mut node = Node::v4("10.0.0.0/28");
    let first = node.ns();
    node.del("x", first);
    node.now += TOMBSTONE_AGE_MS + 1;
    node.del("y", node.ns());
    assert_eq!(node.ipam.snapshot().len(), 3, "floor, y, next id");
    assert!(matches!(node.refused("x", first), Refusal::Superseded { .. }), "what was forgotten is refused still");
    assert!(matches!(node.refused("z", first), Refusal::Superseded { .. }), "and what might have been forgotten");
    assert!(node.ipam.add(&request("z", first + 1), node.now).is_ok());
}
