//! How packets leave the cluster: what was asked for besides the outbound type, and what that means.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::rules::{Entry, Findings, syntax};
use super::{ClusterSpec, Outbound};
use crate::cidr::Cidr;
use crate::family::Family;

/// How packets leave the cluster, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressSpec {
    /// Destinations that the outbound type does not speak of.
    pub internal_cidrs: Vec<String>,
    /// Where packets go on their way out; one a family at most.
    pub next_hops: Vec<String>,
    /// They bear the pod's address there, not the node's.
    pub keep_pod_address: bool,
}

/// How packets leave the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Destinations that the outbound type does not speak of, besides pods, nodes and what is not masqueraded.
    pub internal: Vec<Cidr>,
    /// Where packets go on their way out, by family. Empty where the fabric's own routes decide.
    pub next_hops: BTreeMap<Family, IpAddr>,
    /// They bear the pod's address there, not the node's.
    pub keep_pod_address: bool,
}

pub(super) fn judge(spec: &ClusterSpec, families: &[Family], ranges: &[&Entry], findings: &mut Findings) -> Egress {
    let EgressSpec { internal_cidrs, next_hops, keep_pod_address } = &spec.egress;
    let mut egress = Egress { keep_pod_address: *keep_pod_address, ..Egress::default() };
    for (index, text) in internal_cidrs.iter().enumerate() {
        match text.parse() {
            Ok(network) => egress.internal.push(network),
            Err(error) => syntax(&format!("egress.internalCIDRs[{index}]"), &error, findings),
        }
    }
    for (index, text) in next_hops.iter().enumerate() {
        next_hop(&format!("egress.nextHops[{index}]"), text, families, ranges, &mut egress, findings);
    }
    if spec.outbound != Outbound::UserDefinedRouting && !next_hops.is_empty() {
        findings.add(
            "next-hop-outbound",
            "egress.nextHops",
            "only userDefinedRouting has next hops",
            "take outboundType userDefinedRouting, or leave them out",
        );
    }
    if *keep_pod_address && next_hops.is_empty() {
        findings.add(
            "keep-pod-address",
            "egress.keepPodAddress",
            "there is no next hop that could see it",
            "give egress.nextHops, or switch masquerade off",
        );
    }
    egress
}

fn next_hop(
    field: &str,
    text: &str,
    families: &[Family],
    ranges: &[&Entry],
    egress: &mut Egress,
    findings: &mut Findings,
) {
    let Ok(address) = text.parse::<IpAddr>() else {
        findings.add(
            "next-hop-syntax",
            field,
            format!("{text} is no address"),
            "write an address, such as 10.224.0.250",
        );
        return;
    };
    let family = Family::of(&address);
    let add = |findings: &mut Findings, reason: String, fix: &str| findings.add("next-hop-range", field, reason, fix);
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        add(findings, format!("{address} is no host's address"), "write the address of the firewall or router");
    }
    if let Some(range) = ranges.iter().find(|range| range.cidr.contains(address)) {
        let reason = format!("{address} is in {range} of {}", range.field);
        add(findings, reason, "take an address of the nodes' network: a pod or a Service is no next hop");
    }
    if !families.contains(&family) {
        let reason = format!("{address} is {family}, which the cluster's pods do not have");
        findings.add("next-hop-family", field, reason, "leave it out");
    }
    if let Some(first) = egress.next_hops.get(&family) {
        let reason = format!("{address} is the second next hop of {family}, behind {first}");
        findings.add("next-hop-twice", field, reason, "give one a family");
        return;
    }
    egress.next_hops.insert(family, address);
}
