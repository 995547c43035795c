//! A cluster's network as it was typed: what several commands make of the same flags.

use std::path::Path;

use anyhow::{Context as _, Result};
use overlane_api::convert;
use overlane_api::crd::{ClusterNetworkSpec, NetworkPolicy, NodeCidrs, OutboundType as Outbound};
use overlane_api::planfile::{self, Around, PlanFile};
use overlane_core::cluster::{Finding, Surroundings};

use crate::args::{AroundArgs, Dataplane, NetworkArgs, NodeCidrsArg, OutboundType, PolicyEngine};

/// Writes what was typed over what is there.
pub fn write_into(args: &NetworkArgs, spec: &mut ClusterNetworkSpec) {
    set(&mut spec.ip_families, &args.ip_families);
    set(&mut spec.pod_cidrs, &args.pod_cidrs);
    set(&mut spec.service_cidrs, &args.service_cidrs);
    if let Some(max) = args.max_pods {
        spec.max_pods = max;
    }
    let masks = &mut spec.node_mask_size;
    masks.ipv4 = args.node_cidr_mask_size_ipv4.unwrap_or(masks.ipv4);
    masks.ipv6 = args.node_cidr_mask_size_ipv6.unwrap_or(masks.ipv6);
    if let Some(routing) = args.routing {
        spec.routing = convert::routing(routing.into());
    }
    set(&mut spec.native_cidrs, &args.native_cidr);
    if let Some(outbound) = args.outbound_type {
        spec.outbound_type = outbound_type(outbound);
    }
    set(&mut spec.egress.next_hops, &args.egress_next_hop);
    set(&mut spec.egress.internal_cidrs, &args.egress_internal_cidr);
    spec.egress.keep_pod_address |= args.egress_keep_pod_address;
    match args.network_policy {
        Some(PolicyEngine::Overlane) => spec.network_policy = NetworkPolicy::Overlane,
        Some(PolicyEngine::None) => spec.network_policy = NetworkPolicy::None,
        // `unsupported` finds the others.
        Some(PolicyEngine::Azure | PolicyEngine::Calico | PolicyEngine::Cilium) | None => {}
    }
    match args.node_cidrs {
        NodeCidrsArg::Auto => {}
        NodeCidrsArg::Allocate => spec.node_cidrs = NodeCidrs::Allocate,
        NodeCidrsArg::Adopt => spec.node_cidrs = NodeCidrs::Adopt,
    }
}

