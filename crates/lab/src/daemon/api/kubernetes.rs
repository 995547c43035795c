//! The real API: etcd, kube-apiserver and kube-controller-manager as processes in the control plane's namespace, kept
//! running as agents and controllers are. They listen on the namespace's loopback only.
//!
//! Of the controller manager, two controllers run: one ends namespaces, one collects what deleted owners leave. The
//! lab's own kubelets and scheduler take the place of nodes; so nobody makes service accounts, or takes a node's taints
//! away, and what of that would be in a pod's way is switched off where the API server is started.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use super::super::supervise::{Action, Program, ProgramState};
use super::accounts::{self, Identity};
use super::etcd::{self, Etcd};
use super::pki::Pki;
use super::reach::Door;
use super::{PORT, requests};
use crate::files;
use crate::kubernetes::{API_SERVER, CONTROLLER_MANAGER, ETCD, KubernetesPrograms};
use crate::paths::LabPaths;
use crate::spawn::Launch;

/// Two of them start on two busy cores at once.
const START_PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// One that ends so often before it is ready will not get ready.
const MOST_STARTS: u32 = 5;
/// Off: `ServiceAccount`, because nobody makes the accounts that every pod would have to have; `TaintNodesByCondition`,
/// because nobody takes the taint of a new node away once it is ready.
const SWITCHED_OFF: &str = "ServiceAccount,TaintNodesByCondition";

const CONTROLLERS: &str = "namespace-controller,garbage-collector-controller";

/// The programs of one lab's API.
pub struct Kubernetes {
    /// A client with every right.
    pub client: Client,
    /// Certificates and keys.
    pub pki: Pki,
    /// Where the API server listens.
    pub door: Door,
    programs: KubernetesPrograms,
    paths: LabPaths,
    /// The address that it tells of itself.
    address: SocketAddr,
    service_cidrs: Vec<String>,
    kept: Mutex<BTreeMap<&'static str, Program>>,
}

impl Kubernetes {
    /// Makes what the programs need; they do not run yet. `addresses` are the control plane's, the primary one first.
    pub async fn open(
        paths: &LabPaths,
        programs: &KubernetesPrograms,
        namespace: PathBuf,
        addresses: &[IpAddr],
        service_cidrs: Vec<String>,
    ) -> Result<Self> {
        let primary = addresses.first().context("the control plane has no address")?;
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let answers_at: Vec<IpAddr> = addresses.iter().copied().chain([local.ip()]).collect();
        let pki = Pki::open(&paths.pki(), &answers_at)?;
        let file = pki.dir().join("admin.kubeconfig");
        let identity = Identity::Certificate(&pki.administrator());
        accounts::write_kubeconfig(&file, &format!("https://{local}"), &pki.authority(), &identity)?;
        let config = Kubeconfig::read_from(&file).with_context(|| format!("read {}", file.display()))?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let door = Door { namespace, address: local };
        Ok(Self {
            client: door.client(&config)?,
            pki,
            door,
            programs: programs.clone(),
            paths: paths.clone(),
            address: SocketAddr::new(*primary, PORT),
            service_cidrs,
            kept: Mutex::default(),
        })
    }

    /// Starts what does not run, or takes it over, and waits until it serves.
    pub async fn start(&self) -> Result<()> {
        self.keep(ETCD, self.etcd()).await?;
        self.keep(API_SERVER, self.api_server()).await?;
        self.serving().await?;
        accounts::install(&self.client).await?;
        // It looks for new kinds twice a minute only: by now all are there.
        self.keep(CONTROLLER_MANAGER, self.controller_manager()).await
    }

