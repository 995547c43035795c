//! The command line against a real cluster, and the chart against the command line.

use overlane_suites::exec;
use serde_json::{Value, json};

use crate::cluster;

#[test]
fn i_status_tells_blocks_and_their_use() {
    let cluster = cluster();
    let out = cluster.overlane(&["status", "-o", "json"]).must();
    let status: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(status["good"], true, "{out}");
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    for node in nodes {
        assert_eq!(node["blocks"].as_array().unwrap().len(), 2, "{node}");
        assert_eq!(node["blocks"][0]["usable"], 254, "{node}");
    }
    let used = nodes.iter().map(|node| node["blocks"][0]["used"].as_u64().unwrap()).sum::<u64>();
    let pods = cluster.list(&["pods", "-A"]);
    let wanted = pods.iter().filter(|pod| pod["spec"]["hostNetwork"] != true).count();
    assert_eq!(used, wanted as u64);
    let table = cluster.overlane(&["status"]).must();
    assert!(table.stdout.contains("10.244.0.0/16") && table.stdout.contains("leader"), "{table}");
}

#[test]
fn j_everything_reaches_what_it_must() {
    let cluster = cluster();
    // Somebody outside, who says whom he sees.
    let outside = cluster.outside();
    let mut echo =
        exec::command(&[exec::bin("overlane").to_str().unwrap(), "lab-echo", "--name", "outside", "--port", "7777"]);
    echo.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let _echo = exec::Running::new(outside.spawn(echo));
    let words =
        ["connectivity", "--outside", "198.51.100.1:7777", "--outside", "[2001:db8:ffff::1]:7777", "-o", "json"];
    let out = cluster.overlane(&words);
    let report: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out}"));
    assert_eq!(report["failures"], serde_json::json!([]), "of {} questions", report["asked"]);
    assert_eq!((out.code, &report["good"]), (Some(0), &Value::Bool(true)), "{}", out.stderr);
    let ways: std::collections::BTreeSet<&str> =
        report["rows"].as_array().unwrap().iter().map(|row| row["way"].as_str().unwrap()).collect();
    for way in [
        "pod to pod, same node",
        "pod to pod, other node",
        "node to own pod",
        "node to other pod",
        "pod to own node",
        "pod to other node",
        "pod to internet",
        "pod to service",
        "node to service",
        "service by name",
        "pod to API server",
    ] {
        assert!(ways.contains(way), "{way} was not asked: {ways:?}");
    }
    let left = cluster.list(&["namespaces", "-l", "app=overlane-connectivity"]);
    assert!(left.is_empty(), "the check left namespaces behind: {left:?}");
}

#[test]
fn k_a_support_bundle_is_small_and_has_no_secrets() {
    let cluster = cluster();
    cluster.kubectl(&["create", "secret", "generic", "hidden", "--from-literal=key=hunter2hunter2"]).must();
    let file = std::env::temp_dir().join(format!("overlane-sysdump-{}.tar.gz", std::process::id()));
    let path = file.to_str().unwrap();
    let out = cluster.overlane(&["sysdump", "--file", path]).must();
    let size = std::fs::metadata(&file).unwrap().len();
    assert!(size < 1 << 20, "{size} bytes");
    let listing = exec::sh(&["tar", "tzf", path]).must().stdout;
    let text = exec::sh(&["tar", "xzOf", path]).must().stdout;
    std::fs::remove_file(&file).unwrap();
    cluster.kubectl(&["delete", "secret", "hidden"]).must();
    for part in ["status.json", "objects/nodeblock.json", "events.json", ".state.json", ".metrics.txt", ".log"] {
        assert!(listing.contains(part), "{part} is not in it: {listing}\n{out}");
    }
    assert!(!text.contains("hunter2") && !text.contains("BEGIN CERTIFICATE"), "a secret is in the bundle");
    assert!(!out.stdout.contains("left out:"), "{out}");
}

