//! Structural schemas of custom resources: prune what they do not know, set defaults.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

/// A schema with its patterns compiled.
#[derive(Debug)]
pub struct Schema {
    root: Value,
    /// By their text.
    pub patterns: BTreeMap<String, Regex>,
}

impl Schema {
    /// Takes an `openAPIV3Schema`.
    ///
    /// # Errors
    /// If a pattern in it is no regular expression.
    pub fn new(root: Value) -> Result<Self, regex::Error> {
        let mut patterns = BTreeMap::new();
        gather_patterns(&root, &mut patterns)?;
        Ok(Self { root, patterns })
    }

    /// The schema itself.
    pub fn root(&self) -> &Value {
        &self.root
    }

    /// Drops fields that the schema does not know and fills in defaults. Returns the paths dropped.
    pub fn fit(&self, object: &mut Value) -> Vec<String> {
        let mut dropped = Vec::new();
        prune(object, &self.root, true, "", &mut dropped);
        set_defaults(object, &self.root);
        dropped
    }
}

fn gather_patterns(schema: &Value, found: &mut BTreeMap<String, Regex>) -> Result<(), regex::Error> {
    match schema {
        Value::Object(fields) => {
            if let Some(pattern) = fields.get("pattern").and_then(Value::as_str) {
                found.insert(pattern.to_owned(), Regex::new(pattern)?);
            }
            fields.values().try_for_each(|value| gather_patterns(value, found))
        }
        Value::Array(items) => items.iter().try_for_each(|value| gather_patterns(value, found)),
        _ => Ok(()),
    }
}

/// Whether the schema says yes to something.
pub fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name) == Some(&Value::Bool(true))
}

/// The path of a field.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The schema of a field: declared, or that of every other one.
pub fn child<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema
        .get("properties")
        .and_then(|properties| properties.get(name))
        .or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()))
}

fn prune(value: &mut Value, schema: &Value, is_object_root: bool, path: &str, dropped: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let keeps = flag(schema, "x-kubernetes-preserve-unknown-fields")
                || schema.get("additionalProperties").is_some_and(|schema| *schema != Value::Bool(false));
            let is_object_root = is_object_root || flag(schema, "x-kubernetes-embedded-resource");
            fields.retain(|name, value| {
                let of_every_object = is_object_root && ["apiVersion", "kind", "metadata"].contains(&name.as_str());
                match child(schema, name) {
                    // A null where none may be counts as absent, so that a default can take its place.
                    Some(schema) if value.is_null() => flag(schema, "nullable"),
                    Some(_) if of_every_object => true,
                    Some(schema) => {
                        prune(value, schema, false, &join(path, name), dropped);
                        true
                    }
                    None if keeps || of_every_object => true,
                    None => {
                        dropped.push(join(path, name));
                        false
                    }
                }
            });
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter_mut().enumerate() {
                    prune(item, schema, false, &format!("{path}[{index}]"), dropped);
                }
            }
        }
        _ => {}
    }
}

fn set_defaults(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if let Some(default) = schema.get("default")
                    && !fields.contains_key(name)
                {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in fields {
                if let Some(schema) = child(schema, name) {
                    set_defaults(value, schema);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| set_defaults(item, schema));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    pub fn schema() -> Schema {
        let spec = json!({"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
            "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "size": {"type": "integer", "minimum": 10, "maximum": 250},
            "note": {"type": "string", "nullable": true},
            "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer", "default": 7}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
        }});
        Schema::new(json!({"type": "object", "properties": {"spec": spec, "metadata": {"type": "object"}}})).unwrap()
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let mut object = json!({"kind": "K", "metadata": {"name": "n", "labels": {"a": "b"}}, "top": 1, "spec": {
            "name": "x", "mode": null, "note": null, "more": 1, "list": [{"y": 1}, {"x": 2}], "free": {"any": 1},
            "map": {"k": "v"},
        }});
        let dropped = schema().fit(&mut object);
        assert_eq!(dropped, ["spec.list[0].y", "spec.more", "top"]);
        assert_eq!(
            object,
            json!({"kind": "K", "metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {
                "name": "x", "mode": "a", "note": null, "list": [{"x": 7}, {"x": 2}], "free": {"any": 1},
                "map": {"k": "v"},
            }})
        );
    }
}
