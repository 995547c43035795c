//! Must catch: a wrong exit code; output that another program cannot read; a rule to add that does not help.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn fixture(format: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/tests/fixtures/firewall").join(format).join(name)
}

const V4: [&str; 4] = ["--node-cidr", "10.0.0.0/24", "--pod-cidr", "10.244.0.0/16"];

fn command(rules: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlane"));
    command.args(["nsg", "check"]).arg(rules).args(args).env_remove("NO_COLOR");
    command
}

fn run(rules: &Path, args: &[&str]) -> Output {
    command(rules, args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn report(rules: &Path, args: &[&str]) -> (i32, Value) {
    let output = run(rules, &[args, &["-o", "json"]].concat());
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn exit_codes() {
    for (file, code) in [
        ("passes", 0),
        ("deny-after", 0),
        ("deny-by-priority", 1),
        ("asg", 1),
        ("garbage-text", 2),
        ("no-such-file", 2),
    ] {
        let output = run(&fixture("azure", &format!("{file}.json")), &V4);
        assert_eq!(output.status.code(), Some(code), "{file}: {}", text(&output.stderr));
    }
    // An empty list says nothing of whose it is.
    let empty = fixture("azure", "defaults-only.json");
    let output = run(&empty, &V4);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--format"), "{}", text(&output.stderr));
    assert_eq!(run(&empty, &[&V4[..], &["--format", "azure"]].concat()).status.code(), Some(1));
}

#[test]
fn what_can_be_no_cluster_is_refused() {
    let rules = fixture("azure", "passes.json");
    for args in [
        &["--node-cidr", "10.0.0.0/24"][..],
        &["--node-cidr", "10.0.0.1/24", "--pod-cidr", "10.244.0.0/16"],
        &["--node-cidr", "10.244.1.0/24", "--pod-cidr", "10.244.0.0/16"],
        &["--node-cidr", "10.0.0.0/24", "--pod-cidr", "fd12:3456:789a::/64"],
        &["--node-cidr", "10.0.0.0/24", "--pod-cidr", "10.244.0.0/16", "--vxlan-port", "0"],
        &["--node-cidr", "10.0.0.0/24", "--pod-cidr", "10.244.0.0/16", "--asg", "web"],
    ] {
        assert_eq!(run(&rules, args).status.code(), Some(2), "{args:?}");
    }
    // A tunnel carries any family.
    let tunnel = ["--node-cidr", "10.0.0.0/24", "--pod-cidr", "fd12:3456:789a::/64", "--routing", "vxlan"];
    assert_eq!(run(&rules, &tunnel).status.code(), Some(0));
}

#[test]
fn a_garbled_file_is_named_with_the_place() {
    let output = run(&fixture("azure", "garbage-prefix.json"), &V4);
    let error = text(&output.stderr);
    assert!(error.contains("garbage-prefix.json") && error.contains("[0].sourceAddressPrefixes[1]"), "{error}");
}

#[test]
fn standard_input_is_read() {
    let mut child = command(Path::new("-"), &V4).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let rules = std::fs::read(fixture("azure", "passes.json")).unwrap();
    child.stdin.take().unwrap().write_all(&rules).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn json_says_what_blocks_and_what_to_add() {
    let (code, report) = report(&fixture("azure", "deny-by-priority.json"), &V4);
    assert_eq!((code, &report["format"], &report["verdict"]), (1, &json!("azure"), &json!("blocked")));
    let flow = report["flows"]
        .as_array()
        .unwrap()
        .iter()
        .find(|flow| flow["purpose"] == "pod-to-pod" && flow["direction"] == "inbound");
    let flow = flow.unwrap();
    assert_eq!(flow["causes"][0]["rule"]["name"], "DenyNodePorts");
    assert_eq!(flow["causes"][0]["rule"]["priority"], 150);
    assert_eq!(flow["causes"][0]["packets"], "10.244.0.0/16 -> 10.244.0.0/16, tcp port 22, 30000-32767");
    let remedy = flow["remedies"][0].as_str().unwrap();
    assert!(remedy.contains("--priority 147 ") && remedy.contains("--resource-group shop "), "{remedy}");
}

#[test]
fn people_are_told_the_same() {
    let output = text(&run(&fixture("azure", "deny-by-priority.json"), &V4).stdout);
    for part in ["blocked by DenyNodePorts (priority 150)", "az network nsg rule create", "tcp port 22, 30000-32767"] {
        assert!(output.contains(part), "{part}: {output}");
    }
    let output = text(&run(&fixture("azure", "no-free-priority.json"), &V4).stdout);
    assert!(output.contains("# no priority is free before 100"), "{output}");
}

/// The rules with what was said to be added: everything passes.
#[test]
fn what_is_added_helps_in_azure() {
    for name in [
        "deny-by-priority",
        "no-pod-rule",
        "asg",
        "unknown-tag",
        "defaults-only",
        "icmp-and-ports",
        "vxlan-blocked",
        "ipv6-missing",
    ] {
        let path = fixture("azure", &format!("{name}.json"));
        let more = [
            "--node-cidr",
            "fd00:10::/64",
            "--pod-cidr",
            "fd12:3456:789a::/64",
            "--format",
            "azure",
            "--routing",
            "auto",
        ];
        let args = [&V4[..], &more].concat();
        let (code, report) = report(&path, &args);
        assert_eq!(code, 1, "{name}");
        let mut rules: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for remedy in report["flows"].as_array().unwrap().iter().flat_map(|flow| flow["remedies"].as_array().unwrap()) {
            rules.push(azure_rule(remedy.as_str().unwrap()));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_json::to_vec(&rules).unwrap()).unwrap();
        let output = run(file.path(), &args);
        assert_eq!(output.status.code(), Some(0), "{name}: {}{}", text(&output.stdout), text(&output.stderr));
    }
}

/// The rule that a command makes.
fn azure_rule(command: &str) -> Value {
    let value = |flag: &str| {
        let mut words = command.split(' ').skip_while(|word| *word != flag);
        words.nth(1).unwrap().trim_matches('\'').to_owned()
    };
    json!({
        "name": value("--name"),
        "priority": value("--priority").parse::<i64>().unwrap(),
        "direction": value("--direction"),
        "access": value("--access"),
        "protocol": value("--protocol"),
        "sourceAddressPrefix": value("--source-address-prefixes"),
        "sourcePortRange": value("--source-port-ranges"),
        "destinationAddressPrefix": value("--destination-address-prefixes"),
        "destinationPortRange": value("--destination-port-ranges"),
    })
}
