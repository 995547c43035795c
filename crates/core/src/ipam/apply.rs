//! How events change the state, and which events give it back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{ApplyError, Event, Ipam, Lease, LeaseState};

/// How many addresses are remembered to have been used. Those that were free for longest are forgotten first, once
/// their cool-down has passed, and count as never used from then on: so they still go before the others.
const HISTORY_MOST: usize = 4_096;

impl Ipam {
    /// Changes the state. An event that is known already changes nothing, and neither does one but
    /// [`Event::Began`] that speaks of a lease that is not there.
    ///
    /// # Errors
    /// [`ApplyError`], having changed nothing: the event would give an address, an id, a link or an attachment to
    /// two.
    pub fn apply(&mut self, event: &Event) -> Result<(), ApplyError> {
        match event {
            Event::Began(lease) => return self.begin(lease),
            Event::Activated { id } => self.activated(*id),
            Event::Draining { id, at_ms, del_ns } => self.draining(*id, *at_ms, *del_ns),
            Event::Freed { id, at_ms } => self.freed(*id, *at_ms),
            Event::Tombstone { attachment, began_ns, at_ms } => {
                self.tombs.remember(attachment, *began_ns, *at_ms);
                self.tombs.expire(*at_ms);
            }
            Event::NextId { id } => self.next_id = self.next_id.max(*id),
            Event::Rested { addresses, at_ms } => {
                for address in addresses.iter().filter(|address| !self.addresses.contains_key(address)) {
                    rest(&mut self.rested, &mut self.longest_rested, *address, *at_ms);
                }
                self.refresh_all(addresses);
            }
            Event::Floor { began_ns } => self.tombs.raise_floor(*began_ns),
        }
        Ok(())
    }

    /// Events that, applied to an [`Ipam::new`] with the same families and blocks, give this state.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Event> {
        let mut by_time: BTreeMap<u64, Vec<IpAddr>> = BTreeMap::new();
        for (at_ms, address) in &self.longest_rested {
            by_time.entry(*at_ms).or_default().push(*address);
        }
        let rested = by_time.into_iter().map(|(at_ms, addresses)| Event::Rested { addresses, at_ms });
        let leases = self.leases().map(|lease| Event::Began(Box::new(lease.clone())));
        let next_id = Event::NextId { id: self.next_id };
        self.tombs.snapshot().chain(rested).chain(leases).chain([next_id]).collect()
    }

    fn begin(&mut self, lease: &Lease) -> Result<(), ApplyError> {
        self.admits(lease)?;
        if self.lease(lease.id).is_some() {
            return Ok(());
        }
        let id = lease.id;
        self.next_id = id.saturating_add(1);
        self.attachments.insert(lease.attachment.clone(), id);
        self.links.insert(lease.link.clone(), id);
        self.inodes.insert((lease.netns.inode, id));
        for address in &lease.addresses {
            self.addresses.insert(*address, id);
            if let Some(at_ms) = self.rested.remove(address) {
                self.longest_rested.remove(&(at_ms, *address));
            }
        }
        self.leases.insert(id, lease.clone());
        self.refresh_all(&lease.addresses);
        Ok(())
    }

    /// Whether [`Event::Began`] with this lease could be applied. Asked before a lease that was made elsewhere is
    /// written down; what [`Ipam::add`] answers always could.
    ///
    /// # Errors
    /// As [`Ipam::apply`].
    pub fn admits(&self, lease: &Lease) -> Result<(), ApplyError> {
        if let Some(known) = self.lease(lease.id)
            && known.attachment == lease.attachment
            && known.addresses == lease.addresses
            && known.began_ns == lease.began_ns
        {
            return Ok(());
        }
        if lease.id < self.next_id || self.leases.contains_key(&lease.id) {
            return Err(ApplyError::IdTaken { lease: lease.id });
        }
        if let Some(owner) = self.by_attachment(&lease.attachment) {
            return Err(ApplyError::AttachmentTaken {
                lease: lease.id,
                attachment: lease.attachment.clone(),
                owner: owner.id,
            });
        }
        if let Some(owner) = self.by_link(&lease.link) {
            return Err(ApplyError::LinkTaken { lease: lease.id, link: lease.link.clone(), owner: owner.id });
        }
        for address in &lease.addresses {
            if let Some(owner) = self.addresses.get(address) {
                return Err(ApplyError::AddressTaken { lease: lease.id, address: *address, owner: *owner });
            }
        }
        Ok(())
    }

    fn activated(&mut self, id: u64) {
        if let Some(lease) = self.leases.get_mut(&id)
            && lease.state == LeaseState::Wiring
        {
            lease.state = LeaseState::Active;
        }
    }

    fn draining(&mut self, id: u64, at_ms: u64, del_ns: Option<u64>) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        lease.state = LeaseState::Draining;
        if let Some(del_ns) = del_ns {
            self.tombs.remember(&lease.attachment, del_ns, at_ms);
        }
        self.tombs.expire(at_ms);
    }

    fn freed(&mut self, id: u64, at_ms: u64) {
        let Some(lease) = self.leases.remove(&id) else {
            return;
        };
        self.attachments.remove(&lease.attachment);
        self.links.remove(&lease.link);
        self.inodes.remove(&(lease.netns.inode, id));
        for address in &lease.addresses {
            self.addresses.remove(address);
            rest(&mut self.rested, &mut self.longest_rested, *address, at_ms);
        }
        self.refresh_all(&lease.addresses);
        self.forget(at_ms);
        self.tombs.expire(at_ms);
    }

    /// Gives up the history of addresses beyond [`HISTORY_MOST`].
    fn forget(&mut self, now_ms: u64) {
        while self.longest_rested.len() > HISTORY_MOST {
            let over = |at_ms: &u64| now_ms.saturating_sub(*at_ms) >= self.cool_down_ms;
            let Some((at_ms, address)) = self.longest_rested.first().copied().filter(|(at_ms, _)| over(at_ms)) else {
                return;
            };
            self.longest_rested.remove(&(at_ms, address));
            self.rested.remove(&address);
            self.refresh(address);
        }
    }

    fn refresh_all(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            self.refresh(*address);
        }
    }
}

/// Notes since when an address is free, in both orders.
fn rest(rested: &mut BTreeMap<IpAddr, u64>, longest: &mut BTreeSet<(u64, IpAddr)>, address: IpAddr, at_ms: u64) {
    if let Some(before) = rested.insert(address, at_ms) {
        longest.remove(&(before, address));
    }
    longest.insert((at_ms, address));
}
