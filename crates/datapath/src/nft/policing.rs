//! Network policy in the table: how it comes into force, and how one plan takes another's place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use nix::errno::Errno;
use overlane_core::family::Family;
use overlane_core::policy::{Class, ClassId, Direction, Outcome, PeerId, PolicyName, PolicyPlan, Used};

use super::NftError;
use super::program;
use super::state::{Planned, State, Written};
use crate::conntrack::Flow;
use crate::netlink::NetlinkError;
use crate::render::element::{Data, RawElement, Set};
use crate::render::nft::Structure;
use crate::render::policy::{self, Difference, PolicySet, Pool, Stages, Way};

/// What is known of network policy.
#[derive(Debug, Default)]
pub(super) struct Policing {
    /// What is to be in force; `None` while that is not known: then what the kernel holds stays.
    pub(super) plan: Option<Arc<PolicyPlan>>,
    /// Chains for classes. There are never fewer: elements may lead to them.
    pub(super) pool: Pool,
    looked: bool,
}

/// What a plan changes.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) plan: Option<Arc<PolicyPlan>>,
    pub(super) stages: Stages,
}

/// How often a verdict was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The element that counts it: what it has counted ends with it.
    pub element: RawElement,
    /// Whether it is about what pods are sent or send.
    pub direction: Direction,
    /// The policy that decided, or would have.
    pub policy: PolicyName,
    /// What became of the packets.
    pub outcome: Outcome,
    /// How many first packets of flows met it since it is there.
    pub packets: u64,
}

impl Policing {
    /// Whether packets meet what the kernel has of policy. Its sets come before that.
    pub(super) fn is_there(&self) -> Result<bool, NftError> {
        Ok(program::list()?.is_some_and(|listing| listing.polices))
    }

    /// The structure with what policy adds to it. Packets meet it once it is known what it says; before that where they met
    /// it already, or where there are no pods yet.
    pub(super) fn shape(&mut self, structure: Structure, empty: bool) -> Result<Structure, NftError> {
        if structure.policed().is_none() {
            *self = Self::default();
            return Ok(structure);
        }
        if !self.looked {
            let listing = program::list()?;
            let chains = listing.iter().flat_map(|listing| &listing.objects.chains);
            self.pool = self.pool.or(Pool::of_chains(chains));
            self.looked = true;
        }
        let plan_pool = self.plan.as_ref().map(|plan| Pool::of(plan)).unwrap_or_default();
        self.pool = self.pool.or(plan_pool);
        let hooked = self.plan.is_some() || empty || self.is_there()?;
        Ok(structure.with_policy(self.pool, hooked))
    }
}

impl State {
    /// Makes room for a plan, and tells what it changes. Where it was not known what the kernel holds, that is read.
    pub(super) fn prepare(&mut self, plan: Arc<PolicyPlan>) -> Result<News, NftError> {
        let planned = self.planned()?;
        if self.policing.plan.as_ref().is_some_and(|held| Arc::ptr_eq(held, &plan)) && self.is_certain() {
            return Ok(News::default());
        }
        if planned.structure.policed().is_none() {
            return Ok(News::default());
        }
        let pool = self.policing.pool.or(Pool::of(&plan));
        let first = self.policing.plan.is_none();
        if pool != self.policing.pool || planned.structure.policed() == Some(false) {
            self.grow(&planned, pool, planned.structure.policed() == Some(true))?;
        }
        let difference = match &self.policing.plan {
            Some(before) if self.is_certain() => Difference::of(before, &plan),
            _ => self.compared(&plan)?,
        };
        if first && planned.structure.policed() == Some(false) {
            // The elements first, then what leads packets to them.
            self.policing.plan = Some(Arc::clone(&plan));
            self.write(difference)?;
            self.grow(&planned, pool, true)?;
            return Ok(News::default());
        }
        Ok(News { plan: Some(plan), stages: difference.stages() })
    }

    fn grow(&mut self, planned: &Planned, pool: Pool, hooked: bool) -> Result<(), NftError> {
        let structure = planned.structure.clone().with_policy(pool, hooked);
        let grown = Arc::new(Planned { structure, elements: Arc::clone(&planned.elements) });
        if matches!(self.agree_on_structure(&grown)?, Written::Everything) {
            // Somebody had removed the table.
            self.unsure();
        }
        self.policing.pool = pool;
        self.planned = Some(grown);
        Ok(())
    }

    fn write(&mut self, difference: Difference) -> Result<(), NftError> {
        let stages = difference.stages();
        self.with_members(|members| {
            members.change_at_once(&[], &stages.before)?;
            members.change_at_once(&stages.remove, &stages.add)?;
            members.change_at_once(&stages.after, &[])
        })?;
        Ok(())
    }

