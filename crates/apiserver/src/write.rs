//! Create, update and patch.

use std::sync::Arc;

use serde_json::Value;

use crate::apply;
use crate::failure::{Cause, Failure};
use crate::managers::Writer;
use crate::meta::{at, metadata, text};
use crate::patch::PatchKind;
use crate::request::{Query, Request};
use crate::resource::Resource;
use crate::server::{Answer, Server};
use crate::store::{Object, Race};
use crate::view::View;
use crate::{builtin, events, prepare};

/// How often a write that names no resourceVersion is tried when others write at the same time.
const ATTEMPTS: usize = 1_000;

impl Request {
    fn writer(&self) -> Writer<'_> {
        Writer { manager: &self.manager, subresource: &self.subresource }
    }
}

fn unfit(kind: &str) -> Failure {
    Failure::internal(format!("gave up a {kind} after {ATTEMPTS} attempts: others write the object without pause"))
}

fn own_request(resource: &Arc<Resource>, namespace: &str, name: Option<String>) -> Request {
    Request {
        resource: resource.clone(),
        namespace: resource.namespaced.then(|| namespace.to_owned()),
        name,
        subresource: String::new(),
        query: Query::default(),
        view: View::Plain,
        content_type: String::new(),
        manager: "apiserver".to_owned(),
        body: bytes::Bytes::new(),
    }
}

impl Server {
    /// Creates an object from the body.
    ///
    /// # Errors
    /// 409 if the name is taken, 404 and 403 for a namespace that is not there or on its way out, 422 for broken rules.
    pub fn create(&self, request: &Request) -> Result<Answer, Failure> {
        let body = request.json()?;
        let object = self.insert(request, body)?;
        Ok(Answer::created(request.view.object(&request.resource, &object)))
    }

    /// Creates an object on behalf of the server itself.
    ///
    /// # Errors
    /// As for [`Server::create`].
    pub fn make(&self, resource: &Arc<Resource>, namespace: &str, body: Value) -> Result<Arc<Object>, Failure> {
        self.insert(&own_request(resource, namespace, None), body)
    }

    /// Replaces an object on behalf of the server itself.
    ///
    /// # Errors
    /// As for [`Server::update`].
    pub fn remake(&self, resource: &Arc<Resource>, name: &str, body: Value) -> Result<(), Failure> {
        let request = own_request(resource, "", Some(name.to_owned()));
        self.change(&request, |live| prepare::for_update(&request, live, body.clone(), false)).map(drop)
    }

    fn insert(&self, request: &Request, body: Value) -> Result<Arc<Object>, Failure> {
        let resource = &request.resource;
        let namespace = request.namespace();
        if resource.namespaced && request.namespace.is_none() {
            return Err(Failure::method_not_allowed());
        }
        let generated = text(&body, &["metadata", "name"]).is_empty() && request.name.is_none();
        let mut attempts = if generated { 8 } else { 1 };
        loop {
            let object = prepare::for_create(request, body.clone())?;
            self.admit(request, &object)?;
            let name = text(&object, &["metadata", "name"]).to_owned();
            let key = (namespace.to_owned(), name.clone());
            if request.is_dry_run() {
                return match self.store.get(&resource.table, &key) {
                    Some(_) => Err(Failure::already_exists(resource, &name)),
                    None => Ok(Arc::new(Object::read(key, object, 0))),
                };
            }
            attempts -= 1;
            match self.store.swap(&resource.table, &key, None, Some(object)) {
                Ok(object) => {
                    self.written(resource, &object);
                    return Ok(object);
                }
                Err(Race) if attempts == 0 => return Err(Failure::already_exists(resource, &name)),
                Err(Race) => {}
            }
        }
    }

    /// Namespaced objects live in namespaces that live.
    fn admit(&self, request: &Request, object: &Value) -> Result<(), Failure> {
        let Some(namespace) = &request.namespace else {
            return Ok(());
        };
        let namespaces = self.find("", "v1", "namespaces")?;
        let Some(found) = self.store.get(&namespaces.table, &(String::new(), namespace.clone())) else {
            return Err(Failure::not_found(&namespaces, namespace));
        };
        if at(&found.value, &["metadata", "deletionTimestamp"]).is_some() {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            return Err(Failure::forbidden(&request.resource, text(object, &["metadata", "name"]), &why));
        }
        Ok(())
    }

    /// Replaces an object by the body.
    ///
    /// # Errors
    /// 404 if there is none, 409 if the body was made for another state, 422 for broken rules.
    pub fn update(&self, request: &Request) -> Result<Answer, Failure> {
        let body = request.json()?;
        self.change(request, |live| {
            let mut new = prepare::for_update(request, live, body.clone(), true)?;
            apply::track(&request.resource, &live.value, &mut new, request.writer());
            Ok(new)
        })
    }

