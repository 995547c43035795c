//! CIDRs for what was left out of a wish.

use super::space::{self, Taken};
use super::{Wish, parsed};
use crate::cidr::Cidr;
use crate::cluster::{ClusterSpec, Surroundings, default_pod_cidr, default_service_cidr};
use crate::family::Family;

/// The longest prefixes of a proposed pod CIDR: it costs nobody anything (seed 002 recommends a /16).
const POD_CIDR_LONGEST: [(Family, u8); 2] = [(Family::V4, 16), (Family::V6, 64)];
/// How much smaller than usual a proposed Service CIDR may be where space is scarce, in bits: a /20 of IPv4 at least.
const SERVICE_SMALLER: u8 = 4;
/// The address of a Service CIDR that DNS is given where none is asked for, as most installers do.
const DNS_OFFSET: u64 = 10;

/// A network, filled in.
pub(super) struct Proposal {
    pub(super) spec: ClusterSpec,
    pub(super) around: Surroundings,
    /// What has address space, what is proposed too.
    pub(super) taken: Vec<Taken>,
    /// Pod CIDRs are proposed.
    pub(super) pods: bool,
    /// Service CIDRs are.
    pub(super) services: bool,
}

/// Proposes what was left out, for so many nodes. Where nothing is free the default stays, and the rules say what it meets.
pub(super) fn of(wish: &Wish, nodes: u64) -> Proposal {
    let (spec, around) = (wish.spec.clone(), wish.around.clone());
    let families = families(&spec, &around);
    let (pods, services) = (spec.pod_cidrs.is_empty(), spec.service_cidrs.is_empty());
    let taken = taken(&spec, &around);
    let mut proposal = Proposal { spec, around, taken, pods, services };
    if pods && services && wish.spec.ip_families.is_empty() {
        proposal.spec.ip_families = families.iter().map(ToString::to_string).collect();
    }
    // Where Services can have what is usual, pods leave it to them; else what is large has the first choice.
    let usual: Vec<Cidr> = families.iter().filter_map(|family| default_service_cidr(*family).parse().ok()).collect();
    let free = usual.iter().all(|cidr| space::in_the_way(cidr, &proposal.taken).is_empty());
    if services && free {
        usual.iter().for_each(|cidr| proposal.give_services(*cidr));
    }
    if pods {
        families.iter().for_each(|family| proposal.propose_pods(*family, nodes));
    }
    if services && !free {
        usual.iter().for_each(|cidr| proposal.propose_services(*cidr));
    }
    if proposal.around.dns_service_ips.is_empty() {
        // One answers; a second family's address is asked for by few.
        let dns = parsed(&proposal.spec.service_cidrs).find_map(|range| range.host(DNS_OFFSET));
        proposal.around.dns_service_ips = dns.iter().map(ToString::to_string).collect();
    }
    proposal
}

impl Proposal {
    fn propose_pods(&mut self, family: Family, nodes: u64) {
        let default: Option<Cidr> = default_pod_cidr(family).parse().ok();
        let mask = if family == Family::V4 { self.spec.node_mask_v4 } else { self.spec.node_mask_v6 };
        let usual = POD_CIDR_LONGEST.iter().find(|(of, _)| *of == family).map_or(mask, |(_, length)| *length);
        let wanted = mask.saturating_sub(bits_for(nodes)).min(usual);
        // Rather too small a range, which is told, than one that somebody has.
        let found = (wanted..=mask).find_map(|length| space::find(family, length, default, &self.taken)).or(default);
        if let Some(cidr) = found {
            self.spec.pod_cidrs.push(cidr.to_string());
            self.taken.push(Taken { cidr, what: "pods".to_owned() });
        }
    }

    fn propose_services(&mut self, usual: Cidr) {
        let mut lengths = usual.prefix_len()..=usual.prefix_len() + SERVICE_SMALLER;
        let found = lengths.find_map(|length| space::find(usual.family(), length, Some(usual), &self.taken));
        self.give_services(found.unwrap_or(usual));
    }

    fn give_services(&mut self, cidr: Cidr) {
        self.spec.service_cidrs.push(cidr.to_string());
        self.taken.push(Taken { cidr, what: "Services".to_owned() });
    }
}

fn taken(spec: &ClusterSpec, around: &Surroundings) -> Vec<Taken> {
    let all = [
        ("VNet", &around.vnet_cidrs),
        ("nodes", &around.node_subnets),
        ("peered", &around.peered_cidrs),
        ("on-prem", &around.on_prem_cidrs),
        ("Services", &spec.service_cidrs),
        ("pods", &spec.pod_cidrs),
    ];
    let mut taken = Vec::new();
    for (what, texts) in all {
        taken.extend(parsed(texts).map(|cidr| Taken { cidr, what: what.to_owned() }));
    }
    taken
}

/// The families of a cluster: those that were asked for, those of ranges that were given, or those that nodes can have.
fn families(spec: &ClusterSpec, around: &Surroundings) -> Vec<Family> {
    let named: Vec<Family> = spec.ip_families.iter().filter_map(|name| name.parse().ok()).collect();
    let of = |texts: &[String]| {
        let mut families: Vec<Family> = Vec::new();
        // As the rules count texts that are no CIDR.
        for family in texts.iter().map(|text| if text.contains(':') { Family::V6 } else { Family::V4 }) {
            if !families.contains(&family) {
                families.push(family);
            }
        }
        families
    };
    let given = [named, of(&spec.pod_cidrs), of(&spec.service_cidrs), of(&around.node_subnets), of(&around.vnet_cidrs)];
    given.into_iter().find(|families| !families.is_empty()).unwrap_or_else(|| Family::ALL.to_vec())
}

/// How many bits tell so many things apart.
fn bits_for(count: u64) -> u8 {
    u8::try_from(64 - count.saturating_sub(1).leading_zeros()).unwrap_or(64)
}
