//! The rules that a [`ClusterSpec`] has to keep. Those about what is around the cluster are in `around`.
//!
//! Nothing here stops at the first finding: every value is judged by every rule that can be asked of it.

use super::ranges::{check_overlaps, check_pod_range, check_service_range};
use super::{
    ClusterPlan, ClusterSpec, Finding, MAX_MAX_PODS, MAX_VNI, MIN_MAX_PODS, NodeCidrs, Pool, Surroundings, Vxlan,
    default_pod_cidr, default_service_cidr,
};
use super::{around, egress};
use crate::cidr::{Cidr, CidrError};
use crate::family::Family;
use crate::ipam::usable_in;

/// Shortest and longest prefix of a node's IPv4 block.
const NODE_MASK_V4: std::ops::RangeInclusive<u8> = 20..=28;
/// The same of IPv6: the smallest block has as few addresses as the smallest of IPv4, the largest is a segment's.
const NODE_MASK_V6: std::ops::RangeInclusive<u8> = 64..=124;

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    pub(crate) fn add(
        &mut self,
        rule: &'static str,
        field: impl Into<String>,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(Finding { field: field.into(), rule, reason: reason.into(), fix: fix.into() });
    }
}

/// A CIDR of one of the lists, with the words for it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// `podCIDRs[1]`, or `podCIDRs` where it was filled in.
    pub(super) field: String,
    pub(super) cidr: Cidr,
    /// Whether nobody wrote it.
    pub(super) default: bool,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let default = if self.default { "the default " } else { "" };
        write!(f, "{default}{}", self.cidr)
    }
}

pub(super) fn judge(spec: &ClusterSpec, surroundings: &Surroundings) -> Result<ClusterPlan, Vec<Finding>> {
    let mut findings = Findings::default();
    let families = families(spec, &mut findings);
    let pods = list("podCIDRs", &spec.pod_cidrs, &families, default_pod_cidr, &mut findings);
    for entry in &pods {
        check_pod_range(entry, &mut findings);
    }
    check_overlaps(&pods, &pods, &mut findings);
    let services = list("serviceCIDRs", &spec.service_cidrs, &families, default_service_cidr, &mut findings);
    for entry in &services {
        check_service_range(entry, &mut findings);
    }
    check_overlaps(&services, &services, &mut findings);
    check_overlaps(&services, &pods, &mut findings);
    check_masks(spec, &families, &pods, &mut findings);
    check_max_pods(spec, &families, &mut findings);
    let native = native_cidrs(spec, &mut findings);
    check_vxlan(spec, &mut findings);
    let ranges: Vec<&Entry> = pods.iter().chain(&services).collect();
    let egress = egress::judge(spec, &families, &ranges, &mut findings);
    let pools: Vec<Pool> = pods.iter().map(|entry| pool(spec, entry.cidr)).collect();
    let inside =
        around::Inside { families: &families, pods: &pods, services: &services, pools: &pools, routing: spec.routing };
    around::judge(surroundings, &inside, spec.node_cidrs, &mut findings);
    if !findings.0.is_empty() {
        return Err(findings.0);
    }
    Ok(ClusterPlan {
        pools,
        services: services.iter().map(|entry| entry.cidr).collect(),
        families,
        max_pods: spec.max_pods,
        routing: spec.routing,
        native_cidrs: native,
        vxlan: spec.vxlan,
        node_cidrs: spec.node_cidrs,
        masquerade: spec.masquerade,
        outbound: spec.outbound,
        egress,
        network_policy: spec.network_policy,
        network_policy_log: spec.network_policy_log,
    })
}

