//! A node's addresses: who has which, who gets which next, and what must be remembered across a crash.
//!
//! A question ([`Ipam::add`], [`Ipam::del`], ...) changes nothing; it answers with [`Event`]s. The caller makes them
//! durable and then hands them to [`Ipam::apply`], which alone changes the state. An event that answers [`Ipam::add`]
//! must be applied before the next question is asked, else both answers name one address; `apply` refuses the second.
//! The state is what the events in their order make of it and nothing else: replaying them after a crash gives it
//! back. [`Ipam::snapshot`] is the short form of a long log.
//!
//! Times are milliseconds and `began_ns` nanoseconds of one clock, that which counts since the machine started:
//! leases do not outlive the machine's run.

mod apply;
mod event;
mod gateway;
mod lane;
mod pick;
mod ranges;
mod tombs;
mod usage;

pub use event::{
    AddRequest, ApplyError, Attachment, Block, BlockUsage, Event, Lease, LeaseKind, LeaseState, NetnsId, PodName,
    Refusal,
};
pub use tombs::{TOMBSTONE_AGE_MS, TOMBSTONES_MOST};
pub use usage::{usable, usable_in};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::family::Family;
use crate::ports::PortMapping;
use lane::{Lane, Use};
use tombs::Tombs;

/// How long an address rests after its pod, before it is given again: 30 s.
pub const DEFAULT_COOL_DOWN_MS: u64 = 30_000;

/// A node's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    families: Vec<Family>,
    cool_down_ms: u64,
    blocks: Vec<Block>,
    lanes: Vec<Lane>,
    leases: BTreeMap<u64, Lease>,
    attachments: BTreeMap<Attachment, u64>,
    addresses: BTreeMap<IpAddr, u64>,
    links: BTreeMap<String, u64>,
    /// Inodes of the leases' namespaces, with the lease.
    inodes: BTreeSet<(u64, u64)>,
    /// Addresses without a lease that had one, and since when.
    rested: BTreeMap<IpAddr, u64>,
    longest_rested: BTreeSet<(u64, IpAddr)>,
    tombs: Tombs,
    next_id: u64,
}

impl Ipam {
    /// Nothing leased, no blocks. `families` in the cluster's order.
    #[must_use]
    pub fn new(families: Vec<Family>, cool_down_ms: u64) -> Self {
        Self {
            families,
            cool_down_ms,
            blocks: Vec::new(),
            lanes: Vec::new(),
            leases: BTreeMap::new(),
            attachments: BTreeMap::new(),
            addresses: BTreeMap::new(),
            links: BTreeMap::new(),
            inodes: BTreeSet::new(),
            rested: BTreeMap::new(),
            longest_rested: BTreeSet::new(),
            tombs: Tombs::default(),
            next_id: 1,
        }
    }

    /// The cluster's families, in its order. Leases keep the addresses they have.
    pub fn set_families(&mut self, families: Vec<Family>) {
        self.families = families;
    }

    /// The node's blocks, in the order in which they are used. Leases in a block that is not among them any more
    /// stay; see [`Ipam::outside`].
    pub fn set_blocks(&mut self, blocks: Vec<Block>) {
        if blocks == self.blocks {
            return;
        }
        self.lanes = Lane::of(&blocks);
        self.blocks = blocks;
        let used: Vec<IpAddr> = self.addresses.keys().chain(self.rested.keys()).copied().collect();
        for address in used {
            self.refresh(address);
        }
    }

