//! Who owns which field (`metadata.managedFields`).
//!
//! Ownership is kept only for objects that were applied at least once: the first apply gives what is there to the
//! manager `before-first-apply`, as the real server does for objects from before its time. All others carry no
//! `managedFields` and cost nothing.

use serde_json::{Value, json};

use crate::fields::FieldSet;
use crate::meta::{at, metadata, now, text};
use crate::resource::Resource;
use crate::shape::Shape;

const BEFORE: &str = "before-first-apply";
/// The operation of server-side apply.
pub const APPLY: &str = "Apply";
/// The operation of everything else.
pub const UPDATE: &str = "Update";

/// Who writes, and through which door.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// `status` or empty.
    pub subresource: &'a str,
}

/// What one writer owns.
#[derive(Clone, Debug)]
pub struct Entry {
    pub manager: String,
    pub operation: String,
    pub subresource: String,
    pub api_version: String,
    pub time: String,
    pub fields: FieldSet,
}

impl Entry {
    fn parse(entry: &Value) -> Self {
        let word = |field| text(entry, &[field]).to_owned();
        Self {
            manager: word("manager"),
            operation: word("operation"),
            subresource: word("subresource"),
            api_version: word("apiVersion"),
            time: word("time"),
            fields: entry.get("fieldsV1").map(FieldSet::parse).unwrap_or_default(),
        }
    }

    fn json(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version, "time": self.time,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.json(),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = json!(self.subresource);
        }
        entry
    }

    /// Whether this is what the writer holds by that operation.
    pub fn is(&self, writer: Writer<'_>, operation: &str) -> bool {
        self.manager == writer.manager && self.operation == operation && self.subresource == writer.subresource
    }
}

/// Who owns what of an object.
pub fn entries(object: &Value) -> Vec<Entry> {
    let list = at(object, &["metadata", "managedFields"]).and_then(Value::as_array);
    list.into_iter().flatten().map(Entry::parse).filter(|entry| !entry.fields.is_empty()).collect()
}

/// Puts them into the object; who owns nothing is left out.
pub fn store(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by_key(|entry| entry.operation != APPLY);
    let metadata = metadata(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), entries.iter().map(Entry::json).collect());
    }
}

/// Leaves out what nobody owns: identity, what the server writes, and what this door does not write.
pub fn ownable(mut fields: FieldSet, resource: &Resource, subresource: &str) -> FieldSet {
    const OWNED_METADATA: [&str; 4] = ["f:labels", "f:annotations", "f:finalizers", "f:ownerReferences"];
    fields.take("f:apiVersion");
    fields.take("f:kind");
    if let Some(metadata) = fields.child_mut("f:metadata") {
        metadata.keep_only(&OWNED_METADATA);
    }
    if subresource == "status" && resource.is_custom() {
        fields.keep_only(&["f:status"]);
    } else if subresource == "status" {
        fields.take("f:spec");
    } else if resource.status {
        fields.take("f:status");
    }
    fields.tidy();
    fields
}

/// Who owns what of an object that is about to be applied to.
pub fn managers_of(resource: &Resource, live: Option<&Value>) -> Vec<Entry> {
    let Some(live) = live else { return Vec::new() };
    let found = entries(live);
    if !found.is_empty() {
        return found;
    }
    let all = FieldSet::of(live, &Shape::of(resource), true);
    let mut entry = Entry {
        manager: BEFORE.to_owned(),
        operation: UPDATE.to_owned(),
        subresource: String::new(),
        api_version: resource.api_version(),
        time: now(),
        fields: ownable(all.clone(), resource, ""),
    };
    let mut found = vec![entry.clone()];
    if resource.status {
        entry.fields = all;
        entry.fields.keep_only(&["f:status"]);
        entry.subresource = "status".to_owned();
        found.push(entry);
    }
    found
}
