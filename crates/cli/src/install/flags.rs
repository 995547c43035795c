//! From what was typed, and what the cluster is, to the values of an installation. Every rule that is broken is named.

use overlane_api::convert;
use overlane_api::crd::{ClusterNetworkSpec, NodeCidrs};
use overlane_core::cidr::Cidr;
use overlane_core::cluster::{ClusterPlan, Finding, Surroundings, validate_within};
use overlane_install::values::Values;

use crate::args::{InstallArgs, NodeCidrsArg};
use crate::cluster::facts::Facts;
use crate::network::{self, finding};

/// What is to be installed.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The values.
    pub values: Values,
    /// The network that they make.
    pub plan: ClusterPlan,
    /// What the user should know.
    pub remarks: Vec<String>,
}

/// Why it cannot be installed so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Findings(pub Vec<Finding>);

/// Resolves flags over `values`; `facts` is what the cluster says, if one was asked.
pub fn resolve(args: &InstallArgs, values: Values, facts: Option<&Facts>) -> Result<Wanted, Findings> {
    let mut wanted = values;
    let mut findings = Vec::new();
    let mut remarks = Vec::new();
    let typed = network::is_typed(&args.network);
    if let Some(existing) = facts.and_then(|facts| facts.network.clone()) {
        if !typed {
            remarks.push("the ClusterNetwork that is there stays as it is".to_owned());
            wanted.cluster_network.create = false;
        }
        wanted.cluster_network.spec = existing;
    } else if let Some(facts) = facts {
        defaults(args, &mut wanted.cluster_network.spec, facts, &mut remarks);
    }
    network::write_into(&args.network, &mut wanted.cluster_network.spec);
    network::unsupported(&args.network, &mut findings);
    if let Some(image) = &args.image {
        split_image(image, &mut wanted, &mut findings);
    }
    if let Some(facts) = facts {
        against_cluster(&wanted.cluster_network.spec, facts, &mut findings);
        if !facts.tokens_name_nodes() && wanted.admission_policy.create {
            wanted.admission_policy.create = false;
            remarks.push(format!(
                "{} does not say on which node a token is used (1.30 does): agents are not held to their own node",
                facts.version
            ));
        }
    }
    let around = Surroundings { dns_service_ips: args.network.dns_service_ip.clone(), ..Surroundings::default() };
    match validate_within(&convert::cluster_spec(&wanted.cluster_network.spec), &around) {
        Ok(plan) if findings.is_empty() => {
            write_out(&mut wanted.cluster_network.spec, &plan);
            return Ok(Wanted { values: wanted, plan, remarks });
        }
        Ok(_) => {}
        Err(broken) => findings.extend(broken.into_iter().map(network::in_flags)),
    }
    Err(Findings(findings))
}

/// What was left out is written down: later versions may have other defaults.
fn write_out(spec: &mut ClusterNetworkSpec, plan: &ClusterPlan) {
    spec.ip_families = plan.families().iter().map(ToString::to_string).collect();
    spec.pod_cidrs = plan.pod_cidrs().map(|cidr| cidr.to_string()).collect();
    spec.service_cidrs = plan.services().iter().map(ToString::to_string).collect();
}

/// What the cluster itself says where nobody said otherwise.
fn defaults(args: &InstallArgs, spec: &mut ClusterNetworkSpec, facts: &Facts, remarks: &mut Vec<String>) {
    if spec.service_cidrs.is_empty() && args.network.service_cidrs.is_empty() {
        spec.service_cidrs.clone_from(&facts.service_cidrs);
    }
    let silent = spec.ip_families.is_empty() && args.network.ip_families.is_empty();
    if silent && spec.pod_cidrs.is_empty() && args.network.pod_cidrs.is_empty() {
        let of_ranges: Vec<String> = facts.service_cidrs.iter().filter_map(|cidr| family(cidr)).collect();
        spec.ip_families = if of_ranges.is_empty() { facts.families.clone() } else { of_ranges };
        if !spec.ip_families.is_empty() {
            remarks.push(format!("families as the Services': {}", spec.ip_families.join(", ")));
        }
    }
    if args.network.node_cidrs == NodeCidrsArg::Auto && facts.nodes > 0 && facts.with_pod_cidrs == facts.nodes {
        spec.node_cidrs = NodeCidrs::Adopt;
        remarks.push("every node has its spec.podCIDRs already: they are adopted".to_owned());
    }
}

fn family(cidr: &str) -> Option<String> {
    cidr.parse::<Cidr>().ok().map(|cidr| cidr.family().to_string())
}

/// Puts an image's name in its place.
pub fn set_image(image: &str, values: &mut Values) -> Result<(), Findings> {
    let mut findings = Vec::new();
    split_image(image, values, &mut findings);
    if findings.is_empty() { Ok(()) } else { Err(Findings(findings)) }
}