    /// The node's blocks.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The families of which a pod would get an address now: the cluster's, as far as the node has blocks of them.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        let has = |family: &Family| self.blocks.iter().any(|block| block.cidr.family() == *family);
        self.families.iter().copied().filter(has)
    }

    /// Chooses addresses for an attachment: one of every family that the node has a block of. Answers with
    /// [`Event::Began`], the lease in state [`LeaseState::Wiring`].
    ///
    /// Never-used addresses go first, in ascending order, then the one that has been free for longest. One whose
    /// cool-down has not passed is taken only where nothing else is left.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn add(&self, request: &AddRequest, now_ms: u64) -> Result<Event, Refusal> {
        let began_ns = not_ahead(request.began_ns, now_ms);
        self.refuse(request, began_ns)?;
        let families: Vec<Family> = self.families().collect();
        if families.is_empty() {
            return Err(Refusal::NoBlock);
        }
        let addresses = self.pick(&families, now_ms).ok_or_else(|| self.full(&families))?;
        let link = match request.kind {
            LeaseKind::Interface => request.link.clone(),
            LeaseKind::Ipam | LeaseKind::Gateway => gateway::no_link("ipam", self.next_id),
        };
        Ok(Event::Began(Box::new(Lease {
            id: self.next_id,
            kind: request.kind,
            attachment: request.attachment.clone(),
            network: request.network.clone(),
            pod: request.pod.clone(),
            addresses,
            link,
            ports: request.ports.clone(),
            bandwidth: request.bandwidth,
            netns: request.netns.clone(),
            began_ns,
            state: LeaseState::Wiring,
        })))
    }

    /// The lease's pod has its network: [`Event::Activated`]. `None` where the lease is not in state
    /// [`LeaseState::Wiring`] any more: a DEL came meanwhile, and what was wired must be undone.
    #[must_use]
    pub fn activate(&self, id: u64) -> Option<Event> {
        let wiring = self.lease(id)?.state == LeaseState::Wiring;
        wiring.then_some(Event::Activated { id })
    }

    /// Ends what began no later than this DEL did, if it is of this kind. The DEL is remembered, also where there is
    /// nothing to end, so that an ADD that began before it and arrives late is refused.
    #[must_use]
    pub fn del(&self, kind: LeaseKind, attachment: &Attachment, began_ns: u64, now_ms: u64) -> Vec<Event> {
        let began_ns = not_ahead(began_ns, now_ms);
        let lease = self.by_attachment(attachment).filter(|lease| lease.kind == kind);
        if let Some(lease) = lease.filter(|lease| lease.state != LeaseState::Draining && lease.began_ns <= began_ns) {
            return vec![Event::Draining { id: lease.id, at_ms: now_ms, del_ns: Some(began_ns) }];
        }
        if self.tombs.after(attachment, began_ns).is_some() {
            return Vec::new();
        }
        vec![Event::Tombstone { attachment: attachment.clone(), began_ns, at_ms: now_ms }]
    }

    /// Ends one lease that is known to be over: its sandbox is gone, or its wiring failed. `None` where it is not
    /// there or ending already.
    #[must_use]
    pub fn drain(&self, id: u64, now_ms: u64) -> Option<Event> {
        let lease = self.lease(id).filter(|lease| lease.state != LeaseState::Draining)?;
        Some(Event::Draining { id: lease.id, at_ms: now_ms, del_ns: None })
    }

    /// Nothing names the lease's addresses any more: [`Event::Freed`]. `None` where the lease is not in state
    /// [`LeaseState::Draining`].
    #[must_use]
    pub fn free(&self, id: u64, now_ms: u64) -> Option<Event> {
        let lease = self.lease(id).filter(|lease| lease.state == LeaseState::Draining)?;
        Some(Event::Freed { id: lease.id, at_ms: now_ms })
    }

    /// Ends the network's leases of this kind that began no later than this GC did and that it does not name.
    #[must_use]
    pub fn gc(
        &self,
        kind: LeaseKind,
        network: &str,
        valid: &BTreeSet<Attachment>,
        began_ns: u64,
        now_ms: u64,
    ) -> Vec<Event> {
        let began_ns = not_ahead(began_ns, now_ms);
        let over = self.leases().filter(|lease| {
            lease.kind == kind
                && lease.network == network
                && lease.state != LeaseState::Draining
                && lease.began_ns <= began_ns
                && !valid.contains(&lease.attachment)
        });
        over.map(|lease| Event::Draining { id: lease.id, at_ms: now_ms, del_ns: Some(began_ns) }).collect()
    }

    /// Every lease, oldest first.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The lease with this id.
    #[must_use]
    pub fn lease(&self, id: u64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// The lowest id that no lease has had.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// The lease of an attachment; there is never more than one.
    #[must_use]
    pub fn by_attachment(&self, attachment: &Attachment) -> Option<&Lease> {
        self.lease(*self.attachments.get(attachment)?)
    }

    /// The lease that has an address.
    #[must_use]
    pub fn by_address(&self, address: IpAddr) -> Option<&Lease> {
        self.lease(*self.addresses.get(&address)?)
    }

    /// The lease whose host-side link has this name.
    #[must_use]
    pub fn by_link(&self, link: &str) -> Option<&Lease> {
        self.lease(*self.links.get(link)?)
    }

    /// Leases that have an address in none of the node's blocks, oldest first.
    pub fn outside(&self) -> impl Iterator<Item = &Lease> {
        let known = |address: &IpAddr| self.blocks.iter().any(|block| block.cidr.contains(*address));
        self.leases().filter(move |lease| !lease.addresses.iter().all(known))
    }

    /// Why an attachment can have nothing, whatever is free.
    fn refuse(&self, request: &AddRequest, began_ns: u64) -> Result<(), Refusal> {
        let attachment = &request.attachment;
        if let Some(del_ns) = self.tombs.after(attachment, began_ns) {
            return Err(Refusal::Superseded { attachment: attachment.clone(), del_ns });
        }
        match self.by_attachment(attachment) {
            Some(lease) if lease.state == LeaseState::Draining => return Err(busy(lease)),
            Some(lease) => {
                return Err(Refusal::AlreadyActive { lease: Box::new(lease.clone()) });
            }
            None => {}
        }
        let inode = request.netns.inode;
        let sharing = self.inodes.range((inode, 0)..=(inode, u64::MAX)).filter_map(|(_, id)| self.lease(*id));
        let mut ending = sharing.filter(|lease| lease.state == LeaseState::Draining);
        if let Some(lease) = ending.find(|lease| lease.netns.may_be(&request.netns)) {
            return Err(busy(lease));
        }
        if request.kind == LeaseKind::Interface
            && let Some(lease) = self.by_link(&request.link)
        {
            return Err(Refusal::LinkTaken { link: request.link.clone(), lease: lease.id });
        }
        self.refuse_ports(&request.ports)
    }

    /// A pod that drains has given its ports back already: they go first.
    fn refuse_ports(&self, ports: &[PortMapping]) -> Result<(), Refusal> {
        for (index, port) in ports.iter().enumerate() {
            let later = ports.iter().skip(index + 1);
            if let Some(other) =
                later.filter(|other| other.pod_port != port.pod_port).find(|other| other.collides(port))
            {
                return Err(Refusal::PortTwice { port: *port, other: other.pod_port });
            }
        }
        let live = || self.leases().filter(|lease| lease.state != LeaseState::Draining && !lease.ports.is_empty());
        for port in ports {
            if let Some(lease) = live().find(|lease| lease.ports.iter().any(|taken| taken.collides(port))) {
                return Err(Refusal::PortTaken { port: *port, lease: Box::new(lease.clone()) });
            }
        }
        Ok(())
    }

    /// Tells the lanes that an address is used in another way than before.
    fn refresh(&mut self, address: IpAddr) {
        let (addresses, rested) = (&self.addresses, &self.rested);
        for lane in &mut self.lanes {
            lane.refresh(address, |address| {
                if addresses.contains_key(&address) {
                    Use::Owned
                } else {
                    rested.get(&address).map_or(Use::Fresh, |at| Use::Rested(*at))
                }
            });
        }
    }
}

fn busy(lease: &Lease) -> Refusal {
    Refusal::Busy { attachment: lease.attachment.clone(), lease: lease.id }
}

/// A beginning that lies ahead would outrank whatever comes; nothing began later than the end of this millisecond.
fn not_ahead(began_ns: u64, now_ms: u64) -> u64 {
    began_ns.min(now_ms.saturating_add(1).saturating_mul(1_000_000))
}
