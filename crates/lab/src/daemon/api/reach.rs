//! The ways to an API server that listens on the loopback of the control plane's namespace: for this process, and for
//! everybody in the VNet.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::Uri;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tower::{BoxError, Service, ServiceBuilder};
use tracing::debug;

use crate::netns;

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// An address inside a namespace, to be connected to from outside.
#[derive(Clone, Debug)]
pub struct Door {
    /// Path of the namespace.
    pub namespace: PathBuf,
    /// The address there.
    pub address: SocketAddr,
}

impl Door {
    async fn connect(&self) -> io::Result<TcpStream> {
        let door = self.clone();
        // A socket belongs to the namespace that it was made in, whoever uses it.
        let connect = move || {
            netns::run(&door.namespace, || {
                std::net::TcpStream::connect_timeout(&door.address, CONNECT_PATIENCE).map_err(Into::into)
            })
        };
        let stream = tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        TcpStream::from_std(stream)
    }

    /// A client without TLS, for a store that trusts everybody who reaches it.
    pub fn plain(&self) -> legacy::Client<Self, Body> {
        legacy::Client::builder(TokioExecutor::new()).build(self.clone())
    }

    /// A client of the API, with the credentials of `config`.
    ///
    /// # Errors
    /// Certificates or keys in it that cannot be used.
    pub fn client(&self, config: &Config) -> Result<Client> {
        let https = config.rustls_https_connector_with_connector(self.clone()).context("use the API's certificates")?;
        let http = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(https);
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer()?)
            .map_err(BoxError::from)
            .service(http);
        Ok(Client::new(service, config.default_namespace.clone()))
    }
}

impl Service<Uri> for Door {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let door = self.clone();
        Box::pin(async move { door.connect().await.map(TokioIo::new) })
    }
}

/// Carries every connection of `listener` to the door and back, until it is stopped; then all of them end at once.
pub async fn relay(listener: TcpListener, door: Door, stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(carry(stream, door.clone()));
                    while connections.try_join_next().is_some() {}
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::select! {
        () = accept => {}
        _ = stopped => {}
    }
    connections.shutdown().await;
}

async fn carry(mut from: TcpStream, door: Door) {
    let _ = from.set_nodelay(true);
    let carried = async {
        let mut to = door.connect().await?;
        tokio::io::copy_bidirectional(&mut from, &mut to).await
    };
    // Both sides see the end of their connection, and say so in their logs.
    if let Err(error) = carried.await {
        debug!("carry a connection to the API server: {error}");
    }
}
