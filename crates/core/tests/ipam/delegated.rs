//! Pure IPAM: leases that no link of ours goes with, and their gateways.
//!
//! Must catch: a gateway that is given to a pod, or another one for the same network and block after a restart; a DEL or
//! GC of one kind of lease that ends the other kind.

use std::collections::BTreeSet;

use overlane_core::family::Family;
use overlane_core::ipam::{AddRequest, Event, Ipam, Lease, LeaseKind, Refusal};

use super::{Node, attachment, blocks, request};

fn delegated(node: &mut Node, name: &str) -> Lease {
    let request = AddRequest { kind: LeaseKind::Ipam, ..request(name, node.ns()) };
    let event = node.ipam.add(&request, node.now).unwrap();
    let Event::Began(lease) = &event else { panic!("{event:?}") };
    let lease = (**lease).clone();
    node.apply(event);
    let active = node.ipam.activate(lease.id).unwrap();
    node.apply(active);
    lease
}

/// The gateways of a lease's addresses.
fn gateways(node: &mut Node, lease: &Lease) -> Vec<String> {
    let mut found = Vec::new();
    for address in &lease.addresses {
        let (gateway, event) = node.ipam.gateway(&lease.network, *address, node.now).unwrap();
        event.into_iter().for_each(|event| node.apply(event));
        found.push(gateway.to_string());
    }
    found
}

#[test]
fn a_gateway_is_given_once_and_stays() {
    let mut node = Node::dual();
    let first = delegated(&mut node, "a");
    assert_eq!(gateways(&mut node, &first), ["10.244.2.2", "fd12:3456:789a:0:2::2"]);
    let second = delegated(&mut node, "b");
    assert_eq!(gateways(&mut node, &second), ["10.244.2.2", "fd12:3456:789a:0:2::2"]);
    assert_eq!(second.addresses[0].to_string(), "10.244.2.3");
    for name in ["a", "b"] {
        for event in node.ipam.del(LeaseKind::Ipam, &attachment(name), node.ns(), node.now) {
            node.apply(event);
        }
        let id = node.ipam.by_attachment(&attachment(name)).unwrap().id;
        let freed = node.ipam.free(id, node.now).unwrap();
        node.apply(freed);
    }
    let events = node.ipam.gc(LeaseKind::Ipam, "net", &BTreeSet::new(), node.ns(), node.now);
    assert_eq!(events, [], "no GC ends a gateway");
    let again = delegated(&mut node, "c");
    assert_eq!(gateways(&mut node, &again), ["10.244.2.2", "fd12:3456:789a:0:2::2"]);

    let mut restarted = Ipam::new(Family::ALL.to_vec(), super::COOL_DOWN);
    restarted.set_blocks(node.ipam.blocks().to_vec());
    node.ipam.snapshot().iter().for_each(|event| restarted.apply(event).unwrap());
    assert_eq!(restarted.gateway("net", again.addresses[0], node.now).unwrap(), ("10.244.2.2".parse().unwrap(), None));
    let (other, event) = restarted.gateway("other", again.addresses[0], node.now).unwrap();
    assert!(event.is_some() && other.to_string() != "10.244.2.2", "another network has another gateway");
}

#[test]
fn each_block_has_its_own_gateway_and_a_full_one_none() {
    let mut node = Node::v4("10.0.0.0/30");
    let lease = delegated(&mut node, "a");
    assert_eq!(gateways(&mut node, &lease), ["10.0.0.2"]);
    let full = AddRequest { kind: LeaseKind::Ipam, ..request("b", node.ns()) };
    assert!(matches!(node.ipam.add(&full, node.now), Err(Refusal::Full { .. })));
    node.ipam.set_blocks(blocks(&[("10.0.0.0/30", 0), ("10.0.1.0/30", 1)]));
    let lease = delegated(&mut node, "b");
    assert_eq!(
        (lease.addresses[0].to_string(), gateways(&mut node, &lease)),
        ("10.0.1.1".into(), vec!["10.0.1.2".into()])
    );

    let mut node = Node::v4("10.0.0.0/30");
    node.start("pod");
    let last = delegated(&mut node, "a");
    assert!(matches!(node.ipam.gateway("net", last.addresses[0], node.now), Err(Refusal::Full { .. })));
    assert!(matches!(node.ipam.gateway("net", "10.9.9.9".parse().unwrap(), node.now), Err(Refusal::NoBlock)));
}

#[test]
fn each_kind_is_ended_by_its_own() {
    let mut node = Node::dual();
    node.start("pod");
    delegated(&mut node, "ipam");
    let nothing = BTreeSet::new();
    for (kind, own, other) in [(LeaseKind::Interface, "pod", "ipam"), (LeaseKind::Ipam, "ipam", "pod")] {
        let ended = node.ipam.gc(kind, "net", &nothing, node.ns(), node.now);
        let id = node.ipam.by_attachment(&attachment(own)).unwrap().id;
        assert!(matches!(ended.as_slice(), [Event::Draining { id: ended, .. }] if *ended == id), "{ended:?}");
        let del = node.ipam.del(kind, &attachment(other), node.ns(), node.now);
        assert!(matches!(del.as_slice(), [Event::Tombstone { .. }]), "{del:?}");
    }
}
