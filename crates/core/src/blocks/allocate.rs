//! Which blocks a node is to have where Overlane chooses.

use std::collections::BTreeSet;

use super::alloc::Taken;
use super::given::{Given, Holdings};
use super::node::{Slot, Want};
use super::{SOON_MS, Trouble};
use crate::cidr::Cidr;
use crate::family::Family;

pub(super) fn want<'a>(given: &Given<'a>, holdings: &Holdings<'a>) -> Want<'a> {
    let mut want = Want::default();
    settled(given, holdings, &mut want);
    told(given, holdings, &mut want);
    unsettled(given, holdings, &mut want);
    let missing: Vec<usize> = missing(given, &want);
    if want.unsure {
        return want;
    }
    want.surplus = holdings.live.iter().filter(|claim| !want.has(&claim.cidr)).copied().collect();
    if foreign(given, holdings, &mut want) {
        want.complete = missing.is_empty();
    } else if missing.is_empty() {
        want.complete = true;
    } else {
        fresh(given, holdings, &missing, &mut want);
    }
    stale(given, &mut want);
    want
}

/// The node's claims that are announced, or that pods hold addresses of.
fn settled(given: &Given<'_>, holdings: &Holdings<'_>, want: &mut Want<'_>) {
    let held = |block: &Cidr| given.word().is_some_and(|state| state.held.contains(block));
    let counts = |block: &Cidr| given.is_announced(block) || held(block);
    for claim in holdings.live.iter().filter(|claim| counts(&claim.cidr)) {
        want.slots.push(Slot::keep(given, claim));
    }
    for claim in holdings.parked.iter().filter(|claim| counts(&claim.cidr)) {
        if is_available(given, &claim.cidr, want) {
            want.slots.push(Slot::keep(given, claim));
        }
    }
}

/// Blocks that were announced or are held, but that nobody claims: the API's store is older than they are.
fn told(given: &Given<'_>, holdings: &Holdings<'_>, want: &mut Want<'_>) {
    // A config of an older Node object is this machine's if a claim of this machine is in it.
    let mut claims = holdings.live.iter().chain(&holdings.parked);
    let is_ours = given.config_is_of_node() || claims.any(|claim| given.is_announced(&claim.cidr));
    let announced = given.config.filter(|_| is_ours).into_iter().flat_map(|config| config.blocks());
    let claimed: BTreeSet<Family> = holdings.live.iter().map(|claim| claim.cidr.family()).collect();
    let held = given.word().into_iter().flat_map(|state| &state.held).copied();
    let held: Vec<Cidr> = held.filter(|block| !claimed.contains(&block.family())).collect();
    // What we once wrote on the Node is the weakest word: nobody may be using it.
    let written =
        given.node.pod_cidrs.iter().filter(|_| given.node.pod_cidrs_ours).filter_map(|text| text.parse().ok());
    let written: Vec<Cidr> = written
        .filter(|block: &Cidr| !claimed.contains(&block.family()))
        .filter(|block| !held.iter().any(|held| held.family() == block.family()))
        .collect();
    let blocks: BTreeSet<Cidr> = announced.chain(held).chain(written.iter().copied()).collect();
    for block in blocks {
        if want.has(&block) || given.alloc.place(&block).is_none() {
            continue;
        }
        match given.alloc.available(&block, &given.node.name, given.now_ms, given.settings.hold_down_ms) {
            Ok(choice) => want.slots.push(Slot::take(choice)),
            Err(Taken::Resting(_)) if written.contains(&block) => {}
            Err(Taken::Resting(until)) => want.retry_at(until),
            Err(Taken::Reserved) => {
                want.unsure |= given.is_announced(&block);
                want.retry_at(given.now_ms.saturating_add(SOON_MS));
            }
            Err(Taken::Claimed(_) | Taken::Held(_)) => {}
        }
    }
}

/// For each family that has nothing yet: a claim that was made but not announced, or one that was given back.
fn unsettled(given: &Given<'_>, holdings: &Holdings<'_>, want: &mut Want<'_>) {
    for pool in given.plan.pools() {
        let family = pool.cidr.family();
        if want.slots.iter().any(|slot| slot.block.family() == family) {
            continue;
        }
        let partner = index_in_use(given, want);
        let of_family = |claim: &&&super::Claim| claim.cidr.family() == family;
        let rank = |claim: &&super::Claim| {
            let index = given.alloc.place(&claim.cidr).map(|(_, index)| index);
            (partner.is_some() && index != partner, claim.created_ms, claim.cidr)
        };
        if let Some(claim) = holdings.live.iter().filter(of_family).copied().min_by_key(rank) {
            want.slots.push(Slot::keep(given, claim));
        } else if let Some(claim) =
            holdings.parked.iter().filter(of_family).copied().find(|claim| is_available(given, &claim.cidr, want))
        {
            want.slots.push(Slot::keep(given, claim));
        }
    }
}