/// Reads a plan's file; an empty plan without one.
pub fn plan_file(path: Option<&Path>) -> Result<PlanFile> {
    let Some(path) = path else { return Ok(PlanFile::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read the plan {}", path.display()))?;
    planfile::read(&text).with_context(|| format!("read the plan {}", path.display()))
}

/// What is around the cluster: what was typed over what the file says.
pub fn surroundings(around: Around, args: &AroundArgs, dns_service_ips: &[String]) -> Surroundings {
    let mut names = around.names;
    names.resource_group = args.resource_group.clone().or(names.resource_group);
    names.vnet = args.vnet_name.clone().or(names.vnet);
    set(&mut names.subnets, &args.vnet_subnet_id);
    let named = [("names.resourceGroup", names.resource_group), ("names.vnet", names.vnet)];
    let named = named.into_iter().filter_map(|(what, name)| Some((what.to_owned(), name?)));
    let of_subnets = names.subnets.iter().flat_map(|subnet| subnet_names(subnet));
    let mut all = Surroundings {
        vnet_cidrs: around.vnet_cidrs,
        node_subnets: around.node_subnets,
        peered_cidrs: around.peered_cidrs,
        on_prem_cidrs: around.on_prem_cidrs,
        dns_service_ips: around.dns_service_ips,
        nodes: args.node_count,
        names: named.chain(of_subnets).collect(),
    };
    set(&mut all.vnet_cidrs, &args.vnet_cidr);
    set(&mut all.node_subnets, &args.node_subnet);
    set(&mut all.peered_cidrs, &args.peered_cidr);
    set(&mut all.on_prem_cidrs, &args.on_prem_cidr);
    set(&mut all.dns_service_ips, dns_service_ips);
    all
}

/// The names in a subnet's resource ID, all of which nodes bear as values of labels
/// (`/subscriptions/S/resourceGroups/G/providers/Microsoft.Network/virtualNetworks/V/subnets/N`); what is no such ID is the
/// subnet's name.
fn subnet_names(id: &str) -> Vec<(String, String)> {
    let parts: Vec<&str> = id.split('/').collect();
    let after = |word: &str| {
        let at = parts.iter().position(|part| part.eq_ignore_ascii_case(word))?;
        parts.get(at + 1).map(|name| (*name).to_owned())
    };
    if !id.contains('/') {
        return vec![("names.subnet".to_owned(), id.to_owned())];
    }
    let words = [("resourceGroups", "resource group"), ("virtualNetworks", "network"), ("subnets", "subnet")];
    let named = words.into_iter().filter_map(|(word, what)| Some((format!("names.subnet ({what})"), after(word)?)));
    let named: Vec<_> = named.collect();
    // What has none of these parts is judged as it is: it is no label either.
    if named.is_empty() { vec![("names.subnet".to_owned(), id.to_owned())] } else { named }
}

/// Whether the network was spoken of at all.
pub fn is_typed(args: &NetworkArgs) -> bool {
    !args.ip_families.is_empty()
        || !args.pod_cidrs.is_empty()
        || !args.service_cidrs.is_empty()
        || args.max_pods.is_some()
        || args.node_cidr_mask_size_ipv4.is_some()
        || args.node_cidr_mask_size_ipv6.is_some()
        || args.routing.is_some()
        || !args.native_cidr.is_empty()
        || args.outbound_type.is_some()
        || !args.egress_next_hop.is_empty()
        || !args.egress_internal_cidr.is_empty()
        || args.egress_keep_pod_address
        || args.network_policy.is_some()
        || args.node_cidrs != NodeCidrsArg::Auto
}

fn set(field: &mut Vec<String>, typed: &[String]) {
    if !typed.is_empty() {
        *field = typed.to_vec();
    }
}

fn outbound_type(given: OutboundType) -> Outbound {
    match given {
        OutboundType::LoadBalancer => Outbound::LoadBalancer,
        OutboundType::NatGateway | OutboundType::ManagedNatGateway | OutboundType::UserAssignedNatGateway => {
            Outbound::NatGateway
        }
        OutboundType::UserDefinedRouting => Outbound::UserDefinedRouting,
        OutboundType::None => Outbound::None,
    }
}

/// A finding about a flag.
pub fn finding(field: &str, rule: &'static str, reason: String, fix: &str) -> Finding {
    Finding { field: field.to_owned(), rule, reason, fix: fix.to_owned() }
}

/// What AKS has and Overlane has not.
pub fn unsupported(args: &NetworkArgs, findings: &mut Vec<Finding>) {
    if matches!(args.network_dataplane, Some(Dataplane::Cilium | Dataplane::Ebpf)) {
        let reason = "the eBPF data plane is not there yet in this version".to_owned();
        findings.push(finding("--network-dataplane", "dataplane-supported", reason, "take nftables"));
    }
    if matches!(args.network_policy, Some(PolicyEngine::Azure | PolicyEngine::Calico | PolicyEngine::Cilium)) {
        let reason = "that engine is not part of Overlane, which enforces network policies itself".to_owned();
        let fix = "take overlane; or none, and install another program that enforces them";
        findings.push(finding("--network-policy", "network-policy-supported", reason, fix));
    }
}

/// A finding in the words of the flags.
pub fn in_flags(mut finding: Finding) -> Finding {
    for (field, flag) in [
        ("ipFamilies", "--ip-families"),
        ("podCIDRs", "--pod-cidrs"),
        ("serviceCIDRs", "--service-cidrs"),
        ("maxPods", "--max-pods"),
        ("outboundType", "--outbound-type"),
        ("routing", "--routing"),
        ("nodeCIDRs", "--node-cidrs"),
        ("networkPolicy", "--network-policy"),
        ("nodeMaskSize.ipv4", "--node-cidr-mask-size-ipv4"),
        ("nodeMaskSize.ipv6", "--node-cidr-mask-size-ipv6"),
        ("nativeCIDRs", "--native-cidr"),
        ("egress.nextHops", "--egress-next-hop"),
        ("egress.internalCIDRs", "--egress-internal-cidr"),
        ("egress.keepPodAddress", "--egress-keep-pod-address"),
        ("vnetCIDRs", "--vnet-cidr"),
        ("nodeSubnets", "--node-subnet"),
        ("peeredCIDRs", "--peered-cidr"),
        ("onPremCIDRs", "--on-prem-cidr"),
        ("dnsServiceIPs", "--dns-service-ip"),
        ("nodes", "--node-count"),
        ("names.resourceGroup", "--resource-group"),
        ("names.vnet", "--vnet-name"),
        ("names.subnet", "--vnet-subnet-id"),
    ] {
        if let Some(rest) = finding.field.strip_prefix(field) {
            finding.field = format!("{flag}{rest}");
        }
        // Words of several words are unmistakable.
        if field.contains(char::is_uppercase) {
            finding.reason = finding.reason.replace(field, flag);
            finding.fix = finding.fix.replace(field, flag);
        }
    }
    finding
}