    /// Makes what the kernel holds of policy what is planned, in one transaction: how many elements came and went.
    pub(super) fn agree_on_policy(&mut self) -> Result<(usize, usize), NftError> {
        let Some(plan) = self.policing.plan.clone() else { return Ok((0, 0)) };
        let difference = self.compared(&plan)?;
        let counts = (difference.add.len(), difference.remove.len());
        self.write(difference)?;
        Ok(counts)
    }

    /// What leads from what the kernel holds to a plan.
    fn compared(&mut self, plan: &PolicyPlan) -> Result<Difference, NftError> {
        let mut all = Difference::default();
        let Some(planned) = self.planned.clone() else { return Ok(all) };
        for set in planned.structure.sets() {
            let Set::Policy(of_policy) = set else { continue };
            if matches!(of_policy, PolicySet::Cut(_)) {
                continue;
            }
            let held = self.with_members(|members| members.list(set))?;
            let wanted = policy::of_set(plan, of_policy);
            let (remove, add) = super::state::differing(&held, &wanted);
            all.remove.extend(remove);
            all.add.extend(add);
        }
        Ok(all)
    }

    /// How many first packets each verdict of a class was for.
    pub(super) fn verdicts_of(&mut self, id: ClassId, class: &Class) -> Result<Vec<Verdict>, NftError> {
        let mut counted = BTreeMap::new();
        for set in PolicySet::of_class(id) {
            counted.extend(self.with_members(|members| members.counted(Set::Policy(set)))?);
        }
        let verdicts = policy::verdicts(id, class).filter_map(|(element, outcome)| {
            let packets = counted.get(&element).copied()?;
            let policy = class.policies.get(outcome.audited.or(outcome.policy)?)?.clone();
            Some(Verdict { element, direction: id.direction, policy, outcome, packets })
        });
        Ok(verdicts.collect())
    }

    /// The flows that are kept cut.
    pub(super) fn kept_cut(&mut self) -> Result<BTreeSet<Flow>, NetlinkError> {
        let mut flows = BTreeSet::new();
        for family in Family::ALL {
            flows.extend(self.held(PolicySet::Cut(family))?.iter().filter_map(policy::flow_of));
        }
        Ok(flows)
    }

    /// What the kernel holds of addresses that come or go while it is not known what policy says of them: they are not to have
    /// what an earlier pod had.
    pub(super) fn held_of(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<Vec<RawElement>, NetlinkError> {
        let mut all = Vec::new();
        for family in addresses.iter().map(Family::of).collect::<BTreeSet<_>>() {
            for direction in Direction::ALL {
                let held = self.held(PolicySet::Pod(direction, family))?;
                all.extend(held.into_iter().filter(|raw| address(raw).is_some_and(|ip| addresses.contains(&ip))));
            }
        }
        Ok(all)
    }

    /// Keeps flows cut, or not any more.
    pub(super) fn cut(&mut self, cut: &[Flow], uncut: &[Flow]) -> Result<(), NftError> {
        if self.policing.plan.is_none() || self.planned()?.structure.policed().is_none() {
            return Ok(());
        }
        let raw = |flows: &[Flow]| {
            let mut raw: Vec<_> = flows.iter().map(policy::cut).collect();
            raw.sort();
            raw.dedup();
            raw
        };
        let (remove, add) = (raw(uncut), raw(cut));
        Ok(self.with_members(|members| members.change(&remove, &add))?)
    }

    /// The numbers that the kernel uses.
    pub(super) fn used(&mut self) -> Result<Used, NetlinkError> {
        let mut used = Used::default();
        for family in Family::ALL {
            for set in [PolicySet::Host(family), PolicySet::Span(family)] {
                let held = self.held(set)?;
                let peers = held.iter().filter_map(|raw| Some((address(raw)?, policy::peer_of(&raw.data)?)));
                used.peers.extend(peers.filter(|(_, id)| *id != PeerId::NOBODY));
            }
            for direction in Direction::ALL {
                let held = self.held(PolicySet::Pod(direction, family))?;
                used.classes.extend(held.iter().filter_map(|raw| Some(((direction, address(raw)?), class(raw)?))));
            }
        }
        Ok(used)
    }

    fn held(&mut self, set: PolicySet) -> Result<BTreeSet<RawElement>, NetlinkError> {
        match self.with_members(|members| members.list(Set::Policy(set))) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(BTreeSet::new()),
            other => other,
        }
    }
}

/// The address that an element begins with.
fn address(raw: &RawElement) -> Option<IpAddr> {
    match (raw.start, raw.key.bytes()) {
        (true, bytes) if bytes.len() == 4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        (true, bytes) => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        (false, _) => None,
    }
}

fn class(raw: &RawElement) -> Option<ClassId> {
    match raw.data {
        Data::Verdict(Way::Class(id)) => Some(id),
        Data::Verdict(_) | Data::Value(_) => None,
    }
}
