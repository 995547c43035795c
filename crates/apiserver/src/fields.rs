//! Sets of fields, as `managedFields` holds them: what an object has, what changed, and what is left after removal.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::shape::{ListKind, Shape};

/// Fields below a place. Keys are those of `FieldsV1`: `f:name`, `k:{"type":"Ready"}`, `v:"value"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the place itself belongs to the set.
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

fn leaf() -> FieldSet {
    FieldSet { member: true, children: BTreeMap::new() }
}

/// The key of a list's item.
fn item_key(item: &Value, keys: &[String], shape: &Shape<'_>) -> String {
    let found: Map<String, Value> = keys
        .iter()
        .filter_map(|key| Some((key.clone(), item.get(key).cloned().or_else(|| shape.default_key(key))?)))
        .collect();
    format!("k:{}", Value::Object(found))
}

fn find_item<'a>(items: &'a [Value], wanted: &str, keys: &[String], shape: &Shape<'_>) -> Option<&'a Value> {
    items.iter().find(|item| item_key(item, keys, shape) == wanted)
}

fn items_of(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

impl FieldSet {
    /// All fields of a value.
    pub fn of(value: &Value, shape: &Shape<'_>, is_root: bool) -> Self {
        Self::changed(None, value, shape, is_root)
    }

    /// The fields of `new` that `old` does not have, or has with another value.
    pub fn changed(old: Option<&Value>, new: &Value, shape: &Shape<'_>, is_root: bool) -> Self {
        if old == Some(new) {
            return Self::default();
        }
        match new {
            Value::Object(fields) if !fields.is_empty() && !shape.is_atomic_object() => {
                let mut set = Self::default();
                for (name, value) in fields {
                    let before = old.and_then(|old| old.get(name));
                    set.add(format!("f:{name}"), Self::changed(before, value, &shape.field(name, is_root), false));
                }
                set
            }
            Value::Array(items) if !items.is_empty() => Self::changed_items(old, items, shape),
            _ => leaf(),
        }
    }

    fn changed_items(old: Option<&Value>, items: &[Value], shape: &Shape<'_>) -> Self {
        let mut set = Self::default();
        match shape.list() {
            ListKind::Atomic => return leaf(),
            ListKind::Set => {
                for item in items.iter().filter(|item| !items_of(old).contains(item)) {
                    set.add(format!("v:{item}"), leaf());
                }
            }
            ListKind::Map(keys) => {
                for item in items {
                    let key = item_key(item, &keys, shape);
                    let before = find_item(items_of(old), &key, &keys, shape);
                    let mut child = Self::changed(before, item, &shape.item(), false);
                    child.member |= before.is_none();
                    set.add(key, child);
                }
            }
        }
        set
    }

    fn add(&mut self, key: String, child: Self) {
        if !child.is_empty() {
            self.children.insert(key, child);
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// The set below a field, taken out.
    pub fn take(&mut self, key: &str) -> Self {
        self.children.remove(key).unwrap_or_default()
    }

    /// Keeps only what is below these fields.
    pub fn keep_only(&mut self, keys: &[&str]) {
        self.children.retain(|key, _| keys.contains(&key.as_str()));
    }

    /// The set below a field.
    pub fn child_mut(&mut self, key: &str) -> Option<&mut Self> {
        self.children.get_mut(key)
    }

    /// Drops children that have become empty.
    pub fn tidy(&mut self) {
        self.children.retain(|_, child| !child.is_empty());
    }

    /// What is in either.
    pub fn union(&mut self, other: &Self) {
        self.member |= other.member;
        for (key, child) in &other.children {
            self.children.entry(key.clone()).or_default().union(child);
        }
    }

    /// What is in this one only.
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Self { member: self.member && !other.member, children: BTreeMap::new() };
        for (key, child) in &self.children {
            let child = other.children.get(key).map_or_else(|| child.clone(), |other| child.minus(other));
            left.add(key.clone(), child);
        }
        left
    }

    /// What is in both.
    pub fn common(&self, other: &Self) -> Self {
        let mut both = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (key, child) in &self.children {
            if let Some(other) = other.children.get(key) {
                both.add(key.clone(), child.common(other));
            }
        }
        both
    }

    /// Every member's path, as messages show it.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.gather("", &mut found);
        found
    }

    fn gather(&self, path: &str, found: &mut Vec<String>) {
        if self.member {
            found.push(path.to_owned());
        }
        for (key, child) in &self.children {
            child.gather(&format!("{path}{}", shown(key)), found);
        }
    }

    /// As `FieldsV1`.
    pub fn json(&self) -> Value {
        let mut fields: Map<String, Value> =
            self.children.iter().map(|(key, child)| (key.clone(), child.json())).collect();
        if self.member && !fields.is_empty() {
            fields.insert(".".to_owned(), json!({}));
        }
        Value::Object(fields)
    }

    /// From `FieldsV1`.
    pub fn parse(fields: &Value) -> Self {
        let Some(fields) = fields.as_object().filter(|fields| !fields.is_empty()) else {
            return leaf();
        };
        let children =
            fields.iter().filter(|(key, _)| *key != ".").map(|(key, child)| (key.clone(), Self::parse(child)));
        Self { member: fields.contains_key("."), children: children.collect() }
    }
}

fn shown(key: &str) -> String {
    match key.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("k:", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", pairs.join(","))
        }
        _ => format!("[={}]", key.get(2..).unwrap_or_default()),
    }
}

