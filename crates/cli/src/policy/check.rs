//! `overlane policy check`: what of policies means nothing, and what is probably not meant.

use std::process::ExitCode;

use anyhow::Result;
use overlane_api::policy::Objects;
use overlane_core::policy::{Doubt, check};
use serde::Serialize;

use super::read;
use crate::args::PolicyCheckArgs;
use crate::out::{self, Format, Style, Table, cell};

/// Something that was found.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    policy: String,
    /// `fault`, `selects-nothing`, `means-nobody`, `shadowed` or `contradicts`.
    kind: &'static str,
    message: String,
}

/// Runs the command.
pub fn run(args: &PolicyCheckArgs) -> Result<ExitCode> {
    let objects = read::objects(&args.source)?;
    let found = find(&objects);
    match args.output.output {
        Format::Json => out::json(&serde_json::json!({ "findings": found }))?,
        Format::Table => print(&found, objects.policies.len() + objects.cluster_policies.len())?,
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn find(objects: &Objects) -> Vec<Found> {
    let understood = objects.understand();
    let faults = understood.faults.iter().map(|(policy, fault)| Found {
        policy: policy.to_string(),
        kind: "fault",
        message: format!("{fault}; it counts as closed"),
    });
    let doubts = check(&understood.world, &understood.policies);
    let doubts = doubts.into_iter().map(|finding| {
        let (kind, message) = words(&finding.doubt);
        Found { policy: finding.policy.to_string(), kind, message }
    });
    let mut found: Vec<Found> = faults.chain(doubts).collect();
    found.sort();
    found
}

fn words(doubt: &Doubt) -> (&'static str, String) {
    match doubt {
        Doubt::SelectsNothing => ("selects-nothing", "there is no pod that it selects".to_owned()),
        Doubt::MeansNobody { rule, .. } => ("means-nobody", format!("rule {rule}: there is nobody whom it means")),
        Doubt::Shadowed { rule, by, .. } => {
            let by: Vec<String> = by.iter().map(ToString::to_string).collect();
            let message = format!("rule {rule}: all that it is about is decided before it, by {}", by.join(", "));
            ("shadowed", message)
        }
        Doubt::Contradicts { direction, other } => {
            let message = format!(
                "{direction}: {other} has the same priority and says otherwise; this one goes first by its name"
            );
            ("contradicts", message)
        }
    }
}

fn print(found: &[Found], policies: usize) -> Result<()> {
    let colours = out::colours();
    if found.is_empty() {
        let word = out::paint(Style::Good, "nothing found", colours);
        return out::print(&format!("{policies} policies: {word}\n"));
    }
    let mut table = Table::new(&["POLICY", "FINDING", "WHAT"]);
    for one in found {
        let style = if one.kind == "fault" { Style::Bad } else { Style::Plain };
        table.row([cell(&one.policy), (style, one.kind.to_owned()), cell(&one.message)]);
    }
    out::print(&table.render(0, colours))
}

#[cfg(test)]
mod tests {
    //! Must catch: a rule said to be shadowed that decides for somebody, or work that grows with the square of a list's length.
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use super::*;
    use crate::policy::manifests;
    use crate::policy::manifests::tests::{PODS, parsed};

    fn kinds(policies: &str) -> Vec<(String, &'static str)> {
        kinds_among(PODS, policies)
    }

    fn kinds_among(pods: &str, policies: &str) -> Vec<(String, &'static str)> {
        let mut objects = parsed(&format!("{pods}{policies}"));
        manifests::complete(&mut objects);
        find(&objects).into_iter().map(|one| (one.policy, one.kind)).collect()
    }

    fn namespaced(name: &str, app: &str, ingress: &str) -> String {
        format!(
            "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  podSelector: {{matchLabels: {{app: {app}}}}}\n  ingress: {ingress}\n---\n"
        )
    }

    fn cluster(name: &str, priority: u32, action: &str, from: &str) -> String {
        format!(
            "kind: ClusterNetworkPolicy\napiVersion: policy.networking.k8s.io/v1alpha2\nmetadata: {{name: {name}}}\nspec:\n  tier: Admin\n  priority: {priority}\n  subject: {{namespaces: {{}}}}\n  ingress: [{{action: {action}, from: [{from}]}}]\n---\n"
        )
    }

    /// Processor time that this thread has had: a busy machine does not make it longer.
    fn processor() -> Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }

    /// Tens of thousands of ports, blocks and exceptions are sound, and looked through in seconds; so is one that is not sound
    /// among them, which is told with its place.
    #[test]
    fn what_is_big_does_not_stall() {
        let pod = |n: u32| {
            format!(
                "kind: Pod\napiVersion: v1\nmetadata: {{name: p{n}, namespace: shop, labels: {{app: db, n: '{n}'}}}}\nspec: {{containers: []}}\n---\n"
            )
        };
        let pods: String = (0..100).map(pod).collect();
        let list = |count: u32, one: &dyn Fn(u32) -> String| (0..count).map(one).collect::<Vec<_>>().join(", ");
        let ports = list(10_000, &|n| format!("{{port: {}}}", 1 + 6 * n % 65_535));
        let net = |n: u32| format!("{}.{}.{}", 11 + (n >> 16), n >> 8 & 255, n & 255);
        let blocks = list(50_000, &|n| format!("{{ipBlock: {{cidr: {0}.0/24, except: [{0}.7/32]}}}}", net(n)));
        let excepts = list(50_000, &|n| format!("{}.7/32", net(n)));
        let values = list(19, &|n| format!("{{key: k{n}, operator: In, values: [a, b]}}"));
        let fault = vec![("NetworkPolicy shop/big".to_owned(), "fault")];
        let nobody = vec![("NetworkPolicy shop/big".to_owned(), "means-nobody")];
        for (rule, expected) in [
            (format!("{{ports: [{ports}]}}"), vec![]),
            (format!("{{from: [{blocks}]}}"), vec![]),
            (format!("{{from: [{blocks}], ports: [{ports}]}}"), vec![]),
            (format!("{{from: [{{ipBlock: {{cidr: 0.0.0.0/0, except: [{excepts}]}}}}]}}"), vec![]),
            (format!("{{from: [{{podSelector: {{matchExpressions: [{values}]}}}}]}}"), nobody),
            (format!("{{ports: [{ports}, {{port: Not_A_Name}}]}}"), fault.clone()),
            (format!("{{from: [{blocks}, {{ipBlock: {{cidr: 10.0.0.0/33}}}}]}}"), fault),
        ] {
            let began = processor();
            let found = kinds_among(&pods, &namespaced("big", "db", &format!("[{rule}]")));
            let took = processor() - began;
            let start: String = rule.chars().take(40).collect();
            println!("{start}: {took:.1?}");
            assert_eq!(found, expected, "{start}");
            assert!(took < Duration::from_secs(20), "{start}: {took:?}");
        }
    }

    #[test]
    fn each_kind_is_found_and_nothing_else() {
        let good =
            namespaced("db", "db", "[{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]");
        assert_eq!(kinds(&good), []);
        let name = |name: &str| format!("NetworkPolicy shop/{name}");
        assert_eq!(kinds(&namespaced("a", "nobody", "[{}]")), [(name("a"), "selects-nothing")]);
        let nobody = namespaced("a", "db", "[{from: [{podSelector: {matchLabels: {app: nobody}}}]}]");
        assert_eq!(kinds(&nobody), [(name("a"), "means-nobody")]);
        assert_eq!(kinds(&namespaced("a", "db", "[{from: [{ipBlock: {cidr: x}}]}]")), [(name("a"), "fault")]);
        let twice = namespaced("a", "db", "[{}, {ports: [{port: 80}]}]");
        assert_eq!(kinds(&twice), [(name("a"), "shadowed")]);
        // Not the same: one is about more.
        assert_eq!(kinds(&namespaced("a", "db", "[{ports: [{port: 80}]}, {}]")), []);

        let admin = |name: &str| format!("ClusterNetworkPolicy {name} (Admin)");
        let (all, web) = ("{namespaces: {}}", "{pods: {podSelector: {matchLabels: {app: web}}}}");
        let order = cluster("a", 1, "Deny", all) + &cluster("b", 2, "Accept", web);
        assert_eq!(kinds(&order), [(admin("b"), "shadowed")]);
        assert_eq!(kinds(&(cluster("a", 2, "Deny", all) + &cluster("b", 1, "Accept", web))), []);
        let passed = cluster("a", 1, "Pass", all) + &cluster("b", 2, "Accept", web);
        assert_eq!(kinds(&passed), [(admin("b"), "shadowed")]);
        let equal = cluster("a", 1, "Accept", web) + &cluster("b", 1, "Deny", all);
        assert_eq!(kinds(&equal), [(admin("a"), "contradicts")]);
    }
}
