//! A small Kubernetes API for the lab and for tests: a tower service behind [`kube::Client`], also served over HTTP/1.1
//! so that kubectl works on it.
//!
//! It holds objects and the rules that the real API server holds about them, and no product logic at all.

mod apply;
mod binding;
mod builtin;
mod crd;
mod delete;
mod discovery;
mod events;
mod failure;
mod fields;
mod gc;
mod history;
mod http;
mod jsonpath;
mod managers;
mod meta;
mod openapi;
mod patch;
mod prepare;
mod printers;
mod protobuf;
mod read;
mod request;
mod resource;
mod rules;
mod schema;
mod selector;
mod server;
mod shape;
mod snapshot;
mod store;
mod table;
mod validate;
mod view;
mod watch;
mod write;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use ::http::Request;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::server::Server;

/// Why a definition or a snapshot was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A CustomResourceDefinition breaks a rule of the API server.
    #[error("register {crd}: {reason}")]
    Register {
        /// Name of the definition.
        crd: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// Bytes that are no snapshot of this server.
    #[error("restore a snapshot: {reason}")]
    Restore {
        /// What is wrong with it.
        reason: String,
    },
}

/// What the server was asked for since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests by verb (`get`, `list`, `watch`, `create`, `update`, `patch`, `apply`, `delete`, `deletecollection`)
    /// and resource (`nodes`, `nodes/status`, `nodeblocks.overlane.io`), whatever their outcome.
    pub requests: BTreeMap<(String, String), u64>,
    /// Watches open now.
    pub watches: u64,
    /// The store's revision: the newest resourceVersion given.
    pub revision: u64,
}

/// The API server. Clones share one store.
#[derive(Clone)]
pub struct ApiServer {
    server: Arc<Server>,
}

impl Default for ApiServer {
    fn default() -> Self {
        Self::new()
    }
}

impl ApiServer {
    /// An empty cluster: the built-in resources, and the namespaces that every cluster has.
    pub fn new() -> Self {
        Self { server: Arc::new(Server::new()) }
    }

    /// Creates the definition, or updates it, and serves its resource from now on.
    ///
    /// # Errors
    /// If the definition breaks a rule of the API server.
    pub fn register(&self, crd: &CustomResourceDefinition) -> Result<(), Error> {
        self.server.register(crd)
    }

    /// A client that calls this server in-process; its default namespace is `default`. To be called within a tokio
    /// runtime.
    pub fn client(&self) -> kube::Client {
        let server = self.server.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let answer = http::respond(server.clone(), request, None);
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });
        kube::Client::new(service, "default")
    }

    /// Serves HTTP/1.1 on `listener` until `shutdown` is ready; then open watches and connections end too. May be
    /// called for any number of listeners.
    ///
    /// # Errors
    /// If the listener cannot be used by the runtime.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        http::serve(self.server.clone(), listener, shutdown).await
    }

    /// All objects and the revision, for [`ApiServer::restore`].
    pub fn snapshot(&self) -> Vec<u8> {
        self.server.snapshot()
    }

    /// Puts a snapshot in place of all objects. As `etcdutl snapshot restore --bump-revision --mark-compacted` does,
    /// the revision goes forward, never back; open watches end with 410 Gone.
    ///
    /// # Errors
    /// If the bytes are no snapshot; nothing has changed then.
    pub fn restore(&self, snapshot: &[u8]) -> Result<(), Error> {
        self.server.restore(snapshot)
    }

    /// Drops the history: a watch or a list from an older resourceVersion gets 410. Watches that have seen everything
    /// go on.
    pub fn compact(&self) {
        self.server.store.compact();
    }

    /// Counts of requests, watches and the revision.
    pub fn stats(&self) -> Stats {
        self.server.stats()
    }
}