/// `config` laid over `live`: lists that are merged by keys keep the live order, new items follow.
pub fn overlay(live: Option<&Value>, config: &Value, shape: &Shape<'_>, is_root: bool) -> Value {
    match config {
        Value::Object(fields) if !shape.is_atomic_object() => {
            let mut merged = live.and_then(Value::as_object).cloned().unwrap_or_default();
            for (name, value) in fields {
                let value = overlay(merged.get(name), value, &shape.field(name, is_root), false);
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        Value::Array(items) => Value::Array(overlay_items(items_of(live), items, shape)),
        other => other.clone(),
    }
}

fn overlay_items(live: &[Value], config: &[Value], shape: &Shape<'_>) -> Vec<Value> {
    let mut merged = live.to_vec();
    match shape.list() {
        ListKind::Atomic => return config.to_vec(),
        ListKind::Set => merged.extend(config.iter().filter(|item| !live.contains(item)).cloned()),
        ListKind::Map(keys) => {
            for item in config {
                let key = item_key(item, &keys, shape);
                match merged.iter_mut().find(|one| item_key(one, &keys, shape) == key) {
                    Some(found) => *found = overlay(Some(found), item, &shape.item(), false),
                    None => merged.push(item.clone()),
                }
            }
        }
    }
    merged
}

/// Removes the fields of `unwanted`, and what becomes empty by that, unless `kept` speaks of it.
pub fn remove(value: &mut Value, unwanted: &FieldSet, kept: &FieldSet, shape: &Shape<'_>, is_root: bool) {
    let none = FieldSet::default();
    match value {
        Value::Object(fields) => {
            for (key, child) in &unwanted.children {
                let Some(name) = key.strip_prefix("f:") else {
                    continue;
                };
                let kept_child = kept.children.get(key);
                let Some(inner) = fields.get_mut(name) else {
                    continue;
                };
                let mut empty = child.member;
                if !child.children.is_empty() {
                    remove(inner, child, kept_child.unwrap_or(&none), &shape.field(name, is_root), false);
                    empty = is_hollow(inner);
                }
                if empty && kept_child.is_none() {
                    fields.remove(name);
                }
            }
        }
        Value::Array(items) => {
            let ListKind::Map(keys) = shape.list() else {
                items.retain(|item| !unwanted.children.contains_key(&format!("v:{item}")));
                return;
            };
            items.retain_mut(|item| {
                let key = item_key(item, &keys, shape);
                let Some(child) = unwanted.children.get(&key) else {
                    return true;
                };
                if child.member && !kept.children.contains_key(&key) {
                    return false;
                }
                remove(item, child, kept.children.get(&key).unwrap_or(&none), &shape.item(), false);
                true
            });
        }
        _ => {}
    }
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
