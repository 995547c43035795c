//! `events.k8s.io/v1` is a second face of core/v1 Events: stored in the core form, turned at the edge.

use serde_json::{Map, Value};

use crate::meta::object_at;

/// Fields whose names differ: in the core group, and in `events.k8s.io`.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn renamed(object: &Value, version: &str, name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let fields = object.as_object().into_iter().flatten();
    let mut turned: Map<String, Value> =
        fields.map(|(field, value)| (name(field).unwrap_or(field).to_owned(), value.clone())).collect();
    turned.insert("apiVersion".to_owned(), version.into());
    Value::Object(turned)
}

/// From the stored form to `events.k8s.io/v1`.
pub fn outward(object: &Value) -> Value {
    let name = |field: &str| RENAMED.iter().find(|(core, _)| *core == field).map(|(_, new)| *new);
    renamed(object, "events.k8s.io/v1", name)
}

/// From `events.k8s.io/v1` to the stored form. The stored form always has `involvedObject` and `metadata`.
pub fn inward(object: &Value) -> Value {
    let name = |field: &str| RENAMED.iter().find(|(_, new)| *new == field).map(|(core, _)| *core);
    let mut turned = renamed(object, "v1", name);
    object_at(&mut turned, "involvedObject");
    turned
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn both_faces_show_the_same_event() {
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n", "regarding": {"name": "x"},
            "reportingController": "c", "series": {"count": 2}});
        let core = inward(&new);
        assert_eq!(core["message"], "n");
        assert_eq!(core["involvedObject"]["name"], "x");
        assert_eq!(core["reportingComponent"], "c");
        let back = outward(&core);
        for field in ["apiVersion", "note", "regarding", "reportingController", "series"] {
            assert_eq!(back[field], new[field], "{field}");
        }
    }
}
