//! A lab in its user's hands: kubectl by the lab's own kubeconfig, and `up` again after the daemon died.

use std::time::Duration;

use nix::sys::signal::Signal;
use overlane_suites::lab::{Manifest, overlane, real_api};
use overlane_suites::wait::{ensure, eventually, secs};
use overlane_suites::{Lab, exec};
use serde_json::json;

/// The real kubectl with what `lab kubeconfig` prints, as a user has it.
struct Kubectl {
    config: std::path::PathBuf,
}

impl Kubectl {
    fn of(lab: &Lab) -> Self {
        let config = std::env::temp_dir().join(format!("{}.kubeconfig", lab.name));
        std::fs::write(&config, lab.cli("kubeconfig", &[]).must().stdout).unwrap();
        Self { config }
    }

    fn run(&self, words: &[&str], input: &str) -> exec::Out {
        let mut command = std::process::Command::new("kubectl");
        let home = self.config.with_extension("home");
        command.args(words).env("KUBECONFIG", &self.config).env("HOME", home);
        exec::run(command, input.as_bytes(), Duration::from_secs(60))
    }

    fn must(&self, words: &[&str]) -> String {
        self.run(words, "").must().stdout
    }
}

impl Drop for Kubectl {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.config);
        let _ = std::fs::remove_dir_all(self.config.with_extension("home"));
    }
}

#[test]
fn kubectl_works_on_it() {
    let lab = Lab::up(&["--nodes", "2"]);
    let kubectl = Kubectl::of(&lab);
    let nodes = kubectl.must(&["get", "nodes", "-o", "wide"]);
    assert!(nodes.contains("node-1") && nodes.contains(" Ready ") && nodes.contains("10.224.0."), "{nodes}");
    // As AKS' documentation has it.
    let spaces = kubectl.must(&[
        "get",
        "nnc",
        "-A",
        "-o",
        r#"jsonpath={range .items[*]}{.metadata.name}{" "}{.status.networkContainers[0].subnetAddressSpace}{"\n"}{end}"#,
    ]);
    assert_eq!(spaces, "node-0 10.244.0.0/16\nnode-1 10.244.0.0/16\n");
    let blocks = kubectl.must(&["get", "nodeblocks"]);
    assert!(blocks.contains("10.244.1.0/24") && blocks.contains("fd12:3456:789a:0:1::/80"), "{blocks}");
    // A pod by a manifest of one's own, networked like any other; what kubectl deletes ends.
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mine"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "none", "command": ["sleep", "86398"]}]},
    });
    let applied = kubectl.run(&["apply", "-f", "-"], &pod.to_string()).must();
    assert!(applied.stdout.contains("pod/mine created"), "{applied}");
    kubectl.must(&["wait", "--for=condition=Ready", "--timeout=30s", "pod/mine"]);
    let listed = kubectl.must(&["get", "pods", "-o", "wide"]);
    assert!(listed.contains("Running") && listed.contains("10.244.1."), "{listed}");
    let mine = lab.pod("mine");
    for ip in &mine.ips {
        overlane_suites::packet::ping(&lab.node(0).ns, *ip, 56, secs(2)).unwrap();
    }
    kubectl.must(&["delete", "pod", "mine", "--wait=true", "--timeout=30s"]);
    assert!(!exec::pids().into_iter().any(|pid| exec::cmdline(pid).iter().any(|word| word == "86398")));
    let explained = kubectl.must(&["explain", "clusternetwork.spec.podCIDRs"]);
    assert!(explained.contains("podCIDRs"), "{explained}");
}

#[test]
fn a_pod_that_the_lab_cannot_run_says_so() {
    let lab = Lab::up(&["--nodes", "1"]);
    let kubectl = Kubectl::of(&lab);
    let container = |name: &str| json!({"name": name, "image": "none", "command": ["sleep", "86397"]});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "two"},
        "spec": {"nodeName": "node-0", "containers": [container("a"), container("b")]},
    });
    kubectl.run(&["apply", "-f", "-"], &pod.to_string()).must();
    eventually(secs(20), "the pod's end", || {
        let pod = kubectl.must(&["get", "pod", "two", "-o", "json"]);
        ensure(pod.contains("Failed") && pod.contains("container b has a command too"), || pod)
    });
    assert!(!exec::pids().into_iter().any(|pid| exec::cmdline(pid).iter().any(|word| word == "86397")));
}