    /// Patches an object; server-side apply creates it if there is none.
    ///
    /// # Errors
    /// 404, 409 and 422 as for an update, 400 and 415 for a patch that cannot be read.
    pub fn patch(&self, request: &Request) -> Result<Answer, Failure> {
        let kind = PatchKind::parse(&request.content_type, &request.resource)?;
        let body = request.json()?;
        if kind == PatchKind::Apply {
            return self.apply(request, body);
        }
        self.change(request, |live| {
            let face =
                if request.resource.is_event_alias() { events::outward(&live.value) } else { live.value.clone() };
            let patched = kind.apply(&request.resource, &face, &body)?;
            let mut new = prepare::for_update(request, live, patched, false)?;
            apply::track(&request.resource, &live.value, &mut new, request.writer());
            Ok(new)
        })
    }

    fn apply(&self, request: &Request, body: Value) -> Result<Answer, Failure> {
        let resource = &*request.resource;
        if request.query.get("fieldManager").is_empty() {
            let cause = Cause::required_for("fieldManager", "is required for apply patch");
            return Err(Failure::bad_options("PatchOptions", &cause));
        }
        let mut config = body;
        if at(&config, &["metadata", "managedFields"]).is_some() {
            return Err(Failure::bad_request("metadata.managedFields must be nil"));
        }
        builtin::drop_nulls(&mut config);
        if resource.is_custom() {
            // Defaults must not become fields that this manager owns: only what is unknown is dropped.
            let known = prepare::decode(request, config.clone())?;
            keep_common(&mut config, &known);
        }
        let force = request.query.is_true("force");
        for _ in 0..ATTEMPTS {
            if self.store.get(&resource.table, &request.key()).is_some() {
                return self.change(request, |live| {
                    let version = text(&config, &["metadata", "resourceVersion"]);
                    if !version.is_empty() && version != live.revision.to_string() {
                        return Err(Failure::stale(resource, &live.key.1));
                    }
                    let mut merged = apply::apply(resource, Some(&live.value), &config, request.writer(), force)?;
                    metadata(&mut merged).insert("resourceVersion".to_owned(), live.revision.to_string().into());
                    prepare::for_update(request, live, merged, false)
                });
            }
            if !request.subresource.is_empty() || !text(&config, &["metadata", "uid"]).is_empty() {
                return Err(Failure::not_found(resource, &request.key().1));
            }
            let merged = apply::apply(resource, None, &config, request.writer(), force)?;
            match self.insert(request, merged) {
                Ok(object) => return Ok(Answer::created(request.view.object(resource, &object))),
                // Somebody else was quicker: apply to what is there now.
                Err(failure) if failure.code == 409 => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(unfit("server-side apply"))
    }

    /// Makes a new state of the live one until it can be stored.
    ///
    /// # Errors
    /// 404 if there is none, and what `make` refuses.
    pub fn change(
        &self,
        request: &Request,
        make: impl Fn(&Object) -> Result<Value, Failure>,
    ) -> Result<Answer, Failure> {
        let resource = &request.resource;
        for _ in 0..ATTEMPTS {
            let live = self.live(request)?;
            let new = make(&live)?;
            if new == live.value {
                return Ok(Answer::json(request.view.object(resource, &live)));
            }
            if request.is_dry_run() {
                let shown = Object::read(live.key.clone(), new, live.revision);
                return Ok(Answer::json(request.view.object(resource, &shown)));
            }
            if let Some(object) = self.store_change(resource, &live, new) {
                return Ok(Answer::json(request.view.object(resource, &object)));
            }
        }
        Err(unfit("write"))
    }

    /// Stores a new state in the place of `live`. An object that only waited for its last finalizer goes.
    pub fn store_change(&self, resource: &Arc<Resource>, live: &Object, new: Value) -> Option<Arc<Object>> {
        let finalizers = at(&new, &["metadata", "finalizers"]).and_then(Value::as_array).map_or(0, Vec::len);
        let grace = at(&new, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
        let leaves = at(&new, &["metadata", "deletionTimestamp"]).is_some() && finalizers == 0 && grace == 0;
        if leaves && !resource.is("", "namespaces") {
            let gone = self.store.swap(&resource.table, &live.key, Some(live.revision), None).ok()?;
            self.removed(resource, &gone);
            return Some(Arc::new(Object::read(live.key.clone(), new, gone.revision)));
        }
        let written = self.store.swap(&resource.table, &live.key, Some(live.revision), Some(new)).ok()?;
        self.written(resource, &written);
        Some(written)
    }

    /// What follows from a write.
    fn written(&self, resource: &Resource, object: &Object) {
        if resource.kind == "CustomResourceDefinition"
            && let Err(reason) = self.serve_crd(&object.value)
        {
            tracing::error!(crd = object.key.1, reason, "a definition that was checked cannot be served");
        }
        self.collect_if_orphan(&resource.table, object);
    }
}

/// Drops from `config` what is not in `known`.
fn keep_common(config: &mut Value, known: &Value) {
    match (config, known) {
        (Value::Object(fields), Value::Object(known)) => {
            fields.retain(|name, _| known.contains_key(name));
            for (name, value) in fields {
                if let Some(known) = known.get(name) {
                    keep_common(value, known);
                }
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            for (item, known) in items.iter_mut().zip(known) {
                keep_common(item, known);
            }
        }
        _ => {}
    }
}
