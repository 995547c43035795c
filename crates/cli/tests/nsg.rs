//! Must catch: a wrong exit code; output that another program cannot read; a rule to add that does not help.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
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

fn remedies(report: &Value) -> Vec<String> {
    let flows = report["flows"].as_array().unwrap();
    flows
        .iter()
        .flat_map(|flow| flow["remedies"].as_array().unwrap())
        .map(|one| one.as_str().unwrap().to_owned())
        .collect()
}

/// The value behind a flag, as `--flag value` or `--flag=value`.
fn flag(command: &str, flag: &str) -> String {
    let mut words = command.split(' ');
    let assigned = words.clone().find_map(|word| word.strip_prefix(&format!("{flag}=")));
    let value = assigned.or_else(|| words.find(|word| *word == flag).and_then(|_| words.next()));
    value.unwrap().trim_matches('\'').to_owned()
}

fn written(document: &Value) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), serde_json::to_vec(document).unwrap()).unwrap();
    file
}

/// Everything of a document passes.
fn all_passes(name: &str, document: &Value, args: &[&str]) {
    let output = run(written(document).path(), args);
    assert_eq!(output.status.code(), Some(0), "{name}: {}{}", text(&output.stdout), text(&output.stderr));
}

fn document(format: &str, name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(format, &format!("{name}.json"))).unwrap()).unwrap()
}

/// Both families, before `--routing`.
fn dual(routing: &str) -> Vec<&str> {
    let v6 = ["--node-cidr", "fd00:10::/64", "--pod-cidr", "fd12:3456:789a::/64", "--routing", routing];
    [&V4[..], &v6].concat()
}

#[test]
fn what_is_added_helps_in_azure() {
    let names = ["deny-by-priority", "no-pod-rule", "asg", "unknown-tag", "defaults-only", "icmp-and-ports"];
    for name in names.into_iter().chain(["vxlan-blocked", "ipv6-missing"]) {
        let args = [&dual("auto")[..], &["--format", "azure"]].concat();
        let (code, report) = report(&fixture("azure", &format!("{name}.json")), &args);
        assert_eq!(code, 1, "{name}");
        let mut rules = document("azure", name);
        rules.as_array_mut().unwrap().extend(remedies(&report).iter().map(|one| azure_rule(one)));
        all_passes(name, &rules, &args);
    }
}

