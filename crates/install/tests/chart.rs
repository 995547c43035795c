//! Must catch: a chart that was not made anew after its source changed; an object without a place to be; a value that
//! nothing uses; a capability whose reason the documents do not give.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use overlane_install::values::Values;

#[test]
fn the_committed_chart_is_the_one_that_is_made() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/overlane");
    for (name, text) in overlane_install::chart::files().unwrap() {
        let committed = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
        assert!(committed == text, "{name} differs from its source: run `make chart`");
    }
}

#[test]
fn every_value_is_used() {
    let mut defaults = serde_json::to_value(Values::default()).unwrap();
    // Taken as a whole.
    defaults["clusterNetwork"]["spec"] = serde_json::Value::Null;
    let templates: String = overlane_install::chart::files()
        .unwrap()
        .into_iter()
        .filter(|(name, _)| name.contains("templates/"))
        .map(|(_, text)| text)
        .collect();
    for (group, values) in defaults.as_object().unwrap() {
        for name in values.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_else(|| vec![String::new()]) {
            let path = format!(".Values.{group}.{name}");
            assert!(templates.contains(path.trim_end_matches('.')), "{path}");
        }
    }
}

#[test]
fn objects_are_whole() {
    let objects = overlane_install::objects(&Values::default(), "kube-system").unwrap();
    for object in &objects {
        let text = object.to_string();
        assert!(!text.contains("OVL"), "{text}");
        assert!(object["metadata"]["name"].is_string() && object["kind"].is_string(), "{text}");
    }
    let kinds = |kind: &str| objects.iter().filter(|object| object["kind"] == kind).count();
    assert_eq!((kinds("DaemonSet"), kinds("Deployment"), kinds("ClusterNetwork")), (1, 1, 1));
    let mut bare = Values::default();
    bare.cluster_network.create = false;
    bare.admission_policy.create = false;
    assert_eq!(overlane_install::objects(&bare, "x").unwrap().len(), objects.len() - 3);
}

#[test]
fn no_rule_reads_secrets_or_has_a_wildcard() {
    for object in overlane_install::objects(&Values::default(), "kube-system").unwrap() {
        for rule in object["rules"].as_array().into_iter().flatten() {
            let text = rule.to_string();
            assert!(!text.contains('*') && !text.contains("secrets"), "{text}");
        }
    }
}

/// Which pods leave by which gateway, and what pods are like, is the controller's word alone.
#[test]
fn agents_read_what_the_controller_says_and_write_none_of_it() {
    let objects = overlane_install::objects(&Values::default(), "kube-system").unwrap();
    let verbs = |account: &str, resource: &str| {
        let roles = objects.iter().filter(|object| object["metadata"]["name"] == account);
        let rules = roles.flat_map(|object| object["rules"].as_array().into_iter().flatten());
        let of = rules.filter(|rule| rule["resources"].as_array().unwrap().iter().any(|named| named == resource));
        let verbs = of.flat_map(|rule| rule["verbs"].as_array().unwrap());
        verbs.map(|verb| verb.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let policies = ["networkpolicies", "clusternetworkpolicies"];
    for resource in ["egressgateways", "pods", "namespaces", "podslices"].into_iter().chain(policies) {
        assert_eq!(verbs("overlane-agent", resource), ["get", "list", "watch"], "{resource}");
    }
    for resource in ["pods"].into_iter().chain(policies) {
        assert_eq!(verbs("overlane-controller", resource), ["get", "list", "watch"], "{resource}");
    }
    assert_eq!(
        verbs("overlane-controller", "podslices"),
        ["get", "list", "watch", "create", "patch", "delete"],
        "the controller alone makes slices"
    );
    assert_eq!(verbs("overlane-controller", "clusternetworkpolicies/status"), ["patch"]);
    assert_eq!(verbs("overlane-controller", "egressgateways"), ["get", "list", "watch"]);
    assert_eq!(verbs("overlane-controller", "egressgateways/status"), ["patch"]);
    for (account, resource) in [
        ("overlane-agent", "egressgateways/status"),
        ("overlane-agent", "clusternetworkpolicies/status"),
        ("overlane-controller", "namespaces"),
    ] {
        assert!(verbs(account, resource).is_empty(), "{account}: {resource}");
    }
}

#[test]
fn the_documents_give_the_reason_of_each_capability() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let page = std::fs::read_to_string(page).unwrap();
    for (name, reason) in overlane_install::CAPABILITIES {
        let row = format!("| {name} | {reason} |");
        assert!(page.contains(&row), "docs/operations.md has no row {row}");
    }
}
