//! From HTTP to the server and back: in-process, and over sockets.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Body, Frame};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::failure::Failure;
use crate::server::{Answer, Server};

/// Body of an answer.
pub type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// Longest body taken, as in the real server.
const BODY_LIMIT: usize = 3 * 1024 * 1024;
/// How long requests under way may take once the server is to end.
const GRACE: Duration = Duration::from_millis(500);
/// What is waited after a failed accept: it is mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Answers one request. Watches end when `stop` says so.
pub async fn respond<B>(
    server: Arc<Server>,
    request: http::Request<B>,
    stop: Option<watch::Receiver<bool>>,
) -> http::Response<AnswerBody>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let read = if body.size_hint().lower() > BODY_LIMIT as u64 {
        Err(Failure::too_large(BODY_LIMIT))
    } else {
        collect(body).await
    };
    let answer = match read {
        Ok(body) => {
            let query = head.uri.query().unwrap_or_default();
            server.answer(&head.method, head.uri.path(), query, &head.headers, body)
        }
        Err(failure) => failure.into(),
    };
    render(answer, stop)
}

async fn collect<B>(body: B) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::too_large(BODY_LIMIT)),
        Err(error) => Err(Failure::bad_request(format!("read the body: {error}"))),
    }
}

fn render(answer: Answer, stop: Option<watch::Receiver<bool>>) -> http::Response<AnswerBody> {
    let (code, content_type, body) = match answer {
        Answer::Body { code, content_type, bytes } => (code, content_type, Full::new(bytes).boxed_unsync()),
        Answer::Watch(watch) => {
            let frames = watch.lines().map(|bytes| Ok(Frame::data(bytes)));
            let body = match stop {
                Some(mut stop) => {
                    let until = Box::pin(async move { stopped(&mut stop).await });
                    StreamBody::new(frames.take_until(until)).boxed_unsync()
                }
                None => StreamBody::new(frames).boxed_unsync(),
            };
            (http::StatusCode::OK, "application/json", body)
        }
    };
    let mut response = http::Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// Serves a listener until `shutdown` is ready.
///
/// # Errors
/// If the runtime cannot use the listener.
pub async fn serve(
    server: Arc<Server>,
    listener: std::net::TcpListener,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(server.clone(), stream, stopped.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all).await.is_err() {
        connections.shutdown().await;
    }
    Ok(())
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the server itself is gone: that is an end as well.
    drop(stop.wait_for(|stop| *stop).await);
}

async fn connection(server: Arc<Server>, stream: TcpStream, mut stop: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    let of_watches = stop.clone();
    let service = service_fn(move |request| {
        let answer = respond(server.clone(), request, Some(of_watches.clone()));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client left");
    }
}
