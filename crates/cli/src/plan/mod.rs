//! `overlane plan`: what a cluster that is wished for needs, and when that runs out.

mod drawing;
mod page;
mod report;

use std::process::ExitCode;

use anyhow::{Result, bail};
use overlane_api::convert;
use overlane_api::crd::{ClusterNetworkSpec, Routing};
use overlane_api::planfile::{Growth, Pool};
use overlane_core::cluster::Finding;
use overlane_core::sizing::{MONTHS_MAX, PoolWish, Sizing, Wish, size};

use crate::args::PlanArgs;
use crate::network;
use crate::out::{self, Format};

/// Months that a plan has to hold where nobody says.
const MONTHS: u32 = 24;
/// Nodes beyond those wished for where nobody says: the least that a pool is upgraded with.
const SURGE: u64 = 1;

/// A wish, and what came of it.
struct Plan {
    wish: Wish,
    sizing: Sizing,
    /// The network, as it was asked for.
    network: ClusterNetworkSpec,
}

/// Runs the command.
pub fn run(args: &PlanArgs) -> Result<ExitCode> {
    let plan = make(args)?;
    match args.output.output {
        Format::Json => out::json(&report::of(&plan))?,
        Format::Table => out::print(&page::of(&plan, out::colours()))?,
    }
    Ok(if plan.sizing.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn make(args: &PlanArgs) -> Result<Plan> {
    let (wish, network) = wish(args)?;
    let mut sizing = size(&wish);
    let mut unsupported = Vec::new();
    network::unsupported(&args.network, &mut unsupported);
    let words = |finding: Finding| if args.file.is_some() { in_fields(finding) } else { in_flags(args, finding) };
    sizing.findings = unsupported.into_iter().chain(sizing.findings.into_iter().map(words)).collect();
    Ok(Plan { wish, sizing, network })
}

fn wish(args: &PlanArgs) -> Result<(Wish, ClusterNetworkSpec)> {
    let file = network::plan_file(args.file.as_deref())?;
    let mut spec = file.network;
    network::write_into(&args.network, &mut spec);
    // In a file the default is no word for it.
    let settled = args.network.routing.is_some() || spec.routing != Routing::default();
    let routing = settled.then(|| convert::core_routing(spec.routing));
    let months = args.months.or(file.months).unwrap_or(MONTHS);
    if months > MONTHS_MAX {
        bail!("`months` of the plan is {months}: write {MONTHS_MAX} or less");
    }
    let leaving = args.egress_percent.or(file.egress_percent);
    if let Some(percent) = leaving.filter(|percent| *percent > 100) {
        bail!("`egressPercent` of the plan is {percent}: of a hundred packets 100 can leave");
    }
    let around = network::surroundings(file.around, &args.around, &args.network.dns_service_ip);
    let pools = match args.around.node_count {
        Some(nodes) => vec![Pool { name: "nodes".to_owned(), nodes, growth: args.growth.unwrap_or(Growth::None) }],
        None if !args.pool.is_empty() => args.pool.iter().map(|pool| pool.0.clone()).collect(),
        None => file.pools,
    };
    if pools.is_empty() {
        bail!(
            "how many nodes there are to be was not said: write --node-count N, --pool NAME=N, or `pools` in the file of -f"
        );
    }
    let pools =
        pools.into_iter().map(|pool| PoolWish { name: pool.name, nodes: pool.nodes, growth: pool.growth.into() });
    let wish = Wish {
        spec: convert::cluster_spec(&spec),
        around,
        pools: pools.collect(),
        months,
        routing,
        surge: args.max_surge.or(file.max_surge).unwrap_or(SURGE),
        direct: args.direct_pod_access || file.direct_pod_access,
        leaving,
        flows: args.flows_per_pod.or(file.flows_per_pod),
        outbound_ips: args.outbound_ips.or(file.outbound_ips),
        fabric: args.fabric.map(Into::into).or(file.fabric).map(Into::into).unwrap_or_default(),
    };
    Ok((wish, spec))
}

/// A finding in the words of the flags; some of a plan have flags of their own.
fn in_flags(args: &PlanArgs, finding: Finding) -> Finding {
    let flag = match finding.field.as_str() {
        "nodes" if !args.pool.is_empty() => "--pool",
        "flows" => "--flows-per-pod",
        _ => return network::in_flags(finding),
    };
    Finding { field: flag.to_owned(), ..finding }
}

/// A finding in the words of the file.
fn in_fields(finding: Finding) -> Finding {
    let field = match finding.field.as_str() {
        "nodes" => "pools",
        "flows" => "flowsPerPod",
        _ => return finding,
    };
    Finding { field: field.to_owned(), ..finding }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    //! Must catch: a flag or a field that is taken and not looked at, a page without what was asked for.

    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    pub(super) fn args(line: &str) -> PlanArgs {
        match Cli::try_parse_from(format!("overlane plan {line}").split_whitespace()).unwrap().command {
            Command::Plan(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_flag_is_looked_at() {
        let wish = wish(&args(
            "--pool system=3 --pool work=20+5 --pool more=4+10% --months 12 --max-surge 4 --direct-pod-access --egress-percent 60 \
             --flows-per-pod 100 --outbound-ips 2 --fabric segment --vnet-cidr 10.224.0.0/12 --max-pods 110 --pod-cidr 10.1.0.0/16",
        ))
        .unwrap()
        .0;
        let pools: Vec<_> = wish.pools.iter().map(|pool| (pool.name.as_str(), pool.nodes, pool.growth)).collect();
        use overlane_core::sizing::{Fabric, Growth};
        assert_eq!(
            pools,
            [("system", 3, Growth::None), ("work", 20, Growth::Nodes(5)), ("more", 4, Growth::Percent(10))]
        );
        assert_eq!((wish.months, wish.surge, wish.direct, wish.leaving), (12, 4, true, Some(60)));
        assert_eq!((wish.flows, wish.outbound_ips, wish.fabric), (Some(100), Some(2), Fabric::Segment));
        assert_eq!((wish.around.vnet_cidrs.as_slice(), wish.spec.max_pods), (&["10.224.0.0/12".to_owned()][..], 110));
        let wish = super::wish(&args("--node-count 7 --growth 3")).unwrap().0;
        assert_eq!((wish.pools[0].nodes, wish.pools[0].growth, wish.months), (7, Growth::Nodes(3), MONTHS));
    }

    #[test]
    fn nothing_said_is_no_plan() {
        assert!(wish(&args("")).unwrap_err().to_string().contains("--node-count"));
        for bad in [
            "--pool a",
            "--pool a=x",
            "--pool a=3+",
            "--pool a=3+x%",
            "--growth 3",
            "--node-count 3 --pool a=3",
            "--months 9999",
        ] {
            assert!(Cli::try_parse_from(format!("overlane plan {bad}").split_whitespace()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plan_is_one_page_and_one_object() {
        let line = "--node-count 40 --growth 4 --pod-cidr 10.244.0.0/18 --vnet-cidr 10.224.0.0/16 --node-subnet 10.224.0.0/26 \
                    --peered-cidr 10.245.0.0/16 --flows-per-pod 10 --fabric segment";
        let plan = make(&args(line)).unwrap();
        let page = page::of(&plan, false);
        for words in [
            "40 nodes now, 136 in 24 months",
            "10.244.0.0/18",
            "64 nodes of 250 pods",
            "until month 6",
            "10.244.0.0/17",
            "10.245.0.0/16 (peered)",
            "native",
            "10.0.0.10",
            "--pod-cidrs: 10.244.0.0/18 has 64 blocks",
            "251",
            "overlane install --ip-families IPv4 --pod-cidrs 10.244.0.0/18 --service-cidrs 10.0.0.0/16",
        ] {
            assert!(page.contains(words), "{words} in\n{page}");
        }
        assert!(page.lines().all(|line| line.chars().count() <= 130), "{page}");
        let report = report::of(&plan);
        assert_eq!(report["pods"][0]["runsOut"], 6);
        assert_eq!(report["pods"][0]["expansions"][2]["inTheWay"][0]["what"], "peered");
        assert_eq!(report["findings"].as_array().unwrap().len(), 2);
        assert_eq!(report["valid"], false);
    }

    #[test]
    fn the_documents_plan_is_one() {
        let text = include_str!("../../../../docs/planning.md");
        let yaml = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let file = std::env::temp_dir().join(format!("overlane-plan-{}.yaml", std::process::id()));
        std::fs::write(&file, yaml).unwrap();
        let plan = make(&args(&format!("-f {}", file.display())));
        std::fs::remove_file(&file).unwrap();
        let plan = plan.unwrap();
        assert_eq!((plan.sizing.findings, plan.wish.pools.len(), plan.wish.outbound_ips), (Vec::new(), 2, Some(4)));
    }

    #[test]
    fn the_command_installs_what_is_planned() {
        let line = "--node-count 3 --ip-families ipv4 --routing native --fabric gcp --outbound-type userDefinedRouting \
                    --egress-next-hop 10.9.0.1 --network-policy none --node-cidrs adopt --native-cidr 10.1.0.0/16 --max-pods 30";
        let command = page::command(&make(&args(line)).unwrap());
        for words in [
            "--routing native",
            "--outbound-type userDefinedRouting",
            "--egress-next-hop 10.9.0.1",
            "--network-policy none",
            "--node-cidrs adopt",
            "--native-cidr 10.1.0.0/16",
            "--max-pods 30",
        ] {
            assert!(command.contains(words), "{words} in {command}");
        }
        // It is taken as it stands, and means the same.
        let typed = Cli::try_parse_from(command.split_whitespace());
        assert!(matches!(typed.unwrap().command, Command::Install(_)));
    }

    #[test]
    fn findings_are_in_the_words_that_were_written() {
        let fields = |line: &str| -> Vec<String> {
            make(&args(line)).unwrap().sizing.findings.into_iter().map(|finding| finding.field).collect()
        };
        assert_eq!(fields("--node-count 40 --growth 400"), ["--node-count"]);
        assert_eq!(fields("--pool a=6000"), ["--pool"]);
        assert_eq!(fields("--node-count 3 --flows-per-pod 5000"), ["--flows-per-pod"]);
        let file = std::env::temp_dir().join(format!("overlane-fields-{}.yaml", std::process::id()));
        std::fs::write(&file, "pools: [{name: a, nodes: 6000}]\nflowsPerPod: 5000\n").unwrap();
        assert_eq!(fields(&format!("-f {}", file.display())), ["pools", "flowsPerPod"]);
        for bad in ["months: 99999", "egressPercent: 4000"] {
            std::fs::write(&file, format!("pools: [{{name: a, nodes: 6}}]\n{bad}\n")).unwrap();
            assert!(make(&args(&format!("-f {}", file.display()))).is_err(), "{bad}");
        }
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn a_good_plan_has_no_finding() {
        let plan = make(&args("--node-count 3")).unwrap();
        assert_eq!(plan.sizing.findings, []);
        let page = page::of(&plan, false);
        assert!(page.contains("No rule is broken") && page.contains("fd12:3456:789a::/64"), "{page}");
        assert_eq!(report::of(&plan)["valid"], true);
    }
}
