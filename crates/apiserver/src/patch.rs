//! JSON patch, merge patch and strategic merge patch.

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::resource::Resource;
use crate::shape::{ListKind, Shape};

/// The kinds of patch, by media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own: lists with known keys are merged item by item.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// The kind that a media type names. Custom resources have no strategic merge.
    ///
    /// # Errors
    /// 415 for all others.
    pub fn parse(content_type: &str, resource: &Resource) -> Result<Self, Failure> {
        match content_type {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if !resource.is_custom() => Ok(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" => Ok(Self::Apply),
            other => Err(Failure::unsupported_media_type(other)),
        }
    }

    /// The object after the patch. Server-side apply is not done here.
    ///
    /// # Errors
    /// 400 for a body that is no such patch, 422 for a JSON patch that does not fit the object.
    pub fn apply(self, resource: &Resource, live: &Value, patch: &Value) -> Result<Value, Failure> {
        let mut object = live.clone();
        match self {
            Self::Json => {
                let operations: json_patch::Patch = serde_json::from_value(patch.clone())
                    .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
                json_patch::patch(&mut object, &operations).map_err(|error| {
                    let name = crate::meta::text(live, &["metadata", "name"]);
                    let cause = crate::failure::Cause::invalid("patch", &Value::Null, &error.to_string());
                    Failure::invalid(resource, name, &[cause])
                })?;
            }
            Self::Merge if patch.is_object() => json_patch::merge(&mut object, patch),
            Self::Strategic => {
                let patch = patch.as_object().ok_or_else(no_object)?;
                let live = object.as_object_mut().ok_or_else(no_object)?;
                merge_objects(live, patch, &Shape::of(resource), true);
            }
            Self::Merge | Self::Apply => return Err(no_object()),
        }
        Ok(object)
    }
}

fn no_object() -> Failure {
    Failure::bad_request("error decoding patch: it is no JSON object")
}

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_VALUES: &str = "$deleteFromPrimitiveList/";

fn directive(patch: &Value) -> Option<&str> {
    patch.get(DIRECTIVE).and_then(Value::as_str)
}

fn merge_objects(live: &mut Map<String, Value>, patch: &Map<String, Value>, shape: &Shape<'_>, is_root: bool) {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            *live = patch.clone();
            live.remove(DIRECTIVE);
            return;
        }
        Some("delete") => {
            live.clear();
            return;
        }
        _ => {}
    }
    if let Some(kept) = patch.get(RETAIN).and_then(Value::as_array) {
        live.retain(|name, _| kept.iter().any(|kept| kept == name));
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE_VALUES) {
            let unwanted = value.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(items) = live.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !unwanted.contains(item));
            }
        } else if !name.starts_with('$') {
            merge_field(live, name, value, &shape.field(name, is_root));
        }
    }
}

fn merge_field(live: &mut Map<String, Value>, name: &str, patch: &Value, shape: &Shape<'_>) {
    match patch {
        Value::Null => drop(live.remove(name)),
        Value::Object(fields) => {
            let entry = live.entry(name).or_insert(Value::Null);
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            if let Value::Object(live) = entry {
                merge_objects(live, fields, shape, false);
            }
        }
        Value::Array(items) => {
            let entry = live.entry(name).or_insert(Value::Null);
            let before = entry.as_array().cloned().unwrap_or_default();
            *entry = Value::Array(merge_lists(before, items, shape));
        }
        other => drop(live.insert(name.to_owned(), other.clone())),
    }
}

fn merge_lists(mut live: Vec<Value>, patch: &[Value], shape: &Shape<'_>) -> Vec<Value> {
    let replaces = patch.iter().any(|item| directive(item) == Some("replace"));
    let kind = if replaces { ListKind::Atomic } else { shape.list() };
    match kind {
        ListKind::Atomic => patch.iter().filter(|item| directive(item).is_none()).cloned().collect(),
        ListKind::Set => {
            for item in patch {
                if !live.contains(item) {
                    live.push(item.clone());
                }
            }
            live
        }
        ListKind::Map(keys) => {
            // Strategic merge knows one key a list: the first.
            let key = keys.first().map_or("", String::as_str);
            let before: Vec<Value> = live.iter().filter_map(|item| item.get(key).cloned()).collect();
            for item in patch {
                merge_item(&mut live, item, key, shape);
            }
            in_order(live, patch, key, &before)
        }
    }
}

/// Items of the patch in its order, all others in theirs: between the two, what was before counts, and what is new goes
/// first.
fn in_order(merged: Vec<Value>, patch: &[Value], key: &str, before: &[Value]) -> Vec<Value> {
    let at = |item: &Value, list: &[Value]| list.iter().position(|known| item.get(key) == Some(known));
    let named: Vec<Value> = patch.iter().filter_map(|item| item.get(key).cloned()).collect();
    let (mut patched, others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| at(item, &named).is_some());
    patched.sort_by_key(|item| at(item, &named));
    let mut ordered = Vec::with_capacity(patched.len() + others.len());
    let mut patched = patched.into_iter().peekable();
    for other in others {
        while patched.peek().is_some_and(|item| at(item, before) < at(&other, before)) {
            ordered.extend(patched.next());
        }
        ordered.push(other);
    }
    ordered.extend(patched);
    ordered
}

fn merge_item(live: &mut Vec<Value>, item: &Value, key: &str, shape: &Shape<'_>) {
    let same = |one: &Value| one.get(key) == item.get(key);
    if directive(item) == Some("delete") {
        live.retain(|one| !same(one));
        return;
    }
    match (live.iter_mut().find(|one| same(one)), item) {
        (Some(Value::Object(found)), Value::Object(fields)) => merge_objects(found, fields, &shape.item(), false),
        _ => {
            let mut fresh = Map::new();
            if let Value::Object(fields) = item {
                merge_objects(&mut fresh, fields, &shape.item(), false);
                live.push(Value::Object(fresh));
            } else {
                live.push(item.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn strategic(plural: &str, live: Value, patch: Value) -> Value {
        let resource = crate::builtin::registry().find("", "v1", plural).unwrap();
        PatchKind::Strategic.apply(&resource, &live, &patch).unwrap()
    }

    #[test]
    fn conditions_are_merged_by_type() {
        let live = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "x": 1}, {"type": "Disk"}]}});
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "False"},
            {"type": "NetworkUnavailable", "status": "False"}, {"type": "Disk", "$patch": "delete"}],
            "$setElementOrder/conditions": [{"type": "Ready"}]}});
        assert_eq!(
            strategic("nodes", live, patch),
            json!({"status": {"conditions": [{"type": "Ready", "status": "False", "x": 1},
                {"type": "NetworkUnavailable", "status": "False"}]}})
        );
    }

    #[test]
    fn finalizers_are_a_set_and_other_lists_are_replaced() {
        let live = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"tolerations": [{"key": "x"}], "volumes": [{"name": "v"}]}});
        let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]},
            "spec": {"tolerations": [{"key": "y"}], "volumes": [{"name": "w"}]}});
        let merged = strategic("pods", live, patch);
        assert_eq!(merged["metadata"]["finalizers"], json!(["b", "c"]));
        assert_eq!(merged["spec"], json!({"tolerations": [{"key": "y"}], "volumes": [{"name": "w"}, {"name": "v"}]}));
    }

    #[test]
    fn null_deletes_and_replace_replaces() {
        let live = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"x": 1}});
        let patch = json!({"metadata": {"labels": {"a": null}}, "spec": {"$patch": "replace", "y": 2}});
        assert_eq!(strategic("pods", live, patch), json!({"metadata": {"labels": {"b": "2"}}, "spec": {"y": 2}}));
    }
}
