//! The operator's way in: the API on this machine's loopback, for kubectl. It stays when the API is taken away from the
//! VNet.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use tracing::warn;

use crate::process;

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
    // It says something of the connection to here only (RFC 9110, section 7.6.1).
    parts.headers.remove(header::CONNECTION);
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
