//! The objects: one ordered table a resource, one revision for all, compare-and-swap as the only way to write.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use serde_json::Value;

use crate::history::{Change, Event, Gone, History};
use crate::meta::{at, metadata, text};
use crate::resource::TableId;

/// Namespace (empty for cluster-scoped objects) and name.
pub type Key = (String, String);

/// One stored state of one object.
#[derive(Debug)]
pub struct Object {
    /// Where it is.
    pub key: Key,
    /// The object.
    pub value: Value,
    /// The same, serialised.
    pub bytes: Bytes,
    /// Its resourceVersion.
    pub revision: u64,
}

impl Object {
    fn new(key: Key, mut value: Value, revision: u64) -> Self {
        metadata(&mut value).insert("resourceVersion".to_owned(), revision.to_string().into());
        Self::read(key, value, revision)
    }

    /// An object that bears its resourceVersion already.
    pub fn read(key: Key, value: Value, revision: u64) -> Self {
        let bytes = value.to_string().into();
        Self { key, value, bytes, revision }
    }

    /// The same state, told at another revision.
    pub fn at_revision(&self, revision: u64) -> Self {
        Self::new(self.key.clone(), self.value.clone(), revision)
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        text(&self.value, &["metadata", "uid"])
    }

    fn owners(&self) -> impl Iterator<Item = &str> {
        let owners = at(&self.value, &["metadata", "ownerReferences"]).and_then(Value::as_array);
        owners.into_iter().flatten().map(|owner| text(owner, &["uid"]))
    }
}

/// The object was not in the state that the write was made for.
#[derive(Clone, Copy, Debug)]
pub struct Race;

/// What a page of a list starts after, and how long it is.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Only this namespace; empty for cluster-scoped objects.
    pub namespace: Option<String>,
    /// Only this name.
    pub name: Option<String>,
    /// Only after this key.
    pub after: Option<Key>,
    /// As of this revision; now, if absent.
    pub revision: Option<u64>,
}

impl Page {
    fn range(&self) -> (Bound<Key>, Bound<Key>) {
        let namespace = self.namespace.as_deref();
        let exact =
            namespace.zip(self.name.as_deref()).map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
        if let (Some(exact), None) = (exact, &self.after) {
            return (Bound::Included(exact.clone()), Bound::Included(exact));
        }
        let start = match &self.after {
            Some(after) => Bound::Excluded(after.clone()),
            None => Bound::Included((namespace.unwrap_or_default().to_owned(), String::new())),
        };
        // No namespace sorts between one and the same with a zero byte behind it.
        let end = namespace.map(|namespace| Bound::Excluded((format!("{namespace}\0"), String::new())));
        (start, end.unwrap_or(Bound::Unbounded))
    }
}

struct Table {
    objects: BTreeMap<Key, Arc<Object>>,
    history: Arc<History>,
}

impl Table {
    /// A table whose history starts after `floor`.
    fn new(floor: u64) -> Self {
        let history = History::default();
        history.compact(floor);
        Self { objects: BTreeMap::new(), history: Arc::new(history) }
    }
}

#[derive(Default)]
struct State {
    tables: BTreeMap<TableId, Table>,
    /// Nothing is known of what was up to this revision, in any table.
    floor: u64,
    /// Where each UID is.
    uids: BTreeMap<String, (TableId, Key)>,
    /// Objects by the UID of each of their owners.
    owned: BTreeMap<String, BTreeSet<(TableId, Key)>>,
}

/// All tables.
#[derive(Default)]
pub struct Store {
    state: RwLock<State>,
    revision: AtomicU64,
}

impl State {
    fn table(&mut self, id: &TableId) -> &mut Table {
        let floor = self.floor;
        self.tables.entry(id.clone()).or_insert_with(|| Table::new(floor))
    }

    fn forget(&mut self, table: &TableId, object: &Object) {
        self.uids.remove(object.uid());
        for owner in object.owners() {
            if let Some(owned) = self.owned.get_mut(owner) {
                owned.remove(&(table.clone(), object.key.clone()));
                if owned.is_empty() {
                    self.owned.remove(owner);
                }
            }
        }
    }

    fn note(&mut self, table: &TableId, object: &Object) {
        let place = (table.clone(), object.key.clone());
        for owner in object.owners() {
            self.owned.entry(owner.to_owned()).or_default().insert(place.clone());
        }
        self.uids.insert(object.uid().to_owned(), place);
    }
}

impl Store {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest revision whose events are in the histories.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// The history of a table, made if the table is new.
    pub fn history(&self, table: &TableId) -> Arc<History> {
        if let Some(found) = self.read().tables.get(table) {
            return found.history.clone();
        }
        self.write().table(table).history.clone()
    }

    /// One object.
    pub fn get(&self, table: &TableId, key: &Key) -> Option<Arc<Object>> {
        self.read().tables.get(table)?.objects.get(key).cloned()
    }

