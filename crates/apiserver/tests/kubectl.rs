//! The API with the real kubectl, over loopback. `KUBECTL` names another binary than the one in the path.
//!
//! Must catch: discovery, tables or OpenAPI that kubectl cannot use, so that it asks for `--validate=false`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use overlane_apiserver::ApiServer;
use serde_json::Value;

/// A server on loopback, and a home for kubectl's cache, for one test.
struct Cluster {
    home: PathBuf,
    url: String,
    runtime: tokio::runtime::Runtime,
    server: ApiServer,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.home));
    }
}

impl Cluster {
    fn new(test: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = common::server();
        let serving = server.clone();
        runtime.spawn(async move { serving.serve(listener, std::future::pending()).await });
        let home = std::env::temp_dir().join(format!("overlane-kubectl-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        Self { home, url, runtime, server }
    }

    fn command(&self, words: &str) -> Command {
        let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let mut command = Command::new(program);
        command.arg("--server").arg(&self.url).args(words.split_whitespace());
        command.env("HOME", &self.home).env_remove("KUBECONFIG").current_dir(&self.home);
        command
    }

    fn spawn(mut command: Command) -> Child {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl cannot be run: install it (Debian: apt-get install kubernetes-client)")
    }

    fn run(&self, words: &str, input: &str) -> Output {
        let mut child = Self::spawn(self.command(words));
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What kubectl prints; it must succeed.
    fn ok_with(&self, words: &str, input: &str) -> String {
        let output = self.run(words, input);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "kubectl {words}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    fn ok(&self, words: &str) -> String {
        self.ok_with(words, "")
    }

    /// What kubectl complains of; it must fail.
    fn fails(&self, words: &str, input: &str) -> String {
        let output = self.run(words, input);
        assert!(!output.status.success(), "kubectl {words} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn is_old(&self) -> bool {
        let version: Value = serde_json::from_str(&self.ok("version --client -o json")).unwrap();
        let minor = version["clientVersion"]["minor"].as_str().unwrap().trim_end_matches('+').parse::<u32>();
        minor.unwrap() < 25
    }
}

const WIDGET: &str = r#"
apiVersion: test.overlane.io/v1
kind: Widget
metadata: {name: w, labels: {a: b}}
spec: {size: 3}
"#;

const NODE_AND_POD: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: n1}
status:
  addresses: [{type: InternalIP, address: 10.224.0.4}]
  conditions: [{type: Ready, status: "True", reason: r, message: m}]
---
apiVersion: v1
kind: Pod
metadata: {name: p1, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: i, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: s1}
spec: {selector: {app: web}, ports: [{port: 80}]}
"#;

#[test]
fn discovery_and_tables() {
    let cluster = Cluster::new("discovery");
    let resources = cluster.ok("api-resources --no-headers");
    for word in ["nodes", "widgets", "wd", "events.k8s.io/v1", "crd,crds"] {
        assert!(resources.contains(word), "{word} in {resources}");
    }
    cluster.ok_with("apply -f -", NODE_AND_POD);
    let status = r#"{"status":{"phase":"Running","podIP":"10.244.1.2","podIPs":[{"ip":"10.244.1.2"}]}}"#;
    cluster.runtime.block_on(async {
        let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::default_namespaced(cluster.server.client());
        let patch = kube::api::Patch::Merge(serde_json::from_str::<Value>(status).unwrap());
        pods.patch_status("p1", &Default::default(), &patch).await.unwrap();
    });
    let pods = cluster.ok("get pods -o wide");
    for word in ["p1", "0/1", "Running", "10.244.1.2", "n1"] {
        assert!(pods.contains(word), "{word} in {pods}");
    }
    let nodes = cluster.ok("get nodes -o wide");
    assert!(nodes.contains("Ready") && nodes.contains("10.224.0.4"), "{nodes}");
    assert!(cluster.ok("get ns").contains("kube-system"));
    assert!(cluster.ok("get all").contains("service/s1"));
    assert!(cluster.ok("get pods --field-selector spec.nodeName=n1 -l app=web -o name").contains("pod/p1"));
    assert!(cluster.ok("describe node n1").contains("p1"));
    assert!(cluster.ok("describe pod p1").contains("10.244.1.2"));
}

#[test]
fn apply_edit_label_and_patch_a_custom_resource() {
    let cluster = Cluster::new("apply");
    assert!(cluster.ok_with("apply -f -", WIDGET).contains("created"));
    assert!(cluster.ok_with("apply -f -", WIDGET).contains("unchanged"));
    assert!(cluster.ok_with("apply -f -", &WIDGET.replace("size: 3", "size: 4")).contains("configured"));
    assert!(cluster.ok("get wd").contains('4'));
    cluster.ok("label wd w x=y a-");
    cluster.ok("annotate wd w note=hello");
    assert!(cluster.ok("describe wd w").contains("x=y"));
    cluster.ok(r#"patch wd w --type=merge -p {"spec":{"size":5}}"#);
    cluster.ok(r#"patch wd w --type=json -p [{"op":"replace","path":"/spec/size","value":6}]"#);
    let mut edit = cluster.command("edit wd w");
    edit.env("EDITOR", "sed -i s/size:.6/size:\\ 7/");
    assert!(Cluster::spawn(edit).wait_with_output().unwrap().status.success());
    assert_eq!(cluster.ok("get wd w -o jsonpath={.spec.size}"), "7");
    let refused = cluster.fails("apply -f -", &WIDGET.replace("size: 3", "size: 300"));
    assert!(refused.contains("spec.size"), "{refused}");
    let replaced = cluster.ok_with("replace -f -", &WIDGET.replace("size: 3", "size: 8"));
    assert!(replaced.contains("replaced"));
    if !cluster.is_old() {
        let strict = cluster.fails("apply -f -", &WIDGET.replace("size: 3", "size: 8, unknown: 1"));
        assert!(strict.contains("unknown field \"spec.unknown\""), "{strict}");
        assert!(cluster.ok("explain widgets.spec").contains("size"));
        cluster.ok("wait --for=jsonpath={.spec.size}=8 wd/w --timeout=5s");
        let dry = cluster.ok_with("apply --dry-run=server -f -", &WIDGET.replace("size: 3", "size: 9"));
        assert!(dry.contains("server dry run"));
        assert_eq!(cluster.ok("get wd w -o jsonpath={.spec.size}"), "8");
    }
    cluster.ok("delete wd w --timeout=10s");
    assert!(cluster.fails("get wd w", "").contains("NotFound"));
}

#[test]
fn built_in_kinds_are_applied_and_patched() {
    let cluster = Cluster::new("builtin");
    assert_eq!(cluster.ok_with("apply -f -", NODE_AND_POD).matches("created").count(), 3);
    let changed = NODE_AND_POD.replace("image: i", "image: j");
    assert!(cluster.ok_with("apply -f -", &changed).contains("pod/p1 configured"));
    assert_eq!(cluster.ok("get pod p1 -o jsonpath={.spec.containers[*].image}"), "j");
    cluster.ok(r#"patch pod p1 -p {"spec":{"containers":[{"name":"c","image":"k"}]}}"#);
    assert_eq!(cluster.ok("get pod p1 -o jsonpath={.spec.containers[*].image}"), "k");
    let conflict = cluster.fails("apply --server-side -f -", NODE_AND_POD);
    assert!(conflict.contains("conflict") && conflict.contains(".image"), "{conflict}");
    cluster.ok_with("apply --server-side --force-conflicts -f -", NODE_AND_POD);
    assert_eq!(cluster.ok("get pod p1 -o jsonpath={.spec.containers[*].image}"), "i");
    cluster.ok("taint node n1 k=v:NoSchedule");
    cluster.ok("cordon n1");
    assert!(cluster.ok("get nodes").contains("SchedulingDisabled"));
    cluster.ok("expose pod p1 --port=80 --name=exposed");
}

#[test]
fn objects_made_from_words() {
    let cluster = Cluster::new("words");
    cluster.ok("create namespace team");
    cluster.ok("create configmap cm --from-literal=a=b -n team");
    cluster.ok("create secret generic s --from-literal=a=b -n team");
    cluster.ok("create serviceaccount sa -n team");
    assert_eq!(cluster.ok("get cm cm -n team -o jsonpath={.data.a}"), "b");
    assert_eq!(cluster.ok("get secret s -n team -o jsonpath={.data.a}"), "Yg==");
    cluster.ok("run p --image=i -n team");
    assert!(cluster.fails("create namespace team", "").contains("AlreadyExists"));
    cluster.ok("delete ns team --timeout=10s");
    assert!(!cluster.ok("get ns").contains("team"));
}

#[test]
fn get_watch_shows_each_change() {
    let cluster = Cluster::new("watch");
    cluster.ok_with("apply -f -", WIDGET);
    let mut child = Cluster::spawn(cluster.command("get wd -w --no-headers"));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(next()[..2], ["w", "3"]);
    cluster.ok(r#"patch wd w --type=merge -p {"spec":{"size":9}}"#);
    assert_eq!(next()[..2], ["w", "9"]);
    cluster.ok("delete wd w --timeout=10s");
    assert_eq!(next()[0], "w");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_pod_is_deleted_once_its_kubelet_agrees() {
    let cluster = Cluster::new("grace");
    cluster.ok_with("apply -f -", NODE_AND_POD);
    cluster.ok("delete pod p1 --wait=false");
    assert!(cluster.ok("get pods").contains("Terminating"));
    cluster.ok("delete pod p1 --grace-period=0 --force --timeout=10s");
    assert!(cluster.ok("get pods -o name").is_empty());
    cluster.ok("delete crd widgets.test.overlane.io --timeout=10s");
    assert!(!cluster.ok("api-resources").contains("widgets"));
}
