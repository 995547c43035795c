//! Whether a plan may come in force over the claims that there are.

use std::collections::BTreeMap;

use super::view::Claim;
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

fn named(claims: &[&Claim]) -> String {
    let mut names: Vec<String> =
        claims.iter().take(NAMED).map(|claim| format!("{} ({})", claim.cidr, claim.node)).collect();
    if claims.len() > NAMED {
        names.push(format!("and {} more", claims.len() - NAMED));
    }
    names.join(", ")
}
