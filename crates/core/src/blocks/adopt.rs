//! Which blocks a node is to have where somebody else writes `node.spec.podCIDRs`.
//!
//! They are taken as they are, of any size, inside a pod CIDR or not. What the other allocator cannot know still holds:
//! a block is one node's, and rests after that node is gone.

use super::Trouble;
use super::alloc::Taken;
use super::given::{Given, Holdings};
use super::node::{Slot, Want};
use crate::cidr::Cidr;

pub(super) fn want<'a>(given: &Given<'a>, holdings: &Holdings<'a>) -> Want<'a> {
    let mut want = Want::default();
    match parse(given) {
        Ok(blocks) if blocks.is_empty() => {
            keep_all(given, holdings, &mut want);
            wait(given, &mut want);
        }
        Ok(blocks) => take(given, holdings, &blocks, &mut want),
        Err(trouble) => {
            keep_all(given, holdings, &mut want);
            want.trouble = Some(trouble);
        }
    }
    want
}

/// `spec.podCIDRs` is empty. That is no word that the node has lost what it had.
fn wait(given: &Given<'_>, want: &mut Want<'_>) {
    if want.slots.is_empty() {
        if given.now_ms < given.grace_ends() {
            want.retry_at(given.grace_ends());
        } else {
            want.trouble = Some(Trouble::WaitingForPodCidrs);
        }
    }
}

fn keep_all(given: &Given<'_>, holdings: &Holdings<'_>, want: &mut Want<'_>) {
    want.slots.extend(holdings.live.iter().map(|claim| Slot::keep(given, claim)));
    want.complete = !want.slots.is_empty();
}

fn take<'a>(given: &Given<'a>, holdings: &Holdings<'a>, blocks: &[Cidr], want: &mut Want<'a>) {
    want.complete = true;
    for block in blocks {
        if let Some(claim) = holdings.live.iter().find(|claim| claim.cidr == *block) {
            want.slots.push(Slot::keep(given, claim));
            continue;
        }
        match given.alloc.available(block, &given.node.name, given.now_ms, given.settings.hold_down_ms) {
            Ok(choice) => want.slots.push(Slot::take(choice)),
            Err(taken) => {
                want.complete = false;
                want.trouble = Some(match taken {
                    Taken::Claimed(by) | Taken::Held(by) => Trouble::PodCidrTaken { block: *block, by },
                    Taken::Resting(until) => {
                        want.retry_at(until);
                        Trouble::BlockResting { block: *block }
                    }
                    Taken::Reserved => {
                        want.unsure = true;
                        want.retry_at(given.now_ms.saturating_add(super::SOON_MS));
                        return;
                    }
                });
            }
        }
    }
    want.unwanted = holdings.live.iter().filter(|claim| !want.has(&claim.cidr)).copied().collect();
}

fn parse(given: &Given<'_>) -> Result<Vec<Cidr>, Trouble> {
    let bad = |reason: String| Trouble::BadPodCidrs { reason };
    let mut blocks: Vec<Cidr> = Vec::new();
    for text in &given.node.pod_cidrs {
        let block: Cidr = text.parse().map_err(|error: crate::cidr::CidrError| bad(error.to_string()))?;
        let family = block.family();
        if !given.plan.families().contains(&family) {
            return Err(bad(format!("{block} is {family}, and the cluster has no {family}")));
        }
        if let Some(other) = blocks.iter().find(|other| other.family() == family) {
            return Err(bad(format!("{other} and {block} are both {family}")));
        }
        if let Some(service) = given.plan.services().iter().find(|service| service.overlaps(&block)) {
            return Err(bad(format!("{block} overlaps service CIDR {service}")));
        }
        blocks.push(block);
    }
    Ok(blocks)
}
