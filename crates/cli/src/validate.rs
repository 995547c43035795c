//! `overlane validate`: a cluster's addresses by every rule.

use std::process::ExitCode;

use anyhow::Result;
use overlane_api::convert;
use overlane_api::crd::ClusterNetworkSpec;
use overlane_core::cluster::{ClusterPlan, Finding, validate_within};
use serde::Serialize;

use crate::args::ValidateArgs;
use crate::cluster::{self, facts::Facts};
use crate::network;
use crate::out::{self, Format, Style};

/// A finding, for programs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    field: String,
    rule: &'static str,
    reason: String,
    fix: String,
}

impl From<&Finding> for Found {
    fn from(finding: &Finding) -> Self {
        let Finding { field, rule, reason, fix } = finding.clone();
        Self { field, rule, reason, fix }
    }
}

/// Runs the command.
pub fn run(args: &ValidateArgs) -> Result<ExitCode> {
    let facts = if args.cluster { Some(crate::runtime::start()?.block_on(ask(args))?) } else { None };
    let result = judge(args, facts.as_ref())?;
    match (args.output.output, &result) {
        (Format::Json, _) => out::json(&report(&result))?,
        (Format::Table, Ok(plan)) => out::print(&good(plan))?,
        (Format::Table, Err(findings)) => out::print(&bad(findings, out::colours()))?,
    }
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn ask(args: &ValidateArgs) -> Result<Facts> {
    let client = cluster::client(&args.kube).await?;
    Facts::read(&client).await
}

fn judge(args: &ValidateArgs, facts: Option<&Facts>) -> Result<Result<ClusterPlan, Vec<Finding>>> {
    let file = network::plan_file(args.file.as_deref())?;
    let mut spec = file.network;
    if let Some(facts) = facts {
        complete(args, facts, &mut spec);
    }
    network::write_into(&args.network, &mut spec);
    let mut around = network::surroundings(file.around, &args.around, &args.network.dns_service_ip);
    let of_pools = Some(file.pools.iter().fold(0, |sum: u64, pool| sum.saturating_add(pool.nodes)));
    let counted = facts.and_then(|facts| u64::try_from(facts.nodes).ok());
    around.nodes = around.nodes.or(of_pools.filter(|_| !file.pools.is_empty())).or(counted);
    let mut findings = Vec::new();
    network::unsupported(&args.network, &mut findings);
    // In the words in which it was given.
    let words = |finding: Finding| if args.file.is_some() { finding } else { network::in_flags(finding) };
    Ok(match validate_within(&convert::cluster_spec(&spec), &around) {
        Ok(plan) if findings.is_empty() => Ok(plan),
        Ok(_) => Err(findings),
        Err(broken) => {
            findings.extend(broken.into_iter().map(words));
            Err(findings)
        }
    })
}

/// What the cluster says where nobody said otherwise.
fn complete(args: &ValidateArgs, facts: &Facts, spec: &mut ClusterNetworkSpec) {
    if let Some(theirs) = facts.network.as_ref().filter(|_| args.file.is_none() && !network::is_typed(&args.network)) {
        spec.clone_from(theirs);
    }
    if spec.service_cidrs.is_empty() {
        spec.service_cidrs.clone_from(&facts.service_cidrs);
    }
}

fn report(result: &Result<ClusterPlan, Vec<Finding>>) -> serde_json::Value {
    let findings: Vec<Found> = result.as_ref().err().into_iter().flatten().map(Found::from).collect();
    let network = result.as_ref().ok().map(|plan| {
        serde_json::json!({
            "ipFamilies": plan.families().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "podCIDRs": plan.pod_cidrs().map(|cidr| cidr.to_string()).collect::<Vec<_>>(),
            "serviceCIDRs": plan.services().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "maxPods": plan.max_pods(),
            "nodes": plan.node_capacity(),
        })
    });
    serde_json::json!({ "valid": result.is_ok(), "findings": findings, "network": network })
}

fn good(plan: &ClusterPlan) -> String {
    let list = |all: &mut dyn Iterator<Item = String>| all.collect::<Vec<_>>().join(", ");
    let word = out::paint(Style::Good, "valid", out::colours());
    let pods = list(&mut plan.pools().iter().map(|pool| format!("{} (a /{} a node)", pool.cidr, pool.node_mask)));
    let services = list(&mut plan.services().iter().map(ToString::to_string));
    let (nodes, max) = (out::count(plan.node_capacity()), plan.max_pods());
    format!("{word}: pods {pods}, Services {services}: room for {nodes} nodes of {max} pods\n")
}

/// Findings for people: what is wrong where, and what would be right.
pub fn bad(findings: &[Finding], colours: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let Finding { field, rule, reason, fix } = finding;
        let (field, rule) = (out::paint(Style::Bad, field, colours), out::paint(Style::Dim, rule, colours));
        text.push_str(&format!("{field}: {reason}\n    {fix}  [{rule}]\n"));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    //! Must catch: a flag that is taken and not looked at, a cluster's own word that is overlooked, a finding in words that
    //! nobody wrote.

    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(line: &str) -> ValidateArgs {
        match Cli::try_parse_from(format!("overlane validate {line}").split_whitespace()).unwrap().command {
            Command::Validate(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn found(line: &str, facts: Option<&Facts>) -> Vec<String> {
        let findings = judge(&args(line), facts).unwrap().err().unwrap_or_default();
        findings.iter().map(|finding| format!("{} {}", finding.field, finding.rule)).collect()
    }

    #[test]
    fn every_flag_is_looked_at() {
        let long = "a".repeat(64);
        for (line, want) in [
            ("", &[][..]),
            ("--vnet-cidr 10.244.0.0/16", &["--pod-cidrs overlap-vnet"]),
            ("--node-subnet 10.244.0.0/24 --ip-families ipv4", &["--pod-cidrs overlap-node-subnet"]),
            ("--peered-cidr 10.1.0.0/16 --peered-cidr 10.0.0.0/24", &["--service-cidrs overlap-peered"]),
            ("--on-prem-cidr 10.244.7.0/24", &["--pod-cidrs overlap-on-prem"]),
            ("--vnet-cidr 10.1.0.0/33", &["--vnet-cidr[0] prefix-length"]),
            ("--node-count 300", &["--node-count node-count-blocks"]),
            ("--dns-service-ip 10.0.0.1", &["--dns-service-ip[0] dns-service-ip"]),
            ("--dns-service-ip 10.0.0.10,fd12:3456:789a:1::a", &[]),
            (
                "--node-cidr-mask-size-ipv4 29 --max-pods 10",
                &["--node-cidr-mask-size-ipv4 node-mask-range", "--max-pods max-pods-block"],
            ),
            ("--node-cidr-mask-size-ipv4 25 --max-pods 110", &[]),
            (
                "--node-cidr-mask-size-ipv6 63",
                &["--node-cidr-mask-size-ipv6 node-mask-pod-cidr", "--node-cidr-mask-size-ipv6 node-mask-range"],
            ),
            (
                "--network-policy calico --max-pods 5",
                &["--network-policy network-policy-supported", "--max-pods max-pods-range"],
            ),
            ("--service-cidr 10.96.0.0/12", &["--service-cidrs[0] service-size"]),
            ("--resource-group dev_", &["--resource-group label-value"]),
            ("--vnet-name (dev)", &["--vnet-name label-value"]),
            ("--vnet-subnet-id aks -", &[]),
        ] {
            let line = line.strip_suffix(" -").unwrap_or(line);
            assert_eq!(found(line, None), want, "{line}");
        }
        let id = format!(
            "--vnet-subnet-id /subscriptions/s/resourceGroups/{long}/providers/Microsoft.Network/virtualNetworks/v/subnets/n_"
        );
        assert_eq!(
            found(&id, None),
            ["--vnet-subnet-id (resource group) label-value", "--vnet-subnet-id (subnet) label-value"]
        );
    }

    #[test]
    fn reasons_are_in_the_words_that_were_written() {
        let findings = judge(&args("--pod-cidr 10.1.0.0/16 --vnet-cidr 10.0.0.0/8 --service-cidr 172.20.0.0/16"), None)
            .unwrap()
            .unwrap_err();
        let text = bad(&findings, false);
        assert!(text.contains("--pod-cidrs[0]: 10.1.0.0/16 overlaps 10.0.0.0/8 of --vnet-cidr[0]\n"), "{text}");
        assert_eq!(report(&Err(findings))["findings"][0]["rule"], "overlap-vnet");
    }

    #[test]
    fn the_cluster_says_what_was_not_said() {
        let facts = Facts { service_cidrs: vec!["10.244.0.0/20".to_owned()], nodes: 300, ..Facts::default() };
        assert_eq!(found("--cluster", Some(&facts)), ["--service-cidrs[0] overlap", "--node-count node-count-blocks"]);
        assert_eq!(found("--cluster --service-cidr 10.0.0.0/16 --node-count 5", Some(&facts)), Vec::<String>::new());
        let network = ClusterNetworkSpec { max_pods: 5, ..ClusterNetworkSpec::default() };
        let facts = Facts { network: Some(network), ..Facts::default() };
        assert_eq!(found("--cluster", Some(&facts)), ["--max-pods max-pods-range"]);
        assert_eq!(found("--cluster --max-pods 30", Some(&facts)), Vec::<String>::new());
    }

    #[test]
    fn a_file_counts_and_flags_count_over_it() {
        let file = std::env::temp_dir().join(format!("overlane-validate-{}.yaml", std::process::id()));
        std::fs::write(
            &file,
            "network: {podCIDRs: [10.1.0.0/16]}\naround: {vnetCIDRs: [10.1.0.0/24]}\npools: [{name: a, nodes: 257}]\n",
        )
        .unwrap();
        let name = file.display();
        assert_eq!(found(&format!("-f {name}"), None), ["podCIDRs[0] overlap-vnet", "nodes node-count-blocks"]);
        assert_eq!(found(&format!("-f {name} --vnet-cidr 10.2.0.0/24 --node-count 3"), None), Vec::<String>::new());
        std::fs::write(&file, "netwrok: {}\n").unwrap();
        assert!(format!("{:#}", judge(&args(&format!("-f {name}")), None).unwrap_err()).contains("netwrok"));
        std::fs::remove_file(&file).unwrap();
        assert!(judge(&args("-f /nowhere.yaml"), None).is_err());
    }
}
