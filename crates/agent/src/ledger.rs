//! The node's leases in memory and on file, under one mutex that is held for a decision and one append, never for
//! wiring.
//!
//! Every change is an event: made durable, then applied, then acted upon.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::ipam::{
    AddRequest, ApplyError, Attachment, Block, BlockUsage, Event, Ipam, Lease, LeaseKind, LeaseState, Refusal,
};

use crate::clock;
use crate::store::Store;
use crate::store::log::LogError;

/// Why an event did not come about; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It could not be made durable.
    #[error(transparent)]
    Store(#[from] LogError),
    /// It contradicts the state.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Why a lease did not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// There is a reason in the state.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

struct Inner {
    ipam: Ipam,
    store: Store,
    /// Leases that a call is wiring or undoing just now; nobody else touches their links.
    running: BTreeSet<u64>,
}

impl Inner {
    /// A call that is at work on the same interface of the same namespace for another container. Whether it stays or
    /// is undone is not known yet, so the newcomer waits.
    fn contender(&self, req: &AddRequest) -> Option<Refusal> {
        let same_place = |lease: &&Lease| {
            lease.attachment != req.attachment
                && lease.attachment.ifname == req.attachment.ifname
                && lease.netns.inode == req.netns.inode
        };
        let lease = self.running.iter().filter_map(|id| self.ipam.lease(*id)).find(same_place)?;
        Some(Refusal::Busy { attachment: lease.attachment.clone(), lease: lease.id })
    }

    fn record(&mut self, event: &Event) -> Result<(), LedgerError> {
        self.store.append(event)?;
        self.ipam.apply(event)?;
        if let Err(error) = self.store.tidy(&self.ipam) {
            tracing::warn!(%error, "rewrite the lease store");
        }
        Ok(())
    }
}

/// Leases that a DEL or a GC ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// To be taken out of service and reaped by the caller.
    pub ours: Vec<Lease>,
    /// In the hands of an ADD that is still running; it sees that it is superseded.
    pub running: Vec<u64>,
    /// Why the rest was not ended.
    pub failed: Option<LedgerError>,
}

