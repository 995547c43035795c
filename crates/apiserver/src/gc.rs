//! What follows from the end of an object: dependents without an owner go, namespaces and definitions that wait for
//! their content end.
//!
//! The real controllers do this some time later; here it is done before the request is answered.

use serde_json::{Value, json};

use crate::delete::{CRD_CLEANUP, FOREGROUND, Options, has_finalizer};
use crate::meta::{at, metadata, text};
use crate::resource::{Resource, TableId};
use crate::server::Server;
use crate::store::{Key, Object};

impl Server {
    /// What follows from the end of an object.
    pub fn removed(&self, resource: &Resource, object: &Object) {
        for (table, key) in self.store.owned_by(object.uid()) {
            self.release(&table, &key);
        }
        for owner in owners(&object.value) {
            self.finish_foreground(text(owner, &["uid"]));
        }
        if resource.kind == "CustomResourceDefinition" {
            let word = |path: &[&str]| text(&object.value, path).to_owned();
            self.drop_crd(&(word(&["spec", "group"]), word(&["spec", "names", "plural"])));
        }
        if resource.is_custom() {
            self.finish_definition(&resource.qualified());
        }
        if resource.namespaced {
            self.finish_namespace(&object.key.0);
        }
    }

    /// Deletes the object if it names owners and none of them exists.
    pub fn collect_if_orphan(&self, table: &TableId, object: &Object) {
        let mut owners = owners(&object.value).peekable();
        if owners.peek().is_some() && owners.all(|owner| !self.store.has_uid(text(owner, &["uid"]))) {
            self.delete_quietly(table, &object.key, &Options::default());
        }
    }

    /// Deletes everything whose owners are all gone.
    pub fn sweep(&self) {
        for (table, key) in self.store.orphans() {
            if let Some(object) = self.store.get(&table, &key) {
                self.collect_if_orphan(&table, &object);
            }
        }
    }

    /// An owner of this object is gone: it goes too, unless others remain.
    fn release(&self, table: &TableId, key: &Key) {
        let Some(object) = self.store.get(table, key) else {
            return;
        };
        if owners(&object.value).any(|owner| self.store.has_uid(text(owner, &["uid"]))) {
            self.edit(table, key, |object| keep_owners(object, |uid| self.store.has_uid(uid)));
        } else {
            self.delete_quietly(table, key, &Options::default());
        }
    }

    /// Frees the dependents of an owner that is about to go without them.
    pub fn orphan(&self, uid: &str) {
        for (table, key) in self.store.owned_by(uid) {
            self.edit(&table, &key, |object| keep_owners(object, |other| other != uid));
        }
    }

    /// Lets an owner go that waited for its dependents, if there are none left.
    pub fn finish_foreground(&self, uid: &str) {
        let Some((table, key)) = self.store.place_of(uid) else {
            return;
        };
        let waits = self.store.get(&table, &key).is_some_and(|owner| has_finalizer(&owner.value, FOREGROUND));
        if waits && self.store.owned_by(uid).is_empty() {
            self.edit(&table, &key, |object| drop_finalizer(object, FOREGROUND));
        }
    }

    /// Deletes what is in a namespace on its way out.
    pub fn empty_namespace(&self, namespace: &str) {
        for (table, key) in self.store.in_namespace(namespace) {
            self.delete_quietly(&table, &key, &Options::default());
        }
        self.finish_namespace(namespace);
    }

    fn finish_namespace(&self, namespace: &str) {
        let Ok(namespaces) = self.find("", "v1", "namespaces") else {
            return;
        };
        let key = (String::new(), namespace.to_owned());
        let Some(found) = self.store.get(&namespaces.table, &key) else {
            return;
        };
        let ends = at(&found.value, &["metadata", "deletionTimestamp"]).is_some();
        let held = at(&found.value, &["metadata", "finalizers"]).is_some_and(|list| list.get(0).is_some());
        if ends && !held && self.store.in_namespace(namespace).is_empty() {
            // Whoever loses a race here finds the namespace gone, or another one under its name.
            if let Ok(gone) = self.store.swap(&namespaces.table, &key, Some(found.revision), None) {
                self.removed(&namespaces, &gone);
            }
        }
    }

    /// Deletes the objects of a definition on its way out.
    pub fn empty_definition(&self, definition: &Object) {
        let word = |path: &[&str]| text(&definition.value, path).to_owned();
        let table = (word(&["spec", "group"]), word(&["spec", "names", "plural"]));
        let listed = self.store.list(&table, &crate::store::Page::default());
        for object in listed.map(|(objects, _)| objects).unwrap_or_default() {
            self.delete_quietly(&table, &object.key, &Options::default());
        }
        self.finish_definition(&definition.key.1);
    }

    fn finish_definition(&self, name: &str) {
        let table = ("apiextensions.k8s.io".to_owned(), "customresourcedefinitions".to_owned());
        let key = (String::new(), name.to_owned());
        let Some(definition) = self.store.get(&table, &key) else {
            return;
        };
        if !has_finalizer(&definition.value, CRD_CLEANUP) {
            return;
        }
        let word = |path: &[&str]| text(&definition.value, path).to_owned();
        let of = (word(&["spec", "group"]), word(&["spec", "names", "plural"]));
        if self.store.list(&of, &crate::store::Page::default()).is_ok_and(|(objects, _)| objects.is_empty()) {
            self.edit(&table, &key, |object| drop_finalizer(object, CRD_CLEANUP));
        }
    }

    /// Changes an object on behalf of the server itself, whatever others write meanwhile.
    fn edit(&self, table: &TableId, key: &Key, change: impl Fn(&mut Value)) {
        let found = self.registry().of_table(table);
        let Some(resource) = found else { return };
        while let Some(live) = self.store.get(table, key) {
            let mut new = live.value.clone();
            change(&mut new);
            if new == live.value || self.store_change(&resource, &live, new).is_some() {
                return;
            }
        }
    }
}

fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    at(object, &["metadata", "ownerReferences"]).and_then(Value::as_array).into_iter().flatten()
}

fn keep_owners(object: &mut Value, keep: impl Fn(&str) -> bool) {
    let list = metadata(object).entry("ownerReferences").or_insert_with(|| json!([]));
    if let Value::Array(list) = list {
        list.retain(|owner| keep(text(owner, &["uid"])));
    }
    drop_if_empty(object, "ownerReferences");
}

fn drop_finalizer(object: &mut Value, finalizer: &str) {
    if let Some(Value::Array(list)) = metadata(object).get_mut("finalizers") {
        list.retain(|one| one != finalizer);
    }
    drop_if_empty(object, "finalizers");
}

fn drop_if_empty(object: &mut Value, field: &str) {
    let metadata = metadata(object);
    if metadata.get(field).and_then(Value::as_array).is_some_and(Vec::is_empty) {
        metadata.remove(field);
    }
}
