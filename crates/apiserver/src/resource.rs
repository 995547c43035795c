//! What the server knows about each resource it serves, and the registry of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::schema::Schema;

/// Where objects of a resource are stored: group and plural name.
pub type TableId = (String, String);

/// A column of `kubectl get`.
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// 0 is always shown, more only with `-o wide`.
    pub priority: i64,
    /// Path into the object, for custom resources.
    pub path: String,
}

/// One served resource.
#[derive(Debug)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Whether status is written apart from the rest.
    pub status: bool,
    /// Whether `metadata.generation` counts changes of the specification.
    pub generation: bool,
    /// Whether an update may leave out the resourceVersion.
    pub unconditional_update: bool,
    /// Whether the name must be a DNS label.
    pub name_is_label: bool,
    /// Fields that a field selector may name, beside name and namespace.
    pub selectable: Vec<String>,
    /// Columns beside the name.
    pub columns: Vec<Column>,
    /// The schema, of a custom resource.
    pub schema: Option<Schema>,
    /// Where the objects are.
    pub table: TableId,
}

impl Resource {
    /// `nodes`, `nodeblocks.overlane.io`: how messages and statistics name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `v1`, `overlane.io/v1alpha1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Whether it comes from a CustomResourceDefinition.
    pub fn is_custom(&self) -> bool {
        self.schema.is_some()
    }

    /// Whether this is the resource of that group and plural.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// Whether it is a second face of core/v1 Events.
    pub fn is_event_alias(&self) -> bool {
        self.group == "events.k8s.io"
    }

    /// The verbs of the resource, for discovery.
    pub fn verbs(&self) -> Value {
        serde_json::json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"])
    }
}

/// `v1` for the core group, else `group/version`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// All served resources.
#[derive(Default)]
pub struct Registry {
    served: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    /// Serves a resource from now on, in place of an older form of it.
    pub fn add(&mut self, resource: Resource) {
        let key = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
        self.served.insert(key, Arc::new(resource));
    }

    /// Serves it no more.
    pub fn remove(&mut self, group: &str, plural: &str) {
        self.served.retain(|_, resource| !resource.is(group, plural));
    }

    /// The resource at a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.served.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    /// The resource that keeps its objects in that table under its own name.
    pub fn of_table(&self, table: &TableId) -> Option<Arc<Resource>> {
        self.served.values().find(|resource| resource.is(&table.0, &table.1)).cloned()
    }

    /// All of them, by group, version and name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.served.values()
    }

    /// Served groups with a version each, ordered.
    pub fn group_versions(&self) -> Vec<(String, String)> {
        let mut found: Vec<_> =
            self.served.keys().map(|(group, version, _)| (group.clone(), version.clone())).collect();
        found.dedup();
        found
    }
}
