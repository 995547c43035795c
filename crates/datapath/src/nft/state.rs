//! What the table should hold, and how the kernel is brought there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use nix::errno::Errno;
use overlane_core::family::Family;
use overlane_core::plan::{PodElement, PodMember};
use overlane_core::policy::PolicyPlan;

use super::members::Members;
use super::policing::Policing;
use super::program::{self, Listing};
use super::{Applied, NftError, PodChange};
use crate::netlink::NetlinkError;
use crate::render::element::{Element, RawElement, Set};
use crate::render::nft::{Objects, Structure, mark, marker};
use crate::render::policy::{self, PolicySet};

/// How often the structure is written while others change the ruleset at the same time.
const TRIES: usize = 3;

/// What the plan says: all but the pods and policy.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) structure: Structure,
    pub(super) elements: Arc<BTreeSet<Element>>,
}

#[derive(Debug)]
pub(super) struct State {
    pods: BTreeSet<PodElement>,
    pub(super) policing: Policing,
    pub(super) planned: Option<Arc<Planned>>,
    /// The kernel holds what is planned, unless a foreign hand was there. Otherwise the last attempt failed.
    certain: bool,
    members: Option<Members>,
    /// What nft is known to list of a structure, by its revision: once it was noted, a foreign writer in the way is no
    /// matter any more.
    listed: Option<(String, String)>,
}

/// A change of one element.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Add(PodElement),
    Remove(PodElement),
}

/// Addresses that leave by a slot which a structure does not know.
fn blocked(pods: &BTreeSet<PodElement>, structure: &Structure) -> BTreeSet<IpAddr> {
    let unknown = |pod: &PodElement| match pod {
        PodElement::Exit(number, address) if !structure.has(Set::Exit(Family::of(address), *number)) => Some(*address),
        _ => None,
    };
    if structure.has(Set::Decided(Family::V4)) { pods.iter().filter_map(unknown).collect() } else { BTreeSet::new() }
}

/// Whose way out of the cluster an element tells.
fn leaver(pod: &PodElement) -> Option<IpAddr> {
    match pod {
        PodElement::Decided(address) | PodElement::Exit(_, address) => Some(*address),
        PodElement::Source(_) | PodElement::Port(_) | PodElement::Delegated(_) => None,
    }
}

/// How much of the table was written by the program.
pub(super) enum Written {
    Nothing,
    /// Sets that were there kept their elements.
    Structure,
    Everything,
}

/// Whether the table is this structure, with no foreign change since.
pub(super) fn is_as_written(listed: Option<&Listing>, structure: &Structure) -> bool {
    listed.is_some_and(|l| l.marker.as_deref() == Some(&marker(&structure.revision(), &l.hash)))
}

/// What the kernel takes or leaves as one: a range with its end, anything else alone. (It refuses another end for a
/// beginning that stays.)
fn units(elements: &BTreeSet<RawElement>) -> BTreeSet<Vec<RawElement>> {
    let list: Vec<_> = elements.iter().copied().collect();
    list.chunk_by(|a, b| a.start && !b.start && a.set == b.set).map(<[_]>::to_vec).collect()
}

/// What leads from what is held to what is wanted: what goes, and what comes.
pub(super) fn differing(
    held: &BTreeSet<RawElement>,
    wanted: &BTreeSet<RawElement>,
) -> (Vec<RawElement>, Vec<RawElement>) {
    let (held, wanted) = (units(held), units(wanted));
    let remove = held.difference(&wanted).flatten().copied().collect();
    (remove, wanted.difference(&held).flatten().copied().collect())
}

/// The ports among what is held of pods.
fn ports(pods: &BTreeSet<PodElement>) -> impl Iterator<Item = RawElement> + '_ {
    let is_port = |pod: &&PodElement| matches!(pod, PodElement::Port(_));
    pods.iter().filter(is_port).flat_map(Element::of_pod).flat_map(|e| e.raw()).filter(|e| e.set.is_map())
}

impl Planned {
    /// A set's elements as the kernel has them: set by set, since all of them together are many.
    fn of_set(&self, set: Set) -> BTreeSet<RawElement> {
        self.elements.iter().filter(|element| element.set() == set).flat_map(Element::raw).collect()
    }
}

impl State {
    pub(super) fn new(pods: BTreeSet<PodElement>) -> Self {
        Self { pods, policing: Policing::default(), planned: None, certain: false, members: None, listed: None }
    }

    /// Whether the kernel is known to hold what was planned.
    pub(super) const fn is_certain(&self) -> bool {
        self.certain
    }

