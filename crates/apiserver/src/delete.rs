//! Delete, in its stages: preconditions, grace, finalizers, and what goes along.

use std::sync::Arc;

use http::StatusCode;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::meta::{at, metadata, text};
use crate::prepare::bump_generation;
use crate::request::Request;
use crate::resource::Resource;
use crate::server::{Answer, PERMANENT_NAMESPACES, Server};
use crate::store::{Key, Object};
use crate::view::ListMeta;

/// The finalizer of an object whose dependents go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of a definition that still has objects.
pub const CRD_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What a delete was asked to heed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    uid: Option<String>,
    version: Option<String>,
    grace: Option<i64>,
    propagation: String,
    dry_run: bool,
}

impl Options {
    fn parse(request: &Request) -> Result<Self, Failure> {
        let body = request.options()?;
        let word = |path: &[&str]| Some(text(&body, path).to_owned()).filter(|word| !word.is_empty());
        let grace = body.get("gracePeriodSeconds").and_then(Value::as_i64);
        let asked = request.query.number("gracePeriodSeconds")?.and_then(|grace| i64::try_from(grace).ok());
        let dry_run = at(&body, &["dryRun"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        let propagation = word(&["propagationPolicy"]);
        let orphans = body.get("orphanDependents") == Some(&Value::Bool(true));
        Ok(Self {
            uid: word(&["preconditions", "uid"]),
            version: word(&["preconditions", "resourceVersion"]),
            grace: grace.or(asked),
            propagation: propagation.unwrap_or_else(|| match request.query.get("propagationPolicy") {
                "" if orphans => "Orphan".to_owned(),
                other => other.to_owned(),
            }),
            dry_run: dry_run || request.is_dry_run(),
        })
    }
}

impl Server {
    /// Deletes the object that the path names.
    ///
    /// # Errors
    /// 404 if there is none, 409 if it is not the one meant, 403 if it must stay.
    pub fn delete(&self, request: &Request) -> Result<Answer, Failure> {
        let options = Options::parse(request)?;
        let (object, gone) = self.delete_key(&request.resource, &request.key(), &options)?;
        let resource = &request.resource;
        if gone && !resource.is("", "pods") {
            let details =
                json!({"name": object.key.1, "group": resource.group, "kind": resource.plural, "uid": object.uid()});
            let status =
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
            return Ok(Answer::json(status.to_string()));
        }
        Ok(Answer::json(request.view.object(resource, &object)))
    }

    /// Deletes what the selectors of the query select, and shows it.
    ///
    /// # Errors
    /// 400 for bad selectors; of single objects as for [`Server::delete`].
    pub fn delete_collection(&self, request: &Request) -> Result<Answer, Failure> {
        if request.resource.namespaced && request.namespace.is_none() {
            return Err(Failure::method_not_allowed());
        }
        let (options, selector) = (Options::parse(request)?, request.selector()?);
        let page = crate::store::Page { namespace: request.namespace.clone(), ..Default::default() };
        let listed = self.store.list(&request.resource.table, &page);
        let (objects, revision) = listed.map_err(|gone| Failure::expired(0, gone.oldest))?;
        let mut deleted = Vec::new();
        for object in objects.iter().filter(|object| selector.matches(&object.value)) {
            match self.delete_key(&request.resource, &object.key, &options) {
                Ok((object, _)) => deleted.push(object),
                Err(failure) if failure.code == 404 => {}
                Err(failure) => return Err(failure),
            }
        }
        let meta = ListMeta { revision, ..ListMeta::default() };
        Ok(Answer::json(request.view.list(&request.resource, &deleted, &meta)))
    }

    /// Deletes a pod as its delete would.
    ///
    /// # Errors
    /// As for [`Server::delete`].
    pub fn evict(&self, request: &Request) -> Result<Answer, Failure> {
        let body = request.json()?;
        let grace = at(&body, &["deleteOptions", "gracePeriodSeconds"]).and_then(Value::as_i64);
        self.delete_key(&request.resource, &request.key(), &Options { grace, ..Options::default() })?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        let bytes = status.to_string().into();
        Ok(Answer::Body { code: StatusCode::CREATED, content_type: "application/json", bytes })
    }

    /// Deletes an object, or marks it and waits for whoever holds it. Tells whether it is gone.
    ///
    /// # Errors
    /// As for [`Server::delete`].
    pub fn delete_key(
        &self,
        resource: &Arc<Resource>,
        key: &Key,
        options: &Options,
    ) -> Result<(Arc<Object>, bool), Failure> {
        loop {
            let live = self.store.get(&resource.table, key).ok_or_else(|| Failure::not_found(resource, &key.1))?;
            check(resource, &live, options)?;
            if options.dry_run {
                return Ok((live, false));
            }
            if options.propagation == "Orphan" {
                self.orphan(live.uid());
            }
            let marked = self.marked(resource, &live, options);
            let done = match &marked {
                None => Some((live.clone(), false)),
                Some(new) if is_free(resource, new) => {
                    let gone = self.store.swap(&resource.table, key, Some(live.revision), None).ok();
                    gone.map(|gone| (gone, true))
                }
                Some(new) => self.store_change(resource, &live, new.clone()).map(|object| (object, false)),
            };
            let Some((object, gone)) = done else { continue };
            if gone {
                self.removed(resource, &object);
                return Ok((object, true));
            }
            return Ok(self.follow(resource, object, options));
        }
    }

    /// What goes along with an object that is marked and still there.
    fn follow(&self, resource: &Arc<Resource>, object: Arc<Object>, options: &Options) -> (Arc<Object>, bool) {
        let options = Options { propagation: options.propagation.clone(), ..Options::default() };
        if resource.is("", "namespaces") {
            self.empty_namespace(&object.key.1);
        } else if resource.kind == "CustomResourceDefinition" {
            self.empty_definition(&object);
        } else if has_finalizer(&object.value, FOREGROUND) {
            for (table, key) in self.store.owned_by(object.uid()) {
                self.delete_quietly(&table, &key, &options);
            }
            self.finish_foreground(object.uid());
        }
        let left = self.store.get(&resource.table, &object.key).filter(|left| left.uid() == object.uid());
        let gone = left.is_none();
        (left.unwrap_or(object), gone)
    }

    /// Deletes on behalf of the server itself: what is gone already is well.
    pub fn delete_quietly(&self, table: &(String, String), key: &Key, options: &Options) {
        let found = self.registry().of_table(table);
        let Some(resource) = found else { return };
        if let Err(failure) = self.delete_key(&resource, key, options)
            && failure.code != 404
        {
            tracing::warn!(resource = resource.qualified(), name = key.1, status = %failure.status(), "collect garbage");
        }
    }

    /// The object as it is once the delete is noted in it; nothing, if it is noted already.
    fn marked(&self, resource: &Resource, live: &Object, options: &Options) -> Option<Value> {
        let mut new = live.value.clone();
        let grace = grace(resource, &live.value, options);
        let noted = at(&live.value, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
        if at(&live.value, &["metadata", "deletionTimestamp"]).is_some() {
            let shorter = noted.is_none_or(|noted| grace < noted);
            if !shorter {
                return is_free(resource, &new).then_some(new);
            }
        } else if resource.generation {
            bump_generation(&mut new);
        }
        let when =
            Timestamp::now().saturating_add(SignedDuration::from_secs(grace)).unwrap_or_else(|_| Timestamp::now());
        let metadata = metadata(&mut new);
        metadata.insert("deletionTimestamp".to_owned(), when.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
        metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
        if options.propagation == "Foreground" && !self.store.owned_by(live.uid()).is_empty() {
            add_finalizer(&mut new, FOREGROUND);
        }
        if resource.is("", "namespaces") {
            new["status"] = json!({"phase": "Terminating"});
        }
        if resource.kind == "CustomResourceDefinition" {
            add_finalizer(&mut new, CRD_CLEANUP);
        }
        Some(new)
    }
}

fn check(resource: &Resource, live: &Object, options: &Options) -> Result<(), Failure> {
    if resource.is("", "namespaces") && PERMANENT_NAMESPACES.contains(&live.key.1.as_str()) {
        return Err(Failure::forbidden(resource, &live.key.1, "this namespace may not be deleted"));
    }
    let version = live.revision.to_string();
    for (what, wanted, found) in
        [("UID", &options.uid, live.uid()), ("ResourceVersion", &options.version, version.as_str())]
    {
        if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != found) {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
            return Err(Failure::conflict(resource, &live.key.1, &why));
        }
    }
    Ok(())
}

/// Seconds that the kubelet is given for a pod; nothing else has any.
fn grace(resource: &Resource, object: &Value, options: &Options) -> i64 {
    let over = ["Succeeded", "Failed"].contains(&text(object, &["status", "phase"]));
    if !resource.is("", "pods") || over || text(object, &["spec", "nodeName"]).is_empty() {
        return 0;
    }
    let own = at(object, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    options.grace.or(own).unwrap_or(30).max(0)
}

fn is_free(resource: &Resource, object: &Value) -> bool {
    let finalizers = at(object, &["metadata", "finalizers"]).and_then(Value::as_array).map_or(0, Vec::len);
    let grace = at(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
    finalizers == 0 && grace == 0 && !resource.is("", "namespaces")
}

/// Whether the object has that finalizer.
pub fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    let list = at(object, &["metadata", "finalizers"]).and_then(Value::as_array);
    list.is_some_and(|list| list.iter().any(|one| one == finalizer))
}

fn add_finalizer(object: &mut Value, finalizer: &str) {
    let list = metadata(object).entry("finalizers").or_insert_with(|| json!([]));
    if let Value::Array(list) = list
        && !list.iter().any(|one| one == finalizer)
    {
        list.push(finalizer.into());
    }
}
