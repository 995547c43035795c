//! What is refused, and with which words.

use overlane_core::family::Family;
use overlane_core::ipam::{ApplyError, Event, LeaseState, NetnsId, Refusal};

use super::{Node, attachment, blocks, cidr, request};

#[test]
fn an_attachment_has_one_lease() {
    let mut node = Node::v4("10.0.0.0/28");
    let lease = node.start("a");
    node.now += 1;
    let refusal = node.refused("a", node.ns());
    let Refusal::AlreadyActive { lease: known } = &refusal else { panic!("{refusal:?}") };
    assert_eq!((known.id, known.state), (lease.id, LeaseState::Active));
    assert_eq!(refusal.to_string(), format!("attachment a/eth0 already has lease {} with 10.0.0.1", lease.id));
    node.del("a", node.ns());
    let refusal = node.refused("a", node.ns() + 1);
    assert_eq!(refusal, Refusal::Busy { attachment: attachment("a"), lease: lease.id });
    node.apply(Event::Freed { id: lease.id, at_ms: node.now });
    node.now += 1;
    assert_ne!(node.start("a").addresses, lease.addresses);
}

#[test]
fn a_sandbox_waits_for_the_end_of_its_last_lease() {
    let netns = |nsid, inode| NetnsId { nsid, inode, path: String::new() };
    // The lease that is ending, the ADD, and whether it waits.
    let table = [
        (netns(Some(3), 77), netns(Some(3), 77), true),
        (netns(Some(3), 77), netns(Some(4), 77), false),
        (netns(None, 77), netns(Some(4), 77), true),
        (netns(Some(3), 77), netns(None, 77), true),
        (netns(Some(3), 77), netns(Some(3), 78), false),
        (netns(None, 0), netns(None, 0), false),
    ];
    for (ending, new, waits) in table {
        let mut node = Node::v4("10.0.0.0/28");
        let mut first = request("a", node.ns());
        first.netns = ending.clone();
        let event = node.ipam.add(&first, node.now).unwrap();
        node.apply(event);
        let mut second = request("b", node.ns());
        second.netns = new.clone();
        assert!(node.ipam.add(&second, node.now).is_ok(), "an active lease elsewhere is no reason to wait");
        node.del("a", node.ns());
        let answer = node.ipam.add(&second, node.now);
        assert_eq!(matches!(answer, Err(Refusal::Busy { .. })), waits, "{ending:?} {new:?}");
    }
}

#[test]
fn a_full_block_says_so_with_numbers() {
    let mut node = Node::v4("10.244.2.0/24");
    for number in 0..254 {
        node.start(&format!("c{number}"));
    }
    node.now += 1;
    for number in 0..4 {
        node.del(&format!("c{number}"), node.ns());
    }
    let refusal = node.refused("one-more", node.ns());
    let expected = Refusal::Full {
        family: Family::V4,
        blocks: vec![cidr("10.244.2.0/24")],
        usable: 254,
        leased: 250,
        draining: 4,
    };
    assert_eq!(refusal, expected);
    let told = "no IPv4 address is free in 10.244.2.0/24: 254 usable, 250 leased, 4 draining";
    assert_eq!(refusal.to_string(), told);
    let id = node.ipam.by_attachment(&attachment("c2")).unwrap().id;
    node.apply(Event::Freed { id, at_ms: node.now });
    assert_eq!(node.addresses("one-more"), "10.244.2.3", "one at rest is better than none");
}

#[test]
fn the_family_that_is_full_is_named() {
    let mut node = Node::new(&Family::ALL, &[("10.0.0.0/24", 0), ("10.0.1.0/24", 1), ("fd00::/126", 0)]);
    node.start("a");
    node.start("b");
    let refusal = node.refused("c", node.ns());
    assert!(matches!(refusal, Refusal::Full { family: Family::V6, usable: 2, leased: 2, .. }), "{refusal:?}");
    node.ipam.set_blocks(blocks(&[("10.0.0.0/30", 0), ("10.0.0.4/30", 1), ("fd00::/80", 0)]));
    node.start("c");
    node.start("d");
    let told = node.refused("e", node.ns()).to_string();
    assert_eq!(told, "no IPv4 address is free in 10.0.0.0/30, 10.0.0.4/30: 4 usable, 4 leased, 0 draining");
}

#[test]
fn no_block_no_address() {
    let node = Node::new(&Family::ALL, &[]);
    assert_eq!(node.refused("a", node.ns()), Refusal::NoBlock);
    let node = Node::new(&[Family::V6], &[("10.0.0.0/24", 0)]);
    assert_eq!(node.refused("a", node.ns()), Refusal::NoBlock, "a block of a family that the cluster has not");
    let node = Node::new(&[Family::V4], &[("10.0.0.0/31", 0)]);
    assert!(matches!(node.refused("a", node.ns()), Refusal::Full { usable: 0, .. }));
}

#[test]
fn apply_gives_nothing_to_two() {
    let mut node = Node::v4("10.0.0.0/28");
    let Event::Began(first) = node.ipam.add(&request("a", node.ns()), node.now).unwrap() else { panic!() };
    let Event::Began(second) = node.ipam.add(&request("b", node.ns()), node.now).unwrap() else { panic!() };
    assert_eq!(first.addresses, second.addresses, "asked twice before the first was applied");
    node.apply(Event::Began(first.clone()));
    let before = node.ipam.clone();
    let refused = |node: &mut Node, change: &dyn Fn(&mut overlane_core::ipam::Lease)| {
        let mut lease = (*second).clone();
        change(&mut lease);
        let asked = node.ipam.admits(&lease).unwrap_err();
        let applied = node.ipam.apply(&Event::Began(Box::new(lease))).unwrap_err();
        assert_eq!(asked, applied);
        applied
    };
    assert_eq!(node.ipam.next_id(), 2);
    assert_eq!(node.ipam.admits(&first), Ok(()), "known is no contradiction");
    let address = first.addresses[0];
    assert_eq!(refused(&mut node, &|_| ()), ApplyError::IdTaken { lease: 1 });
    assert_eq!(refused(&mut node, &|lease| lease.id = 2), ApplyError::AddressTaken { lease: 2, address, owner: 1 });
    assert!(matches!(
        refused(&mut node, &|lease| {
            lease.id = 2;
            lease.attachment = first.attachment.clone();
        }),
        ApplyError::AttachmentTaken { lease: 2, owner: 1, .. }
    ));
    assert!(matches!(
        refused(&mut node, &|lease| {
            lease.id = 2;
            lease.link = first.link.clone();
        }),
        ApplyError::LinkTaken { lease: 2, owner: 1, .. }
    ));
    assert_eq!(node.ipam, before, "a refused event changes nothing");
    let mut third = request("c", node.ns());
    third.link = first.link.clone();
    let taken = node.ipam.add(&third, node.now).unwrap_err();
    assert_eq!(taken, Refusal::LinkTaken { link: first.link.clone(), lease: 1 });
}
