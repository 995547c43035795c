//! `overlane policy explain`: whether a connection passes, and what decides.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use overlane_api::policy::{Objects, Understood};
use overlane_core::family::Family;
use overlane_core::policy::{Direction, Explanation, Packet, SideExplanation, Why, explain};
use serde::Serialize;

use super::read;
use crate::args::{About, ExplainArgs, Who};
use crate::out::{self, Format, Style, Table, cell};

/// What is printed for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    verdict: &'static str,
    port: String,
    paths: Vec<Path>,
    /// What of policies means nothing, and was made closed.
    faults: Vec<String>,
}

/// One family's way.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    from: End,
    to: End,
    allowed: bool,
    sides: Vec<Side>,
}

/// An end, with the pod that has the address if one is known that policies are for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct End {
    address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
}

/// What one end's policies say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Side {
    pub(super) direction: String,
    pod: String,
    pub(super) allowed: bool,
    /// `rule`, `isolated`, `not-selected`, `undecided`, `itself` or `own-node`.
    reason: &'static str,
    /// What decided, or isolates.
    policies: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// The policy in audit mode that would have dropped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_drop: Option<String>,
}

/// Runs the command.
pub fn run(args: &ExplainArgs) -> Result<ExitCode> {
    let objects = read::objects(&args.source)?;
    let report = report(args, &objects)?;
    match args.output.output {
        Format::Json => out::json(&report)?,
        Format::Table => print(&report)?,
    }
    Ok(if report.verdict == "allow" { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn report(args: &ExplainArgs, objects: &Objects) -> Result<Report> {
    let understood = objects.understand();
    let (from, to) = (addresses(&args.from, objects)?, addresses(&args.to, objects)?);
    let mut paths = Vec::new();
    for family in Family::ALL {
        let like = |all: &[IpAddr]| all.iter().copied().find(|address| Family::of(address) == family);
        if let Some((from, to)) = like(&from).zip(like(&to)) {
            let told = explain(
                &understood.world,
                &understood.endpoints,
                &understood.policies,
                &Packet { from, to, about: args.port.0 },
            );
            let end = |address: IpAddr| End {
                address,
                pod: understood.endpoints.get(&address).map(|pod| format!("{}/{}", pod.namespace, pod.name)),
            };
            paths.push(Path { from: end(from), to: end(to), allowed: told.allowed, sides: sides(&told) });
        }
    }
    if paths.is_empty() {
        bail!("{} and {} have no address of one family", words(&args.from), words(&args.to));
    }
    let verdict = if paths.iter().all(|path| path.allowed) { "allow" } else { "deny" };
    Ok(Report { verdict, port: about(args.port), paths, faults: faults(&understood) })
}

fn faults(understood: &Understood) -> Vec<String> {
    understood.faults.iter().map(|(policy, fault)| format!("{policy}: {fault}")).collect()
}

/// Addresses of one end. A pod of the host's network has its node's.
fn addresses(who: &Who, objects: &Objects) -> Result<Vec<IpAddr>> {
    let (namespace, name) = match who {
        Who::Address(address) => return Ok(vec![*address]),
        Who::Pod { namespace, name } => (namespace, name),
    };
    let in_namespace =
        |pod: &&k8s_openapi::api::core::v1::Pod| pod.metadata.namespace.as_deref().unwrap_or("default") == namespace;
    let Some(pod) = objects.pods.iter().filter(in_namespace).find(|pod| pod.metadata.name.as_ref() == Some(name))
    else {
        let mut others: Vec<&str> =
            objects.pods.iter().filter(in_namespace).filter_map(|pod| pod.metadata.name.as_deref()).collect();
        others.sort_unstable();
        others.truncate(5);
        let others = if others.is_empty() {
            "the namespace has none".to_owned()
        } else {
            format!("there are {} ...", others.join(", "))
        };
        bail!("there is no pod {namespace}/{name}: {others}");
    };
    let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    let addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.ip.parse().ok()).collect();
    if addresses.is_empty() {
        bail!("pod {namespace}/{name} has no address yet: wait until it runs");
    }
    Ok(addresses)
}

fn words(who: &Who) -> String {
    match who {
        Who::Address(address) => address.to_string(),
        Who::Pod { namespace, name } => format!("{namespace}/{name}"),
    }
}

fn about(about: About) -> String {
    about.0.map_or_else(|| "icmp".to_owned(), |(protocol, port)| format!("{port}/{protocol}"))
}

/// What each end says, as the packet meets them.
pub(super) fn sides(told: &Explanation) -> Vec<Side> {
    let order = [Direction::Egress, Direction::Ingress];
    order.into_iter().filter_map(|direction| told.sides.get(&direction).map(|told| side(direction, told))).collect()
}

fn side(direction: Direction, told: &SideExplanation) -> Side {
    let (reason, policies, rule) = match &told.why {
        Why::Itself => ("itself", Vec::new(), None),
        Why::OwnNode => ("own-node", Vec::new(), None),
        Why::NotSelected => ("not-selected", Vec::new(), None),
        Why::Undecided => ("undecided", Vec::new(), None),
        Why::Rule { policy, rule } => ("rule", vec![policy.to_string()], Some(rule.clone())),
        Why::Isolated { by } => ("isolated", by.iter().map(ToString::to_string).collect(), None),
    };
    Side {
        direction: direction.to_string(),
        pod: format!("{}/{}", told.pod.namespace, told.pod.name),
        allowed: told.allowed,
        reason,
        policies,
        rule,
        would_drop: told.audited.as_ref().map(ToString::to_string),
    }
}

/// What decided, for people.
pub(super) fn sentence(side: &Side) -> String {
    let mut text = match side.reason {
        "itself" => "a pod always reaches itself".to_owned(),
        "own-node" => "a pod and its own node always reach each other".to_owned(),
        "not-selected" => "no policy selects it".to_owned(),
        "undecided" => "policies select it, and none decides".to_owned(),
        "rule" => format!("{}, rule {}", side.policies.join(""), side.rule.as_deref().unwrap_or_default()),
        _ => format!("isolated by {}, and no rule allows it", side.policies.join(", ")),
    };
    if let Some(policy) = &side.would_drop {
        text += &format!("; {policy}, in audit mode, would drop it");
    }
    text
}

fn print(report: &Report) -> Result<()> {
    let colours = out::colours();
    let word = |allowed: bool| {
        let (style, text) = if allowed { (Style::Good, "allowed") } else { (Style::Bad, "denied") };
        (style, text.to_owned())
    };
    let mut text = String::new();
    for path in &report.paths {
        let end = |end: &End| {
            end.pod.as_ref().map_or_else(|| end.address.to_string(), |pod| format!("{pod} ({})", end.address))
        };
        text += &format!("{} to {}, {}\n", end(&path.from), end(&path.to), report.port);
        let mut table = Table::bare();
        for side in &path.sides {
            let end = format!("{} of {}", side.direction, side.pod);
            table.row([cell(end), word(side.allowed), cell(sentence(side))]);
        }
        if path.sides.is_empty() {
            table.row([cell("neither end is a pod that policies are for")]);
        }
        text += &table.render(2, colours);
    }
    for fault in &report.faults {
        text += &format!("{} {fault}\n", out::paint(Style::Bad, "closed:", colours));
    }
    let style = if report.verdict == "allow" { Style::Good } else { Style::Bad };
    text += &format!("verdict: {}\n", out::paint(style, report.verdict, colours));
    out::print(&text)
}

#[cfg(test)]
mod tests {
    //! Must catch: a verdict of one family that stands for both.
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;
    use crate::args::{OutputArg, SourceArgs};

    const SHOP: &str = "
kind: Pod
apiVersion: v1
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: []}
---
kind: Pod
apiVersion: v1
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: []}
status: {podIPs: [{ip: 10.244.1.5}, {ip: 'fd12::5'}]}
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
  - from: [{ipBlock: {cidr: 192.0.2.0/24}}]
";

    fn ask(text: &str, from: &str, to: &str, port: &str) -> Result<Report> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("all.yaml"), text).unwrap();
        let source = SourceArgs { files: vec![dir.path().to_owned()], ..SourceArgs::default() };
        let objects = read::objects(&source)?;
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let output = OutputArg { output: Format::Json };
        let args = ExplainArgs { from, to, port: port.parse().unwrap(), source, output };
        report(&args, &objects)
    }

    #[test]
    fn each_way_and_its_reason() {
        let passes = ask(SHOP, "shop/web", "shop/db", "5432").unwrap();
        assert_eq!((passes.verdict, passes.paths.len()), ("allow", 2));
        let [egress, ingress] = &passes.paths[0].sides[..] else { panic!("{passes:?}") };
        assert_eq!(
            (egress.reason, ingress.reason, ingress.rule.as_deref()),
            ("not-selected", "rule", Some("ingress[0]"))
        );
        let drops = ask(SHOP, "shop/web", "shop/db", "icmp").unwrap();
        assert_eq!((drops.verdict, drops.paths[1].sides[1].reason), ("deny", "isolated"));
        assert!(sentence(&drops.paths[0].sides[1]).contains("NetworkPolicy shop/db"));
        let outside = ask(SHOP, "192.0.2.7", "shop/db", "80/udp").unwrap();
        assert_eq!((outside.verdict, outside.paths.len()), ("allow", 1));
        assert_eq!(ask(SHOP, "2001:db8::7", "shop/db", "80").unwrap().verdict, "deny");
        assert!(ask(SHOP, "192.0.2.7", "2001:db8::7", "80").is_err(), "no family in common");
        let missing = ask(SHOP, "shop/nobody", "shop/db", "80").unwrap_err().to_string();
        assert!(missing.contains("db, web"), "{missing}");
        let bad = ask(&SHOP.replace("192.0.2.0/24", "192.0.2.0/33"), "192.0.2.7", "shop/db", "80").unwrap();
        assert_eq!((bad.verdict, bad.faults.len()), ("deny", 1));
    }
}
