//! The Kubernetes API as any client sees it: paths, JSON, status codes.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::http::{self, Reply};
use crate::ns::Ns;

/// `apis/overlane.io/v1alpha1`
pub const OVERLANE: &str = "/apis/overlane.io/v1alpha1";

/// A connection point of an API server.
#[derive(Clone, Debug)]
pub struct Api {
    ns: Ns,
    at: SocketAddr,
    /// What every path begins with.
    base: String,
}

impl Api {
    /// From the text of a kubeconfig whose server is plain HTTP by address.
    pub fn from_kubeconfig(text: &str) -> Api {
        let server = text.split("server:").nth(1).and_then(|rest| rest.split_whitespace().next());
        let server = server.unwrap_or_else(|| panic!("no server in the kubeconfig:\n{text}"));
        let server = server.trim_matches('"').trim_end_matches('/');
        let rest =
            server.strip_prefix("http://").unwrap_or_else(|| panic!("the lab's API is not plain HTTP: {server}"));
        let (at, base) = match rest.split_once('/') {
            Some((at, base)) => (at, format!("/{base}")),
            None => (rest, String::new()),
        };
        let at = at.parse().unwrap_or_else(|e| panic!("address of the API server {at}: {e}"));
        Api { ns: Ns::here(), at, base }
    }

    /// One request; the connection itself must work.
    pub fn ask(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Reply {
        let bytes = body.map(|(kind, value)| (kind, value.to_string().into_bytes()));
        let body = bytes.as_ref().map(|(kind, bytes)| (*kind, bytes.as_slice()));
        http::ask(&self.ns, self.at, method, &format!("{}{path}", self.base), body)
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// Whether something answers.
    pub fn answers(&self) -> bool {
        http::ask(&self.ns, self.at, "GET", &format!("{}/version", self.base), None).is_ok_and(|r| r.status == 200)
    }

    fn good(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Value {
        let reply = self.ask(method, path, body);
        assert!((200..300).contains(&reply.status), "{method} {path}: {} {}", reply.status, reply.text());
        serde_json::from_slice(&reply.body).unwrap_or_else(|e| panic!("{method} {path}: {e}: {}", reply.text()))
    }

    /// An object that must be there.
    pub fn get(&self, path: &str) -> Value {
        self.good("GET", path, None)
    }

    /// An object that may be absent.
    pub fn find(&self, path: &str) -> Option<Value> {
        let reply = self.ask("GET", path, None);
        match reply.status {
            404 => None,
            200 => Some(serde_json::from_slice(&reply.body).expect("an object in JSON")),
            other => panic!("GET {path}: {other} {}", reply.text()),
        }
    }

    /// The items of a list.
    pub fn list(&self, path: &str) -> Vec<Value> {
        self.get(path)["items"].as_array().cloned().unwrap_or_default()
    }

    /// Creates; the path is the collection's.
    pub fn create(&self, path: &str, object: &Value) -> Value {
        self.good("POST", path, Some(("application/json", object)))
    }

    /// Replaces.
    pub fn replace(&self, path: &str, object: &Value) -> Value {
        self.good("PUT", path, Some(("application/json", object)))
    }

    /// JSON merge patch.
    pub fn merge(&self, path: &str, patch: &Value) -> Value {
        self.good("PATCH", path, Some(("application/merge-patch+json", patch)))
    }

    /// Deletes at once; absent is fine.
    pub fn delete(&self, path: &str) {
        let reply = self.ask("DELETE", &format!("{path}?gracePeriodSeconds=0"), None);
        assert!(matches!(reply.status, 200 | 202 | 404), "DELETE {path}: {} {}", reply.status, reply.text());
    }

    /// Node names in order.
    pub fn node_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.list("/api/v1/nodes").iter().map(name_of).collect();
        names.sort();
        names
    }

    /// A Node.
    pub fn node(&self, name: &str) -> Value {
        self.get(&format!("/api/v1/nodes/{name}"))
    }

    /// A node's InternalIPs in the API's order.
    pub fn node_ips(&self, name: &str) -> Vec<IpAddr> {
        let node = self.node(name);
        let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
        addresses
            .iter()
            .filter(|a| a["type"] == "InternalIP")
            .map(|a| a["address"].as_str().expect("an address").parse().expect("an IP address"))
            .collect()
    }

    /// The NodeNetworkConfig of a node, if it was written.
    pub fn nnc(&self, node: &str) -> Option<Value> {
        self.find(&format!("{OVERLANE}/namespaces/kube-system/nodenetworkconfigs/{node}"))
    }

    /// The node's blocks as its NodeNetworkConfig lists them.
    pub fn blocks(&self, node: &str) -> Vec<String> {
        let nnc = self.nnc(node).unwrap_or(Value::Null);
        let containers = nnc["status"]["networkContainers"].as_array().cloned().unwrap_or_default();
        containers.iter().filter_map(|c| c["primaryIP"].as_str().map(str::to_owned)).collect()
    }

    /// A pod's path.
    pub fn pod_path(namespace: &str, name: &str) -> String {
        format!("/api/v1/namespaces/{namespace}/pods/{name}")
    }

    /// A pod's addresses in the API's order; empty until it runs.
    pub fn pod_ips(&self, namespace: &str, name: &str) -> Vec<IpAddr> {
        let pod = self.find(&Api::pod_path(namespace, name)).unwrap_or(Value::Null);
        let ips = pod["status"]["podIPs"].as_array().cloned().unwrap_or_default();
        ips.iter().filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect()
    }

    /// Sets a ConfigMap's data, making it if it is not there.
    pub fn config_map(&self, namespace: &str, name: &str, labels: &Value, data: &Value) {
        let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
        let path = format!("{collection}/{name}");
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace, "labels": labels}, "data": data,
        });
        match self.find(&path) {
            Some(_) => self.merge(&path, &json!({"data": data})),
            None => self.create(&collection, &object),
        };
    }

    /// Events whose note or reason holds `needle`.
    pub fn events_with(&self, needle: &str) -> Vec<Value> {
        let mut events = self.list("/api/v1/events");
        events.retain(|event| event.to_string().contains(needle));
        events
    }
}

/// `metadata.name`
pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// `metadata.uid`
pub fn uid_of(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

/// The status of a condition: `True`, `False`, `Unknown`, or empty.
pub fn condition(conditions: &Value, kind: &str) -> String {
    told(conditions, kind).0
}

/// A condition's status, reason and message; empty where there is none.
pub fn told(conditions: &Value, kind: &str) -> (String, String, String) {
    let found = conditions.as_array().into_iter().flatten().find(|c| c["type"] == kind);
    let text = |field: &str| found.and_then(|c| c[field].as_str()).unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}