    async fn keep(&self, name: &'static str, launch: Launch) -> Result<()> {
        let program = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.entry(name).or_insert_with(|| Program::keep(name, launch, self.paths.process(name))).clone()
        };
        // Somebody may have told it to stay down; a lab without is none.
        if program.state().down {
            program.act(Action::Start).await?;
        }
        Ok(())
    }

    /// What is known of the programs.
    pub fn states(&self) -> Vec<ProgramState> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).values().map(Program::state).collect()
    }

    /// One of the programs.
    pub fn program(&self, name: &str) -> Option<Program> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    async fn act(&self, name: &str, action: Action) -> Result<()> {
        let program = self.program(name).with_context(|| format!("{name} was never started"))?;
        program.act(action).await.map(drop)
    }

    async fn serving(&self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        let before: Vec<u32> = self.states().iter().map(|state| state.restarts).collect();
        loop {
            let request = Request::get("/readyz").body(Vec::new())?;
            let Err(error) = self.client.request_text(request).await else { return Ok(()) };
            let states = self.states();
            let failed = states.iter().zip(&before).find(|(state, before)| state.restarts - *before >= MOST_STARTS);
            if let Some((state, _)) = failed {
                let end = state.last_end.as_deref().unwrap_or("nobody saw how");
                let log = self.paths.log(&state.program);
                bail!("start {}: it ends again and again: {end}; its log is {}", state.program, log.display());
            }
            if Instant::now() > deadline {
                let (seconds, logs) = (START_PATIENCE.as_secs(), self.paths.logs());
                bail!(
                    "start {API_SERVER}: it is not ready after {seconds} s: {error}; its log and that of {ETCD} are in {}",
                    logs.display()
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn data(&self) -> PathBuf {
        self.paths.etcd()
    }

    fn store(&self) -> Etcd {
        Etcd::new(&self.door.namespace, &self.programs.etcd)
    }

    fn launch(&self, name: &str, program: &Path, args: Vec<String>) -> Launch {
        Launch {
            namespace: self.door.namespace.clone(),
            program: program.to_owned(),
            args,
            log: Some(self.paths.log(name)),
            ..Launch::default()
        }
    }

    fn etcd(&self) -> Launch {
        self.launch(ETCD, &self.programs.etcd, etcd::arguments(&self.data()))
    }

    fn api_server(&self) -> Launch {
        let path = |path: PathBuf| path.display().to_string();
        let [certificate, key] = self.pki.server().map(path);
        let [public, private] = self.pki.accounts().map(path);
        let flags = [
            ("etcd-servers", etcd::CLIENTS.to_owned()),
            ("bind-address", self.door.address.ip().to_string()),
            ("secure-port", PORT.to_string()),
            ("advertise-address", self.address.ip().to_string()),
            ("service-cluster-ip-range", self.service_cidrs.join(",")),
            ("authorization-mode", "RBAC".to_owned()),
            ("disable-admission-plugins", SWITCHED_OFF.to_owned()),
            ("allow-privileged", "true".to_owned()),
            ("cert-dir", path(self.pki.dir().to_owned())),
            ("client-ca-file", path(self.pki.authority())),
            ("tls-cert-file", certificate),
            ("tls-private-key-file", key),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-account-key-file", public),
            ("service-account-signing-key-file", private),
            ("profiling", "false".to_owned()),
        ];
        let args = flags.map(|(flag, value)| format!("--{flag}={value}"));
        self.launch(API_SERVER, &self.programs.api_server, args.into())
    }

    fn controller_manager(&self) -> Launch {
        let flags = [
            ("kubeconfig", self.kubeconfig().display().to_string()),
            ("controllers", CONTROLLERS.to_owned()),
            // The directory of its own certificate.
            ("cert-dir", self.pki.dir().display().to_string()),
            ("bind-address", self.door.address.ip().to_string()),
            ("leader-elect", "false".to_owned()),
            ("profiling", "false".to_owned()),
        ];
        let args = flags.map(|(flag, value)| format!("--{flag}={value}"));
        self.launch(CONTROLLER_MANAGER, &self.programs.controller_manager, args.into())
    }

    fn kubeconfig(&self) -> PathBuf {
        self.pki.dir().join("admin.kubeconfig")
    }

    /// Writes all objects to a file, by etcd's own command.
    pub async fn snapshot(&self, file: &Path) -> Result<()> {
        self.store().save(file).await
    }

    /// Puts such a file in the place of all objects, as etcd's documentation has it: everything stops, a new data
    /// directory is made, everything starts.
    pub async fn restore(&self, file: &Path) -> Result<()> {
        let last = self.store().revision().await?;
        self.act(CONTROLLER_MANAGER, Action::Down).await?;
        self.act(API_SERVER, Action::Down).await?;
        self.act(ETCD, Action::Stop).await?;
        let unpacked = self.data().with_extension("new");
        files::remove_dir(&unpacked)?;
        let made = self.store().unpack(file, &unpacked).await;
        if made.is_ok() {
            files::remove_dir(&self.data())?;
            std::fs::rename(&unpacked, self.data()).context("put etcd's new data in place")?;
        }
        // Also after a file that was none: the lab goes on with what it has.
        self.act(ETCD, Action::Start).await?;
        let outran = if made.is_ok() { self.outrun(last).await } else { Ok(()) };
        self.act(API_SERVER, Action::Start).await?;
        self.serving().await?;
        let installed = accounts::install(&self.client).await;
        self.act(CONTROLLER_MANAGER, Action::Start).await?;
        made.and(outran).and(installed)
    }

    /// Once etcd answers.
    async fn outrun(&self, last: u64) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        let store = self.store();
        loop {
            match store.revision().await {
                Ok(_) => return store.outrun(last).await,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Forgets all but the present. The API server starts again: it keeps events of its own for watches.
    pub async fn compact(&self) -> Result<()> {
        self.store().compact().await?;
        // All that it knows is in the store; told to stop, it would wait for watches to end.
        self.act(API_SERVER, Action::Down).await?;
        self.act(API_SERVER, Action::Start).await?;
        self.serving().await
    }

    /// How many requests it has served since it started, by verb and resource.
    pub async fn requests(&self) -> Result<Vec<(String, String, u64)>> {
        let request = Request::get("/metrics").body(Vec::new())?;
        let text = self.client.request_text(request).await.context("read the API server's metrics")?;
        Ok(requests::parse(&text))
    }
}

/// The Service CIDRs of a ClusterNetwork object.
pub fn service_cidrs(network: &Value) -> Vec<String> {
    let list = network["spec"]["serviceCIDRs"].as_array().into_iter().flatten();
    list.filter_map(|cidr| cidr.as_str().map(str::to_owned)).collect()
}
