//! What the server serves, as clients ask for it before anything else.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::resource::{Registry, api_version};

/// The release whose API this server speaks.
pub const VERSION: &str = "v1.34.0";

/// `/version`.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "34", "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "none", "platform": "linux/amd64",
    })
}

/// The answer at a path of discovery, if it is one and something is served there.
pub fn answer(registry: &Registry, path: &[&str]) -> Option<Value> {
    match path {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["apis"] => {
            let groups: Vec<Value> =
                versions(registry).iter().map(|(group, versions)| group_entry(group, versions)).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", group] => {
            let found = versions(registry);
            let mut entry = group_entry(group, found.get(*group)?);
            entry["kind"] = json!("APIGroup");
            entry["apiVersion"] = json!("v1");
            Some(entry)
        }
        ["api", version] => resources(registry, "", version),
        ["apis", group, version] => resources(registry, group, version),
        _ => None,
    }
}

fn versions(registry: &Registry) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (group, version) in registry.group_versions().into_iter().filter(|(group, _)| !group.is_empty()) {
        found.entry(group).or_default().push(version);
    }
    found
}

fn group_entry(group: &str, versions: &[String]) -> Value {
    let entry = |version: &String| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({
        "name": group,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.last().map(entry),
    })
}

fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for resource in registry.all().filter(|resource| resource.group == group && resource.version == version) {
        let entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs(), "shortNames": resource.short_names,
            "categories": resource.categories,
        });
        list.push(entry);
        let subresource = |name: &str, kind: &str, verbs: Value| {
            json!({"name": format!("{}/{name}", resource.plural), "singularName": "", "namespaced": resource.namespaced,
                "kind": kind, "verbs": verbs})
        };
        if resource.status {
            list.push(subresource("status", &resource.kind, json!(["get", "patch", "update"])));
        }
        if resource.is("", "pods") {
            let mut eviction = subresource("eviction", "Eviction", json!(["create"]));
            eviction["group"] = json!("policy");
            eviction["version"] = json!("v1");
            list.push(eviction);
            list.push(subresource("binding", "Binding", json!(["create"])));
        }
    }
    let group_version = api_version(group, version);
    (!list.is_empty()).then(
        || json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}
