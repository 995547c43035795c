//! Whether a plan may come in force over the claims that there are.

use std::collections::BTreeMap;

use super::alloc::Allocator;
use super::view::{Claim, NodeView};
use crate::cidr::Cidr;
use crate::cluster::{ClusterPlan, Finding, NodeCidrs};

/// How many blocks a finding names.
const NAMED: usize = 3;

/// What is against a plan: claims that it would leave outside its pod CIDRs, or cut differently. Released claims are no
/// hindrance.
#[must_use]
pub fn admit<'a>(plan: &ClusterPlan, claims: impl IntoIterator<Item = &'a Claim>) -> Vec<Finding> {
    let mut outside: BTreeMap<Cidr, Vec<&Claim>> = BTreeMap::new();
    let mut other_size: BTreeMap<(usize, u8), Vec<&Claim>> = BTreeMap::new();
    for claim in claims.into_iter().filter(|claim| claim.is_live()) {
        let place = plan.pools().iter().position(|pool| pool.cidr.contains_cidr(&claim.cidr));
        match (place, claim.pool) {
            (None, Some(pool)) => outside.entry(pool).or_default().push(claim),
            (Some(place), _) if plan.node_cidrs() == NodeCidrs::Allocate => {
                let differs = plan.pools().get(place).is_some_and(|pool| pool.node_mask != claim.cidr.prefix_len());
                if differs {
                    other_size.entry((place, claim.cidr.prefix_len())).or_default().push(claim);
                }
            }
            _ => {}
        }
    }
    let shrunk = outside.into_iter().map(|(pool, claims)| {
        let place = plan.pools().iter().position(|new| new.cidr.family() == pool.family());
        Finding {
            field: place.map_or_else(|| "podCIDRs".to_owned(), |place| format!("podCIDRs[{place}]")),
            rule: "pod-cidr-in-use",
            reason: format!("nodes have blocks of {pool} that would lie outside: {}", named(&claims)),
            fix: format!("keep {pool}, or a larger CIDR that contains it"),
        }
    });
    let resized = other_size.into_iter().map(|((place, length), claims)| {
        let family = plan.pools().get(place).map_or("", |pool| match pool.cidr.family() {
            crate::family::Family::V4 => "nodeMaskSize.ipv4",
            crate::family::Family::V6 => "nodeMaskSize.ipv6",
        });
        Finding {
            field: family.to_owned(),
            rule: "node-mask-in-use",
            reason: format!("nodes have blocks of /{length}: {}", named(&claims)),
            fix: format!("keep {length} while such nodes are there"),
        }
    });
    shrunk.chain(resized).collect()
}

/// What is against a plan in the place of one that is in force, if one is: pod CIDRs that nodes' own addresses would be in, and
/// those whose first address would be another while nodes have blocks of them, or that would be without a block that is just
/// being given.
#[must_use]
pub fn admit_after<'a>(
    old: Option<&ClusterPlan>,
    new: &ClusterPlan,
    alloc: &Allocator,
    nodes: impl IntoIterator<Item = &'a NodeView>,
) -> Vec<Finding> {
    let mut findings = swallowed(old, new, nodes);
    if let Some(old) = old.filter(|_| new.node_cidrs() == NodeCidrs::Allocate) {
        findings.extend(moved(old, new, alloc.claims()));
        findings.extend(given_away(old, new, alloc));
    }
    findings
}

/// A block that is on its way to a node, of what would be no pod CIDR any more.
fn given_away(old: &ClusterPlan, new: &ClusterPlan, alloc: &Allocator) -> Option<Finding> {
    let has = |plan: &ClusterPlan, block: &Cidr| plan.pools().iter().any(|pool| pool.cidr.contains_cidr(block));
    let (block, node) = alloc.reserved().find(|(block, _)| has(old, block) && !has(new, block))?;
    Some(Finding {
        field: "podCIDRs".to_owned(),
        rule: "pod-cidr-in-use",
        reason: format!("{block} is just being given to {node}"),
        fix: "keep the pod CIDR, or a larger one that contains it".to_owned(),
    })
}

/// Pod CIDRs with addresses of nodes in what is new of them: packets to these nodes would be taken for a pod's.
fn swallowed<'a>(
    old: Option<&ClusterPlan>,
    new: &ClusterPlan,
    nodes: impl IntoIterator<Item = &'a NodeView>,
) -> Vec<Finding> {
    let mut inside: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for node in nodes {
        for address in &node.addresses {
            let place = new.pools().iter().position(|pool| pool.cidr.contains(*address));
            let before = old.into_iter().flat_map(ClusterPlan::pools).any(|pool| pool.cidr.contains(*address));
            if let Some(place) = place.filter(|_| !before) {
                inside.entry(place).or_default().push(format!("{address} ({})", node.name));
            }
        }
    }
    let findings = inside.into_iter().map(|(place, nodes)| Finding {
        field: format!("podCIDRs[{place}]"),
        rule: "overlap-node",
        reason: format!("addresses of nodes would lie in it: {}", some(nodes)),
        fix: "take a range that is none of the nodes' network".to_owned(),
    });
    findings.collect()
}

/// Blocks are counted from the first address, and those that a node was given of both families together have one index.
fn moved<'a>(old: &ClusterPlan, new: &ClusterPlan, claims: impl IntoIterator<Item = &'a Claim>) -> Vec<Finding> {
    let mut claimed: BTreeMap<(usize, Cidr), Vec<&Claim>> = BTreeMap::new();
    for claim in claims.into_iter().filter(|claim| claim.is_live()) {
        let around = |plan: &ClusterPlan| plan.pools().iter().position(|pool| pool.cidr.contains_cidr(&claim.cidr));
        let pool = |plan: &ClusterPlan, place: usize| plan.pools().get(place).map(|pool| pool.cidr);
        let Some((place, was)) = around(new).zip(around(old).and_then(|place| pool(old, place))) else { continue };
        if pool(new, place).is_some_and(|is| is.network() != was.network()) {
            claimed.entry((place, was)).or_default().push(claim);
        }
    }
    let moved = claimed.into_iter().map(|((place, was), claims)| Finding {
        field: format!("podCIDRs[{place}]"),
        rule: "pod-cidr-base",
        reason: format!("nodes have blocks that are counted from {}: {}", was.network(), named(&claims)),
        fix: format!("keep {}, with a shorter prefix where it is to grow", was.network()),
    });
    moved.collect()
}

fn named(claims: &[&Claim]) -> String {
    some(claims.iter().map(|claim| format!("{} ({})", claim.cidr, claim.node)).collect())
}

/// The first few, and how many more there are.
fn some(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}
