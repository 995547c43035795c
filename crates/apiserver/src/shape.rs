//! Which lists are merged item by item, and by which keys: from the schema of a custom resource, or from what is known
//! of the built-in kinds. Strategic merge and server-side apply both ask here.

use serde_json::{Value, json};

use crate::resource::Resource;

/// How a list is merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// As a whole.
    Atomic,
    /// As a set of values.
    Set,
    /// Item by item; items are the same if these keys are.
    Map(Vec<String>),
}

/// Kind (empty: all of them), path, keys (`=`: a set). `[]` stands for an item of a list.
const LISTS: [(&str, &str, &str); 21] = [
    ("", "metadata.ownerReferences", "uid"),
    ("", "metadata.finalizers", "="),
    ("", "status.conditions", "type"),
    ("Node", "spec.podCIDRs", "="),
    ("Node", "status.addresses", "type"),
    ("Pod", "spec.containers", "name"),
    ("Pod", "spec.containers[].env", "name"),
    ("Pod", "spec.containers[].ports", "containerPort protocol"),
    ("Pod", "spec.containers[].volumeMounts", "mountPath"),
    ("Pod", "spec.containers[].volumeDevices", "devicePath"),
    ("Pod", "spec.initContainers", "name"),
    ("Pod", "spec.initContainers[].env", "name"),
    ("Pod", "spec.initContainers[].ports", "containerPort protocol"),
    ("Pod", "spec.initContainers[].volumeMounts", "mountPath"),
    ("Pod", "spec.volumes", "name"),
    ("Pod", "spec.imagePullSecrets", "name"),
    ("Pod", "spec.hostAliases", "ip"),
    ("Pod", "spec.topologySpreadConstraints", "topologyKey whenUnsatisfiable"),
    ("Pod", "status.podIPs", "ip"),
    ("Service", "spec.ports", "port protocol"),
    ("ServiceAccount", "secrets", "name"),
];

/// Fields of built-in kinds whose object is owned as a whole.
const ATOMIC_OBJECTS: [&str; 9] = [
    "selector",
    "nodeSelector",
    "podSelector",
    "namespaceSelector",
    "labelSelector",
    "fieldRef",
    "secretKeyRef",
    "configMapKeyRef",
    "involvedObject",
];

/// A place in an object, with what is known of it.
#[derive(Clone, Debug)]
pub enum Shape<'a> {
    /// In a custom resource; absent where the schema says nothing.
    Schema(Option<&'a Value>),
    /// In a built-in kind, or in any object's metadata.
    BuiltIn {
        /// The kind.
        kind: &'a str,
        /// Fields down to here.
        path: String,
    },
}

impl<'a> Shape<'a> {
    /// The whole object.
    pub fn of(resource: &'a Resource) -> Self {
        match &resource.schema {
            Some(schema) => Self::Schema(Some(schema.root())),
            None => Self::BuiltIn { kind: &resource.kind, path: String::new() },
        }
    }

    /// A field of the object here. `is_root` tells that the object is a whole one, whose metadata no schema describes.
    pub fn field(&self, name: &str, is_root: bool) -> Self {
        match self {
            Self::Schema(_) if is_root && name == "metadata" => Self::BuiltIn { kind: "", path: "metadata".to_owned() },
            Self::Schema(schema) => Self::Schema(schema.and_then(|schema| {
                let declared = schema.get("properties").and_then(|fields| fields.get(name));
                declared.or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()))
            })),
            Self::BuiltIn { kind, path } if path.is_empty() => Self::BuiltIn { kind, path: name.to_owned() },
            Self::BuiltIn { kind, path } => Self::BuiltIn { kind, path: format!("{path}.{name}") },
        }
    }

    /// An item of the list here.
    pub fn item(&self) -> Self {
        match self {
            Self::Schema(schema) => Self::Schema(schema.and_then(|schema| schema.get("items"))),
            Self::BuiltIn { kind, path } => Self::BuiltIn { kind, path: format!("{path}[]") },
        }
    }

    /// How the list here is merged.
    pub fn list(&self) -> ListKind {
        match self {
            Self::Schema(schema) => {
                let strings = |name: &str| -> Vec<String> {
                    let list = schema.and_then(|schema| schema.get(name)).and_then(Value::as_array);
                    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
                };
                match schema.and_then(|schema| schema.get("x-kubernetes-list-type")).and_then(Value::as_str) {
                    Some("set") => ListKind::Set,
                    Some("map") => ListKind::Map(strings("x-kubernetes-list-map-keys")),
                    _ => ListKind::Atomic,
                }
            }
            Self::BuiltIn { kind, path } => {
                let known = LISTS.iter().find(|(of, at, _)| (of.is_empty() || of == kind) && at == path);
                match known.map(|(_, _, keys)| *keys) {
                    None => ListKind::Atomic,
                    Some("=") => ListKind::Set,
                    Some(keys) => ListKind::Map(keys.split(' ').map(str::to_owned).collect()),
                }
            }
        }
    }

    /// Whether the object here is owned as a whole.
    pub fn is_atomic_object(&self) -> bool {
        match self {
            Self::Schema(schema) => {
                let map_type = schema.and_then(|schema| schema.get("x-kubernetes-map-type"));
                map_type.and_then(Value::as_str) == Some("atomic")
            }
            Self::BuiltIn { path, .. } => {
                let field = path.rsplit('.').next().unwrap_or_default();
                ATOMIC_OBJECTS.contains(&field)
                    || (path.starts_with("metadata.ownerReferences[]") && field.ends_with("[]"))
            }
        }
    }

    /// The value of a key that an item leaves out.
    pub fn default_key(&self, key: &str) -> Option<Value> {
        match self {
            Self::Schema(_) => match self.item().field(key, false) {
                Self::Schema(Some(schema)) => schema.get("default").cloned(),
                _ => None,
            },
            Self::BuiltIn { .. } => (key == "protocol").then(|| json!("TCP")),
        }
    }
}
