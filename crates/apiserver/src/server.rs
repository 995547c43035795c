//! The server's state, and from a request to its answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::failure::{Cause, Failure};
use crate::meta::text;
use crate::request::{Request, segments};
use crate::resource::{Registry, Resource, TableId};
use crate::store::Store;
use crate::watch::Watch;
use crate::{Error, Stats, builtin, crd, discovery, openapi, snapshot};

/// What a request is answered with.
pub enum Answer {
    /// One body.
    Body {
        /// HTTP status.
        code: StatusCode,
        /// Media type.
        content_type: &'static str,
        /// The body.
        bytes: Bytes,
    },
    /// A stream of events.
    Watch(Box<Watch>),
}

impl Answer {
    /// 200 with JSON.
    pub fn json(bytes: impl Into<Bytes>) -> Self {
        Self::Body { code: StatusCode::OK, content_type: "application/json", bytes: bytes.into() }
    }

    /// 201 with JSON.
    pub fn created(bytes: Bytes) -> Self {
        Self::Body { code: StatusCode::CREATED, content_type: "application/json", bytes }
    }

    /// 200 with plain text.
    pub fn text(text: &'static str) -> Self {
        Self::Body { code: StatusCode::OK, content_type: "text/plain", bytes: Bytes::from_static(text.as_bytes()) }
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        Self::Body {
            code: StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            content_type: "application/json",
            bytes: failure.status().to_string().into(),
        }
    }
}

/// Everything that clones of the server share.
pub struct Server {
    pub store: Store,
    registry: RwLock<Registry>,
    requests: Mutex<BTreeMap<(String, String), u64>>,
    pub open_watches: Arc<AtomicU64>,
}

/// Refuses parameters that would otherwise be taken for absent.
fn check_options(verb: &str, request: &Request) -> Result<(), Failure> {
    let dry_run = request.query.get("dryRun");
    let kind = match verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" | "apply" => "PatchOptions",
        "delete" | "deletecollection" => "DeleteOptions",
        _ => return Ok(()),
    };
    if ["", "All"].contains(&dry_run) {
        return Ok(());
    }
    Err(Failure::bad_options(kind, &Cause::not_supported("dryRun", &json!([dry_run]), &[json!("All")])))
}

/// Namespaces that exist from the start and cannot be deleted.
pub const PERMANENT_NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

impl Server {
    /// A server with the namespaces that every cluster has.
    pub fn new() -> Self {
        let server = Self {
            store: Store::default(),
            registry: RwLock::new(builtin::registry()),
            requests: Mutex::default(),
            open_watches: Arc::default(),
        };
        for name in PERMANENT_NAMESPACES {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            let made = server.find("", "v1", "namespaces").and_then(|resource| server.make(&resource, "", namespace));
            if let Err(failure) = made {
                tracing::error!(namespace = name, status = %failure.status(), "create a namespace of every cluster");
            }
        }
        server
    }

