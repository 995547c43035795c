//! What `overlane cluster update` is asked for, and what is against it.

use anyhow::{Result, bail};
use overlane_api::convert;
use overlane_api::crd::{ClusterNetworkSpec, NodeCidrs};
use overlane_api::planfile::Around;
use overlane_core::cidr::Cidr;
use overlane_core::cluster::{
    ClusterPlan, Finding, Routing, Way, default_pod_cidr, default_service_cidr, expansion, validate_within,
};
use overlane_core::family::Family;

use super::facts::Facts;
use super::show;
use crate::args::UpdateArgs;
use crate::network::{self, finding};

/// A change of the pod CIDRs.
pub struct Change {
    /// In force when it was asked for.
    pub old: Vec<String>,
    /// Asked for.
    pub new: Vec<String>,
    /// The whole network as it is asked for.
    pub spec: ClusterNetworkSpec,
    /// Which kind it is.
    pub way: Way,
    /// What is against it.
    pub findings: Vec<Finding>,
}

/// What was asked for, and what is against it.
pub fn change(args: &UpdateArgs, facts: &Facts) -> Result<Change> {
    let old = show::pod_cidrs(facts.applied());
    let mut spec = facts.applied().clone();
    let mut findings = Vec::new();
    let way = if args.rollback {
        let Some(before) = facts.before() else {
            bail!("there is no expansion to take back: the pod CIDRs are {}", old.join(", "))
        };
        spec.pod_cidrs = before.split(',').map(str::to_owned).collect();
        Way::Rollback
    } else if args.ip_families.is_empty() {
        spec.pod_cidrs = with(&old, &args.pod_cidrs);
        Way::Expand
    } else {
        let pods = |family| default_pod_cidr(family).to_owned();
        spec.pod_cidrs = of_families(&args.ip_families, &args.pod_cidrs, &old, pods);
        services(args, facts, &mut spec, &mut findings);
        spec.ip_families.clone_from(&args.ip_families);
        Way::AddFamily
    };
    // Whose group and network the nodes are in is nothing that changes here.
    let mut around = network::surroundings(Around::default(), &args.around, &[]);
    (around.names, around.nodes) = (Vec::new(), None);
    let new = match validate_within(&convert::cluster_spec(&spec), &around) {
        Err(found) => {
            findings.extend(found);
            spec.pod_cidrs.clone()
        }
        Ok(plan) => {
            let new: Vec<Cidr> = plan.pod_cidrs().collect();
            // As the API has them.
            spec.ip_families = plan.families().iter().map(ToString::to_string).collect();
            let parsed: Vec<Cidr> = old.iter().filter_map(|text| text.parse().ok()).collect();
            findings.extend(expansion(&parsed, &new, &facts.blocks, &facts.addresses, way));
            findings.extend(added(&parsed, &plan, facts));
            new.iter().map(ToString::to_string).collect()
        }
    };
    let findings = findings.into_iter().map(network::in_flags).collect();
    Ok(Change { old, new, spec, way, findings })
}

/// Service CIDRs of all families: what was typed, what there is, what the API server has, or what is usual.
fn services(args: &UpdateArgs, facts: &Facts, spec: &mut ClusterNetworkSpec, findings: &mut Vec<Finding>) {
    let of = |family: Family, all: &[String]| all.iter().find(|text| family_of(text) == Some(family)).cloned();
    let old = show::service_cidrs(facts.applied());
    for typed in &args.service_cidrs {
        let Some(family) = family_of(typed) else { continue };
        if let Some(served) = of(family, &facts.services).filter(|served| served != typed) {
            let reason = format!("the API server gives Services addresses of {served}, not of {typed}");
            findings.push(finding(
                "serviceCIDRs",
                "service-cidr-cluster",
                reason,
                "leave the flag out, or write what it has",
            ));
        } else if let Some(present) = of(family, &old).filter(|present| present != typed) {
            let reason = format!("{typed} is not {present}, which Services have addresses of");
            findings.push(finding("serviceCIDRs", "service-cidr-cluster", reason, "leave it as it is"));
        }
    }
    let usual = |family| of(family, &facts.services).unwrap_or_else(|| default_service_cidr(family).to_owned());
    spec.service_cidrs = of_families(&args.ip_families, &args.service_cidrs, &old, usual);
}

/// One range a family: what was typed, what there is, or what is usual.
fn of_families(families: &[String], typed: &[String], old: &[String], usual: impl Fn(Family) -> String) -> Vec<String> {
    let of = |family: Family, all: &[String]| all.iter().find(|text| family_of(text) == Some(family)).cloned();
    let families = families.iter().filter_map(|name| name.parse::<Family>().ok());
    let range = |family| of(family, typed).or_else(|| of(family, old)).unwrap_or_else(|| usual(family));
    let mut ranges: Vec<String> = families.map(range).collect();
    // What has no place is judged too.
    ranges.extend(typed.iter().filter(|text| !ranges.contains(text)).cloned().collect::<Vec<_>>());
    ranges
}