#[test]
fn up_goes_on_with_a_lab_whose_daemon_died_and_with_no_other() {
    let manifest = Manifest::new(&[
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "extra"}}),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "given", "namespace": "extra"},
            "spec": {"nodeName": "node-0", "containers": [{"name": "c", "image": "none"}]},
        }),
    ]);
    let args = ["--nodes", "2", "-f", manifest.arg()];
    let lab = Lab::up(&args);
    assert_eq!(lab.api.pod_ips("extra", "given").len(), 2, "ready when it returns");
    let pod = lab.run_pod("p", "node-1");
    let words = |args: &[&'static str]| -> Vec<String> {
        let up = ["lab", "up", "--name", &lab.name].map(str::to_owned);
        up.into_iter().chain(args.iter().map(|word| (*word).to_owned())).collect()
    };
    let up = |args: &[String]| overlane(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let twice = up(&words(&["--nodes", "2"]));
    assert!(twice.code == Some(2) && twice.stderr.contains("already up"), "{twice}");
    let added = lab.add_node();
    // The lab's own API saves its objects every half second; etcd has them at once.
    let is_saved = || {
        if real_api() {
            return Ok(());
        }
        let saved = std::fs::read(format!("{}/{}/api.snapshot", overlane_suites::lab::ROOT, lab.name)).unwrap();
        let saved = String::from_utf8_lossy(&saved).into_owned();
        ensure([&added, &pod.ips[0].to_string()].iter().all(|word| saved.contains(*word)), || "not yet".to_owned())
    };
    eventually(secs(10), "the API's objects on file", is_saved);
    kill_daemon(&lab.name);
    let doctor = overlane(&["doctor"]);
    assert_eq!(doctor.code, Some(1), "{doctor}");
    for word in ["its daemon is dead", &format!("overlane lab down --name {}", lab.name), "takes it over"] {
        assert!(doctor.all().contains(word), "no `{word}` in {doctor}");
    }
    let other = up(&words(&["--nodes", "5", "--max-pods", "99"]));
    assert_eq!(other.code, Some(2), "{other}");
    for word in ["other settings", "nodes: 2, asked for 5", "max-pods: 250, asked for 99", "lab down"] {
        assert!(other.stderr.contains(word), "no `{word}` in {other}");
    }
    // The same: what is there stays as it is, nodes that came later too.
    let again = up(&words(&["--nodes", "2"])).must();
    assert!(again.stdout.contains("node-2"), "{again}");
    assert_eq!(lab.pod("p").ips, pod.ips);
    // One that was never whole is made whole.
    kill_daemon(&lab.name);
    let file = format!("{}/{}/lab.json", overlane_suites::lab::ROOT, lab.name);
    let mut record: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    record["complete"] = json!(false);
    record["nodes"] = json!(4);
    std::fs::write(&file, record.to_string()).unwrap();
    let late = Manifest::new(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late"}})]);
    let path = late.arg().to_owned();
    let whole: Vec<String> = words(&["--nodes", "4", "-f"]).into_iter().chain([path]).collect();
    let whole = up(&whole).must();
    assert!(lab.api.find("/api/v1/namespaces/late").is_some(), "manifests are applied to a lab that goes on, too");
    assert!(whole.stdout.contains("node-3"), "{whole}");
    assert_eq!(lab.api.node_names().len(), 4);
    assert_eq!(lab.pod("p").ips, pod.ips);
}

fn kill_daemon(lab: &str) {
    let is = |pid: &i32| exec::cmdline(*pid).windows(3).any(|words| words == ["lab-daemon", "--name", lab]);
    let daemon = exec::pids().into_iter().find(is).expect("a daemon");
    exec::signal(daemon, Signal::SIGKILL);
    eventually(secs(5), "the daemon's end", || ensure(!exec::alive(daemon), || format!("{daemon} lives")));
}
