//! Rules in the shape in which clouds' tools print them, and what becomes of what the overlay needs. A file of its verdict
//! lies beside each.
//!
//! Must catch: a rule read as what it is not; an unknown that is taken for a pass; an error that does not say where.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use overlane_api::firewall::{Format, Told, read};
use overlane_core::cidr::Cidr;
use overlane_core::cluster::Routing;
use overlane_core::firewall::{Decider, Needs, Verdict, judge, needs};

fn cidrs(text: &str) -> Vec<Cidr> {
    text.split_whitespace().map(|one| one.parse().unwrap()).collect()
}

fn fixtures(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/firewall").join(format)
}

/// How a cluster is asked about.
struct Asked {
    routing: Routing,
    told: Told,
}

fn asked(nodes: &str, pods: &str) -> Asked {
    Asked {
        routing: Routing::Native,
        told: Told { nodes: cidrs(nodes), pods: cidrs(pods), bare: true, ..Told::default() },
    }
}

const V4: (&str, &str) = ("10.0.0.0/24", "10.244.0.0/16");
const DUAL: (&str, &str) = ("10.0.0.0/24 fd00:10::/64", "10.244.0.0/16 fd12:3456:789a::/64");

fn vxlan(nodes: &str, pods: &str) -> Asked {
    let asked = asked(nodes, pods);
    Asked { routing: Routing::Vxlan, told: Told { bare: false, ..asked.told } }
}

/// What is said of a file: flows that pass, counted, and of every other one why it does not.
fn said(format: Format, text: &str, asked: &Asked) -> String {
    let rules = match read(text, Some(format), &asked.told) {
        Ok(rules) => rules,
        Err(error) => return format!("error: {error}\n"),
    };
    let of = Needs {
        nodes: &asked.told.nodes,
        pods: &asked.told.pods,
        routing: asked.routing,
        vxlan_port: 4789,
        on_node: rules.firewall.on_node,
    };
    let judged = judge(&rules.firewall, &needs(&of));
    let passing = judged.iter().filter(|one| one.verdict == Verdict::Passes).count();
    let mut text = format!("{passing} of {} pass\n", judged.len());
    for one in judged.iter().filter(|one| one.verdict != Verdict::Passes) {
        let flow = &one.flow;
        writeln!(text, "{} {} {} -> {}", flow.purpose, flow.direction, flow.source, flow.destination).unwrap();
        for cause in &one.causes {
            let label = match cause.decider {
                Decider::Rule(label) => &rules.firewall.labels[label],
                other => {
                    writeln!(text, "  {}: {other:?}: {}", cause.verdict, cause.example).unwrap();
                    continue;
                }
            };
            let why = label.unknown.as_ref().filter(|_| cause.verdict == Verdict::CannotTell);
            let why = why.map(|why| format!(" (not known: {why})")).unwrap_or_default();
            let priority = label.priority.map(|priority| format!(" {priority}")).unwrap_or_default();
            writeln!(text, "  {}: {}{priority} of {}: {}{why}", cause.verdict, label.name, label.owner, cause.example)
                .unwrap();
        }
    }
    for note in &rules.notes {
        writeln!(text, "note: {note}").unwrap();
    }
    text
}

/// Compares what is said of a file with what `NAME.CASE.txt` beside it says.
fn case(format: Format, name: &str, case: &str, asked: &Asked) {
    let directory = fixtures(&format.to_string());
    let text = std::fs::read_to_string(directory.join(format!("{name}.json"))).unwrap();
    let case = if case.is_empty() { String::new() } else { format!(".{case}") };
    let expected = directory.join(format!("{name}{case}.txt"));
    expect_file![expected].assert_eq(&said(format, &text, asked));
}

/// Every file of a format is in one of its cases.
fn all_covered(format: &str, names: &[&str]) {
    let files =
        std::fs::read_dir(fixtures(format)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<String> = files.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
    assert_eq!(files, names.iter().map(|name| (*name).to_owned()).collect());
}

#[test]
fn azure() {
    let native = [
        "passes",
        "passes-show",
        "passes-rest",
        "defaults-only",
        "deny-by-priority",
        "deny-after",
        "no-pod-rule",
        "asg",
        "unknown-tag",
        "two-groups",
        "no-free-priority",
        "garbage-priority",
        "garbage-access",
        "garbage-prefix",
        "garbage-ports",
        "garbage-same-priority",
        "garbage-shape",
        "garbage-kind",
        "garbage-text",
    ];
    for name in native {
        case(Format::Azure, name, "", &asked(V4.0, V4.1));
    }
    let dual = ["ipv6-missing", "icmp-and-ports"];
    for name in dual {
        case(Format::Azure, name, "", &asked(DUAL.0, DUAL.1));
    }
    case(Format::Azure, "vxlan-blocked", "", &vxlan(V4.0, V4.1));
    all_covered("azure", &[&native[..], &dual, &["vxlan-blocked"]].concat());
}

/// The same rules and something more that is told.
#[test]
fn azure_told_more() {
    let mut routed = asked(V4.0, V4.1);
    routed.told.vnet = cidrs("10.244.0.0/15");
    case(Format::Azure, "defaults-only", "routed", &routed);
    let mut members = asked(V4.0, V4.1);
    members.told.members = [("web".to_owned(), cidrs("10.0.7.0/24")), ("db".to_owned(), vec![])].into();
    case(Format::Azure, "asg", "told", &members);
    let mut one = asked(V4.0, V4.1);
    one.told.groups = vec!["subnet".to_owned()];
    case(Format::Azure, "two-groups", "one", &one);
    one.told.groups = vec!["elsewhere".to_owned()];
    case(Format::Azure, "two-groups", "absent", &one);
    case(Format::Azure, "vxlan-blocked", "auto", &Asked { routing: Routing::Auto, ..asked(V4.0, V4.1) });
    case(Format::Azure, "vxlan-blocked", "native", &asked(V4.0, V4.1));
}