fn split_image(image: &str, values: &mut Values, findings: &mut Vec<Finding>) {
    // A colon before the last slash is a registry's port.
    match image.rsplit_once(':') {
        Some((repository, tag)) if !repository.is_empty() && !tag.is_empty() && !tag.contains('/') => {
            values.image.repository = repository.to_owned();
            values.image.tag = tag.to_owned();
        }
        _ => findings.push(finding("--image", "image-name", format!("{image:?} has no tag"), "write REPOSITORY:TAG")),
    }
}

/// What contradicts the cluster.
fn against_cluster(spec: &ClusterNetworkSpec, facts: &Facts, findings: &mut Vec<Finding>) {
    let parsed = |list: &[String]| list.iter().filter_map(|text| text.parse::<Cidr>().ok()).collect::<Vec<_>>();
    let (ours, theirs) = (parsed(&spec.service_cidrs), parsed(&facts.service_cidrs));
    if !ours.is_empty() && !theirs.is_empty() && ours != theirs {
        findings.push(finding(
            "--service-cidrs",
            "service-cidr-cluster",
            format!("the API server gives Services addresses of {}", facts.service_cidrs.join(", ")),
            "leave the flag out, or write what the server has",
        ));
    }
    if ours.is_empty() && theirs.is_empty() && facts.network.is_none() {
        findings.push(finding(
            "--service-cidrs",
            "service-cidr-unknown",
            format!("{} does not say which addresses Services have", facts.version),
            "write what kube-apiserver's --service-cluster-ip-range says",
        ));
    }
    let Some((node, cidrs)) = &facts.example else { return };
    if spec.node_cidrs == NodeCidrs::Allocate && facts.network.is_none() {
        findings.push(finding(
            "--node-cidrs",
            "one-allocator",
            format!(
                "{} of {} nodes have spec.podCIDRs that another allocator wrote ({node}: {})",
                facts.with_pod_cidrs,
                facts.nodes,
                cidrs.join(", ")
            ),
            "take adopt; or stop that allocator (kube-controller-manager --allocate-node-cidrs=false) and make the \
             Nodes anew",
        ));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    //! Must catch: a flag that is taken and does nothing; a rule that is broken in silence; a cluster whose own
    //! allocator or Service range is overlooked.

    use clap::Parser as _;
    use overlane_api::crd::{NetworkPolicy, OutboundType as Outbound};

    use super::*;
    use crate::args::{Cli, Command};

    fn args(line: &str) -> InstallArgs {
        let words = format!("overlane install {line}");
        match Cli::try_parse_from(words.split_whitespace()).unwrap().command {
            Command::Install(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn rules(line: &str, facts: Option<&Facts>) -> Vec<&'static str> {
        match resolve(&args(line), Values::default(), facts) {
            Ok(_) => Vec::new(),
            Err(Findings(findings)) => findings.iter().map(|finding| finding.rule).collect(),
        }
    }

    fn cluster() -> Facts {
        let service_cidrs = vec!["10.96.0.0/16".to_owned()];
        Facts { version: "v1.36.3".into(), minor: 36, service_cidrs, nodes: 2, ..Facts::default() }
    }

    #[test]
    fn the_routing_is_the_one_that_is_typed() {
        let line = "--routing auto --native-cidr 10.0.0.0/8 --native-cidr fd00::/8";
        let spec = resolve(&args(line), Values::default(), None).unwrap().values.cluster_network.spec;
        assert_eq!(spec.routing, overlane_api::crd::Routing::Auto);
        assert_eq!(spec.native_cidrs, ["10.0.0.0/8", "fd00::/8"]);
        // Over what is there: the rest stays.
        let network = ClusterNetworkSpec { max_pods: 50, ..ClusterNetworkSpec::default() };
        let facts = Facts { network: Some(network), ..cluster() };
        let wanted = resolve(&args("--routing vxlan"), Values::default(), Some(&facts)).unwrap().values;
        assert!(wanted.cluster_network.create);
        let spec = wanted.cluster_network.spec;
        assert_eq!((spec.routing, spec.max_pods), (overlane_api::crd::Routing::Vxlan, 50));
    }

    #[test]
    fn the_seeds_flags_count() {
        let line = "--network-plugin azure --network-plugin-mode overlay --pod-cidrs 10.1.0.0/16,fd01::/64 \
                    --service-cidrs 10.2.0.0/16,fd02::/108 --ip-families ipv4,ipv6 --dns-service-ip 10.2.0.10 \
                    --max-pods 110 --network-dataplane azure --network-policy none --outbound-type loadBalancer \
                    --image registry:5000/team/overlane:7";
        let wanted = resolve(&args(line), Values::default(), None).unwrap();
        let spec = &wanted.values.cluster_network.spec;
        assert_eq!(spec.pod_cidrs, ["10.1.0.0/16", "fd01::/64"]);
        assert_eq!(spec.service_cidrs, ["10.2.0.0/16", "fd02::/108"]);
        assert_eq!(spec.max_pods, 110);
        assert_eq!(wanted.values.image.repository, "registry:5000/team/overlane");
        assert_eq!(wanted.values.image.tag, "7");
        assert_eq!(spec.network_policy, NetworkPolicy::None);
        for nat in ["natGateway", "managedNATGateway", "userAssignedNATGateway"] {
            let wanted = resolve(&args(&format!("--outbound-type {nat}")), Values::default(), None).unwrap();
            assert_eq!(wanted.values.cluster_network.spec.outbound_type, Outbound::NatGateway, "{nat}");
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        for (line, rule) in [
            ("--network-dataplane ebpf", "dataplane-supported"),
            ("--network-dataplane cilium", "dataplane-supported"),
            ("--network-policy azure", "network-policy-supported"),
            ("--network-policy calico", "network-policy-supported"),
            ("--network-policy cilium", "network-policy-supported"),
            ("--egress-next-hop 10.224.0.250", "next-hop-outbound"),
            ("--outbound-type userDefinedRouting --egress-keep-pod-address", "keep-pod-address"),
            ("--ip-families ipv4 --dns-service-ip 10.0.0.1", "dns-service-ip"),
            ("--ip-families ipv4 --dns-service-ip 10.9.0.10", "dns-service-ip"),
            ("--ip-families ipv4 --dns-service-ip fd00::1", "dns-service-ip"),
            ("--dns-service-ip x", "dns-service-ip"),
            ("--max-pods 300", "max-pods-range"),
            ("--pod-cidrs 10.1.0.0/16 --ip-families ipv4,ipv6", "family-count"),
            ("--pod-cidr 10.0.0.0/16 --ip-families ipv4", "overlap"),
            ("--image registry:5000/overlane", "image-name"),
        ] {
            let found = rules(line, None);
            assert!(found.iter().any(|found| found.contains(rule)), "{line}: {found:?}");
        }
        let both = rules("--network-dataplane ebpf --max-pods 300", None);
        assert_eq!(both.len(), 3, "all at once: {both:?}");
        let Err(Findings(findings)) = resolve(&args("--max-pods 5"), Values::default(), None) else { panic!() };
        assert_eq!(findings[0].field, "--max-pods");
    }

    #[test]
    fn the_cluster_says_what_was_not_said() {
        let wanted = resolve(&args(""), Values::default(), Some(&cluster())).unwrap();
        let spec = &wanted.values.cluster_network.spec;
        assert_eq!(
            (spec.ip_families.as_slice(), spec.service_cidrs.as_slice()),
            (&["IPv4".to_owned()][..], &["10.96.0.0/16".to_owned()][..])
        );
        let silent = Facts { service_cidrs: Vec::new(), families: vec!["IPv4".into()], ..cluster() };
        assert_eq!(rules("", Some(&silent)), ["service-cidr-unknown"]);
        let told = resolve(&args("--service-cidr 10.96.0.0/16"), Values::default(), Some(&silent)).unwrap();
        assert_eq!(told.values.cluster_network.spec.ip_families, ["IPv4"], "not a family that Services have not");
        assert_eq!(rules("--service-cidr 10.97.0.0/16 --ip-families ipv4", Some(&cluster())), ["service-cidr-cluster"]);
        let old = Facts { minor: 29, ..cluster() };
        assert!(!resolve(&args(""), Values::default(), Some(&old)).unwrap().values.admission_policy.create);
    }

    #[test]
    fn another_allocator_is_adopted_or_refused() {
        let example = Some(("a".to_owned(), vec!["10.244.3.0/24".to_owned()]));
        let all = Facts { with_pod_cidrs: 2, example: example.clone(), ..cluster() };
        let wanted = resolve(&args(""), Values::default(), Some(&all)).unwrap();
        assert_eq!(wanted.values.cluster_network.spec.node_cidrs, NodeCidrs::Adopt);
        let some = Facts { with_pod_cidrs: 1, example, ..cluster() };
        assert_eq!(rules("", Some(&some)), ["one-allocator"]);
        assert_eq!(rules("--node-cidrs allocate", Some(&all)), ["one-allocator"]);
    }

    #[test]
    fn a_network_that_is_there_stays() {
        let spec = ClusterNetworkSpec { max_pods: 50, ..ClusterNetworkSpec::default() };
        let facts = Facts { network: Some(spec), ..Facts { service_cidrs: Vec::new(), ..cluster() } };
        let wanted = resolve(&args(""), Values::default(), Some(&facts)).unwrap();
        assert!(!wanted.values.cluster_network.create);
        let wanted = resolve(&args("--network-policy none"), Values::default(), Some(&facts)).unwrap().values;
        assert!(wanted.cluster_network.create);
        let spec = wanted.cluster_network.spec;
        assert_eq!((spec.network_policy, spec.max_pods), (NetworkPolicy::None, 50));
        let wanted = resolve(&args("--max-pods 60"), Values::default(), Some(&facts)).unwrap();
        assert!(wanted.values.cluster_network.create);
        assert_eq!(wanted.values.cluster_network.spec.max_pods, 60);
    }
}