    /// Somebody else was there: what the kernel holds is read before it is changed.
    pub(super) const fn unsure(&mut self) {
        self.certain = false;
    }

    pub(super) fn planned(&self) -> Result<Arc<Planned>, NftError> {
        self.planned.clone().ok_or(NftError::NotApplied)
    }

    pub(super) fn is_planned(&self, planned: &Arc<Planned>) -> bool {
        self.planned.as_ref().is_some_and(|p| Arc::ptr_eq(p, planned))
    }

    pub(super) fn apply(&mut self, mut wanted: Planned) -> Result<Applied, NftError> {
        wanted.structure = self.policing.shape(wanted.structure, self.pods.is_empty())?;
        let wanted = Arc::new(wanted);
        let before = self.planned.replace(wanted.clone());
        let applied = match &before {
            // The usual case: peers came or went. What the kernel holds is known, and audits see to that.
            Some(before) if self.certain && before.structure == wanted.structure => {
                let remove: Vec<_> = before.elements.difference(&wanted.elements).flat_map(Element::raw).collect();
                let add: Vec<_> = wanted.elements.difference(&before.elements).flat_map(Element::raw).collect();
                self.certain = false;
                match self.with_members(|members| members.change(&remove, &add)) {
                    Ok(()) => Applied { structure: false, added: add.len(), removed: remove.len() },
                    // Somebody removed the table.
                    Err(error) if error.errno() == Some(Errno::ENOENT) => self.agree()?,
                    Err(error) => return Err(error.into()),
                }
            }
            _ => {
                self.certain = false;
                let result = self.agree();
                if result.is_err() && before.is_none() {
                    self.planned = None;
                }
                result?
            }
        };
        self.certain = true;
        Ok(applied)
    }

    /// Changes what is held of pods, and network policy if there is news of it, in one transaction.
    pub(super) fn change_pods(
        &mut self,
        changes: &[PodChange],
        policy: Option<Arc<PolicyPlan>>,
    ) -> Result<(), NftError> {
        let changes = &self.expanded(changes);
        let Some(mut planned) = self.planned.clone() else {
            self.policing.plan = policy.or_else(|| self.policing.plan.take());
            return self.forget(changes);
        };
        let news = policy.map(|policy| self.prepare(policy)).transpose()?.unwrap_or_default();
        planned = self.planned.clone().unwrap_or(planned);
        let before = self.pods.clone();
        let mut touched = BTreeSet::new();
        for change in changes {
            match change {
                Change::Add(pod) => self.pods.insert(pod.clone()),
                Change::Remove(pod) => self.pods.remove(pod),
            };
            let (Change::Add(pod) | Change::Remove(pod)) = change;
            touched.insert(pod);
        }
        let (add, remove): (Vec<_>, Vec<_>) = touched.into_iter().partition(|pod| self.pods.contains(*pod));
        let raw = |pods: Vec<&PodElement>| {
            let mut raw: Vec<_> = pods.into_iter().flat_map(Element::of_pod).flat_map(|e| e.raw()).collect();
            raw.retain(|element| planned.structure.has(element.set));
            // A set's elements next to each other go in one message.
            raw.sort();
            raw.dedup();
            raw
        };
        let (mut add, mut remove) = (raw(add), raw(remove));
        // A slot whose set does not come before the next structure: until then it is not known how its pods leave.
        for address in blocked(&self.pods, &planned.structure) {
            let raw = Element::Decided(address).raw();
            add.retain(|element| !raw.contains(element));
            remove.extend(raw);
        }
        if self.policing.plan.is_none() && news.plan.is_none() && planned.structure.policed().is_some() {
            let whose = |change: &Change| match change {
                Change::Add(pod) | Change::Remove(pod) => pod.address(),
            };
            let addresses = changes.iter().filter_map(whose).collect();
            remove.extend(self.held_of(&addresses)?);
        }
        remove.extend(news.stages.remove);
        add.extend(news.stages.add);
        remove.sort();
        remove.dedup();
        // The kernel finds an element by its key alone: a port that is another pod's by now must not go with this one's.
        if remove.iter().any(|element| element.set.is_map()) {
            let taken: BTreeSet<_> = ports(&self.pods).map(|element| (element.set, element.key)).collect();
            let held: BTreeSet<_> = ports(&before).collect();
            remove.retain(|element| held.contains(element) || !taken.contains(&(element.set, element.key)));
        }
        let changed = self.with_members(|members| {
            members.change_at_once(&[], &news.stages.before)?;
            members.change_at_once(&remove, &add)
        });
        if changed.is_err() && news.plan.is_some() {
            // What came before may be there.
            self.certain = false;
        }
        let result = match changed {
            // Somebody removed the table.
            Err(error) if error.errno() == Some(Errno::ENOENT) => {
                self.policing.plan = news.plan.clone().or_else(|| self.policing.plan.take());
                self.certain = false;
                self.agree().map(drop)
            }
            other => other.map_err(NftError::from),
        };
        match (&result, news.plan) {
            (Err(_), _) => self.pods = before,
            (Ok(()), Some(plan)) => {
                self.policing.plan = Some(plan);
                let after = &news.stages.after;
                // Nothing leads there any more.
                self.certain &= self.with_members(|members| members.change_at_once(after, &[])).is_ok();
            }
            (Ok(()), None) => {}
        }
        result
    }