/// The pod CIDRs with what was typed in its family's place; what has no such place stays as it is typed, and is judged.
fn with(old: &[String], typed: &[String]) -> Vec<String> {
    if typed.len() >= old.len() {
        return typed.to_vec();
    }
    let mut new = old.to_vec();
    for text in typed {
        match new.iter_mut().find(|old| family_of(old).is_some() && family_of(old) == family_of(text)) {
            Some(place) => place.clone_from(text),
            None => new.push(text.clone()),
        }
    }
    new
}

fn family_of(text: &str) -> Option<Family> {
    text.parse::<Cidr>().ok().map(|cidr| cidr.family())
}

/// What is against a family that comes anew.
fn added(old: &[Cidr], plan: &ClusterPlan, facts: &Facts) -> Option<Finding> {
    let had = |family: &Family| old.iter().any(|cidr| cidr.family() == *family);
    let family = plan.families().iter().find(|family| !had(family))?;
    if facts.applied().node_cidrs == NodeCidrs::Adopt {
        let reason =
            format!("blocks are taken from node.spec.podCIDRs, which is set once: no Node gets one of {family}");
        let fix = "have the Nodes made anew with blocks of both families, and say so in the ClusterNetwork then";
        return Some(finding("ipFamilies", "adopt-family", reason, fix));
    }
    // A Node that has not said anything of itself yet is nobody to wait for.
    let lacks = |name: &String, has: &std::collections::BTreeSet<Family>| {
        facts.nodes.get(name).is_some_and(|node| node.ready) && !has.is_empty() && !has.contains(family)
    };
    let mut nodes = facts.families.iter().filter(|(name, has)| lacks(name, has)).map(|(name, _)| name);
    let first = nodes.next().filter(|_| plan.routing() == Routing::Native)?;
    let reason = format!(
        "{} nodes have no {family} address that others could route their pods to, such as {first}",
        nodes.count() + 1
    );
    let fix = "give every node an address of each family, or take routing vxlan or auto before";
    Some(finding("ipFamilies", "native-families", reason, fix))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    //! Must catch: a change that is asked for although a rule is broken, a family that another's range takes the place of.

    use clap::Parser as _;
    use overlane_api::crd::{CLUSTER_NETWORK, ClusterNetwork};

    use super::super::facts::{BEFORE, NodeFacts};
    use super::*;
    use crate::args::{Cli, ClusterCommand, Command};

    fn args(line: &str) -> UpdateArgs {
        match Cli::try_parse_from(format!("overlane cluster update {line}").split_whitespace()).unwrap().command {
            Command::Cluster(args) => match args.command {
                ClusterCommand::Update(update) => *update,
                _ => panic!("{line}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn facts(pods: &[&str], before: Option<&str>, blocks: &[&str]) -> Facts {
        let spec = ClusterNetworkSpec {
            pod_cidrs: pods.iter().map(|text| (*text).to_owned()).collect(),
            ..ClusterNetworkSpec::default()
        };
        let mut network = ClusterNetwork::new(CLUSTER_NETWORK, spec);
        network.metadata.annotations = before.map(|before| [(BEFORE.to_owned(), before.to_owned())].into());
        Facts {
            network,
            nodes: [].into(),
            families: [].into(),
            services: Vec::new(),
            addresses: vec!["10.246.0.4".parse().unwrap()],
            blocks: blocks.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn judged(line: &str, facts: &Facts) -> (Vec<String>, Vec<&'static str>) {
        let change = change(&args(line), facts).unwrap();
        (change.new, change.findings.iter().map(|finding| finding.rule).collect())
    }

    #[test]
    fn changes_are_judged_before_they_are_asked_for() {
        let v4 = facts(&["10.244.0.0/18"], None, &["10.244.0.0/24"]);
        for (line, rules) in [
            ("--pod-cidr 10.244.0.0/16 --name x -g y", &[][..]),
            ("--pod-cidr 10.244.0.0/18", &[]),
            ("--pod-cidr 10.244.0.0/20", &["pod-cidr-shrinks"]),
            ("--pod-cidr 10.245.0.0/16", &["pod-cidr-discontiguous"]),
            ("--pod-cidr 10.240.0.0/12", &["overlap-node", "pod-cidr-base"]),
            ("--pod-cidr 10.0.0.0/8", &["overlap"]),
            ("--pod-cidr 10.244.0.1/16", &["host-bits"]),
            ("--pod-cidr 10.244.0.0/14", &["overlap-node"]),
            ("--pod-cidr 10.244.0.0/15 --peered-cidr 10.245.0.0/16", &["overlap-peered"]),
            ("--pod-cidr 10.244.0.0/15 --on-prem-cidr 10.247.0.0/16 --vnet-cidr 10.246.0.0/16", &[]),
            ("--pod-cidrs 10.244.0.0/16,fd12::/64", &["pod-cidr-families"]),
        ] {
            assert_eq!(judged(line, &v4).1, rules, "{line}");
        }
        assert!(change(&args("--rollback"), &v4).is_err(), "nothing to take back");
    }

    #[test]
    fn one_family_may_grow_alone() {
        let dual = facts(&["10.244.0.0/18", "fd12::/64"], None, &[]);
        assert_eq!(
            judged("--pod-cidr 10.244.0.0/16", &dual),
            (vec!["10.244.0.0/16".to_owned(), "fd12::/64".to_owned()], vec![])
        );
        assert_eq!(
            judged("--pod-cidr fd12::/60", &dual),
            (vec!["10.244.0.0/18".to_owned(), "fd12::/60".to_owned()], vec![])
        );
        assert_eq!(judged("--pod-cidrs 10.244.0.0/17,fd12::/63", &dual).1, Vec::<&str>::new());
        assert_eq!(judged("--pod-cidrs fd12::/63,10.244.0.0/17", &dual).1, ["pod-cidr-families"], "in another order");
    }

    #[test]
    fn a_family_is_added_behind_the_one_that_is_there() {
        let v4 = facts(&["10.244.0.0/18"], None, &["10.244.0.0/24"]);
        let change = super::change(&args("--ip-families ipv4,ipv6 --pod-cidr fd77::/64"), &v4).unwrap();
        assert_eq!(change.findings, []);
        assert_eq!(
            (change.new.as_slice(), change.spec.ip_families.as_slice()),
            (&["10.244.0.0/18".to_owned(), "fd77::/64".to_owned()][..], &["IPv4".to_owned(), "IPv6".to_owned()][..])
        );
        assert_eq!(change.spec.service_cidrs, ["10.0.0.0/16", "fd12:3456:789a:1::/108"]);
        assert_eq!(judged("--ip-families ipv4,ipv6", &v4).0, ["10.244.0.0/18", "fd12:3456:789a::/64"]);
        assert_eq!(judged("--ip-families ipv6,ipv4", &v4).1, ["pod-cidr-families"]);
        assert_eq!(judged("--ip-families ipv4,ipx", &v4).1, ["family-name"]);
        assert_eq!(judged("--ip-families ipv4,ipv6 --pod-cidrs fd77::/64,fd78::/64", &v4).1, ["family-count"]);
        assert_eq!(
            judged("--ip-families ipv4,ipv6 --service-cidrs 10.99.0.0/16,fd99::/112", &v4).1,
            ["service-cidr-cluster"]
        );
        let served = Facts { services: vec!["10.0.0.0/16".to_owned(), "fd98::/112".to_owned()], ..v4 };
        let change = super::change(&args("--ip-families ipv4,ipv6"), &served).unwrap();
        assert_eq!(
            (change.findings, change.spec.service_cidrs[1].as_str()),
            (Vec::new(), "fd98::/112"),
            "as the server has it"
        );
        assert_eq!(
            judged("--ip-families ipv4,ipv6 --service-cidrs 10.0.0.0/16,fd99::/112", &served).1,
            ["service-cidr-cluster"]
        );
    }

    #[test]
    fn nodes_have_to_be_able_to_have_it() {
        let bare = |ready| {
            let mut facts = facts(&["10.244.0.0/18"], None, &[]);
            facts.families = [("node-7".to_owned(), [Family::V4].into())].into();
            facts.nodes = [("node-7".to_owned(), NodeFacts { ready, ..NodeFacts::default() })].into();
            facts
        };
        assert_eq!(judged("--ip-families ipv4,ipv6", &bare(true)).1, ["native-families"]);
        assert_eq!(judged("--ip-families ipv4,ipv6", &bare(false)).1, Vec::<&str>::new());
        assert_eq!(judged("--pod-cidr 10.244.0.0/17", &bare(true)).1, Vec::<&str>::new(), "no matter of this");
        let mut adopted = bare(false);
        adopted.network.spec.node_cidrs = NodeCidrs::Adopt;
        assert_eq!(judged("--ip-families ipv4,ipv6", &adopted).1, ["adopt-family"]);
        assert_eq!(
            judged(
                "--ip-families ipv4,ipv6 --pod-cidr fd77::/64",
                &Facts { addresses: vec!["fd77::5".parse().unwrap()], ..bare(false) }
            )
            .1,
            ["overlap-node"]
        );
    }

    #[test]
    fn back_goes_while_nobody_has_a_block_of_it() {
        let free = facts(&["10.244.0.0/16"], Some("10.244.0.0/18"), &["10.244.63.0/24"]);
        assert_eq!(judged("--rollback", &free), (vec!["10.244.0.0/18".to_owned()], vec![]));
        let used = facts(&["10.244.0.0/16"], Some("10.244.0.0/18"), &["10.244.64.0/24"]);
        assert_eq!(judged("--rollback", &used).1, ["pod-cidr-in-use"]);
        assert!(Cli::try_parse_from(["overlane", "cluster", "update"]).is_err(), "nothing is asked for");
    }
}