    /// The registry, to read.
    pub fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A resource that must be served.
    ///
    /// # Errors
    /// 404 if it is not.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Result<Arc<Resource>, Failure> {
        self.registry().find(group, version, plural).ok_or_else(Failure::no_such_path)
    }

    /// Serves what a definition describes from now on.
    ///
    /// # Errors
    /// The rule that the definition breaks.
    pub fn serve_crd(&self, definition: &Value) -> Result<(), String> {
        let resource = crd::resource(definition)?;
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        registry.remove(&resource.group, &resource.plural);
        registry.add(resource);
        Ok(())
    }

    /// Creates a definition, or replaces the one of its name.
    ///
    /// # Errors
    /// If it breaks a rule.
    pub fn register(&self, definition: &CustomResourceDefinition) -> Result<(), Error> {
        let name = definition.metadata.name.clone().unwrap_or_default();
        let refuse = |reason: String| Error::Register { crd: name.clone(), reason };
        let body = serde_json::to_value(definition).map_err(|error| refuse(error.to_string()))?;
        let refused = |failure: Failure| refuse(text(&failure.status(), &["message"]).to_owned());
        let resource = self.find("apiextensions.k8s.io", "v1", "customresourcedefinitions").map_err(refused)?;
        match self.make(&resource, "", body.clone()) {
            Err(failure) if failure.code == 409 => self.remake(&resource, &name, body).map_err(refused),
            made => made.map(drop).map_err(refused),
        }
    }

    /// Serves the resource no more.
    pub fn drop_crd(&self, table: &TableId) {
        self.registry.write().unwrap_or_else(PoisonError::into_inner).remove(&table.0, &table.1);
        self.store.history(table).restart(self.store.revision());
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        Stats {
            requests: self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            watches: self.open_watches.load(Ordering::Relaxed),
            revision: self.store.revision(),
        }
    }

    /// Everything that [`Server::restore`] needs.
    pub fn snapshot(&self) -> Vec<u8> {
        let (objects, revision) = self.store.all();
        snapshot::write(&objects, revision)
    }

    /// Puts a snapshot in the place of everything.
    ///
    /// # Errors
    /// If the bytes are no snapshot.
    pub fn restore(&self, bytes: &[u8]) -> Result<(), Error> {
        let refuse = |reason: String| Error::Restore { reason };
        let (revision, objects) = snapshot::parse(bytes).map_err(refuse)?;
        let mut registry = builtin::registry();
        for (table, object) in &objects {
            if table.1 == "customresourcedefinitions" {
                registry.add(crd::resource(&object.value).map_err(refuse)?);
            }
        }
        // Far enough ahead that no client can have seen a revision from there.
        let revision = revision.max(self.store.revision()) + snapshot::REVISION_BUMP;
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = registry;
        self.store.replace(objects, revision);
        self.sweep();
        Ok(())
    }

    /// Answers one request.
    pub fn answer(
        self: &Arc<Self>,
        method: &Method,
        path: &str,
        query: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Answer {
        let path = segments(path);
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        if (method == Method::GET || method == Method::HEAD)
            && let Some(answer) = self.informative(&parts, headers)
        {
            return answer;
        }
        let parsed = Request::parse(&self.registry(), &path, query, headers, body);
        parsed.and_then(|request| self.perform(method, &request)).unwrap_or_else(Answer::from)
    }

    /// What clients ask about the server itself.
    fn informative(&self, path: &[&str], headers: &HeaderMap) -> Option<Answer> {
        let registry = self.registry();
        let answer = match path {
            ["healthz" | "livez" | "readyz", ..] => return Some(Answer::text("ok")),
            ["version"] => discovery::version(),
            ["openapi", "v2"] => return Some(openapi::v2(headers)),
            ["openapi", "v3"] => openapi::index(&registry),
            ["openapi", "v3", "api", version] => openapi::document(&registry, "", version)?,
            ["openapi", "v3", "apis", group, version] => openapi::document(&registry, group, version)?,
            path => discovery::answer(&registry, path)?,
        };
        Some(Answer::json(answer.to_string()))
    }

    fn perform(self: &Arc<Self>, method: &Method, request: &Request) -> Result<Answer, Failure> {
        let verb = request.verb(method);
        if verb.is_empty() {
            return Err(Failure::method_not_allowed());
        }
        check_options(verb, request)?;
        let counted = (verb.to_owned(), request.counted_as());
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry(counted).or_default() += 1;
        match (request.subresource.as_str(), verb) {
            ("status", "get" | "update" | "patch" | "apply") if request.resource.status => {}
            ("", _) => {}
            ("eviction", "create") if request.resource.is("", "pods") => {
                return self.evict(request);
            }
            ("binding", "create") if request.resource.is("", "pods") && request.name.is_some() => {
                return self.bind(request);
            }
            _ => return Err(Failure::no_such_path()),
        }
        match verb {
            "get" => self.get(request),
            "list" => self.list(request),
            "watch" => self.watch(request),
            "create" if request.name.is_none() => self.create(request),
            "update" => self.update(request),
            "patch" | "apply" => self.patch(request),
            "delete" => self.delete(request),
            "deletecollection" => self.delete_collection(request),
            _ => Err(Failure::method_not_allowed()),
        }
    }
}