    /// Before anything was written, what goes is only not to be written. Nothing comes before the rules that it must meet.
    fn forget(&mut self, changes: &[Change]) -> Result<(), NftError> {
        if changes.iter().any(|change| matches!(change, Change::Add(pod) if leaver(pod).is_none())) {
            return Err(NftError::NotApplied);
        }
        for change in changes {
            match change {
                Change::Add(pod) => self.pods.insert(pod.clone()),
                Change::Remove(pod) => self.pods.remove(pod),
            };
        }
        Ok(())
    }

    /// By which gateway slots each address leaves of which that is known.
    pub(super) fn decided(&self) -> BTreeMap<IpAddr, BTreeSet<u8>> {
        let mut all = BTreeMap::<IpAddr, BTreeSet<u8>>::new();
        for pod in &self.pods {
            match pod {
                PodElement::Decided(address) => _ = all.entry(*address).or_default(),
                PodElement::Exit(number, address) => _ = all.entry(*address).or_default().insert(*number),
                _ => {}
            }
        }
        all
    }

    fn expanded(&self, changes: &[PodChange]) -> Vec<Change> {
        let leaves = |address: IpAddr| self.pods.iter().filter(move |pod| leaver(pod) == Some(address));
        let mut all = Vec::with_capacity(changes.len());
        for change in changes {
            match change {
                PodChange::Add(pod) => all.push(Change::Add(pod.clone())),
                PodChange::Remove(pod) => {
                    all.push(Change::Remove(pod.clone()));
                    if let PodElement::Source(PodMember { address, .. }) | PodElement::Delegated(address) = pod {
                        all.extend(leaves(*address).cloned().map(Change::Remove));
                    }
                }
                PodChange::Decide(address, slots) => {
                    let exits = slots.iter().flatten().map(|number| PodElement::Exit(*number, *address));
                    let decided = slots.as_ref().map(|_| PodElement::Decided(*address));
                    let wanted: BTreeSet<PodElement> = exits.chain(decided).collect();
                    all.extend(leaves(*address).filter(|pod| !wanted.contains(*pod)).cloned().map(Change::Remove));
                    all.extend(wanted.into_iter().map(Change::Add));
                }
            }
        }
        all
    }

    /// Makes kernel and state agree.
    pub(super) fn agree(&mut self) -> Result<Applied, NftError> {
        let planned = self.planned()?;
        // Where no policy was in force, packets meet it once its elements are there.
        if self.policing.plan.is_some() && planned.structure.policed() == Some(true) && !self.policing.is_there()? {
            let structure = planned.structure.clone().with_policy(self.policing.pool, false);
            self.agree_on_structure(&Planned { structure, elements: Arc::clone(&planned.elements) })?;
            self.agree_on_policy()?;
        }
        let written = self.agree_on_structure(&planned)?;
        // First of all: until this is there, nothing new passes.
        let (mut added, mut removed) = self.agree_on_policy()?;
        if !matches!(written, Written::Everything) {
            for set in planned.structure.sets().filter(|set| !matches!(set, Set::Policy(_))) {
                let (more, less) = self.agree_on_set(set, &planned)?;
                (added, removed) = (added + more, removed + less);
            }
        }
        self.certain = true;
        Ok(Applied { structure: !matches!(written, Written::Nothing), added, removed })
    }

    /// What a set should hold; `None` of what is not known.
    fn wanted(&self, set: Set, planned: &Planned) -> Option<BTreeSet<RawElement>> {
        let Set::Policy(of_policy) = set else {
            let mut wanted = planned.of_set(set);
            let pods = self.pods.iter().flat_map(Element::of_pod).flat_map(|e| e.raw());
            wanted.extend(pods.filter(|raw| raw.set == set));
            return Some(wanted);
        };
        if matches!(of_policy, PolicySet::Cut(_)) {
            return None;
        }
        self.policing.plan.as_ref().map(|plan| policy::of_set(plan, of_policy))
    }

