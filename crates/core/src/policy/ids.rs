//! Numbers of classes, so that what stays keeps its number from plan to plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Direction;
use super::compile::{Class, ClassId, PeerId};
use super::subjects::{ClassKey, Members};
use super::table::Numbers;

/// Which numbers a kernel uses already, by whom they are about: a plan that begins anew goes on with them where it can, so that
/// what is right need not be written again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Numbers of peers, by an address of theirs; of a range its first.
    pub peers: BTreeMap<IpAddr, PeerId>,
    /// Classes, by an address of a pod that is in it.
    pub classes: BTreeMap<(Direction, IpAddr), ClassId>,
}

/// Numbers of classes. One that is not used any more is not used by the next plan: while a plan takes another's place, a packet may
/// have been looked up in one and be judged by the other.
#[derive(Clone, Debug, Default)]
pub(super) struct ClassIds {
    classes: BTreeMap<ClassKey, (ClassId, Arc<Class>)>,
    resting: BTreeSet<ClassId>,
    used: BTreeMap<(Direction, IpAddr), ClassId>,
}

impl ClassIds {
    /// Goes on from what a kernel uses.
    pub(super) fn from_used(used: BTreeMap<(Direction, IpAddr), ClassId>) -> Self {
        Self { used, ..Self::default() }
    }

    /// A class, with its number.
    pub(super) fn get(&self, key: &ClassKey) -> Option<(ClassId, Arc<Class>)> {
        self.classes.get(key).map(|(id, class)| (*id, Arc::clone(class)))
    }

    /// Numbers the classes of these pods, given by serial. One that makes something else of somebody than it did gets another number:
    /// what leads to it is changed at one moment, its own elements are not. Of peers, `old` is the highest number of the plan
    /// before.
    pub(super) fn number(&mut self, members: &Members, made: &BTreeMap<u64, Arc<Class>>, numbers: &Numbers, old: u32) {
        let class = |serial| made.get(serial).map(Arc::clone);
        let contents: BTreeMap<&ClassKey, (Arc<Class>, &Vec<IpAddr>)> = members
            .selected
            .iter()
            .filter_map(|(serial, (selected, addresses))| Some((&selected.key, (class(serial)?, addresses))))
            .collect();
        let mut taken: BTreeSet<ClassId> = std::mem::take(&mut self.resting);
        for (key, (id, before)) in std::mem::take(&mut self.classes) {
            taken.insert(id);
            match contents.get(&key).filter(|(class, _)| stays(&before, class, numbers, old)) {
                Some((class, _)) => _ = self.classes.insert(key, (id, Arc::clone(class))),
                None => _ = self.resting.insert(id),
            }
        }
        for (key, (class, addresses)) in contents {
            if self.classes.contains_key(key) {
                continue;
            }
            let used = addresses.iter().filter_map(|address| self.used.get(&(key.direction, *address))).next();
            let id = used.filter(|id| !taken.contains(id)).copied().unwrap_or_else(|| {
                let mut id = ClassId { direction: key.direction, number: 0 };
                while taken.contains(&id) || self.used.values().any(|used| *used == id) {
                    id.number += 1;
                }
                id
            });
            taken.insert(id);
            self.classes.insert(key.clone(), (id, class));
        }
        self.used.clear();
    }
}

/// Whether a class makes of everybody what it made before; those are left out who have gone or come since.
fn stays(before: &Arc<Class>, after: &Arc<Class>, numbers: &Numbers, old: u32) -> bool {
    if Arc::ptr_eq(before, after) {
        return true;
    }
    let kept = before.verdicts.iter().all(|(peer, verdicts)| match after.verdicts.get(peer) {
        Some(now) => now == verdicts,
        None => !numbers.contains(*peer),
    });
    let mut new = after.verdicts.keys().filter(|peer| !before.verdicts.contains_key(peer));
    kept && new.all(|peer| peer.0 > old)
}
