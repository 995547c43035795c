//! The least of OpenAPI that kubectl needs: that every resource takes `fieldValidation` and `dryRun` (else it wants to
//! validate by itself, with schemas of everything), and the schemas of custom resources for `kubectl explain`.

use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use crate::discovery::VERSION;
use crate::resource::{Registry, Resource, api_version};
use crate::server::Answer;

/// `/openapi/v2`, which old clients ask for: a document without any schema. They check nothing, then.
pub fn v2(headers: &HeaderMap) -> Answer {
    let accept = headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accept.contains("protobuf") {
        let document = json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": VERSION}, "paths": {}});
        return Answer::json(document.to_string());
    }
    // Field 1 of the message is `swagger`.
    Answer::Body {
        code: StatusCode::OK,
        content_type: "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        bytes: bytes::Bytes::from_static(b"\x0a\x032.0"),
    }
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `/openapi/v3`: where the documents are.
pub fn index(registry: &Registry) -> Value {
    let entry = |(group, version): (String, String)| {
        let path = path_of(&group, &version);
        let url = format!("/openapi/v3/{path}");
        (path, json!({"serverRelativeURL": url}))
    };
    json!({"paths": registry.group_versions().into_iter().map(entry).collect::<Map<_, _>>()})
}

/// The document of one group and version, if it is served.
pub fn document(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for resource in registry.all().filter(|resource| resource.group == group && resource.version == version) {
        let scope = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let path = format!("/{}/{scope}{}/{{name}}", path_of(group, version), resource.plural);
        paths.insert(path, operations(resource));
        if let Some(schema) = &resource.schema {
            let mut schema = schema.root().clone();
            schema["x-kubernetes-group-version-kind"] = json!([kind_of(resource)]);
            let reversed: Vec<&str> = resource.group.rsplit('.').collect();
            schemas.insert(format!("{}.{version}.{}", reversed.join("."), resource.kind), schema);
        }
    }
    (!paths.is_empty()).then(|| {
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": VERSION, "description": api_version(group, version)},
            "paths": paths,
            "components": {"schemas": schemas},
        })
    })
}

fn kind_of(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn operations(resource: &Resource) -> Value {
    let parameter =
        |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let operation = |action: &str| {
        json!({
            "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind_of(resource),
        })
    };
    json!({"get": operation("get"), "patch": operation("patch"), "put": operation("put")})
}
