//! What a `NodeNetworkConfig` says.

use std::collections::BTreeMap;

use super::given::Given;
use super::node::Slot;
use super::view::Container;
use super::{Content, first_of};
use crate::family::Family;

/// The content for a node with these blocks: those with a partner of the same index in every family first, by index;
/// then the others, the first of each family beside each other. Always in the cluster's order of families.
pub(super) fn of(given: &Given<'_>, slots: &[Slot]) -> Content {
    let families = given.plan.families();
    let index = |slot: &Slot| given.alloc.place(&slot.block).map(|(_, index)| index);
    let paired = |slot: &Slot| {
        let same = slots.iter().filter(|other| index(other).is_some() && index(other) == index(slot)).count();
        same == families.len()
    };
    let mut slots: Vec<&Slot> = slots.iter().collect();
    slots.sort_by_key(|slot| slot.block);
    let mut alone: BTreeMap<Family, u64> = BTreeMap::new();
    let mut keyed: Vec<_> = slots
        .into_iter()
        .map(|slot| {
            let family = slot.block.family();
            let place = families.iter().position(|other| *other == family);
            if let Some(index) = index(slot).filter(|_| paired(slot)) {
                return ((false, index, place), slot);
            }
            let count = alone.entry(family).or_default();
            *count += 1;
            ((true, *count, place), slot)
        })
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    let containers = keyed
        .into_iter()
        .map(|(_, slot)| Container {
            block: slot.block,
            pool: slot.pool,
            node_ip: first_of(&given.node.addresses, slot.block.family()),
        })
        .collect();
    let told = given.word().map(|state| state.mac.as_str());
    let before = given.config.filter(|_| given.config_is_of_node()).and_then(|config| config.content.as_ref());
    let mac = told.or(before.map(|content| content.mac.as_str())).unwrap_or_default().to_owned();
    let node_ips = Family::ALL.into_iter().filter_map(|family| first_of(&given.node.addresses, family)).collect();
    Content { containers, node_ips, mac }
}