/// The families that were asked for, filled in where they were not. A name that means nothing is found and left out.
fn families(spec: &ClusterSpec, findings: &mut Findings) -> Vec<Family> {
    if spec.ip_families.is_empty() {
        return families_of(spec, findings);
    }
    let mut families = Vec::new();
    for (index, name) in spec.ip_families.iter().enumerate() {
        let field = format!("ipFamilies[{index}]");
        match name.parse::<Family>() {
            Ok(family) if families.contains(&family) => findings.add(
                "family-twice",
                field,
                format!("{family} is named twice"),
                "name each family once; two at most",
            ),
            Ok(family) => families.push(family),
            Err(error) => findings.add("family-name", field, error.to_string(), "write IPv4 or IPv6"),
        }
    }
    families
}

/// The families that the lists of CIDRs speak of, where none were named.
fn families_of(spec: &ClusterSpec, findings: &mut Findings) -> Vec<Family> {
    let (name, given) =
        if spec.pod_cidrs.is_empty() { ("serviceCIDRs", &spec.service_cidrs) } else { ("podCIDRs", &spec.pod_cidrs) };
    let mut families = Vec::new();
    for (index, text) in given.iter().enumerate() {
        // A text that is no CIDR has its own finding; this keeps it from causing another about counts.
        let family = if text.contains(':') { Family::V6 } else { Family::V4 };
        if families.contains(&family) {
            findings.add(
                "family-twice",
                format!("{name}[{index}]"),
                format!("{text} is the second range of {family}"),
                "give one range a family",
            );
        } else {
            families.push(family);
        }
    }
    if families.is_empty() { Family::ALL.to_vec() } else { families }
}

/// Reads one list of CIDRs and holds it against the families.
fn list(
    name: &str,
    given: &[String],
    families: &[Family],
    default: fn(Family) -> &'static str,
    findings: &mut Findings,
) -> Vec<Entry> {
    if given.is_empty() {
        let known = families.iter().filter_map(|family| default(*family).parse().ok());
        return known.map(|cidr| Entry { field: name.to_owned(), cidr, default: true }).collect();
    }
    check_count(name, given, families, findings);
    let mut entries = Vec::new();
    for (index, text) in given.iter().enumerate() {
        let field = format!("{name}[{index}]");
        match text.parse::<Cidr>() {
            Ok(cidr) => {
                check_order(&field, &cidr, families.get(index), findings);
                entries.push(Entry { field, cidr, default: false });
            }
            Err(error) => {
                syntax(&field, &error, findings);
                // What was meant is plain, and has to keep the other rules too.
                if let CidrError::HostBits { meant, .. } = error {
                    check_order(&field, &meant, families.get(index), findings);
                    entries.push(Entry { field, cidr: meant, default: false });
                }
            }
        }
    }
    entries
}

fn check_count(name: &str, given: &[String], families: &[Family], findings: &mut Findings) {
    // Without a single known family there is nothing to count against, and that has its own finding.
    if given.len() != families.len() && !families.is_empty() {
        findings.add(
            "family-count",
            name,
            format!("there are {} ranges for {} ({})", given.len(), families.len(), named(families)),
            "give one range a family, in the order of ipFamilies",
        );
    }
}

fn check_order(field: &str, cidr: &Cidr, family: Option<&Family>, findings: &mut Findings) {
    if let Some(family) = family.filter(|family| **family != cidr.family()) {
        findings.add(
            "family-order",
            field,
            format!("{cidr} is {}, but {family} comes here in the order of families", cidr.family()),
            "bring the ranges into the order of ipFamilies",
        );
    }
}

pub(crate) fn syntax(field: &str, error: &CidrError, findings: &mut Findings) {
    let (rule, fix) = match error {
        CidrError::Syntax { .. } => ("cidr-syntax", "write an address, a slash and a length".to_owned()),
        CidrError::PrefixLen { longest, .. } => ("prefix-length", format!("write a length of 0 to {longest}")),
        CidrError::HostBits { meant, .. } => ("host-bits", format!("write {meant}")),
    };
    findings.add(rule, field, error.to_string(), fix);
}

