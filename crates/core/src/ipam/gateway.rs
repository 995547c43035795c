//! Gateways of pure IPAM: addresses that another plugin gives to the node's side of its pods' links.

use std::net::IpAddr;

use crate::rate::Bandwidth;

use super::{Attachment, Block, Event, Ipam, Lease, LeaseKind, LeaseState, NetnsId, Refusal};

impl Ipam {
    /// The gateway of a network in the block that an address is in: the one that the network has there, or the event
    /// that gives it one. There is one for each network and block, and nothing ends it: the other plugin may leave it
    /// on a bridge for as long as the node runs, and takes no other one there.
    ///
    /// # Errors
    /// [`Refusal::NoBlock`] for an address in none of the node's blocks, [`Refusal::Full`] where the block has no
    /// address left for it.
    pub fn gateway(&self, network: &str, address: IpAddr, now_ms: u64) -> Result<(IpAddr, Option<Event>), Refusal> {
        let block = self.block_of(address).ok_or(Refusal::NoBlock)?;
        let attachment = attachment(network, block);
        if let Some(known) = self.by_attachment(&attachment).and_then(|lease| lease.addresses.first()) {
            return Ok((*known, None));
        }
        let gateway = self.pick_in(&block.cidr, now_ms).ok_or_else(|| self.full(&[block.cidr.family()]))?;
        let lease = Lease {
            id: self.next_id,
            kind: LeaseKind::Gateway,
            attachment,
            network: network.to_owned(),
            pod: None,
            addresses: vec![gateway],
            link: no_link("gateway", self.next_id),
            ports: Vec::new(),
            bandwidth: Bandwidth::default(),
            netns: NetnsId::default(),
            began_ns: 0,
            state: LeaseState::Active,
        };
        Ok((gateway, Some(Event::Began(Box::new(lease)))))
    }

    /// The block that an address is in.
    #[must_use]
    pub fn block_of(&self, address: IpAddr) -> Option<&Block> {
        self.blocks.iter().find(|block| block.cidr.contains(address))
    }
}

/// Whose a gateway is. No container has such an id: the spec allows no colon in one.
fn attachment(network: &str, block: &Block) -> Attachment {
    Attachment { container_id: format!("gateway:{network}"), ifname: block.cidr.to_string() }
}

/// What stands in the place of a link's name. The kernel gives no link a name with a colon.
pub(super) fn no_link(what: &str, id: u64) -> String {
    format!("{what}:{id}")
}
