//! Puts the parts together and ends them in order: jobs first, then the Lease, so that nobody acts without it.

use std::sync::Arc;

use anyhow::Context as _;
use kube::Client;
use overlane_daemon::log::LogFilter;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::engine::Engine;
use crate::leader;
use crate::metrics::Metrics;
use crate::pages::ControllerPages;
use crate::policies::Inspector;
use crate::slices::Slicer;

/// Runs the program until SIGTERM or SIGINT.
///
/// # Errors
/// The API server cannot be named, or the metrics port is taken.
pub fn run(config: Config, log: LogFilter) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let (stopper, stop) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let metrics = Metrics::new();
        let mut pages = JoinSet::new();
        if let Some(address) = config.metrics {
            let listener = TcpListener::bind(address).await.with_context(|| format!("serve metrics on {address}"))?;
            let shown = Arc::new(ControllerPages(metrics.clone()));
            pages.spawn(overlane_daemon::pages::serve(listener, shown, log));
        }
        let client = config.source.client().await?;
        tracing::info!(identity = config.identity, elect = config.leader_elect, "started");
        let running = tokio::spawn(control(client, config, metrics, stop));
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
            _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
        }
        stopper.send_replace(true);
        running.await.context("end the controller")
    })
}

/// Runs one controller until `stop`, whatever the API server does.
pub async fn control(client: Client, config: Config, metrics: Metrics, stop: watch::Receiver<bool>) {
    let (lead, leads) = watch::channel(!config.leader_elect);
    let (resign, resigned) = watch::channel(false);
    let mut election = JoinSet::new();
    // Without an election the office is held as long as this sender lives.
    let _held = if config.leader_elect {
        election.spawn(leader::run(client.clone(), config.identity.clone(), lead, resigned));
        None
    } else {
        Some(lead)
    };
    let (policy, enforcer) = watch::channel(None);
    let slicer = Slicer::new(client.clone(), metrics.clone(), leads.clone(), enforcer.clone());
    let inspector = Inspector::new(client.clone(), &config.identity, metrics.clone(), leads.clone(), enforcer);
    let watches = crate::watch::start(&client, slicer.digester());
    let engine = Engine::new(client, config.settings, &config.identity, metrics, leads, policy);
    tokio::join!(
        engine.run(watches.words, stop.clone()),
        slicer.run(watches.slice_words, stop.clone()),
        inspector.run(stop)
    );
    resign.send_replace(true);
    while election.join_next().await.is_some() {}
}

/// A name that no other process has: the host's, and a random part.
#[must_use]
pub fn unique_name() -> String {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    format!("{}_{}", read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/random/uuid"))
}