/// Printed manifests go through kubectl, in the two steps that it needs; `kubectl overlane` is the command line, and
/// shells take its completion.
#[test]
fn l_kubectl_takes_manifests_and_the_plugin() {
    let cluster = cluster();
    for what in ["crds", "objects"] {
        let printed = cluster.overlane_alone(&["install", "--print", what]).must();
        let words = ["kubectl", "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"];
        let applied = cluster.script(&words, printed.stdout.as_bytes()).must();
        assert!(applied.stdout.lines().count() >= 4, "{applied}");
    }
    let dir = std::env::temp_dir().join(format!("overlane-kubectl-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let link = dir.join("kubectl-overlane");
    std::os::unix::fs::symlink(exec::bin("overlane"), &link).unwrap();
    let script = format!("PATH={}:$PATH exec kubectl overlane status --kubeconfig \"$0\"", dir.display());
    let config = cluster.script(&["kubeconfig"], b"").must().stdout;
    let status = cluster.on("cp", &["bash", "-c", &script, config.trim()]);
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(status.must().stdout.contains("node-0"));
    for shell in ["bash", "zsh", "fish"] {
        let script = cluster.overlane_alone(&["completion", shell]).must().stdout;
        assert!(script.contains("sysdump") && script.contains("connectivity"), "{shell}: {script}");
        if shell == "bash" {
            exec::run(exec::command(&["bash", "-n"]), script.as_bytes(), std::time::Duration::from_secs(10)).must();
        }
    }
}

/// The chart and the command line install the same, for several values.
#[test]
fn l_the_chart_is_what_the_command_line_installs() {
    let cluster = cluster();
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/helm/overlane");
    cluster.on("cp", &["helm", "lint", "--strict", chart]).must();
    let dir = std::env::temp_dir();
    for (number, values) in [
        "{}",
        "{image: {repository: registry:5000/o, tag: v7, pullSecrets: [{name: s}]}, controller: {replicas: 3, holdDown: 1000000}}",
        "{agent: {extraArgs: [--cool-down=1, '--node-ip=1.2.3.4'], runDir: /run/o, resources: {limits: {cpu: 1}}, nodeSelector: {a: b}}, env: [{name: A, value: '1'}]}",
        "{clusterNetwork: {create: false}, admissionPolicy: {create: false}}",
        "{clusterNetwork: {spec: {podCIDRs: [10.9.0.0/16], serviceCIDRs: [10.10.0.0/16], maxPods: 30, nodeCIDRs: adopt}}}",
    ]
    .iter()
    .enumerate()
    {
        let file = dir.join(format!("overlane-values-{}-{number}.yaml", std::process::id()));
        std::fs::write(&file, values).unwrap();
        let path = file.to_str().unwrap();
        let words = ["helm", "template", "overlane", chart, "-n", "elsewhere", "--include-crds", "-f", path];
        let by_chart = objects(&cluster.on("cp", &words).must().stdout);
        let words = ["install", "--print", "-n", "elsewhere", "-f", path];
        let by_cli = objects(&cluster.overlane_alone(&words).must().stdout);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(by_chart.len(), by_cli.len(), "{values}");
        for (one, other) in by_chart.iter().zip(&by_cli) {
            assert_eq!(whole(bare(one)), whole(bare(other)), "with {values}");
        }
    }
}

/// With whole numbers, which schemas write as 1 or as 1.0.
fn whole(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64().filter(|number| number.fract() == 0.0) {
            Some(same) => json!(same),
            None => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(whole).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, field)| (name, whole(field))).collect(),
        other => other,
    }
}

/// The command line marks another project's definition as brought by it; the chart has that file as it is, with the empty status
/// that its project's tools leave there.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    let of_others = object["spec"]["group"].as_str().is_some_and(|group| group == "policy.networking.k8s.io");
    if let Some(metadata) = object["metadata"].as_object_mut().filter(|_| of_others) {
        metadata.remove("labels");
    }
    if of_others {
        object.as_object_mut().unwrap().remove("status");
    }
    object
}

/// The objects of a YAML text, in an order of their own. What the chart leaves to the program's defaults (the network's
/// ranges) is written out by the command line.
fn objects(yaml: &str) -> Vec<Value> {
    let script = "import sys, json, yaml; print(json.dumps([o for o in yaml.safe_load_all(sys.stdin) if o]))";
    let out = exec::run(
        exec::command(&["/usr/bin/python3", "-c", script]),
        yaml.as_bytes(),
        std::time::Duration::from_secs(30),
    )
    .must();
    let mut all: Vec<Value> = serde_json::from_str(&out.stdout).unwrap();
    for object in &mut all {
        without_nothing(object);
        if object["kind"] == "ClusterNetwork" {
            for list in ["ipFamilies", "podCIDRs", "serviceCIDRs"] {
                object["spec"].as_object_mut().unwrap().remove(list);
            }
        }
    }
    all.sort_by_key(|object| {
        format!("{} {} {}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"])
    });
    all
}

/// A template writes a list without items as nothing at all.
fn without_nothing(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()));
            map.values_mut().for_each(without_nothing);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nothing),
        _ => {}
    }
}
