//! Server-side apply, and what an update takes over of what was applied.

use serde_json::Value;

use crate::failure::Failure;
use crate::fields::{FieldSet, overlay, remove};
use crate::managers::{APPLY, Entry, UPDATE, Writer, entries, managers_of, ownable, store};
use crate::meta::{at, metadata, now};
use crate::resource::Resource;
use crate::shape::Shape;

/// What `config` makes of `live`, `managedFields` included.
///
/// # Errors
/// 409 if fields of other managers would change and `force` is not set.
pub fn apply(
    resource: &Resource,
    live: Option<&Value>,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, Failure> {
    let shape = Shape::of(resource);
    let wanted = ownable(FieldSet::of(config, &shape, true), resource, writer.subresource);
    let mut merged = overlay(live, config, &shape, true);
    let mut managers = managers_of(resource, live);
    let changed = ownable(FieldSet::changed(live, &merged, &shape, true), resource, writer.subresource);

    let mut conflicts = Vec::new();
    let mut others = FieldSet::default();
    for entry in managers.iter_mut().filter(|entry| !entry.is(writer, APPLY)) {
        let taken = entry.fields.common(&changed);
        conflicts.extend(taken.paths().into_iter().map(|path| (entry.manager.clone(), path)));
        entry.fields = entry.fields.minus(&taken);
        others.union(&entry.fields);
    }
    if !conflicts.is_empty() && !force {
        return Err(Failure::apply_conflict(&conflicts));
    }

    let own = managers.iter().position(|entry| entry.is(writer, APPLY)).map(|index| managers.remove(index));
    let before = own.as_ref().map(|entry| entry.fields.clone()).unwrap_or_default();
    let mut kept = others;
    kept.union(&wanted);
    remove(&mut merged, &before.minus(&kept), &kept, &shape, true);
    let time = own.filter(|entry| entry.fields == wanted).map_or_else(now, |entry| entry.time);
    managers.push(Entry {
        manager: writer.manager.to_owned(),
        operation: APPLY.to_owned(),
        subresource: writer.subresource.to_owned(),
        api_version: resource.api_version(),
        time,
        fields: wanted,
    });
    store(&mut merged, managers);
    Ok(merged)
}

/// Notes in `new` what an update or a patch took over. Nothing, if nobody has applied the object yet.
pub fn track(resource: &Resource, live: &Value, new: &mut Value, writer: Writer<'_>) {
    let base = if at(new, &["metadata", "managedFields"]).is_some() { &*new } else { live };
    let mut managers = entries(base);
    if managers.is_empty() {
        metadata(new).remove("managedFields");
        return;
    }
    let shape = Shape::of(resource);
    let all = |value: &Value| FieldSet::of(value, &shape, true);
    let changed = ownable(FieldSet::changed(Some(live), new, &shape, true), resource, writer.subresource);
    let removed = all(live).minus(&all(new));
    let mut own = None;
    for mut entry in managers.split_off(0) {
        entry.fields = entry.fields.minus(&removed);
        if entry.is(writer, UPDATE) {
            own = Some(entry);
        } else {
            entry.fields = entry.fields.minus(&changed);
            managers.push(entry);
        }
    }
    let mut own = own.unwrap_or_else(|| Entry {
        manager: writer.manager.to_owned(),
        operation: UPDATE.to_owned(),
        subresource: writer.subresource.to_owned(),
        api_version: resource.api_version(),
        time: now(),
        fields: FieldSet::default(),
    });
    if !changed.is_empty() {
        own.time = now();
        own.fields.union(&changed);
    }
    managers.push(own);
    store(new, managers);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn nodes() -> std::sync::Arc<Resource> {
        crate::builtin::registry().find("", "v1", "nodes").unwrap()
    }

    fn writer(manager: &str) -> Writer<'_> {
        Writer { manager, subresource: "" }
    }

    fn labels(labels: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": labels}})
    }

    #[test]
    fn a_field_no_longer_applied_goes_unless_another_owns_it() {
        let nodes = nodes();
        let one = apply(&nodes, None, &labels(json!({"a": "1", "b": "1"})), writer("one"), false).unwrap();
        let two = apply(&nodes, Some(&one), &labels(json!({"b": "1", "c": "1"})), writer("two"), false).unwrap();
        let gone = apply(&nodes, Some(&two), &labels(json!({})), writer("one"), false).unwrap();
        assert_eq!(gone["metadata"]["labels"], json!({"b": "1", "c": "1"}));
        let bare = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
        let none = apply(&nodes, Some(&gone), &bare, writer("two"), false).unwrap();
        assert_eq!(none["metadata"].get("labels"), Some(&json!({})), "manager one still applies an empty map");
    }

    #[test]
    fn another_managers_value_is_a_conflict_until_forced() {
        let nodes = nodes();
        let one = apply(&nodes, None, &labels(json!({"a": "1"})), writer("one"), false).unwrap();
        let refused = apply(&nodes, Some(&one), &labels(json!({"a": "2"})), writer("two"), false).unwrap_err();
        assert_eq!(refused.code, 409);
        assert!(refused.status()["message"].as_str().unwrap().contains(".metadata.labels.a"));
        let forced = apply(&nodes, Some(&one), &labels(json!({"a": "2"})), writer("two"), true).unwrap();
        assert_eq!(forced["metadata"]["managedFields"].as_array().unwrap().len(), 1);
        assert_eq!(forced["metadata"]["managedFields"][0]["manager"], "two");
    }

    #[test]
    fn an_update_takes_what_it_changes() {
        let nodes = nodes();
        let one = apply(&nodes, None, &labels(json!({"a": "1", "b": "1"})), writer("one"), false).unwrap();
        let mut new = one.clone();
        new["metadata"]["labels"]["a"] = json!("2");
        track(&nodes, &one, &mut new, writer("editor"));
        let refused =
            apply(&nodes, Some(&new), &labels(json!({"a": "1", "b": "1"})), writer("one"), false).unwrap_err();
        assert_eq!(refused.code, 409);
        assert!(apply(&nodes, Some(&new), &labels(json!({"a": "2", "b": "1"})), writer("one"), false).is_ok());
    }

    #[test]
    fn what_was_there_before_the_first_apply_has_an_owner() {
        let nodes = nodes();
        let live = labels(json!({"a": "1"}));
        assert_eq!(apply(&nodes, Some(&live), &labels(json!({"a": "2"})), writer("one"), false).unwrap_err().code, 409);
        let same = apply(&nodes, Some(&live), &labels(json!({"a": "1", "b": "2"})), writer("one"), false).unwrap();
        assert_eq!(same["metadata"]["labels"], json!({"a": "1", "b": "2"}));
    }

    #[test]
    fn conditions_have_an_owner_each() {
        let nodes = nodes();
        let status = |conditions| {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
            "status": {"conditions": conditions}})
        };
        let to_status = |manager| Writer { manager, subresource: "status" };
        let one =
            apply(&nodes, None, &status(json!([{"type": "A", "status": "True"}])), to_status("one"), false).unwrap();
        let two = apply(&nodes, Some(&one), &status(json!([{"type": "B", "status": "True"}])), to_status("two"), false)
            .unwrap();
        assert_eq!(two["status"]["conditions"].as_array().unwrap().len(), 2);
        let gone = apply(&nodes, Some(&two), &status(json!([])), to_status("one"), false).unwrap();
        assert_eq!(gone["status"]["conditions"], json!([{"type": "B", "status": "True"}]));
    }
}
