//! How a test knows that what it wrote is in force everywhere: pods of a namespace of their own, on each node two, about
//! which a number is written last, in every way that news may take: a NetworkPolicy, a ClusterNetworkPolicy, labels of
//! pods, of their namespace and of nodes. Packets between them pass if, and only if, all of the newest has arrived.

use std::sync::atomic::Ordering;

use overlane_suites::api::Api;
use overlane_suites::volley::{Carries, Shot};
use overlane_suites::wait::{ensure, eventually, millis, secs};
use serde_json::{Value, json};

use crate::objects::{self, namespace_path, node_path};
use crate::stage::{Range, Stage};

/// The canaries' namespace.
pub const NAMESPACE: &str = "canary";
/// The label that bears the number.
pub const LABEL: &str = "canary";
/// The first port that ClusterNetworkPolicies decide on, and the first that NetworkPolicies do.
const ADMIN: u16 = 20_000;
const NETWORK: u16 = 30_000;
/// How many ports each have.
const PORTS: u16 = 10_000;
/// The policy that comes before all that a test makes.
const FIRST: &str = "a-canary";

/// Creates the canaries; they are not waited for.
pub fn create(stage: &Stage) {
    stage.namespace(NAMESPACE, &json!({LABEL: "0"}));
    for node in 0..stage.nodes.len() {
        for side in ["out", "in"] {
            stage.create(NAMESPACE, &format!("{side}-{node}"), node, &json!({LABEL: "0"}), &Value::Null);
        }
    }
    let isolate = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    objects::put(stage.api(), &objects::policy(NAMESPACE, "isolated", &isolate));
}

/// Waits until the canaries have their network.
pub fn admit(stage: &mut Stage) {
    for node in 0..stage.nodes.len() {
        for side in ["out", "in"] {
            stage.admit(NAMESPACE, &format!("{side}-{node}"));
        }
    }
}

/// Whether a policy is of the canaries.
pub fn owns(policy: &Value) -> bool {
    policy["metadata"]["namespace"] == NAMESPACE || policy["metadata"]["name"] == FIRST
}

/// Writes the next number, and waits until it is in force everywhere: so is then all that was written before.
pub fn settle(range: &Range) {
    let number = range.number.fetch_add(1, Ordering::Relaxed) + 1;
    sing(range, number);
    await_number(range, number);
}

fn sing(range: &Range, number: u16) {
    let api = range.api();
    let label = json!({LABEL: number.to_string()});
    for node in 0..range.stage.nodes.len() {
        for side in ["out", "in"] {
            objects::label(api, &Api::pod_path(NAMESPACE, &format!("{side}-{node}")), &label);
        }
    }
    objects::label(api, &namespace_path(NAMESPACE), &label);
    for node in &range.stage.nodes {
        objects::label(api, &node_path(&node.name), &label);
    }
    objects::put(api, &objects::policy(NAMESPACE, "number", &network_policy(number)));
    objects::put(api, &objects::cluster_policy(FIRST, &cluster_policy(number)));
}

fn network_policy(number: u16) -> Value {
    let selector = json!({"matchLabels": {LABEL: number.to_string()}});
    let peers = json!([{"namespaceSelector": selector, "podSelector": selector}]);
    let ports = json!([{"protocol": "UDP", "port": NETWORK + number % PORTS}]);
    json!({
        "podSelector": selector, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers, "ports": ports}], "egress": [{"to": peers, "ports": ports}],
    })
}

fn cluster_policy(number: u16) -> Value {
    let port = json!([{"udp": {"destinationPort": {"number": ADMIN + number % PORTS}}}]);
    let range =
        |first: u16| json!([{"udp": {"destinationPort": {"range": {"start": first, "end": first + PORTS - 1}}}}]);
    let canaries = json!({"matchExpressions": [{"key": LABEL, "operator": "Exists"}]});
    let everyone = json!({"namespaces": {}});
    let rules = |peers: &str, last: Value| {
        let canaries = json!([{"namespaces": canaries}]);
        json!([
            {"action": "Accept", peers: canaries, "protocols": port},
            {"action": "Deny", peers: [everyone], "protocols": range(ADMIN)},
            // No policy of the test has a say in these: the next tier has the canaries' own alone.
            {"action": "Pass", peers: [everyone], "protocols": range(NETWORK)},
            last,
        ])
    };
    let nodes = json!({"matchLabels": {LABEL: number.to_string()}});
    let mut egress = rules("to", json!({"action": "Deny", "to": [{"nodes": {}}], "protocols": range(ADMIN)}));
    if let Some(rules) = egress.as_array_mut() {
        rules.insert(0, json!({"action": "Accept", "to": [{"nodes": nodes}], "protocols": port}));
    }
    let ingress = rules("from", json!({"action": "Pass", "from": [everyone]}));
    json!({
        "tier": "Admin", "priority": 0, "subject": {"namespaces": canaries},
        "ingress": ingress, "egress": egress,
    })
}

/// Waits until the number is in force on every node.
fn await_number(range: &Range, number: u16) {
    let next = number + 1;
    let (open, shut) = (songs(range, number), songs(range, next));
    eventually(secs(60), &format!("policies of round {number} are in force"), || {
        let blocked: Vec<String> = told(range, &open, |arrived| !arrived);
        ensure(blocked.is_empty(), || format!("does not pass yet: {blocked:#?}"))?;
        let through: Vec<String> = told(range, &shut, |arrived| arrived);
        ensure(through.is_empty(), || format!("passes although it is denied: {through:#?}"))
    });
}

/// Those packets of which this is so.
fn told(range: &Range, shots: &[Shot], wanted: impl Fn(bool) -> bool) -> Vec<String> {
    let fates = range.fire(shots, millis(100));
    let found = shots.iter().zip(fates).filter(|(_, fate)| wanted(fate.arrived));
    found.map(|(shot, _)| range.tell(shot)).collect()
}

/// Packets from each node's canary to each node's other one, and to the other nodes.
fn songs(range: &Range, number: u16) -> Vec<Shot> {
    let [admin, network] = [ADMIN, NETWORK].map(|first| Carries::Udp(first + number % PORTS));
    let nodes = range.stage.nodes.len();
    let mut shots = Vec::new();
    for from in 0..nodes {
        let out = format!("{NAMESPACE}/out-{from}");
        for into in 0..nodes {
            let to = format!("{NAMESPACE}/in-{into}");
            shots.extend(range.shots(&out, &to, admin));
            shots.extend(range.shots(&out, &to, network));
            if from != into {
                shots.extend(range.shots(&out, &range.stage.nodes[into].name, admin));
            }
        }
    }
    shots
}