    /// One set: how many elements were added and removed.
    pub(super) fn agree_on_set(&mut self, set: Set, planned: &Planned) -> Result<(usize, usize), NetlinkError> {
        let Some(wanted) = self.wanted(set, planned) else { return Ok((0, 0)) };
        let held = self.with_members(|members| members.list(set))?;
        if held == wanted {
            return Ok((0, 0));
        }
        let (remove, add) = differing(&held, &wanted);
        self.with_members(|members| members.change(&remove, &add))?;
        Ok((add.len(), remove.len()))
    }

    /// Adds what is missing in sets that are there, before rules change: a peer that goes from one set to another must be
    /// in the new one before the old one is gone. What cannot be added now is added after it.
    fn fill_before(&mut self, planned: &Planned, existing: &Objects) {
        for set in planned.structure.sets().filter(|set| !matches!(set, Set::Policy(_))) {
            let wanted = planned.of_set(set);
            if wanted.is_empty() || !existing.sets.contains(&set.to_string()) {
                continue;
            }
            let _ = self.with_members(|members| {
                let (held, wanted) = (units(&members.list(set)?), units(&wanted));
                members.change(&[], &wanted.difference(&held).flatten().copied().collect::<Vec<_>>())
            });
        }
    }

    pub(super) fn agree_on_structure(&mut self, planned: &Planned) -> Result<Written, NftError> {
        let mut written = Written::Nothing;
        for _ in 0..TRIES {
            let found = program::list()?;
            if is_as_written(found.as_ref(), &planned.structure) {
                break;
            }
            let (what, generation) = self.write_structure(planned, found)?;
            written = what;
            if self.mark(&planned.structure, generation)? {
                break;
            }
        }
        Ok(written)
    }

    /// Writes the structure; what was written, and the generation that this made.
    fn write_structure(&mut self, planned: &Planned, found: Option<Listing>) -> Result<(Written, u32), NftError> {
        let structure = &planned.structure;
        let pods: BTreeSet<Element> = self.pods.iter().flat_map(Element::of_pod).collect();
        let elements = || planned.elements.iter().chain(&pods);
        let Some(found) = found else {
            let generation = self.transact("write the table", &structure.create(elements()))?;
            return Ok((Written::Everything, generation));
        };
        self.fill_before(planned, &found.objects);
        match self.transact("change the table", &structure.update(elements(), &found.objects)) {
            Ok(generation) => Ok((Written::Structure, generation)),
            // An object of the same name and another kind is in the way (an older version's, or a foreign hand's).
            Err(NftError::Refused { .. }) => {
                let counters = self.counters()?;
                let generation = self.transact("replace the table", &structure.replace(elements(), &counters))?;
                Ok((Written::Everything, generation))
            }
            Err(error) => Err(error),
        }
    }

    /// Runs a script as one transaction; the ruleset's generation after it, if nobody else made one meanwhile.
    fn transact(&mut self, what: &'static str, script: &str) -> Result<u32, NftError> {
        let before = self.with_members(Members::generation)?;
        program::run(what, script)?;
        // The kernel leaves zero out.
        Ok(before.wrapping_add(1).max(1))
    }

    /// Notes in the table what nft lists of it, unless anybody changed anything since it was written: a foreign change
    /// must not be noted as ours. Whether it was noted; without that the next audit writes it again.
    fn mark(&mut self, structure: &Structure, generation: u32) -> Result<bool, NftError> {
        let Some(listed) = program::list()? else { return Ok(false) };
        let seen = (structure.revision(), listed.hash);
        if self.listed.as_ref() != Some(&seen) && self.with_members(Members::generation)? != generation {
            return Ok(false);
        }
        program::run("mark the table", &mark(&seen.0, &seen.1))?;
        self.listed = Some(seen);
        Ok(true)
    }

    pub(super) fn counters(&mut self) -> Result<BTreeMap<String, (u64, u64)>, NftError> {
        match self.with_members(Members::counters) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(BTreeMap::new()),
            other => Ok(other?),
        }
    }

    /// A socket whose conversation failed is not used again: late answers may sit in it.
    pub(super) fn with_members<T>(
        &mut self,
        f: impl FnOnce(&mut Members) -> Result<T, NetlinkError>,
    ) -> Result<T, NetlinkError> {
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
