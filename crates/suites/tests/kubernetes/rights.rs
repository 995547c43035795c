//! What a stolen token of an agent can do: speak for its own node, and nothing else.

use overlane_suites::exec::Out;
use overlane_suites::kube::{Cluster, name};
use serde_json::{Value, json};

use crate::cluster;

/// kubectl with the token of the agent on a node, bound to that agent's pod as the kubelet would.
struct Thief {
    cluster: Cluster,
    token: String,
    server: String,
}

impl Thief {
    fn of(cluster: &Cluster, node: &str) -> Thief {
        let agents = cluster.list(&["pods", "-n", "kube-system", "-l", "app.kubernetes.io/name=overlane-agent"]);
        let agent = agents.iter().find(|pod| pod["spec"]["nodeName"] == node).expect("an agent");
        let uid = agent["metadata"]["uid"].as_str().unwrap();
        let bound = [
            "create",
            "token",
            "overlane-agent",
            "-n",
            "kube-system",
            "--bound-object-kind",
            "Pod",
            "--bound-object-name",
            &name(agent),
            "--bound-object-uid",
            uid,
        ];
        let token = cluster.kubectl(&bound).must().stdout.trim().to_owned();
        let server = cluster.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]).must().stdout;
        Thief { cluster: cluster.clone(), token, server }
    }

    /// Without a kubeconfig: else its client certificate would speak.
    fn kubectl(&self, words: &[&str], input: &Value) -> Out {
        let token = format!("--token={}", self.token);
        let server = format!("--server={}", self.server);
        let mut all =
            vec!["exec", "cp", "kubectl", "--kubeconfig=/dev/null", "--insecure-skip-tls-verify", &token, &server];
        all.extend(words);
        self.cluster.script(&all, input.to_string().as_bytes())
    }
}

fn state(node: &str) -> Value {
    json!({ "apiVersion": "overlane.io/v1alpha1", "kind": "NodeState", "metadata": { "name": node }, "spec": { "bootID": "x" } })
}

fn gateway(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "overlane.io/v1alpha1", "kind": "EgressGateway", "metadata": { "name": name }, "spec": spec })
}