    /// The objects of a page to its end, in order, and the revision that they show.
    ///
    /// # Errors
    /// If that revision is too old to be shown.
    pub fn list(&self, table: &TableId, page: &Page) -> Result<(Vec<Arc<Object>>, u64), Gone> {
        let state = self.read();
        let now = self.revision();
        let revision = page.revision.unwrap_or(now);
        let Some(table) = state.tables.get(table) else {
            return Ok((Vec::new(), revision));
        };
        let mut changed = if revision < now { table.history.undo(revision)? } else { BTreeMap::new() };
        let inside = |key: &Key| {
            page.namespace.as_ref().is_none_or(|namespace| key.0 == *namespace)
                && page.name.as_ref().is_none_or(|name| key.1 == *name)
        };
        let here = table.objects.range(page.range()).filter(|(key, _)| inside(key));
        if changed.is_empty() {
            return Ok((here.map(|(_, object)| object.clone()).collect(), revision));
        }
        let mut found: BTreeMap<Key, Arc<Object>> = here.map(|(key, object)| (key.clone(), object.clone())).collect();
        changed.retain(|key, _| inside(key) && page.after.as_ref().is_none_or(|after| key > after));
        for (key, before) in changed {
            match before {
                Some(object) => drop(found.insert(key, object)),
                None => drop(found.remove(&key)),
            }
        }
        Ok((found.into_values().collect(), revision))
    }

    /// Puts `new` in the place of the state that has revision `expected` (absent: of nothing); absent `new` deletes.
    /// Returns what is stored now, or what was deleted at the revision of the deletion.
    ///
    /// # Errors
    /// If something else is there.
    pub fn swap(
        &self,
        table: &TableId,
        key: &Key,
        expected: Option<u64>,
        new: Option<Value>,
    ) -> Result<Arc<Object>, Race> {
        let mut state = self.write();
        let entry = state.table(table);
        let previous = entry.objects.get(key).cloned();
        if previous.as_ref().map(|object| object.revision) != expected {
            return Err(Race);
        }
        let history = entry.history.clone();
        let revision = self.revision() + 1;
        let change = match (&previous, &new) {
            (_, None) => Change::Deleted,
            (None, Some(_)) => Change::Added,
            (Some(_), Some(_)) => Change::Modified,
        };
        let Some(value) = new.or_else(|| Some(previous.as_ref()?.value.clone())) else {
            return Err(Race);
        };
        let object = Arc::new(Object::new(key.clone(), value, revision));
        if change == Change::Deleted {
            entry.objects.remove(key);
        } else {
            entry.objects.insert(key.clone(), object.clone());
        }
        if let Some(previous) = &previous {
            state.forget(table, previous);
        }
        if change != Change::Deleted {
            state.note(table, &object);
        }
        history.push(Event::new(change, object.clone(), previous));
        self.revision.store(revision, Ordering::Release);
        drop(state);
        history.wake();
        Ok(object)
    }

    /// Whether an object with that UID exists.
    pub fn has_uid(&self, uid: &str) -> bool {
        self.read().uids.contains_key(uid)
    }

    /// Where the object with that UID is.
    pub fn place_of(&self, uid: &str) -> Option<(TableId, Key)> {
        self.read().uids.get(uid).cloned()
    }

    /// Objects that name that UID as an owner.
    pub fn owned_by(&self, uid: &str) -> Vec<(TableId, Key)> {
        self.read().owned.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Objects with owners of which none exists.
    pub fn orphans(&self) -> Vec<(TableId, Key)> {
        let state = self.read();
        let lost = state.owned.iter().filter(|(owner, _)| !state.uids.contains_key(*owner));
        lost.flat_map(|(_, owned)| owned.iter().cloned()).collect()
    }

    /// Every object of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<(TableId, Key)> {
        let state = self.read();
        let start = (namespace.to_owned(), String::new());
        let of_table = |(id, table): (&TableId, &Table)| -> Vec<(TableId, Key)> {
            let here = table.objects.range(start.clone()..).take_while(|(key, _)| key.0 == namespace);
            here.map(|(key, _)| (id.clone(), key.clone())).collect()
        };
        state.tables.iter().flat_map(of_table).collect()
    }

    /// Drops all history.
    pub fn compact(&self) {
        let mut state = self.write();
        let revision = self.revision();
        state.floor = revision;
        for table in state.tables.values() {
            table.history.compact(revision);
        }
    }

    /// Every object, by table, and the revision.
    pub fn all(&self) -> (Vec<(TableId, Arc<Object>)>, u64) {
        let state = self.read();
        let objects = state
            .tables
            .iter()
            .flat_map(|(id, table)| table.objects.values().map(|object| (id.clone(), object.clone())));
        (objects.collect(), self.revision())
    }

    /// Puts these objects in place of all. The revision goes to at least `revision`, and never back; history is gone.
    pub fn replace(&self, objects: Vec<(TableId, Object)>, revision: u64) {
        let mut state = self.write();
        let revision = revision.max(self.revision() + 1);
        state.floor = revision;
        for table in state.tables.values_mut() {
            table.objects.clear();
        }
        state.uids.clear();
        state.owned.clear();
        for (id, object) in objects {
            state.note(&id, &object);
            let table = state.table(&id);
            table.objects.insert(object.key.clone(), Arc::new(object));
        }
        self.revision.store(revision, Ordering::Release);
        for table in state.tables.values() {
            table.history.restart(revision);
        }
    }
}
