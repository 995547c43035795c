//! `/metrics`, `/healthz`, `/readyz`, `PUT /debug/log`. Shows; changes nothing but the log's filter.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;

use crate::log::LogFilter;
use crate::metrics::Metrics;
use crate::objects::now_ms;

/// A main loop that has not come round for so long is stuck. It never waits for the API.
const STUCK_MS: u64 = 60_000;
const TEXT: &str = "text/plain; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, metrics: Metrics, log: Option<LogFilter>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept on the metrics port");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (metrics, log) = (metrics.clone(), log.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = page(request.method(), request.uri(), &metrics, log.as_ref());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the metrics port ended");
            }
        });
    }
}

type Page = Response<Full<Bytes>>;

fn page(method: &Method, uri: &hyper::Uri, metrics: &Metrics, log: Option<&LogFilter>) -> Page {
    match (method, uri.path()) {
        (&Method::GET, "/metrics") => match metrics.text() {
            Ok(text) => answer(StatusCode::OK, OPENMETRICS, text),
            Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        (&Method::GET, "/healthz") => healthy(metrics.last_beat_ms(), now_ms()),
        (&Method::GET, "/readyz") if metrics.is_synced() => answer(StatusCode::OK, TEXT, "ok\n"),
        (&Method::GET, "/readyz") => {
            answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not every source was seen whole yet\n")
        }
        (&Method::PUT, "/debug/log") => set_log(uri.query().unwrap_or_default(), log),
        _ => answer(StatusCode::NOT_FOUND, TEXT, "no such page\n"),
    }
}

fn healthy(beat_ms: u64, now_ms: u64) -> Page {
    if beat_ms != 0 && now_ms.saturating_sub(beat_ms) > STUCK_MS {
        return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the main loop is stuck\n");
    }
    answer(StatusCode::OK, TEXT, "ok\n")
}

fn set_log(query: &str, log: Option<&LogFilter>) -> Page {
    let filter = query.split('&').find_map(|pair| pair.strip_prefix("filter="));
    let (Some(filter), Some(log)) = (filter, log) else {
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

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    page
}

#[cfg(test)]
mod tests {
    //! Must catch: a liveness page that depends on the API server.
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn alive_without_the_api_ready_only_with_it() {
        let metrics = Metrics::new();
        let get = |path: &str| page(&Method::GET, &path.parse().unwrap(), &metrics, None).status();
        metrics.beat(now_ms());
        assert_eq!((get("/healthz"), get("/readyz")), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
        metrics.set_synced(true);
        assert_eq!(get("/readyz"), StatusCode::OK);
        metrics.beat(now_ms() - 2 * STUCK_MS);
        assert_eq!(get("/healthz"), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!((get("/metrics"), get("/")), (StatusCode::OK, StatusCode::NOT_FOUND));
    }
}