fn is_available(given: &Given<'_>, block: &Cidr, want: &Want<'_>) -> bool {
    let nobody_else = given.alloc.available(block, &given.node.name, given.now_ms, given.settings.hold_down_ms);
    nobody_else.is_ok() && !want.has(block) && given.alloc.place(block).is_some()
}

/// The places of the pools that the node has nothing of.
fn missing(given: &Given<'_>, want: &Want<'_>) -> Vec<usize> {
    let has = |family| want.slots.iter().any(|slot| slot.block.family() == family);
    let pools = given.plan.pools().iter().enumerate();
    pools.filter(|(_, pool)| !has(pool.cidr.family())).map(|(slot, _)| slot).collect()
}

/// The index of a block that the node is to have: its partner of the other family should have the same.
fn index_in_use(given: &Given<'_>, want: &Want<'_>) -> Option<u64> {
    want.slots.iter().find_map(|slot| given.alloc.place(&slot.block)).map(|(_, index)| index)
}

/// Whether another allocator writes `node.spec.podCIDRs`: something stands there that is none of the node's blocks.
fn foreign(given: &Given<'_>, holdings: &Holdings<'_>, want: &mut Want<'_>) -> bool {
    let claims = || holdings.live.iter().chain(&holdings.parked).map(|claim| claim.cidr);
    let ours = |text: &&String| {
        let block = text.parse::<Cidr>();
        block.is_ok_and(|block| want.has(&block) || claims().any(|claimed| claimed == block))
    };
    if given.node.pod_cidrs_ours {
        return false;
    }
    let alien: Vec<&String> = given.node.pod_cidrs.iter().filter(|text| !ours(text)).collect();
    if alien.is_empty() || holdings.unclear {
        return false;
    }
    let told = given.node.conditions.network_unavailable.iter().chain(&given.node.conditions.overlane);
    let trouble = Trouble::ForeignAllocator { pod_cidrs: given.node.pod_cidrs.clone() };
    if !told.into_iter().any(|(_, reason)| reason == trouble.reason()) {
        // Another controller may have claimed it and written it, and the claim may reach us later than the Node.
        let blocks = alien.into_iter().filter_map(|text| text.parse().ok());
        want.prove = blocks.filter(|block| given.alloc.claim(block).is_none()).collect();
    }
    want.trouble = Some(trouble);
    true
}

/// Whether what we once wrote in `node.spec.podCIDRs` is not what the node has: a restored store can bring that about.
fn stale(given: &Given<'_>, want: &mut Want<'_>) {
    let kept = |text: &String| text.parse::<Cidr>().is_ok_and(|block| want.has(&block));
    if want.complete && given.node.pod_cidrs_ours && want.trouble.is_none() && !given.node.pod_cidrs.iter().all(kept) {
        want.trouble = Some(Trouble::StalePodCidrs { pod_cidrs: given.node.pod_cidrs.clone() });
    }
}

fn fresh(given: &Given<'_>, holdings: &Holdings<'_>, missing: &[usize], want: &mut Want<'_>) {
    if holdings.unclear {
        return;
    }
    let unknown = given.word().is_none() || !given.node.machine.is_known();
    let from = if unknown { given.grace_ends().max(given.settled_ms) } else { given.settled_ms };
    if given.now_ms < from {
        want.retry_at(from);
        return;
    }
    // A block that the node's pods hold and that only rests is waited for.
    if want.retry_at_ms.is_some() {
        return;
    }
    match given.alloc.pick(missing, index_in_use(given, want), given.now_ms, given.settings.hold_down_ms) {
        Ok(choices) => {
            want.slots.extend(choices.into_iter().map(Slot::take));
            want.complete = true;
        }
        Err(none) => {
            want.trouble = Some(Trouble::NoBlockAvailable { pool: none.pool });
            if let Some(at) = none.next_ms {
                want.retry_at(at);
            }
        }
    }
}
