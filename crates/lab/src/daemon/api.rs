//! The lab's Kubernetes API: in-process, served inside the VNet for agents and controllers, and on this machine's
//! loopback for kubectl. Inside the VNet it can be taken away and given back, as when an API server is down; the
//! operator's way in stays.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use overlane_apiserver::ApiServer;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::files;
use crate::netns;
use crate::process;

/// The API's port inside the VNet.
pub const PORT: u16 = 6443;
/// What the API was told in the last moment before a daemon is killed is lost.
const SAVE_EVERY: Duration = Duration::from_millis(500);
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// The API, and who serves it.
pub struct LabApi {
    /// The store.
    pub server: ApiServer,
    namespace: PathBuf,
    address: SocketAddr,
    serving: Mutex<Option<Serving>>,
}

struct Serving {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl LabApi {
    /// An API that will be served at `address` in the namespace `namespace`.
    pub fn new(server: ApiServer, namespace: PathBuf, address: SocketAddr) -> Self {
        Self { server, namespace, address, serving: Mutex::new(None) }
    }

    /// Its address inside the VNet.
    pub fn vnet_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves inside the VNet, if it does not.
    pub async fn start(&self) -> Result<()> {
        let mut serving = self.serving.lock().await;
        if serving.is_some() {
            return Ok(());
        }
        let (namespace, address) = (self.namespace.clone(), self.address);
        // A socket belongs to the namespace that it was made in, whoever accepts on it.
        let listen = move || netns::run(&namespace, || TcpListener::bind(address).map_err(Into::into));
        let listener = tokio::task::spawn_blocking(listen)
            .await
            .context("a worker died")?
            .with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let server = self.server.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = server.serve(listener, async move { _ = stopped.await }).await {
                warn!("serve the API: {error}");
            }
        });
        info!(%address, "API served");
        *serving = Some(Serving { stop, task });
        Ok(())
    }

    /// Closes the socket inside the VNet and every connection on it.
    pub async fn stop(&self) {
        let Some(serving) = self.serving.lock().await.take() else { return };
        let _ = serving.stop.send(());
        if tokio::time::timeout(CLOSE_PATIENCE, serving.task).await.is_err() {
            warn!("the API's connections did not end in time");
        }
        info!("API no longer served");
    }

    /// Whether it is served inside the VNet.
    pub async fn is_up(&self) -> bool {
        self.serving.lock().await.is_some()
    }
}

/// Serves on this machine's loopback, below a path that only root can read from the lab's files: whoever may create
/// pods in a lab runs programs as root. Returns the URL; one that was given before is kept if its port is free.
pub async fn serve_locally(client: Client, before: Option<&str>) -> Result<String> {
    let before = before.and_then(|url| {
        let uri: Uri = url.parse().ok()?;
        Some((uri.port_u16()?, uri.path().trim_matches('/').to_owned()))
    });
    let (port, secret) = before.unwrap_or((0, process::random_hex()?));
    let listener = match tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Err(error) if port != 0 => {
            warn!("listen on port {port} again: {error}");
            tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
        }
        other => other,
    };
    let listener = listener.context("listen on 127.0.0.1")?;
    let url = format!("http://{}/{secret}", listener.local_addr()?);
    tokio::spawn(accept(listener, client, format!("/{secret}")));
    Ok(url)
}

async fn accept(listener: tokio::net::TcpListener, client: Client, prefix: String) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (client, prefix) = (client.clone(), prefix.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| pass_on(client.clone(), &prefix, request));
            // A client that goes away is its own affair.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn pass_on(client: Client, prefix: &str, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let refuse = |status: StatusCode, why: &str| {
        let mut response = Response::new(Body::from(why.as_bytes().to_vec()));
        *response.status_mut() = status;
        Ok(response)
    };
    let (mut parts, body) = request.into_parts();
    match inner_uri(&parts.uri, prefix) {
        Some(uri) => parts.uri = uri,
        None => return refuse(StatusCode::FORBIDDEN, "this path is not the one in the lab's kubeconfig\n"),
    }
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    match client.send(Request::from_parts(parts, Body::from(body.to_vec()))).await {
        Ok(response) => Ok(response),
        Err(error) => refuse(StatusCode::BAD_GATEWAY, &format!("{error}\n")),
    }
}

fn inner_uri(uri: &Uri, prefix: &str) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(prefix)?;
    match rest.chars().next() {
        None => Some(Uri::from_static("/")),
        Some('/') => rest.parse().ok(),
        Some('?') => format!("/{rest}").parse().ok(),
        Some(_) => None,
    }
}

/// Writes the store to a file whenever it has changed, so that a daemon that starts again knows its cluster.
pub async fn keep_saved(server: ApiServer, file: PathBuf) {
    let mut saved = None;
    loop {
        let revision = server.stats().revision;
        if saved != Some(revision) {
            let (server, file) = (server.clone(), file.clone());
            let write = tokio::task::spawn_blocking(move || files::write(&file, &server.snapshot()));
            match write.await.map_err(|error| anyhow!(error)) {
                Ok(Ok(())) => saved = Some(revision),
                Ok(Err(error)) | Err(error) => warn!("save the API's objects: {error:#}"),
            }
        }
        tokio::time::sleep(SAVE_EVERY).await;
    }
}

/// A kubeconfig for `url`.
pub fn kubeconfig(lab: &str, url: &str) -> String {
    let name = format!("overlane-lab-{lab}");
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    server: {url}\ncontexts:\n- name: {name}\n  \
         context:\n    cluster: {name}\n    user: {name}\ncurrent-context: {name}\nusers:\n- name: {name}\n  user: {{}}\n"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: the API answering on loopback to somebody who does not know the path.

    use super::*;

    #[test]
    fn only_the_secret_path_leads_in() {
        let inner = |path: &str| inner_uri(&path.parse().unwrap(), "/s3cret").map(|uri| uri.to_string());
        assert_eq!(inner("/s3cret/api/v1/pods?watch=1").as_deref(), Some("/api/v1/pods?watch=1"));
        assert_eq!(inner("/s3cret").as_deref(), Some("/"));
        assert_eq!(inner("/s3cret?a=1").as_deref(), Some("/?a=1"));
        for outside in ["/", "/api/v1/pods", "/s3cre", "/s3cretx/api", "/x/s3cret/api"] {
            assert_eq!(inner(outside), None, "{outside}");
        }
    }

    #[test]
    fn the_kubeconfig_is_read_by_kube() {
        let text = kubeconfig("t", "http://127.0.0.1:1/x");
        let config: kube::config::Kubeconfig = serde_norway::from_str(&text).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("overlane-lab-t"));
        assert_eq!(config.clusters[0].cluster.as_ref().unwrap().server.as_deref(), Some("http://127.0.0.1:1/x"));
    }
}
