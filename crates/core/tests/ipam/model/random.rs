//! The sequences.

use std::collections::BTreeSet;
use std::net::IpAddr;

use overlane_core::family::Family;
use overlane_core::ipam::{AddRequest, Event, Ipam, Lease, LeaseKind, LeaseState, NetnsId};
use proptest::prelude::*;

use super::World;
use super::steps::{layout, name, step};
use crate::COOL_DOWN;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn does_as_the_model_does(
        families in prop_oneof![
            Just(vec![Family::V4]),
            Just(vec![Family::V6, Family::V4]),
            Just(vec![Family::V4, Family::V6]),
        ],
        steps in proptest::collection::vec(step(), 1..160),
    ) {
        let mut world = World::new(families);
        for (number, step) in steps.iter().enumerate() {
            world.take(step);
            world.check();
            if number % 8 == 0 {
                world.check_replay();
            }
        }
        world.finish();
    }

    /// Whatever a damaged store says: no panic, and no address with two owners.
    #[test]
    fn any_events_make_a_sane_state(
        events in proptest::collection::vec((0_u8..8, 0_u64..6, 0_u8..4, 0_u64..100), 0..60),
        last in prop_oneof![Just(0), Just(u64::MAX)],
    ) {
        let mut ipam = Ipam::new(Family::ALL.to_vec(), COOL_DOWN);
        ipam.set_blocks(layout(1));
        for (kind, id, container, at) in events {
            let at_ms = at.max(last);
            let lease = |state| Event::Began(Box::new(Lease {
                kind: LeaseKind::Interface,
                ports: Vec::new(),
                bandwidth: overlane_core::rate::Bandwidth::default(),
                id: id.max(last), attachment: name(container), network: "net".into(), pod: None,
                addresses: vec![IpAddr::from([10, 0, 0, container])], link: format!("l{container}"),
                netns: NetnsId::default(), began_ns: at_ms, state,
            }));
            let event = match kind {
                0 => lease(LeaseState::Wiring),
                1 => lease(LeaseState::Draining),
                2 => Event::Activated { id },
                3 => Event::Draining { id, at_ms, del_ns: Some(at_ms) },
                4 => Event::Freed { id, at_ms },
                5 => Event::Tombstone { attachment: name(container), began_ns: at_ms, at_ms },
                6 => Event::NextId { id: at_ms },
                _ => Event::Rested { addresses: vec![IpAddr::from([10, 0, 0, container])], at_ms },
            };
            let _ = ipam.apply(&event);
            let mut owned = BTreeSet::new();
            for lease in ipam.leases() {
                prop_assert!(lease.addresses.iter().all(|address| owned.insert(*address)));
            }
            let _ = ipam.usage(at_ms);
            let _ = ipam.add(&AddRequest {
        kind: LeaseKind::Interface,
                ports: Vec::new(),
                bandwidth: overlane_core::rate::Bandwidth::default(),
                attachment: name(9), network: String::new(), pod: None, link: "new".into(),
                netns: NetnsId::default(), began_ns: u64::MAX,
            }, at_ms);
        }
    }
}
