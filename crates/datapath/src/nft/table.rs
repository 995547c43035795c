//! Structure and membership under one lock, so that neither undoes the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use overlane_core::family::Family;
use overlane_core::plan::{NodePlan, PodMember};

use super::members::Members;
use super::program::Listing;
use super::{NftError, program};
use crate::netlink::NetlinkError;
use crate::render::element::{Element, RawElement, of_plan};
use crate::render::nft::{Structure, mark, marker};

/// A pod's elements come or go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodChange {
    /// It may send from now on. Adding what is there is success.
    Add(PodMember),
    /// It may not any more. Removing what is absent is success.
    Remove(PodMember),
}

/// What [`Table::apply`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// The structure was written.
    pub structure: bool,
    /// Raw elements added over netlink (a range counts twice).
    pub added: usize,
    /// Raw elements removed over netlink.
    pub removed: usize,
}

/// What [`Table::audit`] found and repaired. All zero: nothing was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Audit {
    /// Chains, rules, sets or counters were not as written: all were written again.
    pub structure: bool,
    /// Raw elements that were missing.
    pub missing: usize,
    /// Raw elements that were there and should not be.
    pub surplus: usize,
}

/// The table, and what it should hold.
///
/// Pods' elements follow [`Table::pods`] alone; the rest follows the plan given to [`Table::apply`]. So a plan that
/// was made before a pod came never takes that pod's elements away. All calls come from threads of one namespace.
#[derive(Debug)]
pub struct Table {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pods: BTreeSet<PodMember>,
    /// What the plan says, once there was one.
    planned: Option<Planned>,
    /// The kernel holds what is planned, unless a foreign hand was there. Otherwise the last attempt failed.
    certain: bool,
    members: Option<Members>,
}

#[derive(Debug, Clone)]
struct Planned {
    structure: Structure,
    elements: BTreeSet<Element>,
}

/// How much of the table was written by the program.
enum Written {
    Nothing,
    /// Sets that were there kept their elements.
    Structure,
    Everything,
}

/// Whether the table is this structure, with no foreign change since.
fn is_as_written(listed: Option<&Listing>, structure: &Structure) -> bool {
    listed.is_some_and(|l| l.marker.as_deref() == Some(&marker(&structure.revision(), &l.hash)))
}

/// What the kernel takes or leaves as one: a range with its end, anything else alone. (It refuses another end for a
/// beginning that stays.)
fn units(elements: &BTreeSet<RawElement>) -> BTreeSet<Vec<&RawElement>> {
    let list: Vec<_> = elements.iter().collect();
    list.chunk_by(|a, b| a.start && !b.start && a.set == b.set).map(<[_]>::to_vec).collect()
}

impl Table {
    /// The table with the elements of the pods that run already. Writes nothing.
    #[must_use]
    pub fn new(pods: BTreeSet<PodMember>) -> Self {
        Self { state: Mutex::new(State { pods, planned: None, certain: false, members: None }) }
    }

    /// Makes structure and membership agree with the plan (its pods apart, see [`Table`]). `primary` is the link that
    /// has the node's address of each family, for masquerade. Where there is no table, everything is written in one
    /// transaction; otherwise only what differs.
    ///
    /// # Errors
    /// See [`NftError`]. What this should have done, the next call or audit does.
    pub fn apply(&self, plan: &NodePlan, primary: &BTreeMap<Family, String>) -> Result<Applied, NftError> {
        let wanted = Planned { structure: Structure::of(plan, primary), elements: of_plan(plan) };
        let mut state = self.lock();
        let certain = std::mem::replace(&mut state.certain, false);
        let applied = match state.planned.take() {
            // The usual case: peers came or went. What the kernel holds is known, and audits see to that.
            Some(before) if certain && before.structure == wanted.structure => {
                let remove: Vec<_> = before.elements.difference(&wanted.elements).flat_map(Element::raw).collect();
                let add: Vec<_> = wanted.elements.difference(&before.elements).flat_map(Element::raw).collect();
                state.planned = Some(wanted);
                state.with_members(|members| members.change(&remove, &add))?;
                Applied { structure: false, added: add.len(), removed: remove.len() }
            }
            before => {
                state.planned = Some(wanted);
                let result = state.agree();
                if result.is_err() && before.is_none() {
                    state.planned = None;
                }
                result?
            }
        };
        state.certain = true;
        Ok(applied)
    }

