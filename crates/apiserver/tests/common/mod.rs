//! What the suites share: a custom resource of their own and short forms for objects.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests; not every suite uses everything"
)]

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::PostParams;
use kube::{Api, Client, CustomResource, CustomResourceExt};
use overlane_apiserver::ApiServer;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A custom resource with a status of its own.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "test.overlane.io",
    version = "v1",
    kind = "Widget",
    plural = "widgets",
    shortname = "wd",
    namespaced,
    status = "WidgetStatus",
    printcolumn = r#"{"name":"Size","type":"integer","jsonPath":".spec.size"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct WidgetSpec {
    #[schemars(range(min = 1, max = 250))]
    pub size: u32,
    #[serde(default = "blue")]
    pub colour: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

fn blue() -> String {
    "blue".to_owned()
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WidgetStatus {
    pub used: u32,
    pub conditions: Vec<Condition>,
}

/// A server that knows widgets.
pub fn server() -> ApiServer {
    let server = ApiServer::new();
    server.register(&Widget::crd()).unwrap();
    server
}

pub fn widgets(client: &Client) -> Api<Widget> {
    Api::default_namespaced(client.clone())
}

pub fn widget(name: &str, size: u32) -> Widget {
    let spec = WidgetSpec { size, colour: blue(), note: None };
    Widget::new(name, spec)
}

/// An object from its JSON.
pub fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub fn pod(name: &str, node: &str) -> Pod {
    object(json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
    }))
}

pub fn node(name: &str) -> Node {
    object(json!({"metadata": {"name": name}}))
}

pub fn config_map(name: &str) -> ConfigMap {
    object(json!({"metadata": {"name": name}, "data": {"a": "1"}}))
}

pub fn post() -> PostParams {
    PostParams::default()
}

/// Code and reason of a refusal.
pub fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone()),
        other => panic!("expected a refusal, found {other:?}"),
    }
}

/// Waits for a future, but not for ever.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("nothing happened within ten seconds")
}