const fn mask(spec: &ClusterSpec, family: Family) -> (u8, &'static str) {
    match family {
        Family::V4 => (spec.node_mask_v4, "nodeMaskSize.ipv4"),
        Family::V6 => (spec.node_mask_v6, "nodeMaskSize.ipv6"),
    }
}

fn pool(spec: &ClusterSpec, cidr: Cidr) -> Pool {
    // Adopted blocks have the size that they have; a mask that does not fit means nothing then.
    let longest = cidr.family().bits();
    let node_mask = mask(spec, cidr.family()).0.clamp(cidr.prefix_len(), longest);
    Pool { cidr, node_mask }
}

fn check_masks(spec: &ClusterSpec, families: &[Family], pods: &[Entry], findings: &mut Findings) {
    if spec.node_cidrs == NodeCidrs::Adopt {
        return;
    }
    for Entry { field: pod_field, cidr, .. } in pods {
        let (mask, field) = mask(spec, cidr.family());
        if mask < cidr.prefix_len() {
            findings.add(
                "node-mask-pod-cidr",
                field,
                format!("a block of /{mask} is larger than {cidr} of {pod_field}"),
                format!("take a mask of {} or more, or a larger range", cidr.prefix_len()),
            );
        }
    }
    for family in families {
        let (mask, field) = mask(spec, *family);
        let allowed = match family {
            Family::V4 => NODE_MASK_V4,
            Family::V6 => NODE_MASK_V6,
        };
        if !allowed.contains(&mask) {
            findings.add(
                "node-mask-range",
                field,
                format!("/{mask} is not between /{} and /{}", allowed.start(), allowed.end()),
                "take 24 for IPv4, which holds 254 pods, and 80 for IPv6, unless there is a reason not to",
            );
        }
    }
}

fn check_max_pods(spec: &ClusterSpec, families: &[Family], findings: &mut Findings) {
    let max = spec.max_pods;
    if !(MIN_MAX_PODS..=MAX_MAX_PODS).contains(&max) {
        findings.add(
            "max-pods-range",
            "maxPods",
            format!("{max} is not between {MIN_MAX_PODS} and {MAX_MAX_PODS}"),
            format!("take a number from {MIN_MAX_PODS} to {MAX_MAX_PODS}"),
        );
    }
    if spec.node_cidrs == NodeCidrs::Adopt {
        return;
    }
    for family in families {
        let (mask, field) = mask(spec, *family);
        let usable = usable_in(*family, mask);
        if max > usable {
            findings.add(
                "max-pods-block",
                "maxPods",
                format!("{max} pods do not fit a block of /{mask} ({field}), which holds {usable}"),
                if usable < MIN_MAX_PODS {
                    "take a larger block".to_owned()
                } else {
                    format!("take {} or less, or a larger block", usable.min(MAX_MAX_PODS))
                },
            );
        }
    }
}

fn native_cidrs(spec: &ClusterSpec, findings: &mut Findings) -> Vec<Cidr> {
    let mut networks = Vec::new();
    for (index, text) in spec.native_cidrs.iter().enumerate() {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(error) => syntax(&format!("nativeCIDRs[{index}]"), &error, findings),
        }
    }
    networks
}

fn check_vxlan(spec: &ClusterSpec, findings: &mut Findings) {
    let Vxlan { port, vni } = spec.vxlan;
    if port == 0 {
        findings.add("vxlan-port", "vxlan.port", "0 is no port", "take 4789, or another that nothing else listens on");
    }
    if vni == 0 || vni > MAX_VNI {
        let reason = format!("{vni} is not between 1 and {MAX_VNI}");
        findings.add(
            "vxlan-vni",
            "vxlan.vni",
            reason,
            "take a number of 24 bits that no other tunnel of the nodes has",
        );
    }
}

fn named(families: &[Family]) -> String {
    let names: Vec<String> = families.iter().map(ToString::to_string).collect();
    names.join(", ")
}
