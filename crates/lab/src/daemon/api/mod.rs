//! The lab's Kubernetes API: in this process, or the real one. Served inside the VNet for agents and controllers, where
//! it can be taken away and given back, as when an API server is down; and on this machine's loopback for kubectl.

mod accounts;
mod etcd;
mod in_process;
mod kubernetes;
mod local;
mod pki;
mod reach;
mod requests;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use overlane_apiserver::ApiServer;
use overlane_install::{AGENT, CONTROLLER};
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::paths::LabPaths;
use crate::state::LabRecord;
use crate::{files, netns};

use super::supervise::{Program, ProgramState};
pub use accounts::BoundTo;
use accounts::Identity;
use kubernetes::Kubernetes;
pub use local::{kubeconfig, serve_locally};

/// The API's port inside the VNet.
pub const PORT: u16 = 6443;
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// The API, and who serves it.
pub struct LabApi {
    backend: Backend,
    namespace: PathBuf,
    address: SocketAddr,
    serving: Mutex<Option<Serving>>,
}

enum Backend {
    InProcess { server: ApiServer, store: PathBuf },
    Kubernetes(Box<Kubernetes>),
}

struct Serving {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl LabApi {
    /// The API of a lab, to be served at the first of `addresses` in the namespace `namespace`.
    pub async fn open(record: &LabRecord, paths: &LabPaths, namespace: PathBuf, addresses: &[IpAddr]) -> Result<Self> {
        let primary = addresses.first().context("the lab's record names no family")?;
        let backend = match &record.kubernetes {
            None => Backend::InProcess { server: in_process::open(paths)?, store: paths.api_store() },
            Some(programs) => {
                let services = kubernetes::service_cidrs(&record.cluster_network);
                let opened = Kubernetes::open(paths, programs, namespace.clone(), addresses, services);
                Backend::Kubernetes(Box::new(opened.await?))
            }
        };
        Ok(Self { backend, namespace, address: SocketAddr::new(*primary, PORT), serving: Mutex::new(None) })
    }

    /// A client that may do everything, in and out of the VNet.
    pub fn client(&self) -> Client {
        match &self.backend {
            Backend::InProcess { server, .. } => server.client(),
            Backend::Kubernetes(kubernetes) => kubernetes.client.clone(),
        }
    }

    /// Its address inside the VNet.
    pub fn vnet_url(&self) -> String {
        match &self.backend {
            Backend::InProcess { .. } => format!("http://{}", self.address),
            Backend::Kubernetes(_) => format!("https://{}", self.address),
        }
    }

    /// Brings up what has to run beside this process, and keeps what has to be kept.
    pub async fn prepare(&self) -> Result<()> {
        match &self.backend {
            Backend::InProcess { server, store } => {
                tokio::spawn(in_process::keep_saved(server.clone(), store.clone()));
                Ok(())
            }
            Backend::Kubernetes(kubernetes) => kubernetes.start().await,
        }
    }

    /// Serves inside the VNet, if it does not.
    pub async fn start(&self) -> Result<()> {
        let mut serving = self.serving.lock().await;
        if serving.is_some() {
            return Ok(());
        }
        let (namespace, address) = (self.namespace.clone(), self.address);
        // A socket belongs to the namespace that it was made in, whoever accepts on it.
        let listen = move || netns::run(&namespace, || std::net::TcpListener::bind(address).map_err(Into::into));
        let listener = tokio::task::spawn_blocking(listen)
            .await
            .context("a worker died")?
            .with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let task = match &self.backend {
            Backend::InProcess { server, .. } => {
                let server = server.clone();
                tokio::spawn(async move {
                    if let Err(error) = server.serve(listener, async move { _ = stopped.await }).await {
                        warn!("serve the API: {error}");
                    }
                })
            }
            Backend::Kubernetes(kubernetes) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::spawn(reach::relay(listener, kubernetes.door.clone(), stopped))
            }
        };
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

    /// Programs of its own, as they are now.
    pub fn programs(&self) -> Vec<ProgramState> {
        match &self.backend {
            Backend::InProcess { .. } => Vec::new(),
            Backend::Kubernetes(kubernetes) => kubernetes.states(),
        }
    }

    /// One of its programs.
    pub fn program(&self, name: &str) -> Option<Program> {
        match &self.backend {
            Backend::InProcess { .. } => None,
            Backend::Kubernetes(kubernetes) => kubernetes.program(name),
        }
    }

    /// How many requests it has served, by verb and resource.
    pub async fn requests(&self) -> Result<Vec<(String, String, u64)>> {
        match &self.backend {
            Backend::InProcess { server, .. } => {
                let requests = server.stats().requests.into_iter();
                Ok(requests.map(|((verb, resource), count)| (verb, resource, count)).collect())
            }
            Backend::Kubernetes(kubernetes) => kubernetes.requests().await,
        }
    }

    /// Writes all objects to a file.
    pub async fn snapshot(&self, file: &Path) -> Result<()> {
        match &self.backend {
            Backend::InProcess { server, .. } => files::write(file, &server.snapshot()),
            Backend::Kubernetes(kubernetes) => kubernetes.snapshot(file).await,
        }
    }

    /// Puts a snapshot in the place of all objects.
    pub async fn restore(&self, file: &Path) -> Result<()> {
        match &self.backend {
            Backend::InProcess { server, .. } => {
                let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
                Ok(server.restore(&bytes)?)
            }
            Backend::Kubernetes(kubernetes) => kubernetes.restore(file).await,
        }
    }

    /// Drops the history.
    pub async fn compact(&self) -> Result<()> {
        match &self.backend {
            Backend::InProcess { server, .. } => {
                server.compact();
                Ok(())
            }
            Backend::Kubernetes(kubernetes) => kubernetes.compact().await,
        }
    }

    /// Whether it is a real API server: agents need tokens there.
    pub fn is_real(&self) -> bool {
        matches!(self.backend, Backend::Kubernetes(_))
    }

    /// The arguments by which a controller finds the API; makes its credentials in `dir`.
    pub async fn arguments_of_controller(&self, dir: &Path) -> Result<[String; 2]> {
        self.admit(dir, CONTROLLER, None).await?;
        self.arguments(dir)
    }

    /// Makes the credentials of a node's agent in `dir`.
    pub async fn admit_agent(&self, dir: &Path, node: &BoundTo) -> Result<()> {
        self.admit(dir, AGENT, Some(node)).await
    }

    /// Makes a token where one is needed.
    async fn admit(&self, dir: &Path, account: &str, bound: Option<&BoundTo>) -> Result<()> {
        let Backend::Kubernetes(kubernetes) = &self.backend else { return Ok(()) };
        let token = accounts::token(&kubernetes.client, account, bound).await?;
        files::write(&dir.join("token"), token.as_bytes())
    }

    /// The arguments by which whoever has the credentials in `dir` finds the API.
    pub fn arguments(&self, dir: &Path) -> Result<[String; 2]> {
        let Backend::Kubernetes(kubernetes) = &self.backend else {
            return Ok(["--api-url".to_owned(), self.vnet_url()]);
        };
        let file = dir.join("kubeconfig");
        let token = dir.join("token");
        accounts::write_kubeconfig(&file, &self.vnet_url(), &kubernetes.pki.authority(), &Identity::Token(&token))?;
        Ok(["--kubeconfig".to_owned(), file.display().to_string()])
    }
}