/// The rule that a command makes.
fn azure_rule(command: &str) -> Value {
    let value = |name: &str| flag(command, name);
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

#[test]
fn what_is_added_helps_in_aws() {
    for name in ["empty-group", "ipv6-missing", "prefix-list", "self-group", "no-ports", "vxlan-only", "other-group"] {
        for routing in ["native", "auto", "vxlan"] {
            let args = dual(routing);
            let mut rules = document("aws", name);
            let (_, report) = report(&fixture("aws", &format!("{name}.json")), &args);
            for remedy in remedies(&report) {
                let key = if remedy.contains("-ingress ") { "IpPermissions" } else { "IpPermissionsEgress" };
                assert_eq!(flag(&remedy, "--group-id"), "sg-0aaaaaaaaaaaaaaaa", "{remedy}");
                let permission = aws_permission(&flag(&remedy, "--ip-permissions"));
                rules["SecurityGroups"][0][key].as_array_mut().unwrap().push(permission);
            }
            all_passes(name, &rules, &args);
        }
    }
}

/// The permission that a command line's shorthand is: `IpProtocol=...,IpRanges=[{CidrIp=...,Description=...}]`.
fn aws_permission(shorthand: &str) -> Value {
    let (head, range) = shorthand.split_once("=[{").unwrap();
    let (head, list) = head.rsplit_once(',').unwrap();
    let mut permission = json!({});
    for pair in head.split(',') {
        let (key, value) = pair.split_once('=').unwrap();
        let number = value.parse::<i64>().ok().filter(|_| key != "IpProtocol");
        permission[key] = number.map_or_else(|| json!(value), |number| json!(number));
    }
    let (key, value) = range.split(',').next().unwrap().split_once('=').unwrap();
    permission[list] = json!([{ key: value }]);
    permission
}

#[test]
fn what_is_added_helps_in_gcp() {
    let names = ["deny-by-priority", "deny-beats-allow", "no-pod-rule", "egress-deny", "tags", "accounts", "disabled"];
    for name in names.into_iter().chain(["ipv6-missing", "strange", "vxlan-blocked"]) {
        let args = dual("auto");
        let mut rules = document("gcp", name);
        let (_, report) = report(&fixture("gcp", &format!("{name}.json")), &args);
        let mut names = BTreeSet::new();
        for remedy in remedies(&report) {
            let rule = gcp_rule(&remedy);
            assert!(names.insert(rule["name"].to_string()), "{remedy}");
            rules.as_array_mut().unwrap().push(rule);
        }
        all_passes(name, &rules, &args);
    }
}

fn gcp_rule(command: &str) -> Value {
    let value = |name: &str| flag(command, name);
    let rules = value("--rules");
    let allowed = match rules.split_once(':') {
        Some((protocol, port)) => json!([{"IPProtocol": protocol, "ports": [port]}]),
        None => json!([{ "IPProtocol": rules }]),
    };
    json!({
        "name": command.split(' ').nth(4).unwrap(),
        "network": format!("projects/shop/global/networks/{}", value("--network")),
        "direction": value("--direction"),
        "priority": value("--priority").parse::<i64>().unwrap(),
        "allowed": allowed,
        "sourceRanges": [value("--source-ranges")],
        "destinationRanges": [value("--destination-ranges")],
    })
}

#[test]
fn what_is_added_helps_on_a_node() {
    let names = ["missing-forward", "interface", "deny-first", "jumps", "unknown", "ipv6-missing", "vxlan-blocked"];
    for name in names.into_iter().chain(["answers", "verdict-map", "everything", "missing-chain"]) {
        for routing in ["native", "auto", "vxlan"] {
            let mut rules = document("nft", name);
            // What one chain hides of the next is found once it passes.
            for round in 0..8 {
                let (code, report) = report(written(&rules).path(), &dual(routing));
                if code == 0 {
                    break;
                }
                assert!(round < 7, "{name}: {report:#}");
                let list = rules["nftables"].as_array_mut().unwrap();
                let first = list.iter().position(|one| one.get("rule").is_some()).unwrap_or(list.len());
                list.splice(first..first, remedies(&report).iter().map(|one| nft_rule(one)));
            }
        }
    }
}

/// The rule that a command inserts.
fn nft_rule(command: &str) -> Value {
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[..3].join(" "), "nft insert rule");
    let part = |three: &[&str]| {
        let right = match three[2].split_once('/') {
            Some((address, length)) => json!({"prefix": {"addr": address, "len": length.parse::<u8>().unwrap()}}),
            None => json!(three[2].parse::<u16>().unwrap()),
        };
        let left = json!({"payload": {"protocol": three[0], "field": three[1]}});
        json!({"match": {"op": "==", "left": left, "right": right}})
    };
    let parts = words[6..].chunks_exact(3).map(part).chain([json!({"accept": null})]);
    json!({"rule": {"family": words[3], "table": words[4], "chain": words[5], "expr": parts.collect::<Value>()}})
}

#[test]
fn formats_are_told_from_what_they_look_like() {
    let azure = ["passes-show", "passes-rest", "two-groups", "passes"].map(|name| ("azure", name));
    let others = [("aws", "passes"), ("aws", "rules"), ("gcp", "passes"), ("nft", "empty")];
    for (format, name) in azure.into_iter().chain(others) {
        let (_, report) = report(&fixture(format, &format!("{name}.json")), &V4);
        assert_eq!(report["format"], format, "{name}");
    }
    // What it is said to be counts.
    let other = run(&fixture("gcp", "passes.json"), &[&V4[..], &["--format", "nft"]].concat());
    assert_eq!(other.status.code(), Some(2));
}

/// A name out of somebody's file is no command.
#[test]
fn commands_are_quoted() {
    let mut group = document("azure", "two-groups")[1].clone();
    group["name"] = json!("x; touch '/tmp/y'");
    let (_, report) = report(written(&group).path(), &V4);
    let remedy = remedies(&report).remove(0);
    assert!(remedy.contains(r"--nsg-name 'x; touch '\''/tmp/y'\''' "), "{remedy}");
}
