//! The agent put together: what is made, in which order, and which thread runs what.
//!
//! | thread | runs |
//! | --- | --- |
//! | main | watches, NodeState, HTTP, signals (tokio, one thread) |
//! | `socket` and `cni` | the agent socket; one `cni` a call |
//! | `reconciler` | plan to kernel, audits |
//! | `reaper` | the end of links |
//! | `kernel` | the kernel's news |
//! | `fabric` | probes of the fabric |
//! | `gateways` | probes of egress gateways |
//! | `policy` | network policy to kernel |
//! | `policy-log` | what network policy drops |

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use overlane_daemon::log::LogFilter;
use overlane_daemon::pages;
use overlane_datapath::events::Watcher;
use overlane_datapath::netns::Netns;
use overlane_datapath::sysctl;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::calls::Calls;
use crate::config::{Config, Source};
use crate::node::{Node, Parts};
use crate::pages::NodePages;
use crate::prober::{self, Prober};
use crate::reconcile::{Reconciler, Wake};
use crate::store::lock::{PATIENCE, RunDirLock};
use crate::tombstones::Graveyard;
use crate::watch::fold::Fold;
use crate::watch::follow::jitter;
use crate::watch::shelf::Shelves;
use crate::watch::task::{Folding, StateInApi, cached};
use crate::watch::{cluster, objects};
use crate::{clock, handover, nodestate, policy, proof, reaper, server, takeover};

