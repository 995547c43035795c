//! `/metrics`, `/healthz`, `/readyz`, `/debug/state`, `PUT /debug/log`.
//!
//! Shows; changes nothing but the log's filter.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;

use crate::log::LogFilter;

/// What the pages show. Called on a blocking thread.
pub trait Pages: Send + Sync + 'static {
    /// Prometheus' text.
    ///
    /// # Errors
    /// It cannot be made.
    fn metrics(&self) -> anyhow::Result<String>;
    /// Whether the daemon does what it is for.
    ///
    /// # Errors
    /// Why not.
    fn ready(&self) -> Result<(), String>;
    /// Whether the daemon works; it must not depend on the API server.
    ///
    /// # Errors
    /// What is stuck.
    fn healthy(&self) -> Result<(), String>;
    /// The whole state as JSON, for people.
    fn state(&self) -> Option<serde_json::Value> {
        None
    }
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, pages: Arc<dyn Pages>, log: LogFilter) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept on the metrics port");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (pages, log) = (Arc::clone(&pages), log.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (pages, log) = (Arc::clone(&pages), log.clone());
                async move { Ok::<_, Infallible>(page(&request, pages, &log).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the metrics port ended");
            }
        });
    }
}

type Page = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn page(request: &Request<Incoming>, pages: Arc<dyn Pages>, log: &LogFilter) -> Page {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match blocking(move || pages.metrics()).await {
            Ok(Ok(body)) => answer(StatusCode::OK, OPENMETRICS, body),
            Ok(Err(error)) | Err(error) => failed(&error),
        },
        (&Method::GET, "/healthz") => verdict(blocking(move || pages.healthy()).await),
        (&Method::GET, "/readyz") => verdict(blocking(move || pages.ready()).await),
        (&Method::GET, "/debug/state") => match blocking(move || pages.state()).await {
            Ok(Some(state)) => answer(StatusCode::OK, "application/json", format!("{state:#}\n")),
            Ok(None) => no_such_page(),
            Err(error) => failed(&error),
        },
        (&Method::PUT, "/debug/log") => set_log(request.uri().query().unwrap_or_default(), log),
        _ => no_such_page(),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("make the page")
}

fn verdict(outcome: anyhow::Result<Result<(), String>>) -> Page {
    match outcome {
        Ok(Ok(())) => answer(StatusCode::OK, TEXT, "ok\n"),
        Ok(Err(reason)) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        Err(error) => failed(&error),
    }
}

fn set_log(query: &str, log: &LogFilter) -> Page {
    let Some(filter) = query.split('&').find_map(|pair| pair.strip_prefix("filter=")) else {
        return answer(StatusCode::BAD_REQUEST, TEXT, "PUT /debug/log?filter=LEVEL-OR-FILTER is wanted\n");
    };
    let filter = percent_decode_str(filter).decode_utf8_lossy();
    match log.set(&filter) {
        Ok(()) => {
            tracing::info!(%filter, "the log's filter was changed");
            answer(StatusCode::OK, TEXT, "ok\n")
        }
        Err(error) => answer(StatusCode::BAD_REQUEST, TEXT, format!("{error:#}\n")),
    }
}

fn no_such_page() -> Page {
    answer(StatusCode::NOT_FOUND, TEXT, "no such page\n")
}

fn failed(error: &anyhow::Error) -> Page {
    answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error:#}\n"))
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    page
}