/// The leases.
pub struct Ledger {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Ledger {
    /// Takes over what was opened.
    pub fn new(ipam: Ipam, store: Store) -> Self {
        Self { inner: Mutex::new(Inner { ipam, store, running: BTreeSet::new() }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change under the lock is one event, applied whole or not at all: a panic elsewhere spoils nothing.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a lease, state Wiring. Waits inside the deadline for what is just ending: an earlier lease of the same
    /// sandbox, or addresses of a block that is full but for those that drain. `gone` says that nobody waits any more.
    pub fn begin(&self, req: &AddRequest, deadline_ns: u64, gone: impl Fn() -> bool) -> Result<Lease, BeginError> {
        let mut inner = self.lock();
        loop {
            let answer = match inner.contender(req) {
                Some(refusal) => Err(refusal),
                None => inner.ipam.add(req, clock::boot_ms()),
            };
            let refusal = match answer {
                Ok(event) => {
                    inner.record(&event)?;
                    let Event::Began(lease) = event else { return Err(Refusal::NoBlock.into()) };
                    inner.running.insert(lease.id);
                    return Ok(*lease);
                }
                Err(refusal) => refusal,
            };
            let passing = match &refusal {
                Refusal::Busy { .. } => true,
                Refusal::Full { draining, .. } => *draining > 0,
                _ => false,
            };
            let left = Duration::from_nanos(deadline_ns.saturating_sub(clock::boot_ns()));
            if !passing || left.is_zero() || gone() {
                return Err(refusal.into());
            }
            // Woken by every change; looks up now and then whether somebody still waits.
            let nap = left.min(Duration::from_millis(100));
            inner = self.changed.wait_timeout(inner, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The gateway of each address of a network's lease, in their order, with the prefix length of the address' block.
    /// Those that the network has not yet are on file before this returns.
    pub fn gateways(&self, network: &str, addresses: &[IpAddr]) -> Result<Vec<(IpAddr, u8)>, BeginError> {
        let mut inner = self.lock();
        let mut gateways = Vec::new();
        for address in addresses {
            let block = inner.ipam.block_of(*address).ok_or(Refusal::NoBlock)?.cidr;
            let (gateway, event) = inner.ipam.gateway(network, *address, clock::boot_ms())?;
            if let Some(event) = event {
                inner.record(&event)?;
            }
            gateways.push((gateway, block.prefix_len()));
        }
        Ok(gateways)
    }

    /// Wiring to Active. `false`: a DEL came meanwhile.
    pub fn activate(&self, id: u64) -> Result<bool, LedgerError> {
        let mut inner = self.lock();
        let Some(event) = inner.ipam.activate(id) else { return Ok(false) };
        inner.record(&event)?;
        Ok(true)
    }

    /// Ends what a DEL ends.
    pub fn del(&self, kind: LeaseKind, attachment: &Attachment, began_ns: u64) -> Ended {
        let mut inner = self.lock();
        let events = inner.ipam.del(kind, attachment, began_ns, clock::boot_ms());
        let ended = end(&mut inner, &events);
        drop(inner);
        self.changed.notify_all();
        ended
    }

    /// Ends what a GC ends.
    pub fn gc(&self, kind: LeaseKind, network: &str, valid: &BTreeSet<Attachment>, began_ns: u64) -> Ended {
        let mut inner = self.lock();
        let events = inner.ipam.gc(kind, network, valid, began_ns, clock::boot_ms());
        let ended = end(&mut inner, &events);
        drop(inner);
        self.changed.notify_all();
        ended
    }

    /// Ends one lease that is known to be over, unless a call has it in hands.
    pub fn drain_idle(&self, id: u64) -> Result<Option<Lease>, LedgerError> {
        let mut inner = self.lock();
        if inner.running.contains(&id) {
            return Ok(None);
        }
        let Some(event) = inner.ipam.drain(id, clock::boot_ms()) else { return Ok(None) };
        inner.record(&event)?;
        Ok(inner.ipam.lease(id).cloned())
    }

    /// Draining for one lease, if it is not so already.
    pub fn drain(&self, id: u64) -> Result<(), LedgerError> {
        let mut inner = self.lock();
        match inner.ipam.drain(id, clock::boot_ms()) {
            Some(event) => inner.record(&event),
            None => Ok(()),
        }
    }

    /// Takes a lease that is known from elsewhere, such as from a link after damage to the store.
    pub fn restore(&self, lease: Lease) -> Result<(), LedgerError> {
        let event = Event::Began(Box::new(lease));
        let mut inner = self.lock();
        // Asked of a copy first: a record that contradicts others must not get into the file.
        inner.ipam.clone().apply(&event)?;
        inner.record(&event)
    }

    /// An id for [`Self::restore`].
    pub fn fresh_id(&self) -> u64 {
        let inner = self.lock();
        let next = inner.ipam.snapshot().iter().find_map(|event| match event {
            Event::NextId { id } => Some(*id),
            _ => None,
        });
        let above = inner.ipam.leases().map(|lease| lease.id.saturating_add(1)).max().unwrap_or(1);
        next.unwrap_or(1).max(above)
    }

    /// A call is through with a lease. Gives it if a DEL ended it meanwhile: then the caller takes it out of service.
    pub fn leave(&self, id: u64) -> Option<Lease> {
        let mut inner = self.lock();
        inner.running.remove(&id);
        let ended = inner.ipam.lease(id).filter(|lease| lease.state == LeaseState::Draining).cloned();
        drop(inner);
        self.changed.notify_all();
        ended
    }

    /// Leases in other namespaces that had the number of this one's before it. No call has them in hands.
    pub fn outlived_by(&self, newcomer: &Lease) -> Vec<u64> {
        let inner = self.lock();
        let same_number = |lease: &&Lease| {
            lease.id != newcomer.id
                && lease.state != LeaseState::Draining
                && lease.netns.nsid.is_some()
                && lease.netns.inode != 0
                && lease.netns.nsid == newcomer.netns.nsid
                && lease.netns.inode != newcomer.netns.inode
                && !inner.running.contains(&lease.id)
        };
        inner.ipam.leases().filter(same_number).map(|lease| lease.id).collect()
    }

    /// Waits until no call has any of these in hands.
    pub fn wait_left(&self, ids: &[u64], patience: Duration) -> bool {
        let busy = |inner: &mut Inner| ids.iter().any(|id| inner.running.contains(id));
        let inner = self.lock();
        let (_inner, timeout) =
            self.changed.wait_timeout_while(inner, patience, busy).unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    /// The addresses are free: nothing names them any more.
    pub fn free(&self, id: u64) -> Result<(), LedgerError> {
        let mut inner = self.lock();
        // Says nothing if it is not Draining yet because that could not be recorded.
        let mut events: Vec<Event> = inner.ipam.drain(id, clock::boot_ms()).into_iter().collect();
        for event in &events {
            inner.record(event)?;
        }
        events.clear();
        events.extend(inner.ipam.free(id, clock::boot_ms()));
        for event in &events {
            inner.record(event)?;
        }
        drop(inner);
        self.changed.notify_all();
        Ok(())
    }

    /// Tells the node's blocks and families.
    pub fn set_blocks(&self, families: Vec<Family>, blocks: Vec<Block>) {
        let mut inner = self.lock();
        inner.ipam.set_families(families);
        if inner.ipam.blocks() != blocks {
            inner.ipam.set_blocks(blocks);
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// Every lease, oldest first.
    pub fn leases(&self) -> Vec<Lease> {
        self.lock().ipam.leases().cloned().collect()
    }

    /// Leases that no call has in hands.
    pub fn idle(&self) -> Vec<Lease> {
        let inner = self.lock();
        inner.ipam.leases().filter(|lease| !inner.running.contains(&lease.id)).cloned().collect()
    }

    /// One lease.
    pub fn lease(&self, id: u64) -> Option<Lease> {
        self.lock().ipam.lease(id).cloned()
    }

    /// The lease of an attachment.
    pub fn by_attachment(&self, attachment: &Attachment) -> Option<Lease> {
        self.lock().ipam.by_attachment(attachment).cloned()
    }

    /// The lease of a link.
    pub fn by_link(&self, link: &str) -> Option<Lease> {
        self.lock().ipam.by_link(link).cloned()
    }

    /// Whether a lease is active and no call has it in hands.
    pub fn is_settled(&self, link: &str) -> bool {
        let inner = self.lock();
        inner
            .ipam
            .by_link(link)
            .is_some_and(|lease| lease.state == LeaseState::Active && !inner.running.contains(&lease.id))
    }

    /// Each block's numbers.
    pub fn usage(&self) -> Vec<BlockUsage> {
        self.lock().ipam.usage(clock::boot_ms())
    }

    /// The node's blocks.
    pub fn blocks(&self) -> Vec<Block> {
        self.lock().ipam.blocks().to_vec()
    }

    /// Which of these blocks some lease, in any state, has an address in.
    pub fn holding(&self, blocks: &BTreeSet<Cidr>) -> BTreeSet<Cidr> {
        let inner = self.lock();
        let addresses: Vec<_> = inner.ipam.leases().flat_map(|lease| lease.addresses.iter().copied()).collect();
        blocks.iter().filter(|block| addresses.iter().any(|address| block.contains(*address))).copied().collect()
    }
}

fn end(inner: &mut Inner, events: &[Event]) -> Ended {
    let mut ended = Ended::default();
    for event in events {
        // What is on record as ended must be taken out of service also if the next one cannot be recorded.
        if let Err(error) = inner.record(event) {
            ended.failed = Some(error);
            break;
        }
        let Event::Draining { id, .. } = event else { continue };
        if inner.running.contains(id) {
            ended.running.push(*id);
        } else {
            ended.ours.extend(inner.ipam.lease(*id).cloned());
        }
    }
    ended
}
