//! How objects are shown to a client: as they are, as rows of a table, or as metadata alone.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::events;
use crate::history::{Change, Event, line};
use crate::resource::Resource;
use crate::store::Object;
use crate::table;

/// What goes into `metadata` of a list.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    /// The revision that the list shows.
    pub revision: u64,
    /// Where the next page starts; empty at the end.
    pub next: String,
    /// How many objects are left, if known.
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn json(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if !self.next.is_empty() {
            meta["continue"] = json!(self.next);
            if let Some(remaining) = self.remaining {
                meta["remainingItemCount"] = json!(remaining);
            }
        }
        meta
    }
}

/// The form that a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Whole objects.
    Plain,
    /// `PartialObjectMetadata`.
    Metadata,
    /// Rows of a `Table`, each with the object as told.
    Table(Include),
}

/// What a row of a table carries beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`.
    Metadata,
    /// The whole object.
    Object,
}

impl View {
    /// The first form of an `Accept` header that the server has.
    pub fn parse(accept: &str, include: &str) -> Self {
        for part in accept.split(',').map(|part| part.to_ascii_lowercase().replace(' ', "")) {
            let params: Vec<&str> = part.split(';').collect();
            if params.first().is_some_and(|kind| kind.contains("protobuf")) {
                continue;
            }
            let is = |param: &str| params.contains(&param);
            if is("as=table") && is("v=v1") {
                return Self::Table(match include {
                    "None" => Include::None,
                    "Object" => Include::Object,
                    _ => Include::Metadata,
                });
            }
            if (is("as=partialobjectmetadata") || is("as=partialobjectmetadatalist")) && is("v=v1") {
                return Self::Metadata;
            }
        }
        Self::Plain
    }

    /// One object.
    pub fn object(self, resource: &Resource, object: &Object) -> Bytes {
        match self {
            Self::Plain if resource.is_event_alias() => events::outward(&object.value).to_string().into(),
            Self::Plain => object.bytes.clone(),
            Self::Metadata => partial(&object.value).to_string().into(),
            Self::Table(include) => {
                let meta = ListMeta { revision: object.revision, ..ListMeta::default() };
                table::render(resource, std::iter::once(object), &meta.json(), include, true).to_string().into()
            }
        }
    }

    /// A list of objects.
    pub fn list(self, resource: &Resource, objects: &[Arc<Object>], meta: &ListMeta) -> Bytes {
        let (kind, version) = match self {
            Self::Table(include) => {
                let objects = objects.iter().map(AsRef::as_ref);
                return table::render(resource, objects, &meta.json(), include, true).to_string().into();
            }
            Self::Plain => (resource.list_kind.clone(), resource.api_version()),
            Self::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        };
        let head = format!(
            "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{},\"items\":[",
            json!(kind),
            json!(version),
            meta.json()
        );
        let mut body =
            Vec::with_capacity(head.len() + objects.iter().map(|object| object.bytes.len() + 1).sum::<usize>() + 3);
        body.extend_from_slice(head.as_bytes());
        for (index, object) in objects.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            match &object.value {
                // Items of the built-in kinds do not say what they are.
                Value::Object(fields) if self == Self::Plain && !resource.is_custom() && !resource.is_event_alias() => {
                    body.extend_from_slice(untyped(fields).to_string().as_bytes());
                }
                _ => body.extend_from_slice(&self.object(resource, object)),
            }
        }
        body.extend_from_slice(b"]}\n");
        body.into()
    }

    /// The line of a watch that tells of `event` as `change`. `first` is set until the first line is out: only that
    /// one bears a table's headings.
    pub fn event(self, resource: &Resource, event: &Event, change: Change, first: bool) -> Bytes {
        match self {
            Self::Plain if !resource.is_event_alias() => event.line(change),
            _ => self.told(resource, &event.shown(change), change, first),
        }
    }

    /// The same for an object that is told of without an event of its own.
    pub fn told(self, resource: &Resource, object: &Object, change: Change, first: bool) -> Bytes {
        match self {
            Self::Table(include) => {
                let meta = ListMeta { revision: object.revision, ..ListMeta::default() };
                let table = table::render(resource, std::iter::once(object), &meta.json(), include, first);
                line(change.name(), table.to_string().as_bytes())
            }
            _ => line(change.name(), &self.object(resource, object)),
        }
    }

    /// The line of a watch that says how far it has come.
    pub fn bookmark(self, resource: &Resource, revision: u64, end_of_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self {
            Self::Plain => {
                json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata})
            }
            Self::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Self::Table(_) => {
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                    "columnDefinitions": [], "rows": []})
            }
        };
        line("BOOKMARK", object.to_string().as_bytes())
    }
}

fn untyped(fields: &Map<String, Value>) -> Value {
    let typed = |name: &str| ["apiVersion", "kind"].contains(&name);
    fields.iter().filter(|(name, _)| !typed(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// An object's metadata alone.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata")})
}