/// Runs an agent until it is told to end.
pub fn run(config: Config, log: LogFilter) -> anyhow::Result<()> {
    let dir = config.run_dir.clone();
    std::fs::create_dir_all(&dir).with_context(|| format!("make run dir {}", dir.display()))?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("close run dir {} to others", dir.display()))?;
    let _lock = RunDirLock::take(&dir)?;
    sysctl::use_root(&config.sysctl_dir);
    tracing::info!(node = %config.node, lab = config.lab.as_deref(), run_dir = %dir.display(), version = env!("CARGO_PKG_VERSION"), "start");

    let watches = if matches!(config.source, Source::Files(_)) { objects::WATCHES } else { cluster::WATCHES };
    let mut fold = Fold::new(&config.node, watches);
    let boot_id = boot_id(&config.boot_id_file)?;
    let view = cached(&mut fold, &dir, &boot_id);
    let known = view.is_some();
    let shelves = Shelves::open(&dir, &boot_id);
    for item in shelves.load() {
        fold.take(item, clock::boot_ms());
    }
    let (node, wake, policy) = start(config, boot_id)?;
    if let Some(view) = view {
        let _ = wake.send(Wake::View(Box::new(view), Instant::now()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(outside(node, (fold, shelves), (wake, policy), known, log))
}

/// Takes over what is there and starts the threads.
fn start(config: Config, boot_id: String) -> anyhow::Result<(Arc<Node>, Sender<Wake>, Sender<policy::Wake>)> {
    let dir = config.run_dir.clone();
    let cool_down = u64::try_from(config.cool_down.as_millis()).unwrap_or(u64::MAX);
    let mut graveyard = Graveyard::open(&dir).context("make the directory of tombstones")?;
    // Before the first look, so that nothing falls between.
    let watcher = Watcher::open().context("listen to the kernel")?;
    let (ledger, report) = takeover::open(&dir, &boot_id, cool_down)?;
    let (to_reaper, to_reap) = channel();
    let host_inode = Netns::current().context("look at the own network namespace")?.inode();
    let node = Arc::new(Node::new(Parts { config, boot_id, host_inode, ledger, reaper: to_reaper }));
    takeover::reconcile(&node, &report).context("take over what is there")?;
    graveyard.honour(&node);

    let (wake, wakes) = channel();
    let listener = server::listen(&node.config.socket())?;
    handover::take(&node);
    let of = Arc::clone(&node);
    vital("reaper", move || reaper::run(&of, &to_reap))?;
    let prober = Arc::new(Prober::default());
    let (of, news) = (Arc::clone(&prober), wake.clone());
    vital("fabric", move || prober::run(&of, &news))?;
    let gateways = Arc::new(Prober::default());
    let (of, news) = (Arc::clone(&gateways), wake.clone());
    vital("gateways", move || prober::run(&of, &news))?;
    let reconciler = Reconciler::new(Arc::clone(&node), prober, gateways, takeover::fault(&report));
    vital("reconciler", move || reconciler.run(&wakes))?;
    let (of, news) = (Arc::clone(&node), wake.clone());
    vital("kernel", move || proof::run(&of, watcher, graveyard, &news))?;
    let (policy, news) = channel();
    let (of, own) = (Arc::clone(&node), policy.clone());
    vital("policy", move || policy::run(&of, &news, own))?;
    let of = Arc::clone(&node);
    vital("policy-log", move || policy::log::run(&of))?;
    let calls = Arc::new(Calls::new(Arc::clone(&node)));
    vital("socket", move || server::run(&listener, &calls))?;
    Ok((node, wake, policy))
}

/// A thread without which the agent is none: if it ends, the process does, and is started again.
fn vital(name: &'static str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let guarded = move || {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        tracing::error!(thread = name, "ended; so does the agent");
        std::process::exit(70);
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(guarded).with_context(|| format!("start thread {name}"))?;
    Ok(())
}

/// What deals with the outside: the API server or files, people, signals.
async fn outside(
    node: Arc<Node>,
    (fold, shelves): (Fold, Shelves),
    (wake, policy): (Sender<Wake>, Sender<policy::Wake>),
    known: bool,
    log: LogFilter,
) -> anyhow::Result<()> {
    let (to_fold, words) = mpsc::channel(1024);
    let (state, in_api) = watch::channel(StateInApi::None);
    let (asks_pods, asked) = watch::channel(false);
    let (asks_slices, slices_asked) = watch::channel(false);
    let deaf = watch::Sender::new(BTreeSet::new());
    let folding = Folding {
        fold,
        wake,
        state,
        deaf: deaf.clone(),
        asks_pods,
        asks_slices,
        policy,
        metrics: Arc::clone(&node.metrics),
        run_dir: node.config.run_dir.clone(),
        boot_id: node.boot_id.clone(),
    };
    tokio::spawn(folding.run(words));
    match &node.config.source {
        Source::Files(dir) => _ = tokio::spawn(objects::follow(dir.clone(), node.config.node.clone(), to_fold)),
        Source::Api(source) => {
            let client = source.client().await?;
            let (of, name) = (Arc::clone(&node), node.config.node.clone());
            tokio::spawn(async move {
                // A fleet that starts at once comes in turns, but for nodes that know nothing yet.
                tokio::time::sleep(jitter(Duration::from_millis(if known { 2_000 } else { 100 }))).await;
                cluster::start(&client, &name, &shelves, &to_fold);
                let (to_ask, names) = mpsc::unbounded_channel();
                of.policy.ask_at(to_ask);
                tokio::spawn(cluster::asked_pods(client.clone(), to_fold.clone(), names));
                tokio::spawn(cluster::slices(client.clone(), shelves.clone(), to_fold.clone(), slices_asked));
                tokio::spawn(cluster::pods(client.clone(), name.clone(), shelves, to_fold, asked));
                tokio::spawn(cluster::listen_again(client.clone(), name, deaf, Arc::clone(&of.metrics)));
                nodestate::keep(of, client, in_api).await;
            });
        }
    }
    if let Some(address) = node.config.metrics {
        let listener = listen(address).await;
        let listener = listener.with_context(|| format!("listen on --metrics-addr {address}"))?;
        tokio::spawn(pages::serve(listener, Arc::new(NodePages::new(Arc::clone(&node))), log));
    }
    let mut terminate = signal(SignalKind::terminate()).context("wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for signals")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    handover::leave(&node);
    tracing::info!("end; pods keep their network");
    Ok(())
}

/// The machine's boot id.
pub fn boot_id(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read --boot-id-file {}", file.display()))?;
    let id = text.trim();
    anyhow::ensure!(!id.is_empty(), "--boot-id-file {} is empty", file.display());
    Ok(id.to_owned())
}

/// Listens; a port that an agent which was killed still holds is waited for.
async fn listen(address: std::net::SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match tokio::net::TcpListener::bind(address).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => return other,
        }
    }
}
