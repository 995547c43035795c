//! Structure and membership under one lock, so that neither undoes the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use overlane_core::family::Family;
use overlane_core::plan::{NodePlan, PodElement};
use overlane_core::policy::{PolicyPlan, Used};

use super::policing::Verdict;
use super::state::{Planned, State, is_as_written};
use super::{NftError, program};
use crate::conntrack::Flow;
use crate::render::element::{Element, of_plan};
use crate::render::nft::Structure;

/// A pod's elements come or go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodChange {
    /// It counts from now on. Adding what is there is success.
    Add(PodElement),
    /// It does not any more. Removing what is absent is success. With what a pod sends goes how it leaves the cluster.
    Remove(PodElement),
    /// From now on this address leaves by exactly these gateway slots; `None` while that is not known. What sets the
    /// kernel lacks for that comes with them.
    Decide(IpAddr, Option<BTreeSet<u8>>),
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

impl Table {
    /// The table with the elements of the pods that run already. Writes nothing.
    #[must_use]
    pub fn new(pods: BTreeSet<PodElement>) -> Self {
        Self { state: Mutex::new(State::new(pods)) }
    }

    /// Makes structure and membership agree with the plan (its pods apart, see [`Table`]). `primary` is the link that
    /// has the node's address of each family, for masquerade. Where there is no table, everything is written in one
    /// transaction; otherwise only what differs.
    ///
    /// # Errors
    /// See [`NftError`]. What this should have done, the next call or audit does.
    pub fn apply(&self, plan: &NodePlan, primary: &BTreeMap<Family, String>) -> Result<Applied, NftError> {
        let wanted = Planned { structure: Structure::of(plan, primary), elements: Arc::new(of_plan(plan)) };
        self.lock().apply(wanted)
    }

    /// Changes pods' elements: one transaction, over netlink. If it fails, none is changed. If somebody removed the
    /// table, it is written again.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn pods(&self, changes: &[PodChange]) -> Result<(), NftError> {
        self.lock().change_pods(changes, None)
    }

    /// Puts network policy in force, and changes pods' elements with it: one transaction, however much it is, once there are
    /// chains enough for its classes. If it fails, all is as it was. Where the table has no network policy, the plan is kept.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn police(&self, plan: Arc<PolicyPlan>, changes: &[PodChange]) -> Result<(), NftError> {
        self.lock().change_pods(changes, Some(plan))
    }

    /// How many first packets of flows each verdict of network policy was for; those that no policy decided are left out.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn verdicts(&self) -> Result<Vec<Verdict>, NftError> {
        let Some(plan) = self.lock().policing.plan.clone() else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        // No pod waits for all of it.
        for (id, class) in &plan.classes {
            all.extend(self.lock().verdicts_of(*id, class)?);
        }
        Ok(all)
    }

    /// The flows that are kept cut.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn kept_cut(&self) -> Result<BTreeSet<Flow>, NftError> {
        Ok(self.lock().kept_cut()?)
    }

    /// Keeps flows of UDP cut that policy does not allow any more and the kernel is about to forget; what is on its way would open
    /// them again, the other way round. Those of `uncut` are not kept any more.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn cut(&self, cut: &[Flow], uncut: &[Flow]) -> Result<(), NftError> {
        self.lock().cut(cut, uncut)
    }

    /// The numbers of network policy that the kernel uses: a plan that goes on with them changes little.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn used(&self) -> Result<Used, NftError> {
        Ok(self.lock().used()?)
    }

    /// By which gateway slots each address leaves of which that is known.
    #[must_use]
    pub fn decided(&self) -> BTreeMap<IpAddr, BTreeSet<u8>> {
        self.lock().decided()
    }

    /// Whether sets, chains and rules are as they were written; elements are not looked at.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn is_as_written(&self) -> Result<bool, NftError> {
        let planned = self.lock().planned()?;
        Ok(is_as_written(program::list()?.as_ref(), &planned.structure))
    }

    /// Those of `wanted` that the kernel does not hold.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn missing(&self, wanted: &[PodElement]) -> Result<Vec<PodElement>, NftError> {
        let mut state = self.lock();
        let mut held = BTreeSet::new();
        let sets: BTreeSet<_> = wanted.iter().flat_map(Element::of_pod).map(|element| element.set()).collect();
        for set in sets {
            match state.with_members(|members| members.list(set)) {
                Ok(elements) => held.extend(elements),
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let is_held = |pod: &PodElement| Element::of_pod(pod).flat_map(|e| e.raw()).all(|raw| held.contains(&raw));
        Ok(wanted.iter().filter(|pod| !is_held(pod)).cloned().collect())
    }

    /// Compares the kernel with what was applied, and repairs it.
    ///
    /// # Errors
    /// See [`NftError`].
    pub fn audit(&self) -> Result<Audit, NftError> {
        // No pod waits for an audit: the program runs without the lock, and sets are compared one by one.
        let listed = program::list()?;
        let planned = {
            let mut state = self.lock();
            let planned = state.planned()?;
            if !is_as_written(listed.as_ref(), &planned.structure) {
                let applied = state.agree()?;
                return Ok(Audit { structure: applied.structure, missing: applied.added, surplus: applied.removed });
            }
            planned
        };
        let mut audit = Audit::default();
        for set in planned.structure.sets() {
            let mut state = self.lock();
            if !state.is_planned(&planned) {
                // What is compared with is no longer what is wanted; whoever changed it has seen to the kernel.
                break;
            }
            let (added, removed) = state.agree_on_set(set, &planned)?;
            audit.missing += added;
            audit.surplus += removed;
        }
        Ok(audit)
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