    /// Changes pods' elements: one transaction, over netlink. If it fails, none is changed. If somebody removed the
    /// table, it is written again.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn pods(&self, changes: &[PodChange]) -> Result<(), NftError> {
        let mut state = self.lock();
        let state = &mut *state;
        if state.planned.is_none() {
            return Err(NftError::NotApplied);
        }
        let before = state.pods.clone();
        let (mut remove, mut add) = (Vec::new(), Vec::new());
        for change in changes {
            match change {
                PodChange::Add(pod) => {
                    state.pods.insert(pod.clone());
                    add.extend(Element::Pod(pod.clone()).raw());
                }
                PodChange::Remove(pod) => {
                    state.pods.remove(pod);
                    remove.extend(Element::Pod(pod.clone()).raw());
                }
            }
        }
        // A set's elements next to each other go in one message.
        remove.sort();
        add.sort();
        let result = match state.with_members(|members| members.change(&remove, &add)) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => state.agree().map(drop),
            other => other.map_err(NftError::from),
        };
        if result.is_err() {
            state.pods = before;
        }
        result
    }

    /// Those of `wanted` that the kernel does not hold.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn missing(&self, wanted: &[PodMember]) -> Result<Vec<PodMember>, NftError> {
        let mut state = self.lock();
        let mut held = BTreeSet::new();
        let sets: BTreeSet<_> = wanted.iter().map(|pod| Element::Pod(pod.clone()).set()).collect();
        for set in sets {
            match state.with_members(|members| members.list(&set)) {
                Ok(elements) => held.extend(elements),
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let is_held = |pod: &PodMember| Element::Pod(pod.clone()).raw().iter().all(|raw| held.contains(raw));
        Ok(wanted.iter().filter(|pod| !is_held(pod)).cloned().collect())
    }

    /// Compares the kernel with what was applied, and repairs it.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn audit(&self) -> Result<Audit, NftError> {
        // The program's milliseconds are spent without the lock, so that no pod waits for an audit.
        let listed = program::list()?;
        let mut state = self.lock();
        let planned = state.planned.clone().ok_or(NftError::NotApplied)?;
        let applied = if is_as_written(listed.as_ref(), &planned.structure) {
            state.agree_on_members(&planned)?
        } else {
            state.agree()?
        };
        state.certain = true;
        Ok(Audit { structure: applied.structure, missing: applied.added, surplus: applied.removed })
    }

    /// Packets and bytes of each named counter; empty if there is no table.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn counters(&self) -> Result<BTreeMap<String, (u64, u64)>, NftError> {
        self.lock().counters()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes kernel and state agree.
    fn agree(&mut self) -> Result<Applied, NftError> {
        let planned = self.planned.clone().ok_or(NftError::NotApplied)?;
        match self.agree_on_structure(&planned)? {
            Written::Everything => Ok(Applied { structure: true, ..Applied::default() }),
            Written::Structure => Ok(Applied { structure: true, ..self.agree_on_members(&planned)? }),
            Written::Nothing => self.agree_on_members(&planned),
        }
    }

    fn elements(&self, planned: &Planned) -> BTreeSet<Element> {
        planned.elements.iter().cloned().chain(self.pods.iter().cloned().map(Element::Pod)).collect()
    }

    /// One set after the other: a big cluster's elements are not all held at once.
    fn agree_on_members(&mut self, planned: &Planned) -> Result<Applied, NftError> {
        let elements = self.elements(planned);
        let mut by_set: BTreeMap<String, BTreeSet<RawElement>> =
            planned.structure.sets().map(|set| (set.to_owned(), BTreeSet::new())).collect();
        for raw in elements.iter().flat_map(Element::raw) {
            if let Some(set) = by_set.get_mut(&raw.set) {
                set.insert(raw);
            }
        }
        let mut applied = Applied::default();
        for (set, wanted) in by_set {
            let held = self.with_members(|members| members.list(&set))?;
            let (held, wanted) = (units(&held), units(&wanted));
            let remove: Vec<_> = held.difference(&wanted).flatten().copied().cloned().collect();
            let add: Vec<_> = wanted.difference(&held).flatten().copied().cloned().collect();
            self.with_members(|members| members.change(&remove, &add))?;
            applied.added += add.len();
            applied.removed += remove.len();
        }
        Ok(applied)
    }

    fn agree_on_structure(&mut self, planned: &Planned) -> Result<Written, NftError> {
        let (structure, elements) = (&planned.structure, self.elements(planned));
        let written = match program::list()? {
            found if is_as_written(found.as_ref(), structure) => return Ok(Written::Nothing),
            None => {
                program::run("write the table", &structure.create(&elements))?;
                Written::Everything
            }
            Some(found) => match program::run("change the table", &structure.update(&elements, &found.objects)) {
                Ok(()) => Written::Structure,
                // An object of the same name and another kind is in the way (an older version's, or a foreign hand's).
                Err(NftError::Refused { .. }) => {
                    let counters = self.counters()?;
                    program::run("replace the table", &structure.replace(&elements, &counters))?;
                    Written::Everything
                }
                Err(error) => return Err(error),
            },
        };
        if let Some(listed) = program::list()? {
            program::run("mark the table", &mark(&structure.revision(), &listed.hash))?;
        }
        Ok(written)
    }

    fn counters(&mut self) -> Result<BTreeMap<String, (u64, u64)>, NftError> {
        match self.with_members(Members::counters) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(BTreeMap::new()),
            other => Ok(other?),
        }
    }

    /// A socket whose conversation failed is not used again: late answers may sit in it.
    fn with_members<T>(&mut self, f: impl FnOnce(&mut Members) -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
        let mut members = match self.members.take() {
            Some(members) => members,
            None => Members::open()?,
        };
        let result = f(&mut members);
        if !matches!(&result, Err(error) if error.errno().is_none()) {
            self.members = Some(members);
        }
        result
    }
}