#[test]
fn g_a_stolen_token_speaks_for_its_node_alone() {
    let cluster = cluster();
    let thief = Thief::of(&cluster, "node-0");
    let none = Value::Null;
    let patch = |kind: &str, of: &str, what: &str| -> Vec<String> {
        ["patch", kind, of, "--type=merge", "-p", what].map(str::to_owned).to_vec()
    };
    // What is allowed, so that the rest is not refused for another reason.
    let own = patch("nodestate", "node-0", r#"{"spec":{"agentVersion":"stolen"}}"#);
    thief.kubectl(&own.iter().map(String::as_str).collect::<Vec<_>>(), &none).must();
    thief.kubectl(&["get", "nodenetworkconfigs", "-n", "kube-system"], &none).must();
    thief.kubectl(&["get", "egressgateways"], &none).must();

    let mut tries: Vec<Vec<String>> = vec![
        patch("nodestate", "node-1", r#"{"spec":{"agentVersion":"stolen"}}"#),
        patch("nodestate", "node-0", r#"{"metadata":{"finalizers":["overlane.io/stuck"]}}"#),
        patch("nodestate", "node-0", r#"{"metadata":{"labels":{"a":"b"}}}"#),
        patch("nodestate", "node-0", r#"{"metadata":{"annotations":{"a":"b"}}}"#),
        patch(
            "nodestate",
            "node-0",
            r#"{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"node-1","uid":"x"}]}}"#,
        ),
        patch("node", "node-0", r#"{"spec":{"podCIDRs":["10.244.9.0/24"]}}"#),
        patch("node", "node-0", r#"{"metadata":{"labels":{"a":"b"}}}"#),
        patch("clusternetwork", "default", r#"{"spec":{"maxPods":20}}"#),
    ];
    for status in [
        ["node", "node-0", r#"{"status":{"conditions":[{"type":"NetworkUnavailable","status":"True"}]}}"#],
        ["node", "node-1", r#"{"status":{"addresses":[]}}"#],
        ["clusternetwork", "default", r#"{"status":{"applied":null}}"#],
    ] {
        let mut words = patch(status[0], status[1], status[2]);
        words.push("--subresource=status".to_owned());
        tries.push(words);
    }
    for of in ["node-0", "node-1"] {
        let route = r#"{"status":{"networkContainers":[]}}"#;
        let mut words = patch("nodenetworkconfig", of, route);
        words.extend(["-n", "kube-system", "--subresource=status"].map(str::to_owned));
        tries.push(words);
        tries.push(["delete", "nodenetworkconfig", of, "-n", "kube-system"].map(str::to_owned).to_vec());
        tries.push(["delete", "nodestate", of].map(str::to_owned).to_vec());
        tries.push(["delete", "node", of].map(str::to_owned).to_vec());
    }
    let block = name(&cluster.list(&["nodeblocks"])[0]);
    tries.push(["delete", "nodeblock", &block].map(str::to_owned).to_vec());
    tries.push(patch("nodeblock", &block, r#"{"spec":{"node":"node-0"}}"#));
    tries.push(["get", "secrets", "-A"].map(str::to_owned).to_vec());
    tries.push(["delete", "pod", "any", "-n", "kube-system"].map(str::to_owned).to_vec());
    // For no pods, at no node.
    let nobody = json!({ "matchLabels": { "nobody": "has" } });
    let spec = json!({ "podSelector": nobody, "nodeSelector": nobody, "egressIPs": ["10.224.0.200"] });
    cluster.apply(&gateway("held", &spec).to_string()).must();
    tries.push(["delete", "egressgateway", "held"].map(str::to_owned).to_vec());
    tries.push(patch("egressgateway", "held", r#"{"spec":{"podSelector":null}}"#));
    let mut words = patch("egressgateway", "held", r#"{"status":{"nodes":["node-0"]}}"#);
    words.push("--subresource=status".to_owned());
    tries.push(words);
    tries.push(["create", "token", "overlane-controller", "-n", "kube-system"].map(str::to_owned).to_vec());
    let before = everything(&cluster);
    for words in &tries {
        let out = thief.kubectl(&words.iter().map(String::as_str).collect::<Vec<_>>(), &none);
        assert_ne!(out.code, Some(0), "a stolen token may: {}\n{out}", words.join(" "));
        assert!(out.stderr.contains("orbidden") || out.stderr.contains("agent writes"), "{}: {out}", words.join(" "));
    }
    for (what, object) in [
        ("a NodeState of another node", state("node-9")),
        (
            "a NodeBlock",
            json!({ "apiVersion": "overlane.io/v1alpha1", "kind": "NodeBlock", "metadata": { "name": "10.244.77.0-24" }, "spec": {} }),
        ),
        ("an EgressGateway", gateway("stolen", &spec)),
    ] {
        let out = thief.kubectl(&["create", "-f", "-"], &object);
        assert_ne!(out.code, Some(0), "a stolen token may create {what}: {out}");
    }
    assert_eq!(everything(&cluster), before, "something was changed all the same");
    cluster.kubectl(&["delete", "egressgateway", "held"]).must();
}

/// A token that is bound to no pod names no node, and so speaks for none.
#[test]
fn h_a_token_without_a_node_speaks_for_none() {
    let cluster = cluster();
    let token = cluster.kubectl(&["create", "token", "overlane-agent", "-n", "kube-system"]).must().stdout;
    let thief = Thief { token: token.trim().to_owned(), ..Thief::of(&cluster, "node-0") };
    let out = thief.kubectl(
        &["patch", "nodestate", "node-0", "--type=merge", "-p", r#"{"spec":{"agentVersion":"x"}}"#],
        &Value::Null,
    );
    assert_ne!(out.code, Some(0), "{out}");
    assert!(out.stderr.contains("its own node"), "{out}");
}

/// Blocks, configurations and cluster, without what changes by itself.
fn everything(cluster: &Cluster) -> Vec<Value> {
    let mut all = cluster.list(&["nodeblocks"]);
    all.extend(cluster.list(&["nodenetworkconfigs", "-n", "kube-system"]));
    all.extend(cluster.list(&["clusternetworks"]));
    all.extend(cluster.list(&["egressgateways"]).into_iter().map(|gateway| gateway["spec"].clone()));
    all
}
